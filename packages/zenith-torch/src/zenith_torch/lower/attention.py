"""Scaled dot-product attention: one ONNX Attention node; in training, what it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import sympy
import torch

from zenith.ir.dims import Dim, exactly, product
from zenith_torch.builder import Builder, NotSupportedError
from zenith_torch.lower.create import filled
from zenith_torch.lower.registry import lower

_LOWEST = -1e30


def _four_axes(b: Builder, x: ir.Value) -> ir.Value:
    """(batch, heads, length, size) from any rank."""
    shape = b.shape_of(x)
    if len(shape) < 4:
        return b.unsqueeze(x, *range(4 - len(shape)))
    if len(shape) == 4:
        return x
    return b.reshape(x, (product(shape[:-3]), *shape[-3:]))


@lower("aten.scaled_dot_product_attention.default")
def attention(
    b: Builder,
    query: ir.Value,
    key: ir.Value,
    value: ir.Value,
    attn_mask: ir.Value | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> ir.Value:
    if dropout_p > 0:
        raise NotSupportedError("attention with dropout")
    q, k, v = (_four_axes(b, x) for x in (query, key, value))
    if attn_mask is not None:
        if b.rank_of(attn_mask) > 4:
            attn_mask = _mask_of_rank_over_4(b, attn_mask, query)
        if attn_mask.dtype != ir.DataType.BOOL:
            attn_mask = b.cast(attn_mask, b.out_dtype)
    # torch broadcasts batch and (without enable_gqa) heads; Attention wants the batch as it is.
    batch, heads = b.shape_of(q)[:2]
    k = b.expand(k, (batch, b.shape_of(k)[1] if enable_gqa else heads, *b.shape_of(k)[2:]))
    v = b.expand(v, (batch, b.shape_of(v)[1] if enable_gqa else heads, *b.shape_of(v)[2:]))
    shape = (*b.shape_of(q)[:3], b.shape_of(v)[3])
    attributes: dict[str, Any] = {"is_causal": int(is_causal), "scale": scale}
    result = b.op("Attention", q, k, v, attn_mask, shape=shape, **attributes)
    return b.reshape(result, b.out_shape)


def _mask_of_rank_over_4(b: Builder, mask: ir.Value, query: ir.Value) -> ir.Value:
    lead = b.shape_of(query)[:-3]
    shape = b.shape_of(mask)
    mask = b.expand(mask, (*lead, *shape[-3:]))
    return b.reshape(mask, (product(lead), *shape[-3:]))


@lower(
    "aten._scaled_dot_product_flash_attention_for_cpu.default",
    "aten._scaled_dot_product_attention_math.default",
)
def attention_with_statistics(
    b: Builder,
    query: ir.Value,
    key: ir.Value,
    value: ir.Value,
    *positional: Any,
    **options: Any,
) -> list[ir.Value | None]:
    """The variants inside already decomposed programs; only their first result is given."""
    if b.target == "aten._scaled_dot_product_attention_math.default":
        given = dict(zip(("mask", "dropout", "causal", "kept"), positional, strict=False))
        if given.get("kept") is not None:
            raise NotSupportedError("attention with a given dropout mask")
    else:
        given = dict(zip(("dropout", "causal"), positional, strict=False))
        given["mask"] = options.get("attn_mask")
    mask, dropout, causal = given.get("mask"), given.get("dropout", 0.0), given.get("causal", False)
    if 1 in b.used:
        if dropout or b.rank_of(query) != 4:
            raise NotSupportedError("attention with dropout in training")
        key, value = (_for_each_query(b, x, query) for x in (key, value))
        return [*attention_for_training(b, query, key, value, mask, causal, options.get("scale"))]
    gqa = options.get("enable_gqa", False) or b.shape_of(query)[-3] != b.shape_of(key)[-3]
    scale = options.get("scale")
    return [attention(b, query, key, value, mask, dropout, causal, scale=scale, enable_gqa=gqa)]


# --- in training ----------------------------------------------------------------------------------


def attention_scores(
    b: Builder,
    query: ir.Value,
    key: ir.Value,
    mask: ir.Value | None,
    is_causal: bool,
    scale: float | None,
) -> ir.Value:
    """query @ key^T * scale + mask, (batch, heads, queries, keys)."""
    shape = (*b.shape_of(query)[:3], b.shape_of(key)[2])
    size = b.shape_of(query)[3]
    if scale is None:
        if not isinstance(size, int):
            raise NotSupportedError("a head of dynamic size")
        scale = size**-0.5
    scaled = b.op("Mul", query, b.number(scale, query.dtype))
    scores = b.op("MatMul", scaled, b.transpose(key, [0, 1, 3, 2]), shape=shape)
    low = b.number(-np.inf, query.dtype)
    if is_causal:
        ones = filled(b, True, shape[2:], torch.bool)
        lower_half = b.op("Trilu", ones, b.number(0, torch.int64), shape=shape[2:], upper=0)
        scores = b.op("Where", lower_half, scores, low, shape=shape, dtype=scores.dtype)
    if mask is None:
        return scores
    if mask.dtype == ir.DataType.BOOL:
        return b.op("Where", mask, scores, low, shape=shape, dtype=scores.dtype)
    return b.op("Add", scores, b.cast(mask, query.dtype), shape=shape)


def attention_for_training(
    b: Builder,
    query: ir.Value,
    key: ir.Value,
    value: ir.Value,
    mask: ir.Value | None,
    is_causal: bool,
    scale: float | None,
) -> list[ir.Value]:
    """The result, and the logarithms of the softmax's sums that the backward operator wants.

    Where a row may see no key at all, its maximum is bounded: exp(-inf - bound) is the zero wanted.
    Of half precision the sums are single, as are PyTorch's.
    """
    kind, wide = query.dtype, _wide(query)
    query, key, value = (b.cast(x, wide) for x in (query, key, value))
    scores = attention_scores(b, query, key, mask, is_causal, scale)
    most = b.reduce("ReduceMax", scores, [3], keepdims=True)
    if mask is not None:
        most = b.op("Max", most, b.number(_LOWEST, most.dtype))
    powers = b.op("Exp", b.op("Sub", scores, most))
    total = b.reduce("ReduceSum", powers, [3], keepdims=True)
    if mask is not None:
        total = b.op("Max", total, b.number(1e-30, total.dtype))
    result = _matmul(b, b.op("Div", powers, total), value)
    sums = b.op("Add", b.op("Log", total), most)
    return [b.cast(result, kind), b.squeeze(sums, 3)]


@lower("aten._scaled_dot_product_flash_attention_for_cpu_backward.default")
def attention_backward(
    b: Builder,
    grad: ir.Value,
    query: ir.Value,
    key: ir.Value,
    value: ir.Value,
    out: ir.Value,
    logsumexp: ir.Value,
    dropout_p: float,
    is_causal: bool,
    *,
    attn_mask: ir.Value | None = None,
    scale: float | None = None,
) -> list[ir.Value]:
    """Gradients of query, key and value; the softmax is made again from its sums."""
    if dropout_p:
        raise NotSupportedError("attention with dropout")
    size, kind, wide = b.shape_of(query)[3], query.dtype, _wide(query)
    own = b.shape_of(key), b.shape_of(value)
    key, value = (_for_each_query(b, x, query) for x in (key, value))
    grad, query, key, value, out = (b.cast(x, wide) for x in (grad, query, key, value, out))
    scores = attention_scores(b, query, key, attn_mask, is_causal, scale)
    weights = b.op("Exp", b.op("Sub", scores, b.cast(b.unsqueeze(logsumexp, 3), wide)))
    pairs = b.shape_of(weights)
    to_value = _matmul(b, b.transpose(weights, [0, 1, 3, 2]), grad)
    to_weights = b.op("MatMul", grad, b.transpose(value, [0, 1, 3, 2]), shape=pairs)
    inner = b.reduce("ReduceSum", b.op("Mul", grad, out), [3], keepdims=True)
    to_scores = b.op("Mul", weights, b.op("Sub", to_weights, inner))
    factor = scale if scale is not None else float(size) ** -0.5
    to_scores = b.op("Mul", to_scores, b.number(factor, wide))
    to_query = _matmul(b, to_scores, key)
    to_key = _matmul(b, b.transpose(to_scores, [0, 1, 3, 2]), query)
    results = to_query, _of_each_key(b, to_key, own[0]), _of_each_key(b, to_value, own[1])
    return [b.cast(result, kind) for result in results]


def _wide(x: ir.Value) -> ir.DataType:
    """The type that softmax's sums have."""
    return x.dtype if x.dtype == ir.DataType.DOUBLE else ir.DataType.FLOAT


def _for_each_query(b: Builder, x: ir.Value, query: ir.Value) -> ir.Value:
    """Keys or values once for every head of the queries, where several of these share one."""
    batch, heads, length, size = b.shape_of(x)
    shared = exactly(sympy.sympify(b.shape_of(query)[1]) / heads)
    if shared == 1:
        return x
    wide = b.expand(b.unsqueeze(x, 2), (batch, heads, shared, length, size))
    return b.reshape(wide, (batch, heads * shared, length, size))


def _of_each_key(b: Builder, grad: ir.Value, shape: Sequence[Dim]) -> ir.Value:
    """The other way round: the sum over the heads that share."""
    if b.shape_of(grad)[1] == shape[1]:
        return grad
    batch, heads, length, size = shape
    shared = exactly(sympy.sympify(b.shape_of(grad)[1]) / heads)
    parts = b.reshape(grad, (batch, heads, shared, length, size))
    return b.reduce("ReduceSum", parts, [2], keepdims=False)


def _matmul(b: Builder, left: ir.Value, right: ir.Value) -> ir.Value:
    shape: tuple[Dim, ...] = (*b.shape_of(left)[:3], b.shape_of(right)[3])
    return b.op("MatMul", left, right, shape=shape)
