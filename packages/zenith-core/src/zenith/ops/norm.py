"""zenith.AddLayerNorm and zenith.AddRMSNorm: residual sum and its normalisation over the last
axis. Outputs: (normalised, sum). Attribute: epsilon."""

from __future__ import annotations

import onnx_ir as ir

from zenith.errors import ValidationError
from zenith.ops._function import make_function

LAYER = "AddLayerNorm"
RMS = "AddRMSNorm"


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


def _only_plain(name: str, overload: str) -> None:
    if overload:
        raise ValidationError(f"zenith.{name} has no overload '{overload}'")
