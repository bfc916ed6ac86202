"""Kernel rows of the CPU backend, one module per family. A new module is found by itself."""

from __future__ import annotations

import importlib
import pkgutil

from zenith.runtime.kernel_registry import KernelSpec

__all__ = ["FAMILIES", "all_specs"]

# In this order, since rows of several families may be for one operator; all others come behind.
FAMILIES = (
    "gemm",
    "rnn",
    "recurrent",
    "int8",
    "quantize",
    "conv",
    "bottleneck",
    "pool",
    "resize",
    "attention",
    "softmax",
    "norm",
    "rotary",
    "pointwise",
    "sample",
    "reduce",
    "views",
    "move",
    "gather",
    "generate",
    "random",
    "signal",
    "select",
    "computed",
    "composed",
    "late",
    "sequence",
    "trees",
)


def all_specs() -> list[KernelSpec]:
    """All rows, family by family; within a family the best comes first."""
    found = sorted(module.name for module in pkgutil.iter_modules(__path__))
    rows: list[KernelSpec] = []
    for family in (*FAMILIES, *(name for name in found if name not in FAMILIES)):
        module = importlib.import_module(f"{__name__}.{family}")
        rows += getattr(module, "SPECS", ())  # some have only what families share
    return rows
