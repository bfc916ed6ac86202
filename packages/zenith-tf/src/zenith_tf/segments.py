"""Rules for what gathers rows by number: segments, scattering, counting, and membership."""

from __future__ import annotations

from typing import Any

import numpy as np

from zenith_tf.node import Node, Rule

__all__ = ["GAPS", "REPLACED"]

_START = {b"add": 0, b"mul": 1}


def _scatter_nd(n: Node) -> str:
    """Into zeros; what meets in one place is added."""
    indices, updates, shape = n.inputs
    zeros = n.op("Expand", n.const(0, n.type_of(1)), n.int64(shape))
    return n.op("ScatterND", zeros, n.int64(indices), updates, reduction=b"add")


def _reduced(n: Node, data: str, index: str, rows: str, reduction: bytes) -> str:
    """Rows of one number reduced to one row; a number too large or negative is dropped.

    data [n, ...], index [n] int64, rows: their number, [1] int64.
    """
    info: Any = np.iinfo(n.dtype) if n.dtype.kind in "iu" else np.finfo(n.dtype)
    start = _START.get(reduction, info.min if reduction == b"max" else info.max)
    total = n.op("Add", rows, n.ints(1))
    dropped = n.op("Less", index, n.const(0, np.int64))
    index = n.op("Where", dropped, rows, n.op("Min", index, rows))
    inner = n.op("Slice", n.op("Shape", data), n.ints(1), n.ints(2**31))
    base = n.op("Expand", n.const(start), n.op("Concat", total, inner, axis=0))
    index = n.op("Unsqueeze", index, n.ints(-1))
    whole = n.op("ScatterND", base, index, data, reduction=reduction)
    return n.op("Slice", whole, n.ints(0), rows, n.ints(0))


def _flat(n: Node, data: str, ids: str, axes: int) -> tuple[str, str]:
    """Data and numbers with the axes that the numbers have as one."""
    inner = n.op("Slice", n.op("Shape", data), n.ints(axes), n.ints(2**31))
    rows = n.op("Reshape", data, n.op("Concat", n.ints(-1), inner, axis=0))
    return rows, n.op("Reshape", n.int64(ids), n.ints(-1))


def _unsorted(reduction: bytes) -> Rule:
    def rule(n: Node) -> str:
        data, ids, count = n.inputs
        rows, index = _flat(n, data, ids, n.rank(1))
        return _reduced(n, rows, index, n.op("Reshape", n.int64(count), n.ints(1)), reduction)

    return rule


def _counted(n: Node, index: str, rows: str) -> str:
    """How many data each row has, in the data's type, with axes of one for the others."""
    ones = n.op("Expand", n.const(1), n.op("Shape", index))
    counts = _reduced(n, ones, index, rows, b"add")
    return n.op("Reshape", counts, n.ints(-1, *[1] * (n.rank() - 1)))


def _segments(n: Node, data: str, ids: str, rows: str | None, reduction: bytes) -> str:
    """Sorted numbers, whose last one tells how many rows there are unless `rows` does; a row
    without data is 0, but of a product, where it is 1."""
    index = n.int64(ids)
    if rows is None:
        last = n.op("Gather", index, n.ints(-1))
        rows = n.op("Add", last, n.ints(1))
    kind = b"add" if reduction in (b"mean", b"sqrt") else reduction
    whole = _reduced(n, data, index, rows, kind)
    if reduction in _START:
        return whole
    counts = _counted(n, index, rows)
    if reduction in (b"max", b"min"):
        return n.op("Where", n.op("Greater", counts, 0), whole, 0)
    counts = n.op("Max", counts, 1)
    return n.op("Div", whole, n.op("Sqrt", counts) if reduction == b"sqrt" else counts)


def _sorted(reduction: bytes) -> Rule:
    return lambda n: _segments(n, n.inputs[0], n.inputs[1], None, reduction)


def _gathered(reduction: bytes) -> Rule:
    """Of rows that a list names."""

    def rule(n: Node) -> str:
        data, places, ids, *count = n.inputs
        rows = n.op("Reshape", n.int64(count[0]), n.ints(1)) if count else None
        return _segments(n, n.op("Gather", data, places), ids, rows, reduction)

    return rule


def _bins(n: Node) -> str:
    """Weights, or ones, summed by number, for each row; what is too large is dropped."""
    x, size, weights = n.inputs
    kind, count = n.type_of(2), n.op("Reshape", n.int64(size), n.ints(1))
    index = n.op("Min", n.int64(x), count)
    values = weights
    if 0 in (n.shape(2) or [0]):
        values = n.op("Expand", n.const(1, kind), n.op("Shape", x))
    width = n.op("Add", count, n.ints(1))
    rows = n.op("Slice", n.op("Shape", x), n.ints(0), n.ints(n.rank() - 1))
    total = n.op("Mul", n.op("ReduceProd", rows, keepdims=1), width)
    if n.rank() == 2:
        row = n.op("Range", n.const(0, np.int64), n.op("Squeeze", rows), n.const(1, np.int64))
        index = n.op("Add", index, n.op("Mul", n.op("Unsqueeze", row, n.ints(1)), width))
    zeros = n.op("Expand", n.const(0, kind), total)
    places, flat = n.op("Reshape", index, n.ints(-1, 1)), n.op("Reshape", values, n.ints(-1))
    reduction = b"max" if n.attr("binary_output", 0) else b"add"
    whole = n.op("ScatterND", zeros, places, flat, reduction=reduction)
    whole = n.op("Reshape", whole, n.op("Concat", rows, width, axis=0))
    return n.op("Slice", whole, n.ints(0), count, n.ints(-1))


def _histogram(n: Node) -> str:
    x, limits, bins = n.inputs
    count = n.op("Reshape", n.int64(bins), n.ints(1))
    low, high = (n.op("Gather", limits, n.const(i, np.int64)) for i in (0, 1))
    width = n.op("Div", n.op("Sub", high, low), n.op("CastLike", count, x))
    place = n.int64(n.op("Floor", n.op("Div", n.op("Sub", x, low), width)))
    zero, last = n.ints(0), n.op("Sub", count, n.ints(1))
    place = n.op("Reshape", n.op("Min", n.op("Max", place, zero), last), n.ints(-1, 1))
    ones = n.op(
        "Expand", n.const(1, np.int64), n.op("Slice", n.op("Shape", place), zero, n.ints(1))
    )
    zeros = n.op("Expand", n.const(0, np.int64), count)
    return n.op("ScatterND", zeros, place, ones, reduction=b"add")


def _in_top_k(n: Node) -> str:
    """Whether fewer than k predictions are greater than the target's."""
    x, targets, k = n.inputs
    own = n.op("GatherElements", x, n.op("Unsqueeze", n.int64(targets), n.ints(1)), axis=1)
    more = n.op("ReduceSum", n.int64(n.op("Greater", x, own)), n.ints(1), keepdims=0)
    finite = n.op("Less", n.op("Abs", own), np.inf)
    return n.op("And", n.op("Less", more, n.int64(k)), n.op("Squeeze", finite, n.ints(1)))


def _nth(n: Node) -> str:
    x, place = n.inputs
    count = n.op("Add", n.op("Reshape", n.int64(place), n.ints(1)), n.ints(1))
    largest = int(n.attr("reverse", 0))
    values, _ = n.ops("TopK", 2, x, count, axis=-1, largest=largest)
    return n.op("Gather", values, n.op("Squeeze", n.int64(place)), axis=-1)


def _approximate_top_k(n: Node) -> list[str]:
    """All that is asked for is exact here, as on TensorFlow's CPU."""
    return n.ops(
        "TopK",
        2,
        n.inputs[0],
        n.ints(int(n.attr("k"))),
        axis=int(n.attr("reduction_dimension", -1)),
        largest=int(n.attr("is_max_k", 1)),
    )


def _difference(n: Node) -> list[str]:
    """What of x is not in y, and where it is in x."""
    x, y = n.inputs
    same = n.op("Equal", n.op("Unsqueeze", x, n.ints(1)), n.op("Unsqueeze", y, n.ints(0)))
    there = n.op("ReduceMax", n.int64(same), n.ints(1), keepdims=0)
    left = n.op("Equal", there, n.const(0, np.int64))
    places = n.op("Squeeze", n.op("NonZero", left), n.ints(0))
    return [n.op("Gather", x, places), places]


GAPS: dict[str, Rule] = {
    "ApproxTopK": _approximate_top_k,
    "HistogramFixedWidth": _histogram,
    "InTopKV2": _in_top_k,
    "ListDiff": _difference,
    "NthElement": _nth,
}

REPLACED: dict[str, Rule] = {
    "DenseBincount": _bins,
    "ScatterNd": _scatter_nd,
    "SegmentMax": _sorted(b"max"),
    "SegmentMean": _sorted(b"mean"),
    "SegmentMin": _sorted(b"min"),
    "SegmentProd": _sorted(b"mul"),
    "SegmentSum": _sorted(b"add"),
    "SparseSegmentMean": _gathered(b"mean"),
    "SparseSegmentMeanWithNumSegments": _gathered(b"mean"),
    "SparseSegmentSqrtN": _gathered(b"sqrt"),
    "SparseSegmentSqrtNWithNumSegments": _gathered(b"sqrt"),
    "SparseSegmentSum": _gathered(b"add"),
    "SparseSegmentSumWithNumSegments": _gathered(b"add"),
    "UnsortedSegmentMax": _unsorted(b"max"),
    "UnsortedSegmentMin": _unsorted(b"min"),
    "UnsortedSegmentProd": _unsorted(b"mul"),
    "UnsortedSegmentSum": _unsorted(b"add"),
}
