"""Lowering of JAX primitives to ONNX: one file per family, one handler per primitive."""

from __future__ import annotations

from zenith_jax.lower import (
    bits,
    complexes,
    control,
    conv,
    devices,
    elementwise,
    functions,
    index,
    linalg,
    linear,
    random,
    reduce,
    shape,
    special,
    window,
)
from zenith_jax.lower.refused import REFUSED
from zenith_jax.lower.registry import HANDLERS, IGNORED, WRITES, lower

__all__ = [
    "HANDLERS",
    "IGNORED",
    "REFUSED",
    "WRITES",
    "bits",
    "complexes",
    "control",
    "conv",
    "devices",
    "elementwise",
    "functions",
    "index",
    "linalg",
    "linear",
    "lower",
    "random",
    "reduce",
    "shape",
    "special",
    "window",
]
