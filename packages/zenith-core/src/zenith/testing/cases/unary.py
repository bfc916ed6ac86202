"""Operators of one input that work element by element."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from zenith.testing.cases import FLOATS, INTS, Case, array, make, random

# Where the values of the input lie; outside of it the operator is not defined or overflows.
FLOAT_OPS: dict[str, tuple[float, float]] = {
    "Abs": (-4, 4),
    "Acos": (-1, 1),
    "Acosh": (1, 4),
    "Asin": (-1, 1),
    "Asinh": (-4, 4),
    "Atan": (-4, 4),
    "Atanh": (-0.9, 0.9),
    "Ceil": (-4, 4),
    "Celu": (-4, 4),
    "Cos": (-6, 6),
    "Cosh": (-4, 4),
    "Elu": (-4, 4),
    "Erf": (-3, 3),
    "Exp": (-4, 4),
    "Floor": (-4, 4),
    "Gelu": (-4, 4),
    "HardSigmoid": (-4, 4),
    "HardSwish": (-4, 4),
    "Identity": (-4, 4),
    "LeakyRelu": (-4, 4),
    "Log": (0.1, 4),
    "Mish": (-4, 4),
    "Neg": (-4, 4),
    "Reciprocal": (0.5, 4),
    "Relu": (-4, 4),
    "Round": (-4, 4),
    "Selu": (-4, 4),
    "Shrink": (-4, 4),
    "Sigmoid": (-6, 6),
    "Sign": (-4, 4),
    "Sin": (-6, 6),
    "Sinh": (-4, 4),
    "Softplus": (-6, 6),
    "Softsign": (-4, 4),
    "Sqrt": (0, 4),
    "Swish": (-4, 4),
    "Tan": (-1.2, 1.2),
    "Tanh": (-4, 4),
    "ThresholdedRelu": (-4, 4),
}
INT_OPS = ("Abs", "Identity", "Neg", "Sign", "BitwiseNot", "Relu")
UNSIGNED_OPS = ("Identity", "BitwiseNot", "Abs")
# How an operator answers NaN and infinities; the others are asked with finite values only.
SPECIAL_OPS = (
    "Abs",
    "Ceil",
    "Floor",
    "Identity",
    "Neg",
    "Relu",
    "Sqrt",
    "Exp",
    "Tanh",
    "IsNaN",
    "IsInf",
)
SHAPES = {"odd": (3, 7, 5), "empty": (2, 0, 3), "scalar": (), "one": (1,), "large": (3, 1025)}
STEPS = ("Ceil", "Floor", "Round", "Sign", "ThresholdedRelu", "Shrink", "HardSigmoid")
ATTRIBUTES: dict[str, dict[str, Any]] = {
    "Celu": {"alpha": 1.5},
    "Elu": {"alpha": 0.7},
    "Gelu": {"approximate": "tanh"},
    "HardSigmoid": {"alpha": 0.3, "beta": 0.4},
    "LeakyRelu": {"alpha": 0.2},
    "Selu": {"alpha": 1.5, "gamma": 1.1},
    "Shrink": {"bias": 0.3, "lambd": 0.6},
    "Swish": {"alpha": 1.3},
    "ThresholdedRelu": {"alpha": 0.5},
}


def cases() -> Iterator[Case]:
    for op, (low, high) in FLOAT_OPS.items():
        for what, shape in SHAPES.items():
            x = random(shape, low=low, high=high)
            softsign = [x / (1 + np.abs(x))] if op == "Softsign" else None
            yield make(op, what, [x], expected=softsign)
        for dtype in FLOATS[1:]:
            if op == "Celu" or (op, dtype) == ("Shrink", "bfloat16"):  # no such type
                continue
            yield make(op, "odd", [random((3, 7, 5), dtype, low, high)])
        if op in ATTRIBUTES:
            yield make(op, "attributes", [random((4, 9), low=low, high=high)], **ATTRIBUTES[op])
    for dtype in INTS:
        for op in INT_OPS if dtype[0] == "i" else UNSIGNED_OPS:
            if op == "Relu" and dtype == "uint8":
                continue
            yield make(op, "odd", [random((3, 7, 5), dtype, -9, 9)])
    special = array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0], "float32")
    for op in SPECIAL_OPS:
        yield make(op, "nan and inf", [special])
    yield make("IsInf", "positive only", [special], detect_negative=0)
    yield make("IsInf", "negative only", [special], detect_positive=0)
    for what, shape in SHAPES.items():
        yield make("Not", what, [random(shape, "bool")])
        yield make("IsNaN", what, [random(shape)])
    halves = array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 0.4999, 7.0], "float32")
    yield make("Round", "halves", [halves], expected=[np.rint(halves)])
    for dtype in ("float32", "int32", "int64"):
        x = random((3, 5), dtype, -5, 5)
        least, most = array(-1, dtype), array(2, dtype)
        yield make("Clip", "both", [x, least, most], constants=(1, 2))
        yield make("Clip", "both computed", [x, least, most])
        yield make("Clip", "low only", [x, least], constants=(1,))
        yield make("Clip", "high only", [x, None, most], constants=(2,))
        yield make("Clip", "neither", [x])
    yield make(
        "Clip", "nan", [special, array(-1, "float32"), array(1, "float32")], constants=(1, 2)
    )
    yield from _casts()


def _casts() -> Iterator[Case]:
    from onnx import TensorProto

    kinds = {
        "float32": TensorProto.FLOAT,
        "float64": TensorProto.DOUBLE,
        "float16": TensorProto.FLOAT16,
        "int32": TensorProto.INT32,
        "int64": TensorProto.INT64,
        "int8": TensorProto.INT8,
        "uint8": TensorProto.UINT8,
        "bool": TensorProto.BOOL,
    }
    for source in kinds:
        x = random((3, 5), source, 0, 6)
        for target, to in kinds.items():
            yield make("Cast", f"to {target}", [x], expected=[x.astype(target)], to=to)
