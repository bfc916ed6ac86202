"""Gelu, HardSwish and Mish."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun

__all__ = ["Gelu", "HardSwish", "Mish"]

_erf = np.vectorize(math.erf, otypes=[np.float64])


class Gelu(OpRun):
    """x times the normal distribution's cumulative probability, or its tanh approximation."""

    op_domain = ""

    def _run(self, x: NDArray[Any], approximate: str | None = None) -> tuple[NDArray[Any]]:
        v = x.astype(np.float64)
        if approximate == "tanh":
            inner = np.sqrt(2 / np.pi) * (v + 0.044715 * v**3)
            y = 0.5 * v * (1 + np.tanh(inner))
        else:
            y = 0.5 * v * (1 + _erf(v / np.sqrt(2))) if v.size else v
        return (np.asarray(y).astype(x.dtype),)


class HardSwish(OpRun):
    """x times HardSigmoid with alpha 1/6 and beta 1/2."""

    op_domain = ""

    def _run(self, x: NDArray[Any]) -> tuple[NDArray[Any]]:
        v = x.astype(np.float64)
        return (np.asarray(v * np.clip(v / 6 + 0.5, 0, 1)).astype(x.dtype),)


class Mish(OpRun):
    """x * tanh(log(1 + e^x))"""

    op_domain = ""

    def _run(self, x: NDArray[Any]) -> tuple[NDArray[Any]]:
        v = x.astype(np.float64)
        return (np.asarray(v * np.tanh(np.logaddexp(0, v))).astype(x.dtype),)
