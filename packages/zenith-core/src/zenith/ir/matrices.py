"""What works on all matrices of a batch at once: for adapters.

Note [Columns]: a matrix is worked on by a Scan over the numbers of its columns, all matrices of a
batch at once; masks over rows and columns stand for the triangles that LAPACK loops over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from zenith.ir.builder import GraphBuilder, NotSupportedError
from zenith.ir.dims import Dim, exactly, product

__all__ = [
    "Step",
    "chosen",
    "compared",
    "diagonal_of",
    "first_set",
    "grid",
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

BOOL, INT64 = ir.DataType.BOOL, ir.DataType.INT64

Step = Callable[[Sequence[ir.Value], ir.Value], tuple[list[ir.Value], list[ir.Value]]]
"""(state, number of the column) to (new state, what is collected of every step)"""


def matrices(b: GraphBuilder, x: ir.Value) -> ir.Value:
    """(..., m, n) as (batch, m, n)."""
    *lead, m, n = b.shape_of(x)
    if 0 in (m, n):
        raise NotSupportedError("of empty matrices")
    return b.reshape(x, (product(lead), m, n))


def transposed(b: GraphBuilder, x: ir.Value) -> ir.Value:
    return b.transpose(x, [0, 2, 1])


def swapped(b: GraphBuilder, x: ir.Value) -> ir.Value:
    """The last two axes, the one for the other."""
    rank = b.rank_of(x)
    return b.transpose(x, [*range(rank - 2), rank - 1, rank - 2])


def over_columns(
    b: GraphBuilder,
    numbers: ir.Value,
    state: Sequence[ir.Value],
    collected: Sequence[Dim],
    step: Step,
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


def grid(b: GraphBuilder, counts: Sequence[Dim], steps: Sequence[Dim], start: Dim = 0) -> ir.Value:
    """Places ``start + i * steps[0] + j * steps[1] + ...``: a constant where all of it is known."""
    if all(isinstance(d, int) for d in (*counts, *steps, start)):
        places = np.full(tuple(counts), start, np.int64)
        for along, step in zip(np.indices(tuple(counts)), steps, strict=True):
            places += along * int(step)
        return b.constant(places)
    total = b.operand(start, INT64)
    for axis, (count, step) in enumerate(zip(counts, steps, strict=True)):
        limits = (b.operand(d, INT64) for d in (0, count, 1))
        along = b.op("Range", *limits, shape=(count,))
        along = b.op("Mul", along, b.operand(step, INT64))
        form = [count if a == axis else 1 for a in range(len(counts))]
        total = b.op("Add", total, b.reshape(along, form))
    return total


def numbers(b: GraphBuilder, count: Dim) -> ir.Value:
    return grid(b, (count,), (1,))


def compared(b: GraphBuilder, op_type: str, x: ir.Value, y: ir.Value) -> ir.Value:
    return b.op(op_type, x, y, dtype=BOOL)


def chosen(b: GraphBuilder, condition: ir.Value, x: ir.Value, y: ir.Value) -> ir.Value:
    return b.op("Where", condition, x, y, dtype=x.dtype)


def number_like(b: GraphBuilder, value: float, like: ir.Value) -> ir.Value:
    return b.number(value, like.dtype)


def times_vector(b: GraphBuilder, x: ir.Value, vector: ir.Value) -> ir.Value:
    """(batch, m, n) times (batch, n)."""
    shape = (*b.shape_of(x)[:2], 1)
    return b.squeeze(b.op("MatMul", x, b.unsqueeze(vector, 2), shape=shape), 2)


def identity(b: GraphBuilder, like: ir.Value, size: Dim) -> ir.Value:
    ones = compared(b, "Equal", b.unsqueeze(numbers(b, size), 1), numbers(b, size))
    return b.expand(b.cast(ones, like.dtype), (b.shape_of(like)[0], size, size))


def diagonal_of(b: GraphBuilder, x: ir.Value) -> ir.Value:
    batch, m, n = b.shape_of(x)
    count = min(m, n) if isinstance(m, int) and isinstance(n, int) else n
    return b.gather(b.reshape(x, (batch, exactly(m * n))), grid(b, (count,), (exactly(n + 1),)), 1)


def first_set(b: GraphBuilder, bad: ir.Value) -> ir.Value:
    """(batch,) the number, from 1, of the first that is set; 0 where none is."""
    marks = b.cast(bad, ir.DataType.INT32)
    lead = b.shape_of(bad)[:1]
    place = b.op("ArgMax", marks, shape=lead, dtype=INT64, axis=1, keepdims=0)
    any_bad = b.cast(b.reduce("ReduceMax", marks, [1], keepdims=False), INT64)
    return b.op("Mul", b.op("Add", place, b.number(1, INT64)), any_bad)


def or_nan(b: GraphBuilder, x: ir.Value, info: ir.Value) -> ir.Value:
    broken = compared(b, "Greater", b.unsqueeze(info, 1, 2), b.number(0, INT64))
    return chosen(b, broken, number_like(b, float("nan"), x), x)
