"""Operators that reduce or scan along axes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from zenith.testing.cases import Case, array, make, random

REDUCTIONS = (
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
)
AXES = {"last": [-1], "first": [0], "middle": [1], "two": [0, 2], "all": [0, 1, 2]}
ALONG = ("Softmax", "LogSoftmax", "Hardmax")


def cases() -> Iterator[Case]:
    for op in REDUCTIONS:
        x = random((3, 7, 5), low=0.5, high=2)
        for what, axes in AXES.items():
            for keep in (0, 1):
                name = f"{what}, keepdims={keep}"
                yield make(op, name, [x, array(axes)], constants=(1,), keepdims=keep)
        yield make(op, "axes computed", [x, array([1])])
        yield make(op, "no axes", [x])
        yield make(op, "no axes, keepdims=0", [x], keepdims=0)
        yield make(op, "noop", [x, array([])], constants=(1,), noop_with_empty_axes=1)
        yield make(
            op,
            "large",
            [random((2, 3001), low=0.99, high=1.01), array([1])],
            constants=(1,),
        )
        if op in ("ReduceL1", "ReduceL2", "ReduceProd", "ReduceSum", "ReduceSumSquare"):
            yield make(op, "empty", [np.zeros((2, 0, 4), np.float32), array([1])], constants=(1,))
        for dtype in ("float64", "float16", "int32", "int64"):
            inputs = [random((3, 5), dtype, 1, 3), array([1])]
            if (
                op not in ("ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMean")
                or dtype[0] == "f"
            ):
                yield make(op, "last", inputs, constants=(1,))
    for op in ("ReduceMax", "ReduceMin"):
        yield make(op, "bool", [random((3, 5), "bool"), array([1])], constants=(1,))
        yield make(op, "int8", [random((3, 5), "int8", -99, 99), array([0])], constants=(1,))
    for op in ("ArgMax", "ArgMin"):
        x = random((3, 7, 5), "int32", -3, 3)  # with ties
        for axis in (0, 1, -1):
            for last in (0, 1):
                name = f"axis={axis}, select_last_index={last}"
                yield make(op, name, [x], axis=axis, select_last_index=last)
        yield make(op, "keepdims=0", [random((4, 9))], axis=1, keepdims=0)
        yield make(op, "float64", [random((4, 9), "float64")])
    for op in ALONG:
        for axis in (0, 1, -1):
            yield make(op, f"axis={axis}", [random((3, 7, 5))], axis=axis)
        yield make(op, "rank 1", [random((9,))])
        yield make(op, "empty", [random((0, 4))])
        yield make(op, "large", [random((4, 1999), low=-9, high=9)])
        yield make(op, "big values", [array([[1000.0, 1001.0, 999.0]], "float32")])
        for dtype in ("float64", "float16", "bfloat16"):
            yield make(op, "axis=-1", [random((3, 7), dtype)])
    for op in ("CumSum", "CumProd"):
        for axis in (0, 1, -1):
            for exclusive in (0, 1):
                for reverse in (0, 1):
                    name = f"axis={axis}, exclusive={exclusive}, reverse={reverse}"
                    inputs = [random((3, 7), low=0.5), array(axis)]
                    yield make(
                        op, name, inputs, constants=(1,), exclusive=exclusive, reverse=reverse
                    )
        for dtype in ("int32", "int64", "float64"):
            yield make(op, "axis=1", [random((3, 5), dtype, 1, 3), array(1)], constants=(1,))
    x = random((3, 17), seed=4)
    for largest in (0, 1):
        for axis in (0, 1):
            yield make(
                "TopK",
                f"axis={axis}, largest={largest}",
                [x, array([3])],
                constants=(1,),
                outputs=2,
                axis=axis,
                largest=largest,
            )
    yield make("TopK", "all", [random((2, 5), seed=5), array([5])], constants=(1,), outputs=2)
    yield make("TopK", "k computed", [x, array([2])], outputs=2)
    yield make(
        "TopK", "int64", [random((4, 11), "int64", -99, 99), array([4])], constants=(1,), outputs=2
    )
    yield make("TopK", "none", [x, array([0])], constants=(1,), outputs=2)
    yield make("LpNormalization", "l1", [random((3, 5))], p=1)
    yield make("LpNormalization", "l2", [random((3, 5))], p=2, axis=0)
