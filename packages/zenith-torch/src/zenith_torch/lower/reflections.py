"""QR by Householder's reflections."""

from __future__ import annotations

import onnx_ir as ir

from zenith.ir.linalg import householder
from zenith.ir.matrices import matrices
from zenith_torch.builder import Builder
from zenith_torch.lower.create import filled
from zenith_torch.lower.linalg import as_captured
from zenith_torch.lower.registry import lower


@lower("aten.linalg_qr.default")
def qr(b: Builder, x: ir.Value, mode: str = "reduced") -> list[ir.Value]:
    """With LAPACK's signs."""
    a = matrices(b, x)
    q, r = householder(b, a)
    m, n = b.shape_of(r)[1:]
    width = m if mode == "complete" else min(m, n)
    r = b.slice(r, 1, 0, width)
    if mode == "r":
        return [filled(b, 0, b.out_shapes[0], b.out_dtype), b.reshape(r, b.out_shapes[1])]
    return as_captured(b, b.slice(q, 2, 0, width), r)
