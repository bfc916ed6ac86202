"""Operators that change shape or order, copy, and make tensors."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import helper

from zenith.testing.cases import Case, array, make, random

ANY = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int8", "uint8", "bool")


def cases() -> Iterator[Case]:
    yield from _views()
    yield from _slices()
    yield from _copies()
    yield from _made()


def _views() -> Iterator[Case]:
    for dtype in ANY:
        x = random((2, 3, 4), dtype, 0, 9)
        yield make("Transpose", "default", [x])
        yield make("Reshape", "merge", [x, array([6, 4])], constants=(1,))
        yield make("Squeeze", "one", [x[:1], array([0])], constants=(1,))
        yield make("Unsqueeze", "two", [x, array([0, 4])], constants=(1,))
        yield make("Flatten", "axis 1", [x])
        yield make("Expand", "row", [x[0, :1], array([2, 5, 4])], constants=(1,))
    x = random((2, 3, 4, 5))
    for perm in ([0, 2, 1, 3], [3, 2, 1, 0], [0, 1, 2, 3], [2, 0, 3, 1]):
        yield make("Transpose", f"perm {perm}", [x], perm=perm)
    yield make("Transpose", "scalar", [random(())])
    yield make("Transpose", "empty", [random((0, 3))], perm=[1, 0])
    for shape in ([-1], [0, -1], [6, 4, 5], [2, 3, 20], [1, -1, 1, 5]):
        yield make("Reshape", f"{shape}", [x, array(shape)], constants=(1,))
    yield make("Reshape", "computed", [x, array([6, 20])])
    yield make("Reshape", "to scalar", [random((1, 1)), array([])], constants=(1,))
    yield make("Reshape", "empty", [random((0, 3)), array([3, 0])], constants=(1,), allowzero=1)
    yield make("Squeeze", "all", [random((1, 3, 1))])
    yield make("Squeeze", "negative", [random((1, 3, 1)), array([-1])], constants=(1,))
    yield make("Squeeze", "computed", [random((1, 3, 1)), array([0])])
    yield make("Unsqueeze", "negative", [random((3, 4)), array([-1, 0])], constants=(1,))
    yield make("Unsqueeze", "scalar", [random(()), array([0])], constants=(1,))
    for axis in (0, 2, 4, -1):
        yield make("Flatten", f"axis {axis}", [x], axis=axis)
    yield make("Expand", "ranks", [random((3, 1)), array([2, 1, 6])], constants=(1,))
    yield make("Expand", "computed", [random((3, 1)), array([3, 4])])
    yield make("Expand", "empty", [random((1, 3)), array([0, 3])], constants=(1,))
    yield make("Shape", "all", [x])
    yield make("Shape", "part", [x], start=1, end=-1)
    yield make("Size", "all", [x])


def _slices() -> Iterator[Case]:
    x = random((7, 9))
    for what, (starts, ends, axes, steps) in {
        "head": ([0], [3], [0], [1]),
        "negative": ([-3], [-1], [1], [1]),
        "steps": ([0, 1], [7, 9], [0, 1], [2, 3]),
        "backward": ([6], [-99], [0], [-1]),
        "backward by two": ([8], [0], [1], [-2]),
        "beyond": ([0], [2**62], [0], [1]),
        "nothing": ([3], [3], [0], [1]),
    }.items():
        inputs = [x, array(starts), array(ends), array(axes), array(steps)]
        yield make("Slice", what, inputs, constants=(1, 2, 3, 4))
    yield make("Slice", "defaults", [x, array([1, 2]), array([5, 6])], constants=(1, 2))
    yield make("Slice", "computed", [x, array([1, 2]), array([5, 6])])
    yield make("Slice", "int32", [x, array([1], "int32"), array([5], "int32")], constants=(1, 2))
    for dtype in ANY:
        inputs = [random((5, 6), dtype, 0, 9), array([1]), array([6]), array([1]), array([2])]
        yield make("Slice", "every second", inputs, constants=(1, 2, 3, 4))
        yield make("Split", "equal", [random((6, 4), dtype, 0, 9)], outputs=2, num_outputs=2)
        yield make(
            "Concat",
            "axis 1",
            [random((2, 3), dtype, 0, 9), random((2, 4), dtype, 0, 9, 1)],
            axis=1,
        )
        yield make("Tile", "both", [random((2, 3), dtype, 0, 9), array([2, 3])], constants=(1,))
        yield make(
            "Pad", "constant", [random((3, 4), dtype, 0, 9), array([1, 0, 2, 1])], constants=(1,)
        )
    yield make("Split", "uneven", [x], outputs=3, num_outputs=3, axis=0)
    yield make("Split", "sizes", [x, array([2, 0, 7])], constants=(1,), outputs=3, axis=1)
    yield make("Split", "negative axis", [x, array([4, 5])], constants=(1,), outputs=2, axis=-1)


def _copies() -> Iterator[Case]:
    for axis in (0, 1, -1):
        shape = [3, 4, 5]
        shape[axis] = 2
        inputs = [random((3, 4, 5)), random(shape, seed=1), random((3, 4, 5), seed=2)]
        yield make("Concat", f"three, axis {axis}", inputs, axis=axis)
    yield make("Concat", "one", [random((3, 4))], axis=0)
    yield make("Concat", "empty", [random((0, 4)), random((3, 4))], axis=0)
    yield make("Tile", "none", [random((2, 3)), array([1, 1])], constants=(1,))
    yield make("Tile", "zero", [random((2, 3)), array([0, 2])], constants=(1,))
    yield make("Tile", "computed", [random((2, 3)), array([1, 2])])
    x, pads = random((3, 4, 5)), array([0, 1, 2, 0, 2, 1])
    for mode in ("constant", "edge", "reflect", "wrap"):
        yield make("Pad", f"mode {mode}", [x, pads], constants=(1,), mode=mode)
    value = array(1.5, "float32")
    yield make("Pad", "value", [x, pads, value], constants=(1, 2))
    yield make("Pad", "value computed", [x, pads, value], constants=(1,))
    yield make("Pad", "computed", [x, pads])
    cropped = np.pad(x[:, 1:, :-2], ((0, 0), (0, 1), (1, 0)))
    negative = [x, array([0, -1, 1, 0, 1, -2])]
    yield make("Pad", "negative", negative, constants=(1,), expected=[cropped])
    yield make("Pad", "axes", [x, array([1, 2]), None, array([-1])], constants=(1, 3))
    for mode in ("DCR", "CRD"):
        yield make("DepthToSpace", mode, [random((2, 12, 3, 5))], blocksize=2, mode=mode)
        yield make("SpaceToDepth", mode, [random((2, 3, 4, 6))], blocksize=2, mode=mode)
    for upper in (0, 1):
        for k in (-2, 0, 1, 9):
            yield make(
                "Trilu",
                f"upper={upper}, k={k}",
                [random((2, 4, 6)), array(k)],
                constants=(1,),
                upper=upper,
            )
    yield make("Trilu", "int64", [random((4, 4), "int64")])
    yield make(
        "ReverseSequence",
        "batch 0",
        [random((3, 5, 2)), array([2, 5, 1])],
        batch_axis=0,
        time_axis=1,
    )
    yield make("CenterCropPad", "both", [random((5, 8)), array([7, 4])], constants=(1,))


def _made() -> Iterator[Case]:
    for dtype in ("float32", "int64", "int32", "bool", "float16"):
        tensor = helper.make_tensor(
            "value", helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), [1], [1]
        )
        shape = array([2, 3])
        yield make(
            "ConstantOfShape",
            f"of {dtype}",
            [shape],
            constants=(0,),
            value=tensor,
            expected=[np.ones((2, 3), dtype)],
        )
    yield make("ConstantOfShape", "computed", [array([2, 3])])
    yield make("ConstantOfShape", "scalar", [array([])], constants=(0,))
    yield make("ConstantOfShape", "empty", [array([0, 3])], constants=(0,))
    for dtype in ("int64", "int32", "float32", "float64"):
        start, limit, step = (array(v, dtype) for v in (1, 10, 2))
        yield make("Range", "constant", [start, limit, step], constants=(0, 1, 2))
        yield make("Range", "computed", [start, limit, step])
        yield make("Range", "down", [limit, start, -step], constants=(0, 1, 2))
    yield make("EyeLike", "k=1", [random((3, 5))], k=1)
    yield make("EyeLike", "int64", [random((4, 4), "int64")])
    for axis in (-1, 0):
        values = array([0.5, 2.0], "float32")
        inputs = [array([[0, 2], [-1, 7]]), array(4), values]
        yield make("OneHot", f"axis {axis}", inputs, constants=(1, 2), axis=axis)
