"""GroupNormalization and MeanVarianceNormalization."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun

__all__ = ["GroupNormalization", "MeanVarianceNormalization"]


class GroupNormalization(OpRun):
    """Mean and deviation over groups of channels; scale and bias are per channel."""

    op_domain = ""

    def _run(
        self,
        x: NDArray[Any],
        scale: NDArray[Any],
        bias: NDArray[Any],
        epsilon: float | None = None,
        num_groups: int | None = None,
        stash_type: int | None = None,
    ) -> tuple[NDArray[Any]]:
        wide = np.float64 if x.dtype == np.float64 else np.float32
        grouped = x.astype(wide).reshape(x.shape[0], num_groups or 1, -1)
        mean = grouped.mean(axis=2, keepdims=True)
        variance = grouped.var(axis=2, keepdims=True)
        y = ((grouped - mean) / np.sqrt(variance + wide(epsilon or 0))).reshape(x.shape)
        per_channel = (-1,) + (1,) * (x.ndim - 2)
        y = y.astype(x.dtype) * scale.reshape(per_channel) + bias.reshape(per_channel)
        return (y.astype(x.dtype),)


class MeanVarianceNormalization(OpRun):
    """(x - mean) / (deviation + 1e-9)"""

    op_domain = ""

    def _run(self, x: NDArray[Any], axes: Sequence[int] | None = None) -> tuple[NDArray[Any]]:
        over = tuple(axes) if axes is not None else (0, 2, 3)
        v = x.astype(np.float64)
        y = (v - v.mean(axis=over, keepdims=True)) / (v.std(axis=over, keepdims=True) + 1e-9)
        return (y.astype(x.dtype),)
