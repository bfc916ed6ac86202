"""QR by Householder's reflections. See Note [Columns] in `lower.matrices`."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from zenith_torch.builder import Builder, NotSupportedError
from zenith_torch.lower.create import filled
from zenith_torch.lower.matrices import (
    as_captured,
    chosen,
    compared,
    identity,
    matrices,
    number_like,
    numbers,
    over_columns,
    times_vector,
    transposed,
)
from zenith_torch.lower.registry import lower


@lower("aten.linalg_qr.default")
def qr(b: Builder, x: ir.Value, mode: str = "reduced") -> list[ir.Value]:
    """Householder's reflections, with LAPACK's signs."""
    a = matrices(b, x)
    batch, m, n = b.shape_of(a)
    if not isinstance(m, int) or not isinstance(n, int):
        raise NotSupportedError("of matrices of dynamic size")
    rows, columns = numbers(b, m), numbers(b, n)
    zero, one = number_like(b, 0, a), number_like(b, 1, a)

    def step(state: Sequence[ir.Value], j: ir.Value) -> tuple[list[ir.Value], list[ir.Value]]:
        a, q = state
        column = b.gather(a, j, 2)
        head = b.unsqueeze(b.gather(column, j, 1), 1)
        tail = chosen(b, compared(b, "Greater", rows, j), column, zero)
        flat = compared(b, "Equal", b.reduce("ReduceMax", b.op("Abs", tail), [1], True), zero)
        both = b.concat([head, tail], 1)
        norm = b.reduce("ReduceL2", both, [1], True)
        length = chosen(b, compared(b, "Less", head, zero), norm, b.op("Neg", norm))
        safe = chosen(b, flat, one, length)
        factor = chosen(b, flat, zero, b.op("Div", b.op("Sub", length, head), safe))
        below = b.op("Div", tail, chosen(b, flat, one, b.op("Sub", head, length)))
        vector = chosen(b, compared(b, "Equal", rows, j), one, below)
        scaled = b.op("Mul", factor, vector)
        side = b.unsqueeze(times_vector(b, transposed(b, a), scaled), 1)
        reflected = b.op("Sub", a, b.op("Mul", b.unsqueeze(vector, 2), side))
        turned = b.op("Mul", b.unsqueeze(times_vector(b, q, vector), 2), b.unsqueeze(scaled, 1))
        return [reflected, b.op("Sub", q, turned)], []

    start = [a, identity(b, a, m)]
    (r, q), _ = over_columns(b, numbers(b, min(m, n)), start, [], step)
    upper = compared(b, "LessOrEqual", b.unsqueeze(rows, 1), columns)
    r = chosen(b, upper, r, zero)
    width = m if mode == "complete" else min(m, n)
    r = b.slice(r, 1, 0, width)
    if mode == "r":
        return [filled(b, 0, b.out_shapes[0], b.out_dtype), b.reshape(r, b.out_shapes[1])]
    return as_captured(b, b.slice(q, 2, 0, width), r)
