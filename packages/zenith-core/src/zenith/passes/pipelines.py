"""The pipelines, by opt_level 0..3: what runs, in which order.

CANONICALIZE is the same for every target. LOWER_CPU is what the CPU backend picks from the shared
fusions. Level 0 does only what correctness needs, 1 every exact rewrite, 2 is the default, 3 adds
what is dearer at compile time. (Which kernels may approximate is the backend's choice, by level.)
"""

from __future__ import annotations

__all__ = ["CANONICALIZE", "LOWER_CPU"]

_SHAPES = ("infer_shapes", "lower_gradient", "lift_constants", "lower_einsum")
_CLEAN = ("fold_constants", "inline_if", "identities", "cse", "dce")
_PATTERNS = (
    "lower_global_pool",
    "hoist_bias",
    "fold_pad",
    "fold_channels",
    "fold_scale",
    "sink_transpose",
    "fuse_clip",
    "fuse_hard_sigmoid",
    "fuse_gelu",
    "fuse_silu",
    "hoist_activation",
    "fuse_softmax",
    "fuse_layer_norm",
    "fuse_layer_norm_affine",
    "fuse_rms_norm",
    "fuse_rotary",
    "fuse_attention",
    "drop_repeat_kv",
)
# unflatten_linear comes before identities: merged reshapes hide what it looks for.
_EXACT = (
    *_SHAPES,
    "fold_constants",
    "inline_if",
    "unflatten_linear",
    *_CLEAN[2:],
    *_PATTERNS,
    "infer_shapes",
    *_CLEAN,
)

CANONICALIZE: tuple[tuple[str, ...], ...] = (
    _SHAPES,
    _EXACT,
    _EXACT,
    (*_EXACT, *_PATTERNS, "infer_shapes", *_CLEAN),
)

_QUANTIZED = ("lower_quantized_moves", "fuse_quantized")

_FUSE = (
    "unflatten_linear",
    "share_concat",
    *_QUANTIZED,
    "fold_dequantized",
    "fuse_conv",
    "fuse_linear",
    "merge_qkv",
    "fuse_add_norm",
    "fuse_group_norm",
    "lower_batch_norm",
    "lower_precision",
    "fuse_bottleneck",
    "fuse_pointwise",
    "infer_shapes",
    "dce",
)

LOWER_CPU: tuple[tuple[str, ...], ...] = (
    (*_QUANTIZED, "lower_precision"),
    _FUSE,
    _FUSE,
    _FUSE,
)
