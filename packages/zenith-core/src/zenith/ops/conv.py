"""Convolutions with what follows them.

zenith.ConvBiasAct: y = epilogue(Conv(x, w), operands...) with Conv's strides, pads, dilations and
group, all explicit. The overload is the epilogue (`zenith.ops.epilogue`).

zenith.Bottleneck: three convolutions in a row, the inverted residual block of mobile nets. A 1x1
one expands the channels, one with a kernel per channel (strides, pads and group are its own)
filters them, a 1x1 one projects them. The overload is their epilogues, joined by "__"; inputs are
x, the three weights, and the operands of the epilogues in order. Of two epilogues, nothing is
expanded: weights and operands of the first are missing.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from zenith.ops import epilogue
from zenith.ops._function import make_function

NAME = "ConvBiasAct"
ATTRIBUTES = ("strides", "pads", "dilations", "group")
BOTTLENECK = "Bottleneck"
BOTTLENECK_ATTRIBUTES = ("strides", "pads", "group")


def function(overload: str) -> ir.Function:
    """The meaning of one overload of ConvBiasAct."""
    names = _names("b", overload)
    attributes = (
        "strides: ints = @strides, pads: ints = @pads, dilations: ints = @dilations, "
        "group: int = @group"
    )
    result, lines = _convolution("y", f"<{attributes}>", ("x", "w"), overload, names)
    return make_function(NAME, overload, ["x", "w", *names], [result], lines, attributes=ATTRIBUTES)


def bottleneck(overload: str) -> ir.Function:
    """The meaning of one overload of Bottleneck."""
    epilogues = split(overload)
    depthwise = "<strides: ints = @strides, pads: ints = @pads, group: int = @group>"
    value, lines, operands = "x", list[str](), list[str]()
    steps = "edp"[-len(epilogues) :]
    for step, each in zip(steps, epilogues, strict=True):
        attributes = depthwise if step == "d" else ""
        names = _names(f"{step}_b", each)
        value, more = _convolution(step, attributes, (value, f"w_{step}"), each, names)
        lines += more
        operands += names
    inputs = ["x", *(f"w_{step}" for step in steps), *operands]
    return make_function(
        BOTTLENECK, overload, inputs, [value], lines, attributes=BOTTLENECK_ATTRIBUTES
    )


def join(epilogues: Sequence[str]) -> str:
    """The overload of a Bottleneck."""
    return "__".join(epilogues)


def split(overload: str) -> list[str]:
    """The epilogues of a Bottleneck: three, or two of one that expands nothing."""
    return overload.split("__")


def _names(prefix: str, overload: str) -> list[str]:
    return [f"{prefix}{i}" for i in range(epilogue.operands(overload))]


def _convolution(
    name: str, attributes: str, inputs: tuple[str, str], overload: str, operands: Sequence[str]
) -> tuple[str, list[str]]:
    """Result and lines of epilogue(Conv(x, w)). A bias is Conv's own input (it lies on axis 1)."""
    steps = epilogue.parse(overload)
    biased = bool(steps) and steps[0].name == "bias"
    arguments = [*inputs, *operands[:biased]]
    conv = f"{name} = Conv {attributes} ({', '.join(arguments)})"
    result, lines = epilogue.body(steps[biased:], name, tuple(operands[biased:]))
    return result, [conv, *lines]
