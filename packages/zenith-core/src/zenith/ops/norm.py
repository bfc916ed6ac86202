"""Normalisations with what is before or after them.

zenith.AddLayerNorm and zenith.AddRMSNorm: residual sum and its normalisation over the last axis.
Outputs: (normalised, sum). Attribute: epsilon.

zenith.GroupNorm: epilogue(GroupNormalization(x, scale, bias)). The overload is the epilogue
(`zenith.ops.epilogue`), of steps without operands. Attributes: num_groups, epsilon.
"""

from __future__ import annotations

import onnx_ir as ir

from zenith.errors import ValidationError
from zenith.ops import epilogue
from zenith.ops._function import make_function

LAYER = "AddLayerNorm"
RMS = "AddRMSNorm"
GROUP = "GroupNorm"


def layer_norm(overload: str) -> ir.Function:
    """(a, b, scale, bias) -> (LayerNormalization(a + b), a + b)."""
    _only_plain(LAYER, overload)
    lines = [
        "s = Add (a, b)",
        "y = LayerNormalization <axis = -1, epsilon: float = @epsilon> (s, scale, bias)",
    ]
    return make_function(
        LAYER, "", ["a", "b", "scale", "bias"], ["y", "s"], lines, attributes=["epsilon"]
    )


def rms_norm(overload: str) -> ir.Function:
    """(a, b, scale) -> (RMSNormalization(a + b), a + b)."""
    _only_plain(RMS, overload)
    lines = [
        "s = Add (a, b)",
        "y = RMSNormalization <axis = -1, epsilon: float = @epsilon> (s, scale)",
    ]
    return make_function(RMS, "", ["a", "b", "scale"], ["y", "s"], lines, attributes=["epsilon"])


def group_norm(overload: str) -> ir.Function:
    """(x, scale, bias) -> the epilogue of their GroupNormalization."""
    steps = epilogue.parse(overload)
    if any(step.operands for step in steps):
        raise ValidationError(f"zenith.{GROUP}:{overload}: its epilogue takes no operands")
    attributes = "num_groups: int = @num_groups, epsilon: float = @epsilon"
    result, lines = epilogue.body(steps, "y", ())
    norm = f"y = GroupNormalization <{attributes}> (x, scale, bias)"
    inputs = ["x", "scale", "bias"]
    return make_function(
        GROUP, overload, inputs, [result], [norm, *lines], attributes=["num_groups", "epsilon"]
    )


def _only_plain(name: str, overload: str) -> None:
    if overload:
        raise ValidationError(f"zenith.{name} has no overload '{overload}'")
