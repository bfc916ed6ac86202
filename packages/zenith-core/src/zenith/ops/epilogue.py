"""The epilogue grammar of fused operators, in one place.

An epilogue is steps joined by ".", applied left to right to the raw product: "bias.gelu" is
``gelu(product + bias)``; "" is the product itself. It is the overload of `zenith.Linear`,
`zenith.ConvBiasAct` and their quantized forms, and of `zenith.GroupNorm`. Steps take their operands
from further inputs, in the order of the steps.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from zenith.errors import ValidationError

__all__ = ["STEPS", "Step", "body", "operands", "parse"]


@dataclass(frozen=True)
class Step:
    """One step. body: ONNX text, {y} result, {x} running value, {b[0]}, {b[1]}, ... operands."""

    name: str
    body: str
    operands: int = 0


# "bias" adds one number per output channel ([N]); "add" and "mul" take a tensor of the output's
# shape. "addq" takes a quantized tensor with its scale and zero point; "quantize" a scale and a
# zero point. What says the type of the result comes last. The clip bounds are cast to the running
# dtype so one body serves every precision.
_RELU6 = (
    "{y}_0 = Constant <value = float {{0}}> () "
    "{y}_6 = Constant <value = float {{6}}> () "
    "{y}_lo = CastLike ({y}_0, {x}) {y}_hi = CastLike ({y}_6, {x}) "
    "{y} = Clip ({x}, {y}_lo, {y}_hi)"
)
STEPS: dict[str, Step] = {
    step.name: step
    for step in (
        Step("bias", "{y} = Add ({x}, {b[0]})", operands=1),
        Step("add", "{y} = Add ({x}, {b[0]})", operands=1),
        Step("mul", "{y} = Mul ({x}, {b[0]})", operands=1),
        Step(
            "addq",
            "{y}_b = DequantizeLinear ({b[0]}, {b[1]}, {b[2]}) {y} = Add ({x}, {y}_b)",
            operands=3,
        ),
        Step("quantize", "{y} = QuantizeLinear ({x}, {b[0]}, {b[1]})", operands=2),
        Step("relu", "{y} = Relu ({x})"),
        Step("relu6", _RELU6),
        Step("gelu", "{y} = Gelu ({x})"),
        Step("gelu_tanh", '{y} = Gelu <approximate = "tanh"> ({x})'),
        Step("silu", "{y} = Swish ({x})"),
        # Of a product of narrower types, whose sums are float32 or become it.
        Step("float32", "{y} = Cast <to = 1> ({x})"),
        Step("bfloat16", "{y} = Cast <to = 16> ({x})"),
        Step("tanh", "{y} = Tanh ({x})"),
        Step("sigmoid", "{y} = Sigmoid ({x})"),
        Step("hardswish", "{y} = HardSwish ({x})"),
        Step("hardsigmoid", "{y} = HardSigmoid <alpha = 0.16666667, beta = 0.5> ({x})"),
    )
}


_LAST = ("quantize", "float32", "bfloat16")


@functools.cache
def parse(epilogue: str) -> tuple[Step, ...]:
    """The steps of an epilogue string."""
    names = epilogue.split(".") if epilogue else []
    unknown = [n for n in names if n not in STEPS]
    if unknown:
        raise ValidationError(
            f"'{epilogue}' is not an epilogue: no step {', '.join(unknown)}",
            next=f"steps are {', '.join(STEPS)}",
        )
    if "bias" in names[1:]:
        raise ValidationError(f"'{epilogue}' is not an epilogue: bias comes first")
    for name in _LAST:
        if name in names[:-1]:
            raise ValidationError(f"'{epilogue}' is not an epilogue: {name} comes last")
    return tuple(STEPS[n] for n in names)


def operands(epilogue: str) -> int:
    """How many operands the steps take."""
    return sum(step.operands for step in parse(epilogue))


def body(steps: tuple[Step, ...], value: str, names: tuple[str, ...]) -> tuple[str, list[str]]:
    """(name of the result, ONNX text lines) of `steps` applied to `value`; operands by `names`."""
    lines: list[str] = []
    for index, step in enumerate(steps):
        result = f"{value}_{index}"
        lines.append(step.body.format(y=result, x=value, b=names[: step.operands]))
        names = names[step.operands :]
        value = result
    return value, lines
