"""Kernel rows of the CPU backend, one module per family. A new family is one more line here."""

from __future__ import annotations

import importlib

from zenith.runtime.kernel_registry import KernelSpec

__all__ = ["FAMILIES", "all_specs"]

FAMILIES = (
    "gemm",
    "rnn",
    "recurrent",
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
    rows: list[KernelSpec] = []
    for family in FAMILIES:
        rows += importlib.import_module(f"{__name__}.{family}").SPECS
    return rows
