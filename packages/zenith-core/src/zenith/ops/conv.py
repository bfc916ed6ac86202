"""zenith.ConvBiasAct: y = epilogue(Conv(x, w), operands...) with Conv's strides, pads, dilations
and group, all explicit. The overload is the epilogue (`zenith.ops.epilogue`)."""

from __future__ import annotations

import onnx_ir as ir

from zenith.ops import epilogue
from zenith.ops._function import make_function

NAME = "ConvBiasAct"
ATTRIBUTES = ("strides", "pads", "dilations", "group")


def function(overload: str) -> ir.Function:
    """The meaning of one overload. A bias is Conv's own third input (it lies on axis 1)."""
    steps = epilogue.parse(overload)
    names = tuple(f"b{i}" for i in range(epilogue.operands(overload)))
    biased = bool(steps) and steps[0].name == "bias"
    conv = (
        "y = Conv <strides: ints = @strides, pads: ints = @pads, dilations: ints = @dilations, "
        f"group: int = @group> (x, w{', b0' if biased else ''})"
    )
    result, lines = epilogue.body(steps[biased:], "y", names[biased:])
    return make_function(
        NAME, overload, ["x", "w", *names], [result], [conv, *lines], attributes=ATTRIBUTES
    )
