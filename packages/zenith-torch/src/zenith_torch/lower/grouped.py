"""Products of groups of rows, each with a matrix of its own: mixtures of experts.

The data decides how many rows a group has: one Split by computed sizes, then a product for each
group, so that no row is computed for an expert that it was not sent to.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
import torch

from zenith.ir.dims import Dim, symbol
from zenith_torch.builder import Builder, NotSupportedError
from zenith_torch.lower.linear import product_of
from zenith_torch.lower.registry import lower


@lower("aten._grouped_mm.default")
def grouped_mm(
    b: Builder,
    x: ir.Value,
    weight: ir.Value,
    offs: ir.Value | None = None,
    bias: ir.Value | None = None,
    out_dtype: torch.dtype | None = None,
) -> ir.Value:
    """offs: where each group ends, of the rows of x, or of what is summed over if both are flat."""
    ranks = (b.rank_of(x), b.rank_of(weight))
    if bias is not None or ranks not in ((2, 3), (2, 2), (3, 3)):
        raise NotSupportedError("a bias, or groups of columns")
    if offs is None:
        return product_of(b, x, weight)
    return _of_rows(b, x, weight, offs) if ranks == (2, 3) else _of_sums(b, x, weight, offs)


# What transformers calls where `aten._grouped_mm` cannot be traced: float32 on the CPU.
@lower("transformers.grouped_mm_fallback.default")
def grouped_mm_of_transformers(
    b: Builder, x: ir.Value, weight: ir.Value, offs: ir.Value
) -> ir.Value:
    return _of_rows(b, x, weight, offs)


@lower("transformers.grouped_mm_fallback_backward.default")
def grouped_mm_backward(
    b: Builder, x: ir.Value, weight: ir.Value, offs: ir.Value, grad: ir.Value
) -> list[ir.Value]:
    to_x = _of_rows(b, grad, b.transpose(weight, [0, 2, 1]), offs)
    return [to_x, _of_sums(b, b.transpose(x, [1, 0]), grad, offs)]


def _of_rows(b: Builder, x: ir.Value, weight: ir.Value, offs: ir.Value) -> ir.Value:
    groups = _groups(b, offs)
    parts = [
        product_of(b, rows, b.squeeze(b.slice(weight, 0, i, i + 1), 0))
        for i, rows in enumerate(groups(x, 0))
    ]
    result = b.concat(parts, 0)
    return b.declare(result, (b.shape_of(x)[0], b.shape_of(weight)[2]))


def _of_sums(b: Builder, x: ir.Value, y: ir.Value, offs: ir.Value) -> ir.Value:
    groups = _groups(b, offs)
    pairs = zip(groups(x, 1), groups(y, 0), strict=True)
    return b.concat([b.unsqueeze(product_of(b, left, right), 0) for left, right in pairs], 0)


def _groups(b: Builder, offs: ir.Value) -> Callable[[ir.Value, int], list[ir.Value]]:
    """Takes tensors apart into groups, all by the same sizes."""
    ends, (count,) = b.cast(offs, torch.int64), b.static_shape_of(offs)
    starts = b.concat([b.ints([0]), b.slice(ends, 0, 0, count - 1)], 0)
    sizes = b.op("Sub", ends, starts)
    rows: list[Dim] = [symbol(b.unique("group")) for _ in range(count)]

    def split(x: ir.Value, axis: int) -> list[ir.Value]:
        lead, tail = b.shape_of(x)[:axis], b.shape_of(x)[axis + 1 :]
        shapes = [(x.dtype, (*lead, n, *tail)) for n in rows]
        parts = b.ops("Split", x, sizes, results=shapes, axis=axis)
        return [b.knows(n, part, axis) for n, part in zip(rows, parts, strict=True)]

    return split
