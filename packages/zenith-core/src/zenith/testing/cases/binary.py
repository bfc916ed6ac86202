"""Operators of two or more inputs that work element by element, with broadcasting."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from zenith.testing.cases import FLOATS, INTS, Case, array, make, random

SHAPES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "same": ((3, 7, 5), (3, 7, 5)),
    "scalar right": ((3, 7), ()),
    "scalar left": ((), (3, 7)),
    "row": ((3, 7), (7,)),
    "column": ((3, 7), (3, 1)),
    "both ways": ((3, 1, 5), (4, 1)),
    "ranks": ((2,), (4, 1, 3, 2)),
    "empty": ((0, 3), (1, 3)),
    "two scalars": ((), ()),
    "large": ((5, 1031), (1031,)),
}
ARITHMETIC = ("Add", "Sub", "Mul", "Div")
COMPARE = ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual")
LOGIC = ("And", "Or", "Xor")
BITWISE = ("BitwiseAnd", "BitwiseOr", "BitwiseXor")
VARIADIC = ("Max", "Min", "Sum", "Mean")


def cases() -> Iterator[Case]:
    for op in ARITHMETIC:
        for what, (a, b) in SHAPES.items():
            yield make(op, what, [random(a), random(b, low=0.5, seed=1)])
        for dtype in (*FLOATS[1:], *INTS):
            yield make(op, "row", [random((3, 7), dtype, 0, 9), random((7,), dtype, 1, 9, seed=1)])
        yield make(op, "constant", [random((3, 7)), random((7,), low=1, seed=1)], constants=(1,))
        special = array([np.nan, np.inf, -np.inf, 0, 1], "float32")
        yield make(op, "nan and inf", [special, special[::-1].copy()])
    x, y = random((9,), "int32", -9, 9), array([2, -2, 3, -3, 4, 5, -5, 7, -7], "int32")
    yield make("Div", "truncates", [x, y], expected=[np.trunc(x / y).astype("int32")])
    for op in COMPARE:
        for what, (a, b) in SHAPES.items():
            yield make(op, what, [random(a, "int32"), random(b, "int32", seed=1)])
        for dtype in ("float32", "float16", "int64"):
            yield make(op, "same", [random((4, 5), dtype, -2, 2), random((4, 5), dtype, -2, 2, 1)])
        nan = array([np.nan, 1.0, np.inf], "float32")
        yield make(op, "nan", [nan, array([np.nan, np.nan, np.inf], "float32")])
    yield make("Equal", "bool", [random((4, 5), "bool"), random((4, 5), "bool", seed=1)])
    for op in LOGIC:
        for what, (a, b) in SHAPES.items():
            yield make(op, what, [random(a, "bool"), random(b, "bool", seed=1)])
    for op in BITWISE:
        for dtype in INTS:
            yield make(op, "row", [random((3, 7), dtype, 0, 99), random((7,), dtype, 0, 99, 1)])
    for direction in ("LEFT", "RIGHT"):
        for dtype in ("uint8", "uint32", "uint64"):
            inputs = [random((3, 5), dtype, 0, 200), random((5,), dtype, 0, 7, seed=1)]
            yield make("BitShift", direction, inputs, direction=direction)
    for op in VARIADIC:
        dtypes = (
            ("float32", "float64", "float16", "int32") if op in ("Max", "Min") else ("float32",)
        )
        for dtype in dtypes:
            three = [
                random((3, 1), dtype),
                random((4,), dtype, seed=1),
                random((3, 4), dtype, seed=2),
            ]
            for count in (1, 2, 3):
                some = three[:count]
                mean = [sum(x.astype("float64") for x in some) / count] if op == "Mean" else None
                yield make(op, f"{count} inputs", some, expected=mean)
    for what, (a, b) in SHAPES.items():
        yield make("Pow", what, [random(a, low=0.2, high=3), random(b, seed=1)])
        yield make("Mod", what, [random(a, "int32", 0, 9), random(b, "int32", 1, 5, seed=1)])
        mask = random(a, "bool", seed=2)
        yield make("Where", what, [mask, random(a), random(b, seed=1)])
    for exponent in (0.0, 1.0, 2.0, 3.0, 0.5, -1.0):
        inputs = [random((3, 5), low=0.3), array(exponent, "float32")]
        yield make("Pow", f"exponent {exponent:g}", inputs, constants=(1,))
    for what, slope in {"channel": (3, 1), "one": (1,), "all": (2, 3, 5)}.items():
        yield make("PRelu", what, [random((2, 3, 5)), random(slope, seed=1)])
    signed = [array([-7, 7, -7, 7], "int32"), array([3, -3, -3, 3], "int32")]
    yield make("Mod", "signs", signed)
    yield make("Mod", "fmod", [x.astype("float32") for x in signed], fmod=1)
    for dtype in ("float64", "int64", "bool", "uint8"):
        inputs = [random((3, 4), "bool"), random((3, 4), dtype, 0, 5), random((4,), dtype, 0, 5, 1)]
        yield make("Where", f"of {dtype}", inputs)
