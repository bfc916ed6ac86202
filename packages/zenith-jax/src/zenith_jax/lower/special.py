"""Functions that ONNX has no operator for: `zenith.ir.special`."""

from __future__ import annotations

import onnx_ir as ir

from zenith.ir import special
from zenith_jax.builder import Builder
from zenith_jax.lower.registry import lower

__all__: list[str] = []

lower("erf_inv", writes="Log, Sqrt and a polynomial")(special.erf_inv)
lower("lgamma", writes="Log, Sin and a rational function")(special.lgamma)
lower("digamma", writes="Log, Tan and a series")(special.digamma)


@lower("erfc", writes="Erf, Exp and a polynomial; Gelu in a product")
def erfc(b: Builder, x: ir.Value) -> ir.Value:
    return b.note_complement(special.erfc(b, x), x)
