"""What works on all matrices of a batch at once.

Note [Columns]: a matrix is worked on by a Scan over the numbers of its columns, all matrices of a
batch at once; masks over rows and columns stand for the triangles that LAPACK loops over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir
import torch

from zenith.ir.dims import Dim, exactly, product
from zenith_torch.builder import Builder, NotSupportedError
from zenith_torch.lower.create import grid

__all__ = [
    "Step",
    "as_captured",
    "chosen",
    "compared",
    "diagonal_of",
    "first_set",
    "identity",
    "matrices",
    "number_like",
    "numbers",
    "or_nan",
    "over_columns",
    "swapped",
    "times_vector",
    "transposed",
]

INT64 = ir.DataType.INT64

Step = Callable[[Sequence[ir.Value], ir.Value], tuple[list[ir.Value], list[ir.Value]]]
"""(state, number of the column) to (new state, what is collected of every step)"""


def matrices(b: Builder, x: ir.Value) -> ir.Value:
    """(..., m, n) as (batch, m, n)."""
    *lead, m, n = b.shape_of(x)
    if 0 in (m, n):
        raise NotSupportedError("of empty matrices")
    return b.reshape(x, (product(lead), m, n))


def transposed(b: Builder, x: ir.Value) -> ir.Value:
    return b.transpose(x, [0, 2, 1])


def swapped(b: Builder, x: ir.Value) -> ir.Value:
    """The last two axes, the one for the other."""
    rank = b.rank_of(x)
    return b.transpose(x, [*range(rank - 2), rank - 1, rank - 2])


def over_columns(
    b: Builder, numbers: ir.Value, state: Sequence[ir.Value], collected: Sequence[Dim], step: Step
) -> tuple[list[ir.Value], list[ir.Value]]:
    """A Scan over `numbers`; of each step, vectors of integers of the given sizes are collected."""
    facts = [(v.dtype or INT64, b.shape_of(v)) for v in state]
    (count,) = b.shape_of(numbers)

    def write(inputs: list[ir.Value]) -> list[ir.Value]:
        new, found = step(inputs[:-1], inputs[-1])
        return [*new, *found]

    body = b.body("column", [*facts, (INT64, ())], write)
    results = [*facts, *((INT64, (count, size)) for size in collected)]
    found = b.ops("Scan", *state, numbers, results=results, body=body, num_scan_inputs=1)
    return found[: len(state)], found[len(state) :]


def numbers(b: Builder, count: Dim) -> ir.Value:
    return grid(b, (count,), (1,))


def compared(b: Builder, op_type: str, x: ir.Value, y: ir.Value) -> ir.Value:
    return b.op(op_type, x, y, dtype=torch.bool)


def chosen(b: Builder, condition: ir.Value, x: ir.Value, y: ir.Value) -> ir.Value:
    return b.op("Where", condition, x, y, dtype=x.dtype)


def number_like(b: Builder, value: float, like: ir.Value) -> ir.Value:
    return b.number(value, like.dtype)


def times_vector(b: Builder, x: ir.Value, vector: ir.Value) -> ir.Value:
    """(batch, m, n) times (batch, n)."""
    shape = (*b.shape_of(x)[:2], 1)
    return b.squeeze(b.op("MatMul", x, b.unsqueeze(vector, 2), shape=shape), 2)


def identity(b: Builder, like: ir.Value, size: Dim) -> ir.Value:
    ones = compared(b, "Equal", b.unsqueeze(numbers(b, size), 1), numbers(b, size))
    return b.expand(b.cast(ones, like.dtype), (b.shape_of(like)[0], size, size))


def diagonal_of(b: Builder, x: ir.Value) -> ir.Value:
    batch, m, n = b.shape_of(x)
    count = min(m, n) if isinstance(m, int) and isinstance(n, int) else n
    return b.gather(b.reshape(x, (batch, exactly(m * n))), grid(b, (count,), (exactly(n + 1),)), 1)


def first_set(b: Builder, bad: ir.Value) -> ir.Value:
    """(batch,) the number, from 1, of the first that is set; 0 where none is."""
    marks = b.cast(bad, torch.int32)
    lead = b.shape_of(bad)[:1]
    place = b.op("ArgMax", marks, shape=lead, dtype=torch.int64, axis=1, keepdims=0)
    any_bad = b.cast(b.reduce("ReduceMax", marks, [1], keepdims=False), torch.int64)
    return b.op("Mul", b.op("Add", place, b.number(1, torch.int64)), any_bad)


def or_nan(b: Builder, x: ir.Value, info: ir.Value) -> ir.Value:
    broken = compared(b, "Greater", b.unsqueeze(info, 1, 2), b.number(0, torch.int64))
    return chosen(b, broken, number_like(b, float("nan"), x), x)


def as_captured(b: Builder, *values: ir.Value) -> list[ir.Value]:
    """Results in the shapes and types of the capture."""
    facts = zip(values, b.out_shapes, b.out_dtypes, strict=True)
    return [b.reshape(b.cast(v, kind), shape) for v, shape, kind in facts]
