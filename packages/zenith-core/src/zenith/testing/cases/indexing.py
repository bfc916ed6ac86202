"""Operators that read or write where an index tensor says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from zenith.testing.cases import Case, array, make, random

Array = np.ndarray[Any, Any]
ANY = ("float32", "float64", "float16", "int64", "int32", "uint8", "bool")


def _elements(x: Array, index: Array, axis: int) -> Array:
    """GatherElements by its definition; `index` may be smaller than `x` along other axes."""
    where: list[Any] = list(np.indices(index.shape))
    where[axis] = index
    return np.asarray(x[tuple(where)])


def cases() -> Iterator[Case]:
    x = random((5, 4, 3))
    for axis in (0, 1, -1):
        yield make("Gather", f"axis {axis}", [x, array([[0, 2], [-1, 1]])], axis=axis)
    yield make("Gather", "scalar index", [x, array(1)])
    yield make("Gather", "constant index", [x, array([3, 0])], constants=(1,))
    yield make("Gather", "constant data", [random((50, 8)), array([3, 0, 49])], constants=(0,))
    yield make("Gather", "int32 index", [x, array([3, 0], "int32")])
    yield make("Gather", "no index", [x, array([])])
    for dtype in ANY:
        yield make("Gather", "rows", [random((5, 4), dtype, 0, 9), array([4, 0])])
    for axis, index in {0: [[[0, 1, 2], [4, -1, 0]]], 2: [[[2, 1]], [[0, -3]]]}.items():
        inputs, wanted = [x, array(index)], _elements(x, array(index), axis)
        yield make("GatherElements", f"axis {axis}", inputs, expected=[wanted], axis=axis)
    yield make("GatherND", "rows", [x, array([[0], [4]])])
    yield make("GatherND", "elements", [x, array([[0, 1, 2], [4, -1, 0]])])
    yield make(
        "GatherND", "batch", [random((2, 3, 4)), array([[[1], [0]], [[2], [2]]])], batch_dims=1
    )
    data, rows = random((4, 5)), array([[1, 0, 2, 3, 0]])
    for reduction in ("none", "add", "mul", "max", "min"):
        updates = random((1, 5), seed=3)
        name = f"reduction {reduction}"
        yield make("ScatterElements", name, [data, rows, updates], reduction=reduction)
        inputs = [data, array([[1], [3]]), random((2, 5), seed=3)]
        yield make("ScatterND", name, inputs, reduction=reduction)
    inputs = [data, array([[4, 0], [1, -1]]), random((2, 2), seed=3)]
    yield make("ScatterElements", "axis 1", inputs, axis=1)
    yield make("ScatterND", "elements", [data, array([[0, 0], [3, -1]]), random((2,), seed=3)])
    yield make("Compress", "axis 0", [data, array([1, 0, 1, 1], "bool")], axis=0)
    yield make("Compress", "flat", [data, array([1, 0, 1, 1], "bool")])
    for dtype in ("float32", "int64", "bool"):
        yield make("NonZero", "rank 2", [random((4, 5), dtype, 0, 1)])
    yield make("NonZero", "nothing", [random((3, 0))])
    boxes = array([[[0, 0, 1, 1], [0, 0.1, 1, 1.1], [0, 10, 1, 11], [0, 10.1, 1, 11.1]]], "float32")
    scores = array([[[0.9, 0.75, 0.6, 0.95]]], "float32")
    limits = [array([3]), array([0.5], "float32"), array([0.1], "float32")]
    yield make("NonMaxSuppression", "two", [boxes, scores, *limits])
