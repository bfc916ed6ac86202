"""TensorFlow operations in terms of ONNX: those tf2onnx does not know, and those it gets wrong.

A rule takes a `Node` and returns the result's name, or those of its first results. The table goes
with each conversion as an argument: nothing is registered for other users of tf2onnx.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from zenith_tf.node import Node
from zenith_tf.recurrent import RESET_BEFORE

__all__ = ["GAPS", "HANDLERS", "REPLACED"]

Rule = Callable[[Node], str | list[str]]


def _expm1(n: Node) -> str:
    """exp(x) - 1: by tanh near 0, where the difference would cancel."""
    (x,) = n.inputs
    tangent = n.op("Tanh", n.op("Mul", x, 0.5))
    small = n.op("Div", n.op("Mul", tangent, 2), n.op("Sub", 1, tangent))
    return n.op("Where", n.op("Less", n.op("Abs", x), 1), small, n.op("Sub", n.op("Exp", x), 1))


def _log1p(n: Node, x: str | None = None) -> str:
    """log(1 + x): what rounding 1 + x lost is put back by the ratio of x to what is left of it."""
    x = x or n.inputs[0]
    whole = n.op("Add", x, 1)
    left = n.op("Sub", whole, 1)
    exact = n.op("Equal", left, 0)
    ratio = n.op("Div", x, n.op("Where", exact, 1, left))
    ratio = n.op("Where", n.op("IsInf", whole), 1, ratio)
    return n.op("Where", exact, x, n.op("Mul", n.op("Log", whole), ratio))


def _zero_where(n: Node, x: str, result: str) -> str:
    return n.op("Where", n.op("Equal", x, 0), 0, result)


def _floor_mod(n: Node) -> str:
    """The remainder with the sign of the divisor."""
    x, y = n.inputs
    if n.dtype.kind in "iu":
        return n.op("Mod", x, y)
    rest = n.op("Mod", x, y, fmod=1)
    apart = n.op("Xor", n.op("Less", rest, 0), n.op("Less", y, 0))
    apart = n.op("And", apart, n.op("Not", n.op("Equal", rest, 0)))
    return n.op("Where", apart, n.op("Add", rest, y), rest)


def _floor_div(n: Node) -> str:
    """Rounds down; ONNX' Div of integers rounds to zero."""
    x, y = n.inputs
    if n.dtype.kind in "iu":
        return n.op("Div", n.op("Sub", x, n.op("Mod", x, y)), y)
    return n.op("Floor", n.op("Div", x, y))


def _euclidean_norm(n: Node) -> str:
    keep = int(n.attr("keep_dims", 0))
    return n.op("ReduceL2", n.inputs[0], n.int64(n.inputs[1]), keepdims=keep)


def _count(n: Node, flags: str) -> str:
    return n.op("ReduceSum", n.int64(flags), n.ints(-1), keepdims=0)


def _search(compare: str) -> Rule:
    def rule(n: Node) -> str:
        ordered, values = n.inputs
        row, column = n.op("Unsqueeze", ordered, n.ints(-2)), n.op("Unsqueeze", values, n.ints(-1))
        return _count(n, n.op(compare, row, column))

    return rule


def _bucketize(n: Node) -> str:
    x = n.op("Cast", n.op("Unsqueeze", n.inputs[0], n.ints(-1)), to=1)
    limits = n.const(list(n.attr("boundaries")), np.float32)
    return _count(n, n.op("GreaterOrEqual", x, limits))


def _scatter_nd(n: Node) -> str:
    """Into zeros; what meets in one place is added."""
    indices, updates, shape = n.inputs
    zeros = n.op("Expand", n.const(0, n.type_of(1)), n.int64(shape))
    return n.op("ScatterND", zeros, n.int64(indices), updates, reduction=b"add")


def _segments(reduction: bytes) -> Rule:
    """Rows of one id reduced to one row; negative ids are dropped (here: go to a row too many)."""

    def rule(n: Node) -> str:
        data, ids, count = n.inputs
        info: Any = np.iinfo(n.dtype) if n.dtype.kind in "iu" else np.finfo(n.dtype)
        start = {b"add": 0, b"mul": 1, b"max": info.min, b"min": info.max}[reduction]
        index, rows = n.int64(ids), n.int64(count)
        one = n.ints(1)
        places = n.op("Reshape", rows, one)
        total = n.op("Add", places, one)
        zero = n.const(0, np.int64)
        index = n.op("Where", n.op("Less", index, zero), rows, index)
        inner = n.op("Slice", n.op("Shape", data), n.ints(n.rank(1)), n.ints(n.rank(0)))
        base = n.op("Expand", n.const(start), n.op("Concat", total, inner, axis=0))
        index = n.op("Unsqueeze", index, n.ints(-1))
        whole = n.op("ScatterND", base, index, data, reduction=reduction)
        return n.op("Slice", whole, n.ints(0), places, n.ints(0))

    return rule


def _main_diagonal(n: Node, k: int) -> tuple[int, int]:
    """(rows, columns) of the matrices, when only the main diagonal is meant."""
    if np.any(n.value(k)):
        raise ValueError("only the main diagonal (k=0) is known")
    rows, columns = (n.shape() or [-1, -1])[-2:]
    if rows < 0 or columns < 0:
        raise ValueError("the sizes of the matrices are not known")
    return rows, columns


def _diagonal(n: Node) -> str:
    rows, columns = _main_diagonal(n, 1)
    outer = n.op("Slice", n.op("Shape", n.inputs[0]), n.ints(0), n.ints(n.rank() - 2))
    flat = n.op("Reshape", n.inputs[0], n.op("Concat", outer, n.ints(-1), axis=0))
    places = [i * (columns + 1) for i in range(min(rows, columns))]
    return n.op("Gather", flat, n.ints(*places), axis=n.rank() - 2)


def _set_diagonal(n: Node) -> str:
    rows, columns = _main_diagonal(n, 2)
    if rows != columns:
        raise ValueError("only square matrices are known")
    mask = n.const(np.eye(rows, dtype=np.bool_), np.bool_)
    return n.op("Where", mask, n.op("Unsqueeze", n.inputs[1], n.ints(-1)), n.inputs[0])


def _invert_permutation(n: Node) -> str:
    (x,) = n.inputs
    count = n.op("Squeeze", n.op("Shape", x), n.ints(0))
    zero, one = n.const(0, np.int64), n.const(1, np.int64)
    order = n.op("Range", zero, count, one)
    return n.op("ScatterElements", order, n.int64(x), order)


def _fake_quant(n: Node, low: Any, high: Any) -> str:
    """Clamp and round to the grid that holds 0 exactly."""
    first = 1 if n.attr("narrow_range", 0) else 0
    last = 2 ** int(n.attr("num_bits", 8)) - 1
    low, high = np.float32(low), np.float32(high)
    scale = (high - low) / np.float32(last - first)
    zero = np.clip(np.floor(first - low / scale + np.float32(0.5)), first, last)
    bottom, top = (first - zero) * scale, (last - zero) * scale
    x = n.op("Min", n.op("Max", n.inputs[0], bottom), top)
    steps = n.op("Floor", n.op("Add", n.op("Div", n.op("Sub", x, bottom), scale), 0.5))
    return n.op("Add", n.op("Mul", steps, scale), bottom)


_TO_NCHW, _TO_NHWC = [0, 3, 1, 2], [0, 2, 3, 1]


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


def _resize_area(n: Node) -> str:
    shape, size = n.shape() or [-1] * 4, [int(s) for s in n.value(1)]
    kernel = [i // o for i, o in zip(shape[1:3], size)]
    if any(i < 0 or i % o for i, o in zip(shape[1:3], size)) or n.attr("align_corners", 0):
        raise ValueError("by area only to sizes that divide the old ones")
    x = n.op("Transpose", n.op("Cast", n.inputs[0], to=1), perm=_TO_NCHW)
    y = n.op("AveragePool", x, kernel_shape=kernel, strides=kernel)
    return n.op("Transpose", y, perm=_TO_NHWC)


def _select(n: Node) -> str:
    """tf2onnx multiplies by the condition: a NaN that was not chosen comes through."""
    return n.op("Where", *n.inputs)


def _select_rows(n: Node) -> str:
    """Select takes a condition for whole rows too."""
    condition, *choices = n.inputs
    more = [1] * (n.rank(1) - 1) if n.rank(0) == 1 else []
    if more:
        condition = n.op("Reshape", condition, n.ints(-1, *more))
    return n.op("Where", condition, *choices)


def _rnn_weights(n: Node) -> str:
    """All weights and biases of a recurrent layer in one row."""
    rows = [n.op("Reshape", w, n.ints(-1)) for w in n.inputs[3:]]
    return n.op("Concat", *rows, axis=0)


# Places of ONNX' gates in CudnnRNN's: its own are reset, update, new of a GRU, and input, forget,
# new, output of an LSTM; those of ONNX update, reset, new, and input, output, forget, new.
_GATES = {"gru": [1, 0, 2], "lstm": [0, 3, 1, 2]}


def _rnn(n: Node) -> list[str]:
    """A recurrent layer: its outputs and last states."""
    x, h, c, weights, *lengths = n.inputs
    mode = n.attr("rnn_mode", b"lstm").decode()
    (layers, *_, units), features = n.shape(1) or [-1, -1], (n.shape() or [-1])[-1]
    if n.attr("direction", b"unidirectional") != b"unidirectional":
        raise ValueError(f"{mode} in this form is not known")
    if min(units, features) < 1 or layers != 1:
        raise ValueError("the sizes of the layer are not known")
    order = _GATES.get(mode, [0])
    start = 0

    def taken(rows: int, columns: int) -> str:
        """[1, gates * rows, columns]: the next of the weights, in ONNX' order of gates."""
        nonlocal start
        size = rows * columns
        parts = [
            n.op("Slice", weights, n.ints(start + i * size), n.ints(start + (i + 1) * size))
            for i in order
        ]
        start += size * len(order)
        return n.op("Reshape", n.op("Concat", *parts, axis=0), n.ints(1, -1, columns))

    w, r = taken(units, features), taken(units, units)
    b = n.op("Concat", *(n.op("Squeeze", taken(units, 1), n.ints(2)) for _ in range(2)), axis=1)
    given = [x, w, r, b, lengths[0] if lengths else "", h]
    if mode == "gru":
        after = int(not n.attr(RESET_BEFORE, 0))
        found = n.ops("GRU", 2, *given, hidden_size=units, linear_before_reset=after)
    elif mode == "lstm":
        found = n.ops("LSTM", 3, *given, c, hidden_size=units)
    else:
        activation = [mode.removeprefix("rnn_").capitalize()]
        found = n.ops("RNN", 2, *given, hidden_size=units, activations=activation)
    return [n.op("Squeeze", found[0], n.ints(1)), *found[1:]]


# Operations tf2onnx has no handler for.
GAPS: dict[str, Rule] = {
    "Bucketize": _bucketize,
    "CudnnRNNCanonicalToParams": _rnn_weights,
    "CudnnRNNV3": _rnn,
    "Erfc": lambda n: n.op("Sub", 1, n.op("Erf", n.inputs[0])),
    "EuclideanNorm": _euclidean_norm,
    "Expm1": _expm1,
    "FakeQuantWithMinMaxVarsPerChannel": lambda n: _fake_quant(n, n.value(1), n.value(2)),
    "Inv": lambda n: n.op("Reciprocal", n.inputs[0]),
    "L2Loss": lambda n: n.op("Mul", n.op("ReduceSumSquare", n.inputs[0], keepdims=0), 0.5),
    "Log1p": _log1p,
    "LowerBound": _search("Less"),
    "Mod": lambda n: n.op("Mod", *n.inputs, fmod=1),
    "MulNoNan": lambda n: _zero_where(n, n.inputs[1], n.op("Mul", *n.inputs)),
    "PreventGradient": lambda n: n.inputs[0],
    "Snapshot": lambda n: n.inputs[0],
    "TruncateMod": lambda n: n.op("Mod", *n.inputs, fmod=1),
    "UpperBound": _search("LessOrEqual"),
    "Xdivy": lambda n: _zero_where(n, n.inputs[0], n.op("Div", *n.inputs)),
    "Xlog1py": lambda n: _zero_where(
        n, n.inputs[0], n.op("Mul", n.inputs[0], _log1p(n, n.inputs[1]))
    ),
    "Xlogy": lambda n: _zero_where(
        n, n.inputs[0], n.op("Mul", n.inputs[0], n.op("Log", n.inputs[1]))
    ),
}

# Operations whose result from tf2onnx is not TensorFlow's, in some cases at least.
REPLACED: dict[str, Rule] = {
    "CudnnRNN": _rnn,
    "FakeQuantWithMinMaxArgs": lambda n: _fake_quant(n, n.attr("min", -6.0), n.attr("max", 6.0)),
    "FakeQuantWithMinMaxVars": lambda n: _fake_quant(n, n.value(1), n.value(2)),
    "FloorDiv": _floor_div,
    "FloorMod": _floor_mod,
    "InvertPermutation": _invert_permutation,
    "MatrixDiagPartV3": _diagonal,
    "MatrixSetDiagV3": _set_diagonal,
    "ResizeArea": _resize_area,
    "ResizeBicubic": _resize(b"cubic"),
    "ResizeBilinear": _resize(b"linear"),
    "ResizeNearestNeighbor": _resize(b"nearest"),
    "ScatterNd": _scatter_nd,
    "Select": _select_rows,
    "SelectV2": _select,
    "UnsortedSegmentMax": _segments(b"max"),
    "UnsortedSegmentMin": _segments(b"min"),
    "UnsortedSegmentProd": _segments(b"mul"),
    "UnsortedSegmentSum": _segments(b"add"),
}


def _handler(rule: Rule) -> tuple[Callable[..., None], list[Any]]:
    def handle(graph: Any, node: Any, name: str, args: Any) -> None:
        adapted = Node(graph, node)
        adapted.finish(rule(adapted))

    return handle, []


HANDLERS: dict[str, tuple[Callable[..., None], list[Any]]] = {
    name: _handler(rule) for name, rule in {**GAPS, **REPLACED}.items()
}
