"""Whole layers that PyTorch's modules call as one operator where nothing is trained, taken apart.

`nn.TransformerEncoderLayer` and `nn.MultiheadAttention` do so in evaluation without gradients. The
rules of `FUSED` join PyTorch's own decompositions; what they call has handlers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

__all__ = ["FUSED"]

Tensor = torch.Tensor
ops: Any = torch.ops.aten

# Numbers of the masks: sizes [L, L] of pairs, [B, L] of keys, and [B, H, L, L].
_PAIRS, _KEYS = 0, 1


def _kept(mask: Tensor | None, mask_type: int | None) -> Tensor | None:
    """True where a query may see a key; a mask is true (or not 0) where it may not."""
    if mask is None:
        return None
    kept = torch.logical_not(mask.to(torch.bool))
    if mask_type == _KEYS:
        return kept[:, None, None, :]
    return kept[None, None] if mask_type == _PAIRS else kept


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim: int,
    num_head: int,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    mask: Tensor | None = None,
    need_weights: bool = True,
    average_attn_weights: bool = True,
    mask_type: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """[B, L, D] each -> [B, L, D], and the weights [B, L, L] (or [B, H, L, L]) if they are asked."""
    if query is key and key is value:
        parts = functional.linear(query, qkv_weight, qkv_bias).chunk(3, -1)
    else:
        weights, biases = qkv_weight.chunk(3), qkv_bias.chunk(3)
        operands = zip((query, key, value), weights, biases, strict=True)
        parts = tuple(functional.linear(x, w, b) for x, w, b in operands)
    heads = (num_head, embed_dim // num_head)
    q, k, v = (part.unflatten(-1, heads).transpose(1, 2) for part in parts)
    kept = _kept(mask, mask_type)
    shares = None
    if need_weights:
        scores = (q * heads[1] ** -0.5) @ k.transpose(-1, -2)
        if kept is not None:
            scores = torch.where(kept, scores, -torch.inf)
        shares = scores.softmax(-1)
        mixed = shares @ v
        shares = shares.mean(1) if average_attn_weights else shares
    else:
        mixed = functional.scaled_dot_product_attention(q, k, v, kept)
    return functional.linear(mixed.transpose(1, 2).flatten(2), proj_weight, proj_bias), shares


def _encoder_layer(
    src: Tensor,
    embed_dim: int,
    num_heads: int,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    use_gelu: bool,
    norm_first: bool,
    eps: float,
    norm_weight_1: Tensor,
    norm_bias_1: Tensor,
    norm_weight_2: Tensor,
    norm_bias_2: Tensor,
    ffn_weight_1: Tensor,
    ffn_bias_1: Tensor,
    ffn_weight_2: Tensor,
    ffn_bias_2: Tensor,
    mask: Tensor | None = None,
    mask_type: int | None = None,
) -> Tensor:
    """[B, L, D] -> [B, L, D]: attention and a feed-forward net, normalised before or after."""
    size = (embed_dim,)

    def attend(x: Tensor) -> Tensor:
        own = (qkv_weight, qkv_bias, proj_weight, proj_bias, mask, False, True, mask_type)
        return _attention(x, x, x, embed_dim, num_heads, *own)[0]

    def feed(x: Tensor) -> Tensor:
        inner = functional.linear(x, ffn_weight_1, ffn_bias_1)
        inner = functional.gelu(inner) if use_gelu else functional.relu(inner)
        return functional.linear(inner, ffn_weight_2, ffn_bias_2)

    def first(x: Tensor) -> Tensor:
        return functional.layer_norm(x, size, norm_weight_1, norm_bias_1, eps)

    def second(x: Tensor) -> Tensor:
        return functional.layer_norm(x, size, norm_weight_2, norm_bias_2, eps)

    if norm_first:
        x = src + attend(first(src))
        return x + feed(second(x))
    x = first(src + attend(src))
    return second(x + feed(x))


FUSED: dict[Any, Callable[..., Any]] = {
    ops._native_multi_head_attention.default: _attention,
    ops._transformer_encoder_layer_fwd.default: _encoder_layer,
}
