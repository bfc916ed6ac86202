"""softmax_f32 and log_softmax_f32 against float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from zenith import _native

ISAS = _native.complete_isas()
KERNELS = ["softmax_f32", "log_softmax_f32"]
Array = np.ndarray[Any, Any]


def run(isa: str, kernel: str, x: Array, axis: int, threads: int = 0) -> Array:
    y = np.full(x.shape, 7, np.float32)
    _native.call(isa, kernel, [x], [y], {"axis": axis}, threads=threads)
    return y


def reference(kernel: str, x: Array, axis: int) -> Array:
    x = x.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        shifted = x - x.max(axis=axis, keepdims=True, initial=-np.inf)
        total = np.exp(shifted).sum(axis=axis, keepdims=True)
        return np.asarray(shifted - np.log(total) if "log" in kernel else np.exp(shifted) / total)


def draw(*shape: int) -> Array:
    return (3 * np.random.default_rng(1).standard_normal(shape)).astype(np.float32)


def check(kernel: str, isa: str, x: Array, axis: int, **how: Any) -> None:
    want = reference(kernel, x, axis)
    np.testing.assert_allclose(run(isa, kernel, x, axis, **how), want, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    "shape", [(1,), (5,), (3, 1), (7, 8), (4, 31), (2, 3, 64), (300, 65), (2, 1000), (2, 3, 5, 7)]
)
def test_every_axis(isa: str, kernel: str, shape: tuple[int, ...]) -> None:
    for axis in range(len(shape)):
        for threads in (1, 3):
            check(kernel, isa, draw(*shape), axis, threads=threads)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_strided_views(isa: str, kernel: str) -> None:
    x = draw(4, 6, 5, 40)
    for view in (x[:, ::2], x.transpose(2, 0, 1, 3), x[:, :, 1:4, 3:36], x.swapaxes(0, 2)[::-1]):
        for axis in range(4):
            check(kernel, isa, view, axis)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("shape", [(4, 37), (37, 4), (37, 20)])
def test_infinities_and_nan(isa: str, kernel: str, shape: tuple[int, int]) -> None:
    axis = int(shape[1] > shape[0])
    x = draw(*shape) if axis == 1 else draw(*shape).copy()
    rows = x if axis == 1 else x.T  # a view: row i is what softmax sees
    rows[0, 3:] = -np.inf
    rows[1] = -np.inf
    rows[2, 35] = np.nan
    rows[3, 1] = np.inf
    check(kernel, isa, x, axis)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_large_and_small_values(isa: str, kernel: str) -> None:
    x = draw(6, 50) * 1e3
    check(kernel, isa, x, 1)
    check(kernel, isa, x * 1e30, 0)
    check(kernel, isa, x * 1e-30, 1)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_empty(isa: str, kernel: str) -> None:
    for shape in [(0, 4), (4, 0), (2, 0, 3)]:
        for axis in range(len(shape)):
            assert run(isa, kernel, draw(*shape), axis).shape == shape
