"""Pools of 1 to 3 axes, their Indices, norms, bytes, and unpooling, against torch."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from zenith import _native
from zenith.backends.cpu.kernels import pool, views

torch = pytest.importorskip("torch", reason="torch is the oracle here")

ROWS = {spec.name: [spec, *views.SPECS] for spec in pool.SPECS}
SHAPES = {1: (2, 21, 13), 2: (2, 21, 9, 10), 3: (2, 21, 5, 6, 7)}


def _draw(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    rng = np.random.default_rng(sum(shape))
    if np.dtype(dtype).kind in "iu":
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)
    return rng.standard_normal(shape).astype(dtype)


def _check(row: Any, *wanted: np.ndarray, tolerance: float = 0) -> None:
    assert row.reason() is None, row.reason()
    for isa, threads in itertools.product(_native.complete_isas(), (1, 2)):
        got, _ = row.run(isa, threads)
        for y, w in zip(got, wanted, strict=True):
            assert y.shape == w.shape
            np.testing.assert_allclose(y, w, rtol=tolerance, atol=tolerance)


def _windows(axes: int, dilated: bool, ceil: int) -> dict[str, Any]:
    return {
        "kernel_shape": [3, 2, 3][:axes],
        "strides": [2, 1, 2][:axes],
        "pads": [1, 0, 1][:axes] * 2,
        "dilations": ([2, 3, 1] if dilated else [1, 1, 1])[:axes],
        "ceil_mode": ceil,
    }


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("dilated", [False, True])
@pytest.mark.parametrize("ceil", [0, 1])
def test_max(make_row: Callable[..., Any], axes: int, dilated: bool, ceil: int) -> None:
    x, kw = _draw(*SHAPES[axes]), _windows(axes, dilated, ceil)
    run = (
        torch.nn.functional.max_pool1d,
        torch.nn.functional.max_pool2d,
        torch.nn.functional.max_pool3d,
    )[axes - 1]
    y, index = run(
        torch.from_numpy(x), kw["kernel_shape"], kw["strides"], kw["pads"][:axes], kw["dilations"],
        bool(ceil), return_indices=True,
    )  # fmt: skip
    _check(make_row(ROWS["max_pool_f32"], "MaxPool", [x], **kw), y.numpy())
    _check(make_row(ROWS["max_pool_any"], "MaxPool", [x], **kw), y.numpy())
    # ONNX counts elements of the whole tensor, torch those of one channel.
    images = np.arange(x.shape[0] * x.shape[1]).reshape(*x.shape[:2], *[1] * axes)
    places = index.numpy() + images * int(np.prod(x.shape[2:]))
    row = make_row(ROWS["max_pool_any"], "MaxPool", [x], outputs=2, **kw)
    _check(row, y.numpy(), places)
    assert make_row(ROWS["max_pool_f32"], "MaxPool", [x], outputs=2, **kw).reason() is not None


def test_max_counts_columns_first(make_row: Callable[..., Any]) -> None:
    x = _draw(2, 3, 6, 5)
    kw: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [2, 2], "outputs": 2}
    rows = make_row(ROWS["max_pool_any"], "MaxPool", [x], **kw)
    columns = make_row(ROWS["max_pool_any"], "MaxPool", [x], storage_order=1, **kw)
    (_, place), _ = rows.run(_native.complete_isas()[0])
    (_, other), _ = columns.run(_native.complete_isas()[0])
    image, at = np.divmod(place, 30)
    np.testing.assert_array_equal(other, image * 30 + at // 5 + at % 5 * 6)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "float64"])
@pytest.mark.parametrize("channels", [3, 19, 150])
def test_max_of_types(make_row: Callable[..., Any], dtype: str, channels: int) -> None:
    x = _draw(2, channels, 8, 7, dtype=dtype)
    kw: dict[str, Any] = {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 1, 1, 0]}
    row = make_row(ROWS["max_pool_any"], "MaxPool", [x], **kw)
    _check(row, *row.expected())


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("ceil", [0, 1])
@pytest.mark.parametrize("include", [0, 1])
def test_average(make_row: Callable[..., Any], axes: int, ceil: int, include: int) -> None:
    x, kw = _draw(*SHAPES[axes]), _windows(axes, False, ceil)
    run = (
        torch.nn.functional.avg_pool1d,
        torch.nn.functional.avg_pool2d,
        torch.nn.functional.avg_pool3d,
    )[axes - 1]
    wanted = run(
        torch.from_numpy(x.astype(np.float64)), kw["kernel_shape"], kw["strides"],
        kw["pads"][:axes], bool(ceil), bool(include),
    ).numpy()  # fmt: skip
    row = make_row(ROWS["average_pool_f32"], "AveragePool", [x], count_include_pad=include, **kw)
    _check(row, wanted, tolerance=1e-6)


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("p", [1, 2, 3])
def test_norms(make_row: Callable[..., Any], axes: int, p: int) -> None:
    """A norm of the elements that are there: padding adds nothing."""
    x, kw = _draw(*SHAPES[axes]), _windows(axes, True, 0)
    average = make_row(
        ROWS["average_pool_f32"], "AveragePool", [np.abs(x) ** p], count_include_pad=1, **kw
    )
    (mean,), _ = average.run(_native.complete_isas()[0])
    wanted = (mean.astype(np.float64) * np.prod(kw["kernel_shape"])) ** (1 / p)
    _check(make_row(ROWS["lp_pool_f32"], "LpPool", [x], p=p, **kw), wanted, tolerance=3e-6)
    every = np.sum(np.abs(x.astype(np.float64)) ** p, tuple(range(2, x.ndim)), keepdims=True)
    row = make_row(ROWS["global_lp_pool_f32"], "GlobalLpPool", [x], p=p)
    _check(row, every ** (1 / p), tolerance=3e-6)


@pytest.mark.parametrize("rank", [3, 4, 5, 6])
def test_global_of_any_rank(make_row: Callable[..., Any], rank: int) -> None:
    x = _draw(*(2, 37, 3, 4, 2, 3)[:rank])
    axes = tuple(range(2, rank))
    row = make_row(ROWS["global_average_pool_f32"], "GlobalAveragePool", [x])
    _check(row, x.astype(np.float64).mean(axes, keepdims=True), tolerance=1e-6)
    row = make_row(
        ROWS["global_max_pool_f32"], "GlobalMaxPool", [x], permuted={0: list(range(rank))}
    )
    _check(row, x.max(axes, keepdims=True))


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_unpool(make_row: Callable[..., Any], axes: int) -> None:
    x = _draw(*(2, 3, 6, 4, 8)[: axes + 2])
    kw: dict[str, Any] = {"kernel_shape": [2] * axes, "strides": [2] * axes}
    pooled = make_row(ROWS["max_pool_any"], "MaxPool", [x], outputs=2, **kw)
    (y, place), _ = pooled.run(_native.complete_isas()[0])
    wanted = np.zeros(x.size, np.float32)
    wanted[place.ravel()] = y.ravel()
    row = make_row(ROWS["max_unpool_f32"], "MaxUnpool", [y, place], **kw)
    _check(row, wanted.reshape(x.shape))
    place.flat[0] = x.size
    row = make_row(ROWS["max_unpool_f32"], "MaxUnpool", [y, place], **kw)
    with pytest.raises(Exception, match="outside the output"):
        row.run(_native.complete_isas()[0])
