"""The fused operators of the zenith domain. Their bodies say what is right."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from zenith.ops import OPERATORS, pointwise
from zenith.testing.cases import Case, make, random

LINEAR = (
    "",
    "bias",
    "bias.relu",
    "bias.gelu",
    "bias.gelu_tanh",
    "silu",
    "mul",
    "bias.add",
    "add.tanh",
)
CONV = (
    "",
    "bias",
    "bias.relu",
    "bias.relu6",
    "bias.add.relu",
    "bias.silu",
    "hardswish",
    "bias.sigmoid",
)
# Scales of quantized operators are powers of two: nothing is nearly half-way between two integers.
QUANTIZED = ("", "bias", "bias.gelu", "bias.relu.quantize", "bias.addq.relu.quantize", "add")
CHAINS = {
    "gelu by hand": (1, ["a = Erf (i0)", "y = Mul (a, i0)"], ["y"]),
    "three inputs": (3, ["a = Mul (i0, i1)", "b = Add (a, i2)", "y = Tanh (b)"], ["y"]),
    "two results": (2, ["a = Sub (i0, i1)", "b = Exp (a)"], ["a", "b"]),
    "compare": (2, ["c = Less (i0, i1)", "y = Where (c, i0, i1)"], ["y"]),
}


def cases() -> Iterator[Case]:
    for overload in LINEAR:
        for what, rows in {"rows": (3, 7), "one": (1,), "empty": (0,), "many": (130,)}.items():
            x, w = random((*rows, 33)), random((33, 20), seed=1)
            operands = _operands(overload, (20,), (*rows, 20))
            held = {1, *(2 + i for i, step in enumerate(_steps(overload)) if step == "bias")}
            name = f"{overload or 'plain'}, {what}"
            function = OPERATORS["Linear"](overload)
            yield make("Linear", name, [x, w, *operands], constants=held, function=function)
    for overload in CONV:
        for what, kernel in {"3x3": 3, "1x1": 1}.items():
            x, w = random((2, 5, 9, 8)), random((6, 5, kernel, kernel), seed=1)
            operands = _operands(overload, (6,), (2, 6, 9, 8))
            held = {1, *(2 + i for i, step in enumerate(_steps(overload)) if step == "bias")}
            yield make(
                "ConvBiasAct",
                f"{overload or 'plain'}, {what}",
                [x, w, *operands],
                constants=held,
                function=OPERATORS["ConvBiasAct"](overload),
                strides=[1, 1],
                pads=[kernel // 2] * 4,
                dilations=[1, 1],
                group=1,
            )
    yield from _quantized()
    for overload, stride in {"bias.relu6__bias.relu6__bias.add": 1, "__silu__relu": 2}.items():
        x, out = random((2, 5, 15, 14)), (2, 5, 8 if stride == 2 else 15, 7 if stride == 2 else 14)
        weights = [random((13, 5, 1, 1)), random((13, 1, 3, 3), seed=1), random((5, 13, 1, 1))]
        operands = [random((n,)) for n in (13, 13, 5)] + [random(out)] if "bias" in overload else []
        yield make(
            "Bottleneck",
            overload,
            [x, *weights, *operands],
            constants=(1, 2, 3, 4, 5, 6) if operands else (1, 2, 3),
            function=OPERATORS["Bottleneck"](overload),
            strides=[stride, stride],
            pads=[1, 1, 1, 1],
            group=13,
        )
    weights = [random((13, 1, 3, 3), seed=1), random((5, 13, 1, 1)), random((13,)), random((5,))]
    yield make(
        "Bottleneck",
        "bias.relu6__bias",
        [random((2, 13, 15, 14)), *weights],
        constants=(1, 2, 3, 4),
        function=OPERATORS["Bottleneck"]("bias.relu6__bias"),
        strides=[1, 1],
        pads=[1, 1, 1, 1],
        group=13,
    )
    for what, size in {"odd": 37, "one": 1, "large": 1025}.items():
        a, b = random((3, 5, size)), random((3, 5, size), seed=1)
        row = [random((size,), low=0.5, seed=2), random((size,), seed=3)]
        layer, rms = OPERATORS["AddLayerNorm"](""), OPERATORS["AddRMSNorm"]("")
        options: dict[str, Any] = {"constants": (2, 3), "outputs": 2, "epsilon": 1e-3}
        yield make("AddLayerNorm", what, [a, b, *row], function=layer, **options)
        yield make("AddRMSNorm", what, [a, b, row[0]], function=rms, **options)
    channels = [random((6,), low=0.5, seed=2), random((6,), seed=3)]
    for overload in ("", "silu", "relu6"):
        yield make(
            "GroupNorm",
            overload or "alone",
            [random((2, 6, 5, 7)), *channels],
            function=OPERATORS["GroupNorm"](overload),
            num_groups=3,
            epsilon=1e-3,
        )
    threefry = OPERATORS["ThreeFry2x32"]("")
    keys: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
        "one key": ((), (101,)),
        "a key each": ((3,), (3,)),
        "a key a row": ((5, 1), (5, 37)),
        "a key a column": ((7,), (6, 7)),
    }
    for what, (key, counters) in keys.items():
        draw = np.random.default_rng(len(what))
        shapes = [key, key, counters, counters]
        halves = [np.asarray(draw.integers(0, 2**32, s, dtype=np.uint32)) for s in shapes]
        yield make("ThreeFry2x32", what, halves, outputs=2, function=threefry)
    for what, (count, lines, results) in CHAINS.items():
        for length, shape in {"odd": (3, 7, 5), "empty": (0, 2), "large": (3, 2049)}.items():
            inputs = [random(shape, seed=i) for i in range(count)]
            function = pointwise.function(count, lines, results)
            name = f"{what}, {length}"
            yield make("Pointwise", name, inputs, outputs=len(results), function=function)


def _quantized() -> Iterator[Case]:
    for overload in QUANTIZED:
        for what, rows in {"rows": (3, 7), "empty": (0,), "many": (70,)}.items():
            x = random((*rows, 33), "uint8", 0, 255)
            w = random((33, 20), "int8", -127, 127, seed=1)
            yield _quantized_case("QuantizedLinear", overload, what, x, w, (*rows, 20))
        for what, group, per_group in (("3x3", 1, 16), ("depthwise", 16, 1)):
            x = random((2, 16, 9, 8), "uint8", 0, 255)
            w = random((16, per_group, 3, 3), "int8", -127, 127, seed=1)
            window = {"strides": [1, 1], "pads": [1] * 4, "dilations": [1, 1], "group": group}
            yield _quantized_case("QuantizedConv", overload, what, x, w, x.shape, **window)


def _quantized_case(
    op: str,
    overload: str,
    what: str,
    x: np.ndarray[Any, Any],
    w: np.ndarray[Any, Any],
    shape: tuple[int, ...],
    **attributes: Any,
) -> Case:
    channels = w.shape[1] if op == "QuantizedLinear" else w.shape[0]

    def pair(scale: float, zero: int) -> list[np.ndarray[Any, Any]]:
        return [np.asarray(scale, np.float32), np.asarray(zero, np.uint8)]

    operands: dict[str, list[np.ndarray[Any, Any]]] = {
        "bias": [np.arange(channels, dtype=np.float32) - 3],
        "add": [random(shape, seed=3)],
        "addq": [random(shape, "uint8", 0, 255, seed=3), *pair(0.25, 9)],
        "quantize": pair(0.5, 4),
    }
    inputs = [x, *pair(2**-6, 131), w, np.full(channels, 2**-5, np.float32)]
    fed = {0}
    for step in overload.split("."):
        if step in ("add", "addq"):
            fed.add(len(inputs))
        inputs += operands.get(step, [])
    function = OPERATORS[op](overload)
    constants = {i for i in range(len(inputs)) if i not in fed}
    name = f"{overload or 'plain'}, {what}"
    return make(op, name, inputs, constants=constants, function=function, **attributes)


def _steps(overload: str) -> list[str]:
    return [step for step in overload.split(".") if step in ("bias", "add", "mul")]


def _operands(
    overload: str, row: tuple[int, ...], full: tuple[int, ...]
) -> list[np.ndarray[Any, Any]]:
    return [
        random(row if step == "bias" else full, seed=2 + i)
        for i, step in enumerate(_steps(overload))
    ]
