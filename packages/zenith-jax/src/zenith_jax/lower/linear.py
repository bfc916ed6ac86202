"""Products of tensors, as MatMul with the weight on the right, and of groups of rows."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import onnx_ir as ir

from zenith.ir.dims import Dim, product
from zenith_jax.builder import Builder, NotSupportedError
from zenith_jax.dtypes import is_float, is_signed
from zenith_jax.lower.bits import convert
from zenith_jax.lower.registry import lower

__all__ = ["matmul_types"]

_TYPES = {
    ir.DataType.INT32,
    ir.DataType.INT64,
    ir.DataType.UINT32,
    ir.DataType.UINT64,
}


def matmul_types(b: Builder, x: ir.Value, y: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Both operands in a type that MatMul takes, at least as wide as the result's."""
    kind = b.out_dtype
    if not is_float(x) and kind not in _TYPES:
        kind = ir.DataType.INT32 if is_signed(x) else ir.DataType.UINT32
    return convert(b, x, kind), convert(b, y, kind)


@lower("dot_general", writes="MatMul (Mul for an outer product)")
def dot_general(
    b: Builder, x: ir.Value, y: ir.Value, *, dimension_numbers: Any, preferred_element_type: Any
) -> ir.Value:
    ((x_sum, y_sum), (x_batch, y_batch)) = dimension_numbers
    kind = b.out_dtype
    x, y = matmul_types(b, x, y)
    left = _Side(b, x, [int(a) for a in x_batch], [int(a) for a in x_sum])
    right = _Side(b, y, [int(a) for a in y_batch], [int(a) for a in y_sum])
    if not left.summed:
        return convert(b, _outer(b, left, right), kind)
    batch = left.shape(left.batch)
    swapped = left.constant and not right.constant or left.summed_first and not right.summed_first
    if swapped and not (right.constant and not left.constant):
        result = _product(b, right, left, batch)
        rank, first, second = len(batch), len(right.free), len(left.free)
        back = [*range(rank), *range(rank + first, rank + first + second)]
        result = b.transpose(result, [*back, *range(rank, rank + first)])
    else:
        result = _product(b, left, right, batch)
    return convert(b, result, kind)


class _Side:
    """One operand and what its axes are for."""

    def __init__(self, b: Builder, value: ir.Value, batch: list[int], summed: list[int]) -> None:
        self.value, self.batch, self.summed = value, batch, summed
        self.sizes = b.shape_of(value)
        self.free = [a for a in range(len(self.sizes)) if a not in (*batch, *summed)]
        self.constant = value.const_value is not None
        long = [a for a in self.free if self.sizes[a] != 1]
        # lies with the summed axes before the free ones, as a right operand does
        self.summed_first = bool(long) and max(summed, default=0) < min(long)

    def shape(self, axes: list[int]) -> list[Dim]:
        return [self.sizes[a] for a in axes]

    def arranged(self, b: Builder, axes: list[int], shape: list[Dim]) -> ir.Value:
        return b.reshape(b.transpose(self.value, axes), shape)


def _product(b: Builder, left: _Side, right: _Side, batch: list[Dim]) -> ir.Value:
    """[batch, free axes of left, free axes of right]."""
    total = product(left.shape(left.summed))
    columns = product(right.shape(right.free))
    rows = left.shape(left.free)
    if batch or not rows:
        rows = [product(rows)]
    x = left.arranged(b, [*left.batch, *left.free, *left.summed], [*batch, *rows, total])
    y = right.arranged(b, [*right.batch, *right.summed, *right.free], [*batch, total, columns])
    result = b.op("MatMul", x, y, dtype=x.dtype, shape=[*batch, *rows, columns])
    return b.reshape(result, [*batch, *left.shape(left.free), *right.shape(right.free)])


def _outer(b: Builder, left: _Side, right: _Side) -> ir.Value:
    """No axis to sum over: every element of one with every element of the other."""
    x = b.transpose(left.value, [*left.batch, *left.free])
    y = b.transpose(right.value, [*right.batch, *right.free])
    rank = len(left.batch) + len(left.free)
    x = b.unsqueeze(x, *range(rank, rank + len(right.free)))
    y = b.unsqueeze(y, *range(len(left.batch), rank))
    return b.expand(b.pointwise("Mul", x, y), b.out_shape)


@lower("ragged_dot_general", writes="Where, MatMul over all groups")
def ragged_dot_general(
    b: Builder,
    x: ir.Value,
    y: ir.Value,
    sizes: ir.Value,
    *,
    ragged_dot_dimension_numbers: Any,
    preferred_element_type: Any,
) -> ir.Value:
    """Each row by the matrix of its group: one product of rows that are 0 for all other groups."""
    numbers = ragged_dot_dimension_numbers
    axes = (numbers.lhs_ragged_dimensions, numbers.rhs_group_dimensions)
    usual = (((1,), (1,)), ((), ()))
    if numbers.dot_dimension_numbers != usual or axes != ((0,), (0,)):
        raise NotSupportedError("of other axes than [rows, k] and [groups, k, columns]")

    def by_group(x: Any, y: Any, sizes: Any) -> Any:
        ends, row = jnp.cumsum(sizes), jnp.arange(x.shape[0])[:, None]
        mine = (row < ends) & (row >= ends - sizes)
        spread = jnp.where(mine[:, :, None], x[:, None, :], 0)
        summed = (((1, 2), (0, 1)), ((), ()))
        return jax.lax.dot_general(spread, y, summed, preferred_element_type=preferred_element_type)

    return b.program(by_group, [x, y, sizes])[0]
