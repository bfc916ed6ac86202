"""Resize against ONNX's reference: every mode, coordinate mode, layout, dtype and thread count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from zenith import _native
from zenith.backends.cpu.kernels import resize, views

torch = pytest.importorskip("torch", reason="torch is the oracle here")

COORDINATES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
)
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


def _draw(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    rng = np.random.default_rng(sum(shape))
    if np.dtype(dtype).kind in "iu":
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)
    return rng.standard_normal(shape).astype(dtype)


def _check(
    make_row: Callable[..., Any],
    x: np.ndarray,
    scales: list[float] | None = None,
    sizes: list[int] | None = None,
    roi: np.ndarray | None = None,
    threads: int = 2,
    **kw: Any,
) -> Any:
    inputs = [
        x,
        roi,
        None if scales is None else np.array(scales, np.float32),
        None if sizes is None else np.array(sizes, np.int64),
    ]
    nearest = kw.get("mode", "nearest") == "nearest"
    spec = resize.SPECS[0 if nearest else 1]
    row = make_row(
        [spec, *views.SPECS], "Resize", inputs, constant=kw.pop("constant", (1, 2, 3)), **kw
    )
    assert row.reason() is None, row.reason()
    (wanted,) = row.expected()
    for isa in _native.complete_isas():
        (y,), _ = row.run(isa, threads)
        assert y.shape == wanted.shape and y.dtype == wanted.dtype
        if nearest or x.dtype.kind in "iu":
            difference = np.abs(y.astype(np.float64) - wanted.astype(np.float64))
            # Ties after float sums; the reference's cubic weights are float32.
            least = 0 if nearest else 5000 if x.dtype == np.int32 else 1
            assert (difference > least).sum() == 0
            assert least != 1 or (difference > 0).mean() < 0.02
        else:
            np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=3e-6)
    return row


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("sizes", [(7, 9), (3, 2), (10, 12), (1, 1)])
def test_nearest(
    make_row: Callable[..., Any], coordinates: str, rounding: str, sizes: tuple[int, int]
) -> None:
    _check(
        make_row,
        _draw(2, 3, 5, 6),
        sizes=[2, 3, *sizes],
        mode="nearest",
        coordinate_transformation_mode=coordinates,
        nearest_mode=rounding,
    )


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("antialias", [0, 1])
@pytest.mark.parametrize("exclude", [0, 1])
@pytest.mark.parametrize("sizes", [(7, 9), (3, 2), (10, 3)])
def test_blends(
    make_row: Callable[..., Any],
    mode: str,
    coordinates: str,
    antialias: int,
    exclude: int,
    sizes: tuple[int, int],
) -> None:
    _check(
        make_row,
        _draw(2, 3, 5, 6),
        sizes=[2, 3, *sizes],
        mode=mode,
        coordinate_transformation_mode=coordinates,
        antialias=antialias,
        exclude_outside=exclude,
        cubic_coeff_a=-0.5,
    )


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("scale", [0.6, 1.0, 1.7, 2.0])
def test_scales(make_row: Callable[..., Any], mode: str, coordinates: str, scale: float) -> None:
    _check(
        make_row,
        _draw(1, 2, 8, 7),
        scales=[1, 1, scale, 1.35],
        mode=mode,
        coordinate_transformation_mode=coordinates,
    )


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("constant", [(1, 3), (3,)])
def test_crop_and_resize(
    make_row: Callable[..., Any], mode: str, constant: tuple[int, ...]
) -> None:
    """A part of the image, reaching beyond it, also where the roi is computed."""
    roi = np.array([0, 0, 0.41, -0.3, 1, 1, 0.63, 1.22], np.float32)
    common: dict[str, Any] = {
        "mode": mode,
        "coordinate_transformation_mode": "tf_crop_and_resize",
        "extrapolation_value": 10.0,
        "constant": constant,
    }
    _check(make_row, _draw(1, 2, 6, 6), sizes=[1, 2, 3, 5], roi=roi, **common)
    _check(make_row, _draw(1, 2, 6, 6), sizes=[1, 2, 1, 6], roi=roi, **common)
    axes = np.array([0.12, 0.4, 0.93, 0.61], np.float32)
    _check(make_row, _draw(1, 2, 6, 6), sizes=[4, 3], roi=axes, axes=[2, 3], **common)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((9,), [4]),
        ((3, 9), [3, 20]),
        ((2, 3, 9), [2, 3, 13]),
        ((2, 3, 4, 5, 6), [2, 3, 7, 3, 8]),
        ((4, 5, 3, 6, 2), [2, 5, 4, 6, 5]),
        ((4, 4, 4, 4), [6, 5, 3, 7]),
    ],
)
def test_ranks(
    make_row: Callable[..., Any], mode: str, shape: tuple[int, ...], sizes: list[int]
) -> None:
    _check(make_row, _draw(*shape), sizes=sizes, mode=mode)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("axes", [0, 1, 2, 3])
def test_layouts(make_row: Callable[..., Any], mode: str, axes: int) -> None:
    """Channels-last memory, a strided view, and axes given in any order; one thread and three."""
    perm = {0: [0, 3, 1, 2], 1: [0, 2, 3, 1], 2: [3, 1, 0, 2], 3: [0, 1, 3, 2]}[axes]
    for threads in (1, 3):
        _check(
            make_row,
            _draw(2, 19, 6, 7),
            sizes=[9, 11],
            axes=[3, 2],
            mode=mode,
            permuted={0: perm},
            threads=threads,
        )


@pytest.mark.parametrize("policy", ["not_larger", "not_smaller"])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_keeps_aspect(make_row: Callable[..., Any], policy: str, mode: str) -> None:
    for sizes in ([8, 12], [7, 8], [2, 2]):
        _check(
            make_row,
            _draw(1, 2, 4, 4),
            sizes=sizes,
            axes=[2, 3],
            mode=mode,
            keep_aspect_ratio_policy=policy,
        )


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "int32"])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_integers(make_row: Callable[..., Any], dtype: str, mode: str) -> None:
    """Rounded and saturated once, also when three axes take two steps."""
    _check(make_row, _draw(2, 3, 6, 8, dtype=dtype), sizes=[2, 3, 9, 7], mode=mode)
    _check(make_row, _draw(1, 4, 5, 6, dtype=dtype), sizes=[1, 6, 9, 7], mode=mode)


@pytest.mark.parametrize("dtype", ["float64", "int64", "uint64"])
def test_nearest_moves_anything(make_row: Callable[..., Any], dtype: str) -> None:
    x = np.random.default_rng(0).integers(0, 1000, (2, 3, 6, 8))
    _check(make_row, x.astype(dtype), sizes=[2, 3, 9, 7], mode="nearest")


def test_dynamic_sizes(make_row: Callable[..., Any]) -> None:
    for mode in ("nearest", "linear"):
        _check(
            make_row, _draw(2, 3, 5, 6), scales=[2, 2], axes=[2, 3], mode=mode,
            dynamic={0: ["N", 3, "H", "W"]},
        )  # fmt: skip


def test_empty(make_row: Callable[..., Any]) -> None:
    spec = resize.SPECS[1]
    inputs = [_draw(0, 3, 5, 6), None, None, np.array([0, 3, 7, 7])]
    row = make_row([spec], "Resize", inputs, constant=(3,), mode="linear")
    assert row.run(_native.complete_isas()[0])[0][0].shape == (0, 3, 7, 7)


@pytest.mark.parametrize("align", [False, True])
def test_as_torch(make_row: Callable[..., Any], align: bool) -> None:
    x = _draw(2, 5, 17, 23)
    for size in ((34, 46), (40, 11)):
        row = make_row(
            [resize.SPECS[1]], "Resize", [x, None, None, np.array([2, 5, *size])], constant=(3,),
            mode="linear",
            coordinate_transformation_mode="align_corners" if align else "half_pixel",
        )  # fmt: skip
        wanted = torch.nn.functional.interpolate(
            torch.from_numpy(x), size, mode="bilinear", align_corners=align
        ).numpy()
        np.testing.assert_allclose(
            row.run(_native.complete_isas()[0])[0][0], wanted, rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize(
    ("sizes", "more"),
    [
        ([2, 83, 9, 14], {}),
        ([2, 83, 9, 14], {"permuted": {0: [0, 3, 1, 2]}}),
        ([2, 83, 5, 14], {"permuted": {0: [0, 3, 1, 2]}}),
        ([2, 83, 9, 7], {"permuted": {0: [0, 3, 1, 2]}}),
        ([2, 83, 3, 4], {"permuted": {0: [0, 2, 3, 1]}, "antialias": 1}),
    ],
)
def test_bfloat16_is_rounded_once(
    make_row: Callable[..., Any], mode: str, sizes: list[int], more: dict[str, Any]
) -> None:
    x = _draw(2, 83, 5, 7).astype(ml_dtypes.bfloat16)
    arguments = (resize.SPECS[1], *views.SPECS), "Resize"
    rest = None, None, np.array(sizes)
    options = {"constant": (3,), "mode": mode, **more}
    (wanted,) = make_row(*arguments, [x.astype(np.float32), *rest], **options).expected()
    row = make_row(*arguments, [x, *rest], **options)
    assert row.reason() is None
    for isa in _native.complete_isas():
        for threads in (1, 2):
            (y,), _ = row.run(isa, threads)
            assert y.dtype == x.dtype
            error = np.abs(y.astype(np.float64) - wanted)
            assert np.all(error <= 2.0**-8 * np.abs(wanted) + 1e-5)


def test_reasons(make_row: Callable[..., Any]) -> None:
    x, scales = _draw(1, 1, 4, 4), np.array([1, 1, 2, 2], np.float32)
    row = make_row(resize.SPECS[:1], "Resize", [x, None, scales])
    assert row.reason() == "the scales are computed from data"
    row = make_row(resize.SPECS[:1], "Resize", [x, None, scales], constant=(2,), mode="linear")
    assert row.reason() == "the mode is linear"
    x = x.astype(ml_dtypes.bfloat16)
    sizes = np.array([1, 2, 4, 7])
    row = make_row(resize.SPECS[1:], "Resize", [x, None, None, sizes], (3,), mode="linear")
    assert row.reason() == "axes that are no two neighbours are resized in float32"
