"""The epilogue grammar of fused operators, in one place.

An epilogue is steps joined by ".", applied left to right to the raw product: "bias.gelu" is
``gelu(product + bias)``; "" is the product itself. It is the overload of `zenith.Linear` and
`zenith.ConvBiasAct`. Operand steps take one more input each, in the order of the steps.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from zenith.errors import ValidationError

__all__ = ["STEPS", "Step", "body", "operands", "parse"]


@dataclass(frozen=True)
class Step:
    """One step. body: ONNX text, {y} result, {x} running value, {b} the operand."""

    name: str
    body: str
    operand: bool = False


# "bias" adds one number per output channel ([N]); "add" and "mul" take a tensor of the output's
# shape. The clip bounds are cast to the running dtype so one body serves every precision.
_RELU6 = (
    "{y}_0 = Constant <value = float {{0}}> () "
    "{y}_6 = Constant <value = float {{6}}> () "
    "{y}_lo = CastLike ({y}_0, {x}) {y}_hi = CastLike ({y}_6, {x}) "
    "{y} = Clip ({x}, {y}_lo, {y}_hi)"
)
STEPS: dict[str, Step] = {
    step.name: step
    for step in (
        Step("bias", "{y} = Add ({x}, {b})", operand=True),
        Step("add", "{y} = Add ({x}, {b})", operand=True),
        Step("mul", "{y} = Mul ({x}, {b})", operand=True),
        Step("relu", "{y} = Relu ({x})"),
        Step("relu6", _RELU6),
        Step("gelu", "{y} = Gelu ({x})"),
        Step("gelu_tanh", '{y} = Gelu <approximate = "tanh"> ({x})'),
        Step("silu", "{y} = Swish ({x})"),
        # Of a product of a narrower type, whose sums are float32 anyway. Comes last.
        Step("float32", "{y} = Cast <to = 1> ({x})"),
        Step("tanh", "{y} = Tanh ({x})"),
        Step("sigmoid", "{y} = Sigmoid ({x})"),
        Step("hardswish", "{y} = HardSwish ({x})"),
        Step("hardsigmoid", "{y} = HardSigmoid <alpha = 0.16666667, beta = 0.5> ({x})"),
    )
}


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
    return tuple(STEPS[n] for n in names)


def operands(epilogue: str) -> tuple[Step, ...]:
    """The steps that take an operand, in input order."""
    return tuple(step for step in parse(epilogue) if step.operand)


def body(steps: tuple[Step, ...], value: str, names: tuple[str, ...]) -> tuple[str, list[str]]:
    """(name of the result, ONNX text lines) of `steps` applied to `value`; operands by `names`."""
    lines: list[str] = []
    remaining = iter(names)
    for index, step in enumerate(steps):
        result = f"{value}_{index}"
        operand = next(remaining) if step.operand else ""
        lines.append(step.body.format(y=result, x=value, b=operand))
        value = result
    return value, lines
