"""Pass names. A name in a pipeline is looked up here; plugins add theirs with `register_pass`."""

from __future__ import annotations

import importlib

from zenith.errors import ConfigurationError
from zenith.passes.base import Pass

__all__ = ["PASSES", "get_pass", "register_pass"]

# name -> module:class, imported on first use
PASSES: dict[str, str] = {
    "cse": "cse:EliminateCommon",
    "dce": "dce:RemoveUnused",
    "drop_repeat_kv": "drop_repeat_kv:DropRepeatKv",
    "fold_channels": "fold_channels:FoldChannels",
    "fold_constants": "fold_constants:FoldConstants",
    "fold_dequantized": "fold_constants:FoldDequantized",
    "fold_pad": "fold_pad:FoldPad",
    "fold_scale": "fold_scale:FoldScale",
    "fuse_add_norm": "fuse_add_norm:FuseAddNorm",
    "fuse_attention": "fuse_attention:FuseAttention",
    "fuse_bottleneck": "fuse_bottleneck:FuseBottleneck",
    "fuse_conv": "fuse_conv:FuseConv",
    "fuse_clip": "fuse_clip:FuseClip",
    "fuse_hard_sigmoid": "fuse_hard_sigmoid:FuseHardSigmoid",
    "fuse_gelu": "fuse_gelu:FuseGelu",
    "fuse_group_norm": "fuse_group_norm:FuseGroupNorm",
    "fuse_layer_norm": "fuse_layer_norm:FuseLayerNorm",
    "fuse_layer_norm_affine": "fuse_layer_norm_affine:FuseLayerNormAffine",
    "fuse_linear": "fuse_linear:FuseLinear",
    "fuse_pointwise": "fuse_pointwise:FusePointwise",
    "fuse_quantized": "fuse_quantized:FuseQuantized",
    "fuse_rms_norm": "fuse_rms_norm:FuseRmsNorm",
    "fuse_rotary": "fuse_rotary:FuseRotary",
    "fuse_silu": "fuse_silu:FuseSilu",
    "fuse_softmax": "fuse_softmax:FuseSoftmax",
    "hoist_activation": "hoist_activation:HoistActivation",
    "hoist_bias": "hoist_bias:HoistBias",
    "identities": "identities:RemoveIdentities",
    "infer_shapes": "infer_shapes:InferShapes",
    "inline_if": "inline_if:InlineIf",
    "lift_constants": "lift_constants:LiftConstants",
    "lower_batch_norm": "lower_batch_norm:LowerBatchNorm",
    "lower_einsum": "lower_einsum:LowerEinsum",
    "lower_global_pool": "lower_global_pool:LowerGlobalPool",
    "lower_gradient": "lower_gradient:LowerGradient",
    "lower_precision": "lower_precision:LowerPrecision",
    "lower_quantized_moves": "lower_quantized_moves:LowerQuantizedMoves",
    "merge_qkv": "merge_qkv:MergeQkv",
    "share_concat": "share_concat:ShareConcat",
    "sink_transpose": "sink_transpose:SinkTranspose",
    "unflatten_linear": "unflatten_linear:UnflattenLinear",
}
_ADDED: dict[str, Pass] = {}


def register_pass(step: Pass) -> None:
    """Make `step` available by its name."""
    if step.name in PASSES or step.name in _ADDED:
        raise ConfigurationError(f"there is already a pass named '{step.name}'")
    _ADDED[step.name] = step


def get_pass(name: str) -> Pass:
    """The pass of a name, with its default options."""
    if name in _ADDED:
        return _ADDED[name]
    where = PASSES.get(name)
    if where is None:
        raise ConfigurationError(
            f"there is no pass named '{name}'", next=f"passes: {', '.join([*PASSES, *_ADDED])}"
        )
    module, _, attribute = where.partition(":")
    found: Pass = getattr(importlib.import_module(f"zenith.passes.{module}"), attribute)()
    return found
