"""Scaled dot-product attention: one ONNX Attention node."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from zenith.ir.dims import product
from zenith_torch.builder import Builder, NotSupportedError
from zenith_torch.lower.backward import attention_for_training
from zenith_torch.lower.registry import lower


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
        if dropout or b.rank_of(query) != 4 or b.shape_of(query)[1] != b.shape_of(key)[1]:
            raise NotSupportedError("attention with dropout or shared heads, in training")
        return [*attention_for_training(b, query, key, value, mask, causal, options.get("scale"))]
    gqa = options.get("enable_gqa", False) or b.shape_of(query)[-3] != b.shape_of(key)[-3]
    scale = options.get("scale")
    return [attention(b, query, key, value, mask, dropout, causal, scale=scale, enable_gqa=gqa)]
