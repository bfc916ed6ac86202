"""Rules for images of another size; images are [batch, rows, columns, channels]."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from zenith.ir.builder import GraphBuilder
from zenith.ir.dims import Dim
from zenith.ir.matrices import numbers
from zenith_tf.node import Node, Rule

__all__ = ["GAPS", "REPLACED", "plus"]

Array: TypeAlias = np.ndarray[Any, Any]

_BOOL, _FLOAT, _INT64 = ir.DataType.BOOL, ir.DataType.FLOAT, ir.DataType.INT64
_TO_NCHW, _TO_NHWC = [0, 3, 1, 2], [0, 2, 3, 1]


def plus(b: GraphBuilder, x: ir.Value, number: float) -> ir.Value:
    """x + number"""
    return b.op("Add", x, b.number(number, x.dtype))


def _resize(mode: bytes) -> Rule:
    """By the wanted size: tf2onnx gives the ratio, whose rounding can lose a row."""

    def rule(n: Node) -> str:
        corners, half = n.attr("align_corners", 0), n.attr("half_pixel_centers", 0)
        where = b"align_corners" if corners else b"half_pixel" if half else b"asymmetric"
        attributes: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": where}
        if mode == b"nearest":
            attributes["nearest_mode"] = b"round_prefer_ceil" if corners or half else b"floor"
        if mode == b"cubic":
            attributes["cubic_coeff_a"] = -0.5 if half else -0.75
            attributes["exclude_outside"] = int(bool(half))
        x = n.op("Transpose", n.inputs[0], perm=_TO_NCHW)
        if mode != b"nearest":
            x = n.op("Cast", x, to=1)  # TensorFlow's result is float32 whatever comes
        size = n.int64(n.inputs[1])
        y = n.op("Resize", x, "", "", size, axes=[2, 3], **attributes)
        return n.op("Transpose", y, perm=_TO_NHWC)

    return rule


def _sizes(n: Node) -> list[tuple[int, int]] | None:
    """(old, new) size of rows and columns; None where they are not known."""
    try:
        new = [int(s) for s in n.value(1)]
    except ValueError:
        return None
    old = (n.shape() or [-1] * 4)[1:3]
    return None if min(old) < 0 else list(zip(old, new, strict=True))


def _weighted(b: GraphBuilder, x: ir.Value, weights: Sequence[ir.Value]) -> ir.Value:
    """Rows and columns as weighted sums of the old ones: a product with a matrix for each."""
    x = b.cast(x, _FLOAT)
    batch, rows, columns, channels = b.shape_of(x)
    down, across = weights
    new_rows, new_columns = (b.shape_of(w)[0] for w in weights)
    flat = b.reshape(x, (batch, rows, columns * channels))
    high = b.op("MatMul", down, flat, shape=(batch, new_rows, columns * channels))
    high = b.reshape(high, (batch, new_rows, columns, channels))
    return b.op("MatMul", across, high, shape=(batch, new_rows, new_columns, channels))


def _by_weights(n: Node, weights: Sequence[Array]) -> list[str]:
    def write(b: GraphBuilder, x: ir.Value) -> ir.Value:
        return _weighted(b, x, [b.constant(w.astype(np.float32)) for w in weights])

    return n.function(write, n.inputs[0])


_STEPS = 1024  # TensorFlow takes its cubic weights from a table of so many places


def _cubic_weights(old: int, new: int, corners: bool, half: bool) -> Array:
    """[new, old] the weights of the old places for each new one."""
    a = -0.5 if half else -0.75

    def near(x: float) -> float:
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x: float) -> float:
        return ((a * (x + 1) - 5 * a) * (x + 1) + 8 * a) * (x + 1) - 4 * a

    scale = np.float32((old - 1) / (new - 1) if corners and new > 1 else old / new)
    weights = np.zeros((new, old))
    for row in range(new):
        place = (np.float32(row + 0.5) * scale - np.float32(0.5)) if half else row * scale
        first = int(np.floor(place))
        t = float(np.rint((place - first) * _STEPS)) / _STEPS
        for at, weight in enumerate((far(t), near(t), near(1 - t), far(1 - t)), first - 1):
            inside = min(max(at, 0), old - 1)
            if not half or inside == at:
                weights[row, inside] += weight
        if half:
            weights[row] /= weights[row].sum()
    return weights


def _resize_cubic(n: Node) -> str | list[str]:
    sizes = _sizes(n)
    if sizes is None:
        return _resize(b"cubic")(n)
    how = [bool(n.attr(k, 0)) for k in ("align_corners", "half_pixel_centers")]
    return _by_weights(n, [_cubic_weights(old, new, *how) for old, new in sizes])


def _area_weights(old: int, new: int, corners: bool) -> Array:
    scale = (old - 1) / (new - 1) if corners and new > 1 else old / new
    weights = np.zeros((new, old))
    for row in range(new):
        start, end = row * scale, (row + 1) * scale
        for at in range(int(np.floor(start)), int(np.ceil(end))):
            share = min(at + 1, end) - max(at, start)
            weights[row, min(at, old - 1)] += share / scale
    return weights


def _resize_area(n: Node) -> str | list[str]:
    sizes = _sizes(n)
    if sizes is None:
        raise ValueError("by area only between sizes that are known")
    corners = bool(n.attr("align_corners", 0))
    if corners or any(old % new for old, new in sizes):
        return _by_weights(n, [_area_weights(old, new, corners) for old, new in sizes])
    kernel = [old // new for old, new in sizes]
    x = n.op("Transpose", n.op("Cast", n.inputs[0], to=1), perm=_TO_NCHW)
    y = n.op("AveragePool", x, kernel_shape=kernel, strides=kernel)
    return n.op("Transpose", y, perm=_TO_NHWC)


# What a kernel weighs at a distance, with the distance from which on it weighs nothing.
Kernel: TypeAlias = tuple[float, Callable[[GraphBuilder, ir.Value], ir.Value]]


def _lanczos(radius: float) -> Kernel:
    def sinc(b: GraphBuilder, x: ir.Value, scale: float) -> ir.Value:
        turn = b.op("Mul", x, b.number(np.pi / scale, _FLOAT))
        return b.op("Div", b.op("Sin", turn), turn)

    def weight(b: GraphBuilder, x: ir.Value) -> ir.Value:
        far = b.op("Max", x, b.number(1e-3, _FLOAT))
        product = b.op("Mul", sinc(b, far, 1), sinc(b, far, radius))
        near = b.op("Less", x, b.number(1e-3, _FLOAT), dtype=_BOOL)
        inside = b.op("LessOrEqual", x, b.number(radius, _FLOAT), dtype=_BOOL)
        found = b.op("Where", near, b.number(1, _FLOAT), product, dtype=_FLOAT)
        return b.op("Where", inside, found, b.number(0, _FLOAT), dtype=_FLOAT)

    return radius, weight


def _pieces(*pieces: tuple[float, Sequence[float]]) -> Kernel:
    """Polynomials, highest power first, each up to a distance."""

    def weight(b: GraphBuilder, x: ir.Value) -> ir.Value:
        result = b.number(0, _FLOAT)
        for end, coefficients in reversed(pieces):
            value = b.number(coefficients[0], _FLOAT)
            for coefficient in coefficients[1:]:
                value = plus(b, b.op("Mul", value, x), coefficient)
            inside = b.op("Less", x, b.number(end, _FLOAT), dtype=_BOOL)
            result = b.op("Where", inside, value, result, dtype=_FLOAT)
        return result

    return pieces[-1][0], weight


def _bell(b: GraphBuilder, x: ir.Value) -> ir.Value:
    inside = b.op("Less", x, b.number(1.5, _FLOAT), dtype=_BOOL)
    value = b.op("Exp", b.op("Div", b.op("Mul", x, x), b.number(-0.5, _FLOAT)))
    return b.op("Where", inside, value, b.number(0, _FLOAT), dtype=_FLOAT)


_KERNELS: dict[bytes, Kernel] = {
    b"lanczos1": _lanczos(1),
    b"lanczos3": _lanczos(3),
    b"lanczos5": _lanczos(5),
    b"gaussian": (1.5, _bell),
    b"triangle": _pieces((1, [-1, 1])),
    b"keyscubic": _pieces((1, [1.5, -2.5, 0, 1]), (2, [-0.5, 2.5, -4, 2])),
    b"mitchellcubic": _pieces((1, [7 / 6, -2, 0, 8 / 9]), (2, [-7 / 18, 2, -10 / 3, 16 / 9])),
}


def _kernel_weights(
    b: GraphBuilder,
    old: Dim,
    new: int,
    scale: ir.Value,
    shift: ir.Value,
    kernel: bytes,
    antialias: bool,
) -> ir.Value:
    """[new, old] in float32, as TensorFlow computes what is just in or out of the kernel."""
    radius, weight = _KERNELS[kernel]
    one = b.number(1, _FLOAT)
    step = b.op("Div", one, scale)
    rows = b.constant(np.arange(new, dtype=np.float32)[:, None] + np.float32(0.5))
    place = b.op("Sub", b.op("Mul", rows, step), b.op("Mul", step, shift))
    wide = b.op("Max", step, one) if antialias else one
    reach = b.op("Mul", wide, b.number(radius, _FLOAT))
    at = b.cast(numbers(b, old), _FLOAT)
    limits = (
        ("GreaterOrEqual", at, b.op("Ceil", plus(b, b.op("Sub", place, reach), -0.5))),
        ("LessOrEqual", at, b.op("Floor", plus(b, b.op("Add", place, reach), -0.5))),
        ("GreaterOrEqual", place, b.number(0, _FLOAT)),
        ("LessOrEqual", place, b.operand(old, _FLOAT)),
    )
    inside = b.op(limits[0][0], *limits[0][1:], dtype=_BOOL)
    for op, x, y in limits[1:]:
        inside = b.op("And", inside, b.op(op, x, y, dtype=_BOOL))
    distance = b.op("Div", b.op("Abs", b.op("Sub", plus(b, at, 0.5), place)), wide)
    zero = b.number(0, _FLOAT)
    found = b.op("Where", inside, weight(b, distance), zero, dtype=_FLOAT)
    total = b.reduce("ReduceSum", found, [1], keepdims=True)
    least = b.number(1000 * np.finfo(np.float32).tiny, _FLOAT)
    counts = b.op("GreaterOrEqual", b.op("Abs", total), least, dtype=_BOOL)
    share = b.op("Div", found, b.op("Where", counts, total, one, dtype=_FLOAT))
    return b.op("Where", counts, share, zero, dtype=_FLOAT)


def _scale_and_translate(n: Node) -> list[str]:
    new = [int(s) for s in n.value(1)]
    kernel, antialias = n.attr("kernel_type", b"lanczos3"), bool(n.attr("antialias", 1))
    if kernel not in _KERNELS:
        raise ValueError(f"with the kernel {kernel.decode()}")

    def write(b: GraphBuilder, x: ir.Value, scales: ir.Value, shifts: ir.Value) -> ir.Value:
        weights = []
        for i, size in enumerate(new):
            scale, shift = (b.gather(v, b.number(i, _INT64), 0) for v in (scales, shifts))
            old = b.shape_of(x)[1 + i]
            weights.append(_kernel_weights(b, old, size, scale, shift, kernel, antialias))
        return _weighted(b, x, weights)

    return n.function(write, n.inputs[0], n.inputs[2], n.inputs[3])


GAPS: dict[str, Rule] = {"ScaleAndTranslate": _scale_and_translate}

REPLACED: dict[str, Rule] = {
    "ResizeArea": _resize_area,
    "ResizeBicubic": _resize_cubic,
    "ResizeBilinear": _resize(b"linear"),
    "ResizeNearestNeighbor": _resize(b"nearest"),
}
