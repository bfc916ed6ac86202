"""Rules for tf.image: sizes, crops and colours; images are [batch, rows, columns, channels]."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from zenith.ir.builder import GraphBuilder
from zenith_tf.node import Node, Rule

__all__ = ["GAPS", "REPLACED"]

Array: TypeAlias = np.ndarray[Any, Any]

_FLOAT, _INT64 = ir.DataType.FLOAT, ir.DataType.INT64
_TO_NCHW, _TO_NHWC = [0, 3, 1, 2], [0, 2, 3, 1]


# --- other sizes ----------------------------------------------------------------------------------


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


def _by_weights(n: Node, weights: Sequence[Array]) -> list[str]:
    """Rows and columns as weighted sums of the old ones: a product with a matrix for each."""

    def write(b: GraphBuilder, x: ir.Value) -> ir.Value:
        x = b.cast(x, _FLOAT)
        batch, rows, columns, channels = b.shape_of(x)
        down, across = (b.constant(w.astype(np.float32)) for w in weights)
        new_rows, new_columns = (len(w) for w in weights)
        flat = b.reshape(x, (batch, rows, columns * channels))
        high = b.op("MatMul", down, flat, shape=(batch, new_rows, columns * channels))
        high = b.reshape(high, (batch, new_rows, columns, channels))
        return b.op("MatMul", across, high, shape=(batch, new_rows, new_columns, channels))

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


def _lanczos(radius: float) -> tuple[float, Callable[[Array], Array]]:
    return radius, lambda x: np.where(x > radius, 0, np.sinc(x) * np.sinc(x / radius))


def _pieces(near: Sequence[float], far: Sequence[float]) -> Callable[[Array], Array]:
    """A cubic up to 1, another up to 2."""
    return lambda x: np.where(x >= 2, 0, np.where(x >= 1, np.polyval(far, x), np.polyval(near, x)))


# Radius, and weight by the distance.
_KERNELS: dict[bytes, tuple[float, Callable[[Array], Array]]] = {
    b"lanczos1": _lanczos(1),
    b"lanczos3": _lanczos(3),
    b"lanczos5": _lanczos(5),
    b"gaussian": (1.5, lambda x: np.where(x >= 1.5, 0, np.exp(-(x**2) / 0.5))),
    b"box": (0.5, lambda x: np.where(x < 0.5, 1, np.where(x == 0.5, 0.5, 0))),
    b"triangle": (1, lambda x: np.maximum(1 - x, 0)),
    b"keyscubic": (2, _pieces([1.5, -2.5, 0, 1], [-0.5, 2.5, -4, 2])),
    b"mitchellcubic": (
        2,
        _pieces([7 / 6, -2, 0, 8 / 9], [-7 / 18, 2, -10 / 3, 16 / 9]),
    ),
}


def _kernel_weights(
    old: int, new: int, scale: float, shift: float, kernel: bytes, antialias: bool
) -> Array:
    """In float32, as TensorFlow computes what is just in or out of the kernel."""
    radius, function = _KERNELS[kernel]
    step = np.float32(1) / np.float32(scale)
    wide = max(float(step), 1) if antialias else 1
    weights = np.zeros((new, old))
    for row in range(new):
        place = np.float32(row + 0.5) * step - step * np.float32(shift)
        if not 0 <= place <= old:
            continue
        first = max(int(np.ceil(place - radius * wide - 0.5)), 0)
        last = min(int(np.floor(place + radius * wide - 0.5)), old - 1)
        at = np.arange(first, last + 1, dtype=np.float32)
        found = function(np.abs(at + np.float32(0.5) - place) / np.float32(wide))
        total = found.sum()
        if abs(total) >= 1000 * np.finfo(np.float32).tiny:
            weights[row, first : last + 1] = found / total
    return weights


def _scale_and_translate(n: Node) -> list[str]:
    sizes = _sizes(n)
    if sizes is None:
        raise ValueError("only between sizes that are known")
    scales, shifts = (np.asarray(n.value(i), np.float64) for i in (2, 3))
    kernel, antialias = n.attr("kernel_type", b"lanczos3"), bool(n.attr("antialias", 1))
    return _by_weights(
        n,
        [
            _kernel_weights(old, new, float(scales[i]), float(shifts[i]), kernel, antialias)
            for i, (old, new) in enumerate(sizes)
        ],
    )


# --- crops ----------------------------------------------------------------------------------------


def _crop_and_resize(n: Node) -> list[str]:
    method, outside = n.attr("method", b"bilinear"), float(n.attr("extrapolation_value", 0.0))
    new = [int(s) for s in n.value(3)]

    def write(b: GraphBuilder, x: ir.Value, boxes: ir.Value, which: ir.Value) -> ir.Value:
        x = b.cast(x, _FLOAT)
        _, *sizes, channels = b.shape_of(x)
        count = b.shape_of(boxes)[0]
        axes = [_crop_places(b, boxes, axis, sizes[axis], new[axis]) for axis in (0, 1)]
        views = ((count, new[0], 1), (count, 1, new[1]))

        def pixels(rows: ir.Value, columns: ir.Value) -> ir.Value:
            shape = (count, *new)
            parts = [b.reshape(b.cast(which, _INT64), (count, 1, 1))]
            for view, place, size in zip(views, (rows, columns), sizes, strict=True):
                last = b.op("Sub", b.operand(size, _INT64), b.number(1, _INT64))
                inside = b.op("Max", b.cast(place, _INT64), b.number(0, _INT64))
                parts.append(b.reshape(b.op("Min", inside, last), view))
            where = b.concat([b.unsqueeze(b.expand(p, shape), 3) for p in parts], 3)
            return b.op("GatherND", x, where, shape=(*shape, channels))

        (y, inside_y), (z, inside_z) = axes
        if method == b"nearest":
            found = pixels(*(b.op("Floor", _plus(b, v, 0.5)) for v in (y, z)))
        else:
            found = _blended(b, y, z, views, pixels)
        inside = b.op(
            "And",
            *(b.reshape(v, view) for v, view in zip((inside_y, inside_z), views, strict=True)),
        )
        inside = b.unsqueeze(inside, 3)
        return b.op("Where", inside, found, b.number(outside, _FLOAT), dtype=_FLOAT)

    return n.function(write, *n.inputs[:3])


def _plus(b: GraphBuilder, x: ir.Value, number: float) -> ir.Value:
    return b.op("Add", x, b.number(number, x.dtype))


def _crop_places(
    b: GraphBuilder, boxes: ir.Value, axis: int, size: Any, new: int
) -> tuple[ir.Value, ir.Value]:
    """[boxes, new] where the pixels of one axis are, and whether that is in the image."""
    start, end = (b.slice(boxes, 1, i, i + 1) for i in (axis, axis + 2))
    last = _plus(b, b.operand(size, _FLOAT), -1)
    if new == 1:
        place = b.op("Mul", b.op("Mul", b.op("Add", start, end), b.number(0.5, _FLOAT)), last)
    else:
        step = b.op("Div", b.op("Mul", b.op("Sub", end, start), last), b.number(new - 1, _FLOAT))
        steps = b.constant(np.arange(new, dtype=np.float32)[None])
        place = b.op("Add", b.op("Mul", start, last), b.op("Mul", steps, step))
    boolean = ir.DataType.BOOL
    low = b.op("GreaterOrEqual", place, b.number(0, _FLOAT), dtype=boolean)
    return place, b.op("And", low, b.op("LessOrEqual", place, last, dtype=boolean))


def _blended(
    b: GraphBuilder, y: ir.Value, z: ir.Value, views: Sequence[Any], pixels: Callable[..., ir.Value]
) -> ir.Value:
    """Between the four pixels around each place."""
    (top, left), (bottom, right) = ([b.op(op, v) for v in (y, z)] for op in ("Floor", "Ceil"))
    down, across = (
        b.unsqueeze(b.reshape(b.op("Sub", v, low), view), 3)
        for v, low, view in zip((y, z), (top, left), views, strict=True)
    )

    def between(first: ir.Value, second: ir.Value, share: ir.Value) -> ir.Value:
        return b.op("Add", first, b.op("Mul", b.op("Sub", second, first), share))

    rows = [between(pixels(row, left), pixels(row, right), across) for row in (top, bottom)]
    return between(*rows, down)


# --- colours --------------------------------------------------------------------------------------


def _channels(b: GraphBuilder, x: ir.Value) -> list[ir.Value]:
    last = b.rank_of(x) - 1
    return [b.slice(x, last, i, i + 1) for i in range(3)]


def _where(b: GraphBuilder, condition: ir.Value, x: ir.Value, y: ir.Value) -> ir.Value:
    return b.op("Where", condition, x, y, dtype=x.dtype)


def _equal(b: GraphBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    return b.op("Equal", x, y, dtype=ir.DataType.BOOL)


def _to_hsv(b: GraphBuilder, x: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Hue in [0, 1), saturation, value; grey has hue 0."""
    red, green, blue = _channels(b, x)
    value, least = b.op("Max", red, green, blue), b.op("Min", red, green, blue)
    spread = b.op("Sub", value, least)
    zero, one = b.number(0, x.dtype), b.number(1, x.dtype)
    grey = _equal(b, spread, zero)
    positive = b.op("Greater", value, zero, dtype=ir.DataType.BOOL)
    saturation = _where(b, positive, b.op("Div", spread, _where(b, positive, value, one)), zero)
    sixth = b.op("Div", b.number(1 / 6, x.dtype), _where(b, grey, one, spread))

    def sector(first: ir.Value, second: ir.Value, start: float) -> ir.Value:
        return _plus(b, b.op("Mul", b.op("Sub", first, second), sixth), start)

    hue = _where(b, _equal(b, green, value), sector(blue, red, 2 / 6), sector(red, green, 4 / 6))
    hue = _where(b, _equal(b, red, value), sector(green, blue, 0), hue)
    hue = _where(b, grey, zero, hue)
    below = b.op("Less", hue, zero, dtype=ir.DataType.BOOL)
    return _where(b, below, _plus(b, hue, 1), hue), saturation, value


def _to_rgb(b: GraphBuilder, hue: ir.Value, saturation: ir.Value, value: ir.Value) -> ir.Value:
    chroma = b.op("Mul", saturation, value)
    least = b.op("Sub", value, chroma)
    sixth = b.op("Mul", hue, b.number(6, hue.dtype))
    zero, one = b.number(0, hue.dtype), b.number(1, hue.dtype)

    def share(centre: float, sign: int) -> ir.Value:
        """How much of the chroma a colour has: by the distance of the hue from its centre."""
        far = b.op("Abs", _plus(b, sixth, -centre))
        far = _plus(b, far, -1) if sign > 0 else b.op("Sub", b.number(2, hue.dtype), far)
        return b.op("Add", b.op("Mul", b.op("Min", b.op("Max", far, zero), one), chroma), least)

    return b.concat([share(3, 1), share(2, -1), share(4, -1)], b.rank_of(hue) - 1)


def _rgb_to_hsv(n: Node) -> list[str]:
    def write(b: GraphBuilder, x: ir.Value) -> ir.Value:
        return b.concat(list(_to_hsv(b, x)), b.rank_of(x) - 1)

    return n.function(write, *n.inputs)


def _hsv_to_rgb(n: Node) -> list[str]:
    return n.function(lambda b, x: _to_rgb(b, *_channels(b, x)), *n.inputs)


def _adjust_hue(n: Node) -> list[str]:
    def write(b: GraphBuilder, x: ir.Value, delta: ir.Value) -> ir.Value:
        hue, saturation, value = _to_hsv(b, x)
        hue = b.op("Add", hue, b.cast(delta, x.dtype))
        return _to_rgb(b, b.op("Sub", hue, b.op("Floor", hue)), saturation, value)

    return n.function(write, *n.inputs)


def _adjust_saturation(n: Node) -> list[str]:
    def write(b: GraphBuilder, x: ir.Value, scale: ir.Value) -> ir.Value:
        hue, saturation, value = _to_hsv(b, x)
        saturation = b.op("Mul", saturation, b.cast(scale, x.dtype))
        limits = [b.number(i, x.dtype) for i in (0, 1)]
        saturation = b.op("Min", b.op("Max", saturation, limits[0]), limits[1])
        return _to_rgb(b, hue, saturation, value)

    return n.function(write, *n.inputs)


GAPS: dict[str, Rule] = {
    "HSVToRGB": _hsv_to_rgb,
    "RGBToHSV": _rgb_to_hsv,
    "ScaleAndTranslate": _scale_and_translate,
}

REPLACED: dict[str, Rule] = {
    "AdjustHue": _adjust_hue,
    "AdjustSaturation": _adjust_saturation,
    "CropAndResize": _crop_and_resize,
    "ResizeArea": _resize_area,
    "ResizeBicubic": _resize_cubic,
    "ResizeBilinear": _resize(b"linear"),
    "ResizeNearestNeighbor": _resize(b"nearest"),
}
