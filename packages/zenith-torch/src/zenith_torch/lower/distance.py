"""Distances between rows."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import torch

from zenith_torch.builder import Builder
from zenith_torch.lower.create import filled
from zenith_torch.lower.linear import product_of
from zenith_torch.lower.reduce import vector_norm
from zenith_torch.lower.registry import lower

_MANY = 25  # rows; of more than these PyTorch takes squares apart, so that a product finds them


@lower("aten._cdist_forward.default")
def cdist(b: Builder, x: ir.Value, y: ir.Value, p: float, compute_mode: int | None) -> ir.Value:
    """The distance of every row of x to every row of y; compute_mode 2 says: never by a product."""
    rows = (b.shape_of(x)[-2], b.shape_of(y)[-2])
    if b.shape_of(x)[-1] == 0:
        return filled(b, 0, b.out_shape, b.out_dtype)
    many = any(isinstance(n, int) and n > _MANY for n in rows)
    if p == 2 and (compute_mode == 1 or (compute_mode in (None, 0) and many)):
        return _by_product(b, x, y)
    return vector_norm(b, _differences(b, x, y), p, -1)


def _differences(b: Builder, x: ir.Value, y: ir.Value) -> ir.Value:
    last = b.rank_of(x) - 1
    return b.op("Sub", b.unsqueeze(x, last), b.unsqueeze(y, b.rank_of(y) - 2))


def _by_product(b: Builder, x: ir.Value, y: ir.Value) -> ir.Value:
    """|x - y|^2 = |x|^2 + |y|^2 - 2 xy."""
    rank = b.rank_of(y)
    turned = b.transpose(y, [*range(rank - 2), rank - 1, rank - 2])
    squares = b.reduce("ReduceSumSquare", x, [-1], keepdims=True)
    others = b.reduce("ReduceSumSquare", turned, [-2], keepdims=True)
    twice = b.op("Mul", product_of(b, x, turned), b.number(2, b.out_dtype))
    total = b.op("Sub", b.op("Add", squares, others), twice)
    return b.op("Sqrt", b.op("Max", total, b.number(0, b.out_dtype)))


@lower("aten._cdist_backward.default")
def cdist_backward(
    b: Builder, grad: ir.Value, x: ir.Value, y: ir.Value, p: float, distance: ir.Value
) -> ir.Value:
    """The gradient of x: each difference is as much of it as it is of the distance."""
    last = b.rank_of(distance)
    share = _share(b, _differences(b, x, y), p, b.unsqueeze(distance, last))
    given = b.op("Mul", b.unsqueeze(grad, last), share)
    return b.reduce("ReduceSum", given, [last - 1], keepdims=False)


def _share(b: Builder, apart: ir.Value, p: float, distance: ir.Value) -> ir.Value:
    """The gradient of a distance by the differences that it is made of."""
    kind, zero = b.out_dtype, b.number(0, b.out_dtype)
    size, sign = b.op("Abs", apart), b.op("Sign", apart)
    if p == float("inf"):
        largest = b.op("Equal", size, distance, dtype=torch.bool)
        return b.op("Where", largest, sign, zero, dtype=kind)
    if p == 1:
        return sign
    share = b.op("Mul", sign, b.op("Pow", b.op("Div", size, distance), b.number(p - 1, kind)))
    same = b.op("Equal", size, zero, dtype=torch.bool)
    return b.op("Where", same, zero, share, dtype=kind)


@lower("aten._pdist_forward.default")
def pdist(b: Builder, x: ir.Value, p: float = 2) -> ir.Value:
    """The distances of all pairs of rows, row by row."""
    if b.shape_of(x)[1] == 0:
        return filled(b, 0, b.out_shape, b.out_dtype)
    first, second = (b.gather(x, rows, 0) for rows in _pairs(b, x))
    return vector_norm(b, b.op("Sub", first, second), p, -1)


def _pairs(b: Builder, x: ir.Value) -> list[ir.Value]:
    """The first and the second row of every pair."""
    found = np.triu_indices(b.static_shape_of(x)[0], 1)
    return [b.constant(rows.astype(np.int64)) for rows in found]


@lower("aten._pdist_backward.default")
def pdist_backward(
    b: Builder, grad: ir.Value, x: ir.Value, p: float, distance: ir.Value
) -> ir.Value:
    """Each pair gives to both of its rows, with opposite signs."""
    pairs = _pairs(b, x)
    apart = b.op("Sub", *(b.gather(x, rows, 0) for rows in pairs))
    share = _share(b, apart, p, b.unsqueeze(distance, 1))
    given = b.op("Mul", b.unsqueeze(grad, 1), share)
    total = filled(b, 0, b.shape_of(x), b.out_dtype)
    for rows, update in zip(pairs, (given, b.op("Neg", given)), strict=True):
        places = b.unsqueeze(rows, 1)
        total = b.op("ScatterND", total, places, update, shape=b.shape_of(x), reduction="add")
    return total
