"""zenith.QuantizedLinear and zenith.QuantizedConv: `zenith.Linear` and `zenith.ConvBiasAct` of
8-bit operands, in the QDQ form of ONNX: what the integers stand for is multiplied.

(x, x_scale, x_zero, w, w_scale, operands...) -> y: x is uint8 or int8 with one scale and zero
point, w int8 with a scale per output channel (or one), its zero points 0. The overload is the
epilogue (`zenith.ops.epilogue`); one that ends in "quantize" gives 8-bit integers again, one in
"bfloat16" that type instead of float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from zenith.ops import conv, epilogue
from zenith.ops._function import make_function

LINEAR = "QuantizedLinear"
CONV = "QuantizedConv"
OPERANDS = 5  # inputs before those of the epilogue

_INPUTS = ["x", "x_scale", "x_zero", "w", "w_scale"]
_REAL_X = "xf = DequantizeLinear (x, x_scale, x_zero)"


def linear(overload: str) -> ir.Function:
    """w is [K, N]."""
    lines = [_REAL_X, "wf = DequantizeLinear <axis = 1> (w, w_scale)", "y = MatMul (xf, wf)"]
    return _function(LINEAR, overload, lines)


def convolution(overload: str) -> ir.Function:
    """w is [M, C / group, *kernel]; the attributes are those of ConvBiasAct."""
    attributes = (
        "strides: ints = @strides, pads: ints = @pads, dilations: ints = @dilations, "
        "group: int = @group"
    )
    lines = [
        _REAL_X,
        "wf = DequantizeLinear <axis = 0> (w, w_scale)",
        f"y = Conv <{attributes}> (xf, wf{', b0' if overload.startswith('bias') else ''})",
    ]
    return _function(CONV, overload, lines, conv.ATTRIBUTES, bias_inside=True)


def _function(
    name: str,
    overload: str,
    lines: Sequence[str],
    attributes: Sequence[str] = (),
    bias_inside: bool = False,
) -> ir.Function:
    """bias_inside: a bias is Conv's own third input (it lies on axis 1)."""
    steps = epilogue.parse(overload)
    names = tuple(f"b{i}" for i in range(epilogue.operands(overload)))
    done = bias_inside and bool(steps) and steps[0].name == "bias"
    result, rest = epilogue.body(steps[done:], "y", names[done:])
    return make_function(name, overload, [*_INPUTS, *names], [result], [*lines, *rest], attributes)
