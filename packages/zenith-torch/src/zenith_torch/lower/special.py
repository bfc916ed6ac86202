"""Functions that ONNX has no operator for: `zenith.ir.special`, in the result's type."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
import torch

from zenith.ir import special
from zenith_torch.builder import Builder
from zenith_torch.lower.registry import lower

Function = Callable[[Builder, ir.Value], ir.Value]


def _register(name: str, function: Function) -> None:
    @lower(f"aten.{name}.default")
    def handler(b: Builder, x: ir.Value) -> ir.Value:
        # Series need their digits: half precision is computed in single, and rounded once.
        wide = torch.float64 if b.out_dtype is torch.float64 else torch.float32
        return b.cast(function(b, b.cast(x, wide)), b.out_dtype)


def _digamma(b: Builder, x: ir.Value) -> ir.Value:
    """Infinite at zero, on either side; the core has NaN at every pole, as JAX does."""
    at_zero = b.op("Equal", x, b.number(0, x.dtype), dtype=torch.bool)
    pole = b.op("Neg", b.op("Reciprocal", x))
    return b.op("Where", at_zero, pole, special.digamma(b, x), dtype=x.dtype)


_register("digamma", _digamma)
_register("erfc", special.erfc)
_register("erfinv", special.erf_inv)
_register("lgamma", special.lgamma)
_register("special_erfcx", special.erfcx)
_register("special_ndtri", special.ndtri)
