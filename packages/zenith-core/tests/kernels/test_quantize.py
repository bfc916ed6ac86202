"""Quantization rows against integer and float64 numpy written from the operators' text."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest

import zenith
from zenith import _native
from zenith.backends.cpu.kernels import quantize, views
from zenith.ir import OPSET, GraphIR

torch = pytest.importorskip("torch", reason="torch is the oracle here")

Array = np.ndarray[Any, Any]
ISAS = _native.complete_isas()
SPECS = [*quantize.SPECS, *views.SPECS]
CODES = {"int8": 3, "uint8": 2, "int16": 5, "uint16": 4}


def check(row: Any, want: list[Array]) -> list[str]:
    """Exact equality on every instruction set, with one worker and with more."""
    assert row.reason() is None
    kernels: list[str] = []
    for isa in ISAS:
        for threads in (1, 3):
            got, kernels = row.run(isa, threads)
            for y, w in zip(got, want, strict=True):
                assert y.dtype == w.dtype and y.shape == w.shape
                np.testing.assert_array_equal(y, w)
    return kernels


def spread(factor: Array, shape: tuple[int, ...], axis: int, block: int) -> Array:
    """Scale or zero point over all elements of x."""
    if factor.size == 1:
        return np.broadcast_to(factor.reshape(()), shape)
    if block:
        wide = np.repeat(factor, block, axis=axis)
        return np.take(wide, np.arange(shape[axis]), axis=axis)
    sizes = [1] * len(shape)
    sizes[axis] = shape[axis]
    return np.broadcast_to(factor.reshape(sizes), shape)


# shape of x, axis, block size, shape of scale
GRANULARITIES: list[tuple[tuple[int, ...], int, int, tuple[int, ...]]] = [
    ((3, 5), 1, 0, ()),
    ((700,), 0, 0, (1,)),
    ((), 1, 0, ()),
    ((3, 7), 1, 0, (7,)),
    ((3, 7), 0, 0, (3,)),
    ((2, 3, 33), -2, 0, (3,)),
    ((2, 3, 4, 5), 1, 0, (3,)),
    ((4, 600), 1, 0, (600,)),
    ((3, 8), 1, 4, (3, 2)),
    ((3, 10), 1, 4, (3, 3)),
    ((2, 9, 5), 1, 4, (2, 3, 5)),
    ((6, 40), 0, 2, (3, 40)),
    ((12,), 0, 5, (3,)),
    ((0, 4), 1, 0, (4,)),
    ((4, 0), 0, 0, (4,)),
    ((2, 70000), 0, 0, (2,)),
]


def draw_scale(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return np.asarray(rng.uniform(0.01, 0.2, shape), np.float32)


def draw_integers(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> Array:
    info = np.iinfo(dtype)
    return np.asarray(rng.integers(info.min, info.max + 1, shape), dtype)


def quantized(x: Array, scale: Array, zero: Array | int, dtype: str) -> Array:
    info = np.iinfo(dtype)
    q = np.rint(x / scale).astype(np.int64) + zero
    return np.asarray(np.clip(q, info.min, info.max).astype(dtype))


@pytest.mark.parametrize("dtype", list(CODES))
@pytest.mark.parametrize(("shape", "axis", "block", "scale_shape"), GRANULARITIES)
def test_linear(
    make_row: Any, dtype: str, shape: tuple[int, ...], axis: int, block: int,
    scale_shape: tuple[int, ...],
) -> None:  # fmt: skip
    rng = np.random.default_rng([len(shape), block, len(dtype)])
    scale, zero = draw_scale(rng, scale_shape), draw_integers(rng, dtype, scale_shape)
    wide_scale, wide_zero = (spread(f, shape, axis, block) for f in (scale, zero))
    attributes: dict[str, Any] = {"axis": axis} | ({"block_size": block} if block else {})
    spans = float(np.iinfo(dtype).max) * 0.1
    x = np.asarray(rng.uniform(-spans, spans, shape), np.float32)
    with_zero = quantized(x, wide_scale, wide_zero.astype(np.int64), dtype)
    row = make_row(SPECS, "QuantizeLinear", [x, scale, zero], **attributes)
    check(row, [with_zero])
    if dtype != "uint16":  # constants, and the output's type by attribute
        row = make_row(
            SPECS, "QuantizeLinear", [x, scale], constant=(1,), output_dtype=CODES[dtype],
            **attributes,
        )  # fmt: skip
        check(row, [quantized(x, wide_scale, 0, dtype)])
    q = draw_integers(rng, dtype, shape)
    difference = (q.astype(np.int64) - wide_zero).astype(np.float32)
    row = make_row(SPECS, "DequantizeLinear", [q, scale, zero], constant=(1, 2), **attributes)
    check(row, [np.asarray(difference * wide_scale)])
    row = make_row(SPECS, "DequantizeLinear", [q, scale], **attributes)
    check(row, [np.asarray(q.astype(np.float32) * wide_scale)])


def test_ties_limits_and_nan(make_row: Any) -> None:
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 1e9, -1e9, np.inf, -np.inf, np.nan, -0.0], np.float32)
    want = np.array([3, 5, 5, 3, 1, 255, 0, 255, 0, 0, 3], np.uint8)
    row = make_row(SPECS, "QuantizeLinear", [x, np.float32(1).reshape(()), np.uint8(3).reshape(())])
    check(row, [want])


def test_integers_to_quantize(make_row: Any) -> None:
    x = np.arange(-400, 400, 7, dtype=np.int32)
    scale = np.array(2.5, np.float32)
    row = make_row(SPECS, "QuantizeLinear", [x, scale, np.array(-3, np.int8)])
    check(row, [quantized(x.astype(np.float32), scale, -3, "int8")])
    row = make_row(SPECS, "DequantizeLinear", [x, scale])
    check(row, [x.astype(np.float32) * scale])


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_precision(make_row: Any, name: str) -> None:
    dtype = np.dtype(name if name == "float16" else ml_dtypes.bfloat16)
    rng = np.random.default_rng(5)
    x = rng.uniform(-20, 20, (4, 33)).astype(dtype)
    scale = rng.uniform(0.05, 0.3, 4).astype(dtype)
    zero = draw_integers(rng, "int8", (4,))
    quotient = (x / scale[:, None]).astype(dtype).astype(np.float64)
    want = np.clip(np.rint(quotient) + zero[:, None].astype(np.int64), -128, 127).astype(np.int8)
    row = make_row(SPECS, "QuantizeLinear", [x, scale, zero], axis=0)
    check(row, [want])
    narrow = make_row(SPECS, "DequantizeLinear", [want, scale, zero], axis=0)
    difference = want.astype(np.float32) - zero[:, None].astype(np.float32)
    check(narrow, [(difference * scale[:, None].astype(np.float32)).astype(dtype)])


@pytest.mark.parametrize("integers", ["uint8", "int8", "int16"])
@pytest.mark.parametrize("size", [1, 15, 33, 1200])
def test_bfloat16_by_a_scale_of_float32(make_row: Any, size: int, integers: str) -> None:
    """As if the numbers were float32: neither they nor the quotients are rounded once more."""
    rng = np.random.default_rng([size, 7])
    x = (rng.standard_normal(size) * 30).astype(ml_dtypes.bfloat16)
    x[: size // 4] = (rng.integers(-90, 90, size // 4) + 0.5) / 4  # ties
    x[-1] = np.inf
    scale, zero = np.array(0.25, np.float32), np.array(5, integers)
    for by in (scale, np.array(0.173, np.float32), np.array(3e-30, np.float32)):
        quotient = np.clip(x.astype(np.float32) / by, -1e6, 1e6)
        row = make_row(SPECS, "QuantizeLinear", [x, by, zero])
        check(row, [quantized(quotient, np.float32(1), 5, integers)])


def test_precision_of_the_division(make_row: Any) -> None:
    rng = np.random.default_rng(6)
    x = rng.uniform(-40, 40, 500).astype(np.float32)
    scale = np.array(0.37, np.float32)
    quotient = x.astype(np.float16) / scale.astype(np.float16)
    want = np.clip(np.rint(quotient.astype(np.float32)), -128, 127).astype(np.int8)
    row = make_row(
        SPECS,
        "QuantizeLinear",
        [x, scale, np.array(0, np.int8)],
        precision=onnx.TensorProto.FLOAT16,
    )
    check(row, [want])


SMALL_INTEGERS = {"int4": (-8, 7), "uint4": (0, 15), "int2": (-2, 1), "uint2": (0, 3)}
SMALL_FLOATS = [
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e5m2",
    "float8_e5m2fnuz",
    "float4_e2m1fn",
]


@pytest.mark.parametrize("name", list(SMALL_INTEGERS))
@pytest.mark.parametrize("constant", [True, False])
def test_small_integers(make_row: Any, name: str, constant: bool) -> None:
    rng = np.random.default_rng(7)
    low, high = SMALL_INTEGERS[name]
    dtype = np.dtype(getattr(ml_dtypes, name))
    scale = draw_scale(rng, (3, 8))
    wide = np.repeat(scale, 2, axis=0)
    q, zero = (rng.integers(low, high + 1, shape) for shape in ((6, 8), (3, 8)))
    wide_zero = np.repeat(zero, 2, axis=0)
    how: dict[str, Any] = {"axis": 0, "block_size": 2}
    fixed = (0, 2) if constant else ()
    inputs = [q.astype(dtype), scale, zero.astype(dtype)]
    row = make_row(SPECS, "DequantizeLinear", inputs, constant=fixed, **how)
    check(row, [(q - wide_zero).astype(np.float32) * wide])
    x = np.asarray(rng.uniform(-2, 2, (6, 8)), np.float32)
    row = make_row(SPECS, "QuantizeLinear", [x, scale, inputs[2]], constant=fixed[1:], **how)
    want = np.clip(np.rint(x / wide).astype(np.int64) + wide_zero, low, high)
    for isa in ISAS:
        np.testing.assert_array_equal(row.run(isa)[0][0].astype(np.int64), want)


@pytest.mark.parametrize("name", SMALL_FLOATS)
def test_small_floats(make_row: Any, name: str) -> None:
    rng = np.random.default_rng(8)
    dtype = np.dtype(getattr(ml_dtypes, name))
    scale = np.array([0.5, 2.0, 0.25], np.float32)
    values = np.arange(256 if "8" in name else 16, dtype=np.uint8).view(dtype)
    q = np.tile(values, (3, 1))
    row = make_row(SPECS, "DequantizeLinear", [q, scale], axis=0)
    check(row, [q.astype(np.float32) * scale[:, None]])
    limit = float(ml_dtypes.finfo(dtype).max)
    x = np.asarray(rng.uniform(-1, 1, (3, 100)) * limit, np.float32) * scale[:, None]
    x[:, 0] = [0.0, -0.0, np.nan if "8" in name else 1.0]
    row = make_row(SPECS, "QuantizeLinear", [x, scale, np.zeros(3, dtype)], axis=0)
    quotient = x / scale[:, None]
    if "8" not in name:  # these have zero points, and -0 + 0 is 0
        quotient = quotient + np.float32(0)
    want = quotient.astype(dtype).view(np.uint8)
    for isa in ISAS:
        np.testing.assert_array_equal(row.run(isa)[0][0].view(np.uint8), want)


@pytest.mark.parametrize("saturate", [0, 1])
def test_saturation_of_small_floats(make_row: Any, saturate: int) -> None:
    x, scale = np.array([1e6, -1e6, 1.0], np.float32), np.array(1.0, np.float32)
    zero = np.array(0, ml_dtypes.float8_e5m2)
    row = make_row(SPECS, "QuantizeLinear", [x, scale, zero], saturate=saturate)
    limit = 57344.0 if saturate else np.inf
    got = row.run(ISAS[0])[0][0].astype(np.float32)
    np.testing.assert_array_equal(got, np.array([limit, -limit, 1.0], np.float32))


@pytest.mark.parametrize("shape", [(1,), (3, 5), (7, 40000), (2, 3, 4)])
@pytest.mark.parametrize("shift", [-3.0, 0.0, 3.0])
def test_dynamic(make_row: Any, shape: tuple[int, ...], shift: float) -> None:
    x = (np.random.default_rng(len(shape)).uniform(-1, 1, shape) + shift).astype(np.float32)
    low, high = min(np.float32(0), x.min()), max(np.float32(0), x.max())
    scale = np.float32(high - low) / np.float32(255)
    zero = np.rint(np.clip(-low / scale, 0, 255))
    want = np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.uint8)
    row = make_row(SPECS, "DynamicQuantizeLinear", [x], outputs=3)
    check(row, [want, np.asarray(scale), np.asarray(zero, np.uint8)])


def test_dynamic_without_range(make_row: Any) -> None:
    row = make_row(SPECS, "DynamicQuantizeLinear", [np.zeros((3, 4), np.float32)], outputs=3)
    got, _ = row.run(ISAS[0])
    assert not got[0].any() and got[2] == 0 and np.isfinite(got[1])


MATMULS: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((1, 1), (1, 1)),
    ((3, 4), (4, 5)),
    ((33, 65), (65, 17)),
    ((70, 31), (31, 40)),
    ((1, 300), (300, 130)),
    ((2, 3, 5), (5, 6)),
    ((2, 1, 3, 5), (4, 5, 6)),
    ((5,), (5, 3)),
    ((3, 5), (5,)),
    ((2, 3, 5), (2, 5, 7)),
    ((0, 4), (4, 3)),
    ((3, 0), (0, 4)),
]


@pytest.mark.parametrize(("left", "right"), MATMULS)
@pytest.mark.parametrize("types", [("uint8", "int8"), ("int8", "int8"), ("uint8", "uint8")])
@pytest.mark.parametrize("constant", [True, False])
def test_matmul_integer(
    make_row: Any, left: tuple[int, ...], right: tuple[int, ...], types: tuple[str, str],
    constant: bool,
) -> None:  # fmt: skip
    rng = np.random.default_rng([len(left), len(right)])
    a, b = draw_integers(rng, types[0], left), draw_integers(rng, types[1], right)
    fixed = (1, 3) if constant else ()
    wide = (a.astype(np.int32), b.astype(np.int32))
    row = make_row(SPECS, "MatMulInteger", [a, b], constant=fixed)
    check(row, [np.asarray(wide[0] @ wide[1], np.int32)])
    zeros = (draw_integers(rng, types[0], ()), draw_integers(rng, types[1], ()))
    row = make_row(SPECS, "MatMulInteger", [a, b, *zeros], constant=fixed)
    check(row, [np.asarray((wide[0] - zeros[0]) @ (wide[1] - zeros[1]), np.int32)])
    if len(left) > 1 and len(right) > 1:
        rows = draw_integers(rng, types[0], (*left[:-2], left[-2], 1))
        columns = draw_integers(rng, types[1], (*right[:-2], 1, right[-1]))
        if len(right) == 2:
            columns = columns.reshape(-1)
        want = np.asarray((wide[0] - rows) @ (wide[1] - columns), np.int32)
        check(make_row(SPECS, "MatMulInteger", [a, b, rows, columns], constant=fixed), [want])


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize(("left", "right"), [((3, 40), (40, 20)), ((2, 7, 5), (2, 5, 33))])
@pytest.mark.parametrize(("types", "per_axis"), [
    (("uint8", "int8", "uint8"), False), (("int8", "int8", "int8"), True),
])  # fmt: skip
def test_qlinear_matmul(
    make_row: Any, left: tuple[int, ...], right: tuple[int, ...], types: tuple[str, str, str],
    per_axis: bool, constant: bool,
) -> None:  # fmt: skip
    rng = np.random.default_rng(len(left))
    a, b = draw_integers(rng, types[0], left), draw_integers(rng, types[1], right)
    rows: tuple[int, ...] = (*left[:-1], 1) if per_axis else ()
    columns: tuple[int, ...] = (*right[:-2], 1, right[-1]) if per_axis else ()
    a_scale, b_scale = draw_scale(rng, rows), draw_scale(rng, columns)
    a_zero, b_zero = draw_integers(rng, types[0], rows), draw_integers(rng, types[1], columns)
    y_scale, y_zero = np.array(9.7, np.float32), draw_integers(rng, types[2], ())
    sums = (a.astype(np.int64) - a_zero) @ (b.astype(np.int64) - b_zero)
    factor = np.asarray(a_scale * b_scale / y_scale, np.float64)
    info = np.iinfo(types[2])
    want = np.clip(np.rint(sums * factor) + y_zero, info.min, info.max).astype(types[2])
    inputs = [a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero]
    check(make_row(SPECS, "QLinearMatMul", inputs, constant=(3, 4, 5) if constant else ()), [want])


# x, w, attributes
CONVS: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((1, 1, 3, 3), (1, 1, 2, 2), {}),
    ((2, 3, 9, 7), (5, 3, 3, 3), {"pads": [1, 1, 1, 1]}),
    ((1, 4, 8, 8), (6, 2, 3, 3), {"pads": [1, 0, 2, 1], "group": 2, "strides": [2, 1]}),
    ((2, 6, 7, 7), (6, 1, 3, 3), {"group": 6, "dilations": [2, 2], "pads": [2, 2, 2, 2]}),
    ((1, 5, 20), (7, 5, 3), {"strides": [2], "pads": [1, 1]}),
    ((1, 3, 10, 10), (40, 3, 1, 1), {}),
    ((1, 2, 9, 9), (3, 2, 4, 4), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ((0, 2, 5, 5), (3, 2, 3, 3), {}),
]


def convolved(x: Array, w: Array, attributes: dict[str, Any]) -> Array:
    """Exact in float64: every sum stays far below 2^53."""
    axes = x.ndim - 2
    how = {k: v for k, v in attributes.items() if k in ("strides", "dilations")}
    pads = attributes.get("pads", [0] * 2 * axes)
    if "auto_pad" in attributes:  # of the one case above: 5 windows of 4 at stride 2 over 9
        pads = [1, 1, 2, 2]
    wide = np.pad(
        x.astype(np.float64), [(0, 0), (0, 0), *zip(pads[:axes], pads[axes:], strict=True)]
    )
    conv = torch.nn.functional.conv1d if axes == 1 else torch.nn.functional.conv2d
    y = conv(
        torch.from_numpy(wide),
        torch.from_numpy(w.astype(np.float64)),
        stride=how.get("strides", 1),
        dilation=how.get("dilations", 1),
        groups=attributes.get("group", 1),
    )
    return np.asarray(y.numpy())


@pytest.mark.parametrize(("x_shape", "w_shape", "attributes"), CONVS)
@pytest.mark.parametrize("types", [("uint8", "int8"), ("int8", "uint8")])
@pytest.mark.parametrize("constant", [True, False])
def test_convolutions(
    make_row: Any, x_shape: tuple[int, ...], w_shape: tuple[int, ...],
    attributes: dict[str, Any], types: tuple[str, str], constant: bool,
) -> None:  # fmt: skip
    rng = np.random.default_rng(w_shape[0])
    x, w = draw_integers(rng, types[0], x_shape), draw_integers(rng, types[1], w_shape)
    x_zero = draw_integers(rng, types[0], ())
    per_channel = (w_shape[0],) + (1,) * (len(w_shape) - 1)
    fixed = (1, 3) if constant else ()
    for w_zero in (
        None,
        draw_integers(rng, types[1], ()),
        draw_integers(rng, types[1], (w_shape[0],)),
    ):
        taken = 0 if w_zero is None else w_zero.astype(np.int32)
        taken = taken.reshape(per_channel) if w_zero is not None and w_zero.size > 1 else taken
        sums = convolved(x.astype(np.int32) - x_zero, w.astype(np.int32) - taken, attributes)
        inputs = [x, w, x_zero, w_zero] if w_zero is not None else [x, w, x_zero]
        row = make_row(SPECS, "ConvInteger", inputs, constant=fixed, **attributes)
        check(row, [sums.astype(np.int32)])
        if w_zero is None:
            continue
        bias = rng.integers(-3000, 3000, w_shape[0]).astype(np.int32)
        w_scale = draw_scale(rng, w_zero.shape)
        x_scale, y_scale = np.float32(0.03), np.float32(1.7)
        y_zero = draw_integers(rng, types[0], ())
        factor = np.asarray(x_scale * w_scale / y_scale, np.float64)
        shape = [1, -1, *[1] * (len(w_shape) - 2)]
        scaled = (sums + bias.reshape(shape)) * (
            factor.reshape(shape) if factor.size > 1 else factor
        )
        info = np.iinfo(types[0])
        want = np.clip(np.rint(scaled) + y_zero, info.min, info.max).astype(types[0])
        scales = [np.asarray(s, np.float32) for s in (x_scale, w_scale, y_scale)]
        row = make_row(
            SPECS, "QLinearConv",
            [x, scales[0], x_zero, w, scales[1], w_zero, scales[2], y_zero, bias],
            constant=(3, 4, 5) if constant else (), **attributes,
        )  # fmt: skip
        check(row, [want])


def test_long_sums_are_exact(make_row: Any) -> None:
    a, b = np.full((2, 5000), 255, np.uint8), np.full((5000, 3), 255, np.uint8)
    row = make_row(SPECS, "MatMulInteger", [a, b])
    check(row, [np.full((2, 3), 5000 * 255 * 255, np.int32)])
    check(make_row(SPECS, "MatMulInteger", [a, b], constant=(1,)), [row.run(ISAS[0])[0][0]])


def test_strided_and_dynamic_inputs(make_row: Any) -> None:
    rng = np.random.default_rng(3)
    a, b = draw_integers(rng, "uint8", (6, 9)), draw_integers(rng, "int8", (9, 20))
    want = a.astype(np.int32) @ b.astype(np.int32)
    check(make_row(SPECS, "MatMulInteger", [a, b], permuted={0: (1, 0), 1: (1, 0)}), [want])
    check(make_row(SPECS, "MatMulInteger", [a, b], constant=(1,), dynamic={0: ("n", 9)}), [want])
    batched = draw_integers(rng, "uint8", (2, 3, 9))
    row = make_row(SPECS, "MatMulInteger", [batched, b], dynamic={0: ("n", "m", 9)})
    check(row, [batched.astype(np.int32) @ b.astype(np.int32)])
    x, scale = rng.standard_normal((4, 6)).astype(np.float32), draw_scale(rng, (6,))
    row = make_row(
        SPECS, "QuantizeLinear", [x, scale, np.zeros(6, np.int8)],
        permuted={0: (1, 0)}, dynamic={0: (6, "n")}, axis=1,
    )  # fmt: skip
    check(row, [quantized(x, scale, 0, "int8")])


def test_reasons(make_row: Any) -> None:
    x, scale = np.zeros((3, 4), np.float32), np.ones(3, np.float32)
    row = make_row(SPECS, "QuantizeLinear", [x, scale], axis=1)
    assert row.reason() == "scale of shape (3,) does not fit axis 1 of (3, 4)"


@pytest.mark.parametrize("isa", ISAS)
def test_packer_is_exact(isa: str) -> None:
    source = draw_integers(np.random.default_rng(1), "int16", (3, 7, 21))
    for b in (source, np.ascontiguousarray(source.swapaxes(1, 2)).swapaxes(1, 2)):
        packed = _native.pack(isa, "integer_pack_i16", b, {})
        target = np.zeros_like(source)
        _native.unpack(isa, "integer_pack_i16", packed, target, {})
        np.testing.assert_array_equal(target, source)


def test_a_quantized_network_agrees_with_onnxruntime() -> None:
    rng = np.random.default_rng(2)
    # Seven bits: with more, onnxruntime's sums of two products saturate on some machines.
    w = rng.integers(-63, 64, (8, 3, 3, 3)).astype(np.int8)
    constants: dict[str, Array] = {
        "xs": np.array(0.02, np.float32), "xz": np.array(120, np.uint8), "w": w,
        "ws": draw_scale(rng, (8,)), "wz": np.zeros(8, np.int8),
        "ys": np.array(0.8, np.float32), "yz": np.array(3, np.uint8),
    }  # fmt: skip
    node = onnx.helper.make_node
    nodes = [
        node("QuantizeLinear", ["x", "xs", "xz"], ["q"]),
        node("QLinearConv", ["q", "xs", "xz", "w", "ws", "wz", "ys", "yz"], ["c"], pads=[1] * 4),
        node("DequantizeLinear", ["c", "ys", "yz"], ["y"]),
    ]
    graph = onnx.helper.make_graph(
        nodes, "net",
        [onnx.helper.make_tensor_value_info("x", 1, [2, 3, 11, 10])],
        [onnx.helper.make_tensor_value_info("y", 1, None)],
        [onnx.numpy_helper.from_array(a, k) for k, a in constants.items()],
    )  # fmt: skip
    opset = [onnx.helper.make_opsetid("", 21)]
    proto = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
    x = rng.uniform(-2, 2, (2, 3, 11, 10)).astype(np.float32)
    want = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"x": x})[0]
    proto.opset_import[0].version = OPSET
    got = zenith.compile(GraphIR.from_onnx(proto), fallback="error")(x)
    # A product that lies within rounding of a tie may go either way.
    assert np.mean(np.asarray(got) != want) < 1e-3
    np.testing.assert_allclose(got, want, atol=0.81)
