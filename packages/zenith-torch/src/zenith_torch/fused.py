"""Whole layers that PyTorch's modules call as one operator where nothing is trained, taken apart.

`nn.TransformerEncoderLayer` does so in evaluation without gradients. The rule of `FUSED` joins
PyTorch's own decompositions; what it calls has handlers.
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
    size, heads = (embed_dim,), (num_heads, embed_dim // num_heads)

    def attend(x: Tensor) -> Tensor:
        parts = functional.linear(x, qkv_weight, qkv_bias).chunk(3, -1)
        q, k, v = (torch.unflatten(part, -1, heads).transpose(1, 2) for part in parts)
        mixed = functional.scaled_dot_product_attention(q, k, v, _kept(mask, mask_type))
        return functional.linear(mixed.transpose(1, 2).flatten(2), proj_weight, proj_bias)

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
    ops._transformer_encoder_layer_fwd.default: _encoder_layer,
}
