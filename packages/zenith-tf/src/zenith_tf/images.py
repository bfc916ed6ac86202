"""Rules for tf.image: crops and colours; images are [batch, rows, columns, channels]."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from zenith.ir.builder import GraphBuilder
from zenith_tf.node import Node, Rule
from zenith_tf.resizing import plus

__all__ = ["GAPS", "REPLACED"]

_BOOL, _FLOAT, _INT64 = ir.DataType.BOOL, ir.DataType.FLOAT, ir.DataType.INT64


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
            found = pixels(*(b.op("Floor", plus(b, v, 0.5)) for v in (y, z)))
        else:
            found = _blended(b, y, z, views, pixels)
        inside = b.op(
            "And",
            *(b.reshape(v, view) for v, view in zip((inside_y, inside_z), views, strict=True)),
        )
        inside = b.unsqueeze(inside, 3)
        return b.op("Where", inside, found, b.number(outside, _FLOAT), dtype=_FLOAT)

    return n.function(write, *n.inputs[:3])


def _crop_places(
    b: GraphBuilder, boxes: ir.Value, axis: int, size: Any, new: int
) -> tuple[ir.Value, ir.Value]:
    """[boxes, new] where the pixels of one axis are, and whether that is in the image."""
    start, end = (b.slice(boxes, 1, i, i + 1) for i in (axis, axis + 2))
    last = plus(b, b.operand(size, _FLOAT), -1)
    if new == 1:
        place = b.op("Mul", b.op("Mul", b.op("Add", start, end), b.number(0.5, _FLOAT)), last)
    else:
        step = b.op("Div", b.op("Mul", b.op("Sub", end, start), last), b.number(new - 1, _FLOAT))
        steps = b.constant(np.arange(new, dtype=np.float32)[None])
        place = b.op("Add", b.op("Mul", start, last), b.op("Mul", steps, step))
    low = b.op("GreaterOrEqual", place, b.number(0, _FLOAT), dtype=_BOOL)
    return place, b.op("And", low, b.op("LessOrEqual", place, last, dtype=_BOOL))


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

    above, below = (between(pixels(row, left), pixels(row, right), across) for row in (top, bottom))
    return between(above, below, down)


# --- colours --------------------------------------------------------------------------------------


def _channels(b: GraphBuilder, x: ir.Value) -> list[ir.Value]:
    last = b.rank_of(x) - 1
    return [b.slice(x, last, i, i + 1) for i in range(3)]


def _where(b: GraphBuilder, condition: ir.Value, x: ir.Value, y: ir.Value) -> ir.Value:
    return b.op("Where", condition, x, y, dtype=x.dtype)


def _equal(b: GraphBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    return b.op("Equal", x, y, dtype=_BOOL)


def _to_hsv(b: GraphBuilder, x: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Hue in [0, 1), saturation, value; grey has hue 0."""
    red, green, blue = _channels(b, x)
    value, least = b.op("Max", red, green, blue), b.op("Min", red, green, blue)
    spread = b.op("Sub", value, least)
    zero, one = b.number(0, x.dtype), b.number(1, x.dtype)
    grey = _equal(b, spread, zero)
    positive = b.op("Greater", value, zero, dtype=_BOOL)
    saturation = _where(b, positive, b.op("Div", spread, _where(b, positive, value, one)), zero)
    sixth = b.op("Div", b.number(1 / 6, x.dtype), _where(b, grey, one, spread))

    def sector(first: ir.Value, second: ir.Value, start: float) -> ir.Value:
        return plus(b, b.op("Mul", b.op("Sub", first, second), sixth), start)

    hue = _where(b, _equal(b, green, value), sector(blue, red, 2 / 6), sector(red, green, 4 / 6))
    hue = _where(b, _equal(b, red, value), sector(green, blue, 0), hue)
    hue = _where(b, grey, zero, hue)
    below = b.op("Less", hue, zero, dtype=_BOOL)
    return _where(b, below, plus(b, hue, 1), hue), saturation, value


def _to_rgb(b: GraphBuilder, hue: ir.Value, saturation: ir.Value, value: ir.Value) -> ir.Value:
    chroma = b.op("Mul", saturation, value)
    least = b.op("Sub", value, chroma)
    sixth = b.op("Mul", hue, b.number(6, hue.dtype))
    zero, one = b.number(0, hue.dtype), b.number(1, hue.dtype)

    def share(centre: float, sign: int) -> ir.Value:
        """How much of the chroma a colour has: by the distance of the hue from its centre."""
        far = b.op("Abs", plus(b, sixth, -centre))
        far = plus(b, far, -1) if sign > 0 else b.op("Sub", b.number(2, hue.dtype), far)
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
}

REPLACED: dict[str, Rule] = {
    "AdjustHue": _adjust_hue,
    "AdjustSaturation": _adjust_saturation,
    "CropAndResize": _crop_and_resize,
}
