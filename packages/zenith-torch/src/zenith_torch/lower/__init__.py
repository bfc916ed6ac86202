"""Lowering of ATen to ONNX: one file per family, one handler per operator."""

from __future__ import annotations

from zenith_torch.lower import (
    activation,
    attention,
    backward,
    compare,
    complexes,
    conv,
    create,
    distance,
    elementwise,
    embedding,
    index,
    linear,
    norm,
    pool,
    random,
    reduce,
    resize,
    scatter,
    shape,
    windows,
)
from zenith_torch.lower.registry import HANDLERS, lower

__all__ = [
    "HANDLERS",
    "activation",
    "attention",
    "backward",
    "compare",
    "complexes",
    "conv",
    "create",
    "distance",
    "elementwise",
    "embedding",
    "index",
    "linear",
    "lower",
    "norm",
    "pool",
    "random",
    "reduce",
    "resize",
    "scatter",
    "shape",
    "windows",
]
