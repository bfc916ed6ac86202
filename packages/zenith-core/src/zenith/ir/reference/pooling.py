"""GlobalLpPool and MaxRoiPool."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun

__all__ = ["GlobalLpPool", "MaxRoiPool"]


class GlobalLpPool(OpRun):
    """The p-norm over all spatial axes."""

    op_domain = ""

    def _run(self, x: NDArray[Any], p: int | None = None) -> tuple[NDArray[Any]]:
        order = 2 if p is None else p
        axes = tuple(range(2, x.ndim))
        total = np.sum(np.abs(x.astype(np.float64)) ** order, axis=axes, keepdims=True)
        return (np.asarray(total ** (1 / order)).astype(x.dtype),)


class MaxRoiPool(OpRun):
    """The maximum in each bin of a region; regions are (image, x1, y1, x2, y2), ends included."""

    op_domain = ""

    def _run(
        self,
        x: NDArray[Any],
        rois: NDArray[Any],
        pooled_shape: Sequence[int] | None = None,
        spatial_scale: float | None = None,
    ) -> tuple[NDArray[Any]]:
        rows, columns = pooled_shape or (1, 1)
        scale = 1.0 if spatial_scale is None else spatial_scale
        height, width = x.shape[2:]
        y = np.zeros((len(rois), x.shape[1], rows, columns), x.dtype)
        for r, roi in enumerate(rois):
            left, top, right, bottom = (_nearest(float(v) * scale) for v in roi[1:])
            for i in range(rows):
                h = _bin(top, max(bottom - top + 1, 1), i, rows, height)
                for j in range(columns):
                    w = _bin(left, max(right - left + 1, 1), j, columns, width)
                    part = x[int(roi[0]), :, h, w]
                    if part.size:
                        y[r, :, i, j] = part.max(axis=(1, 2))
        return (y,)


def _nearest(x: float) -> int:
    """Halves go away from zero, as in C."""
    return int(math.copysign(math.floor(abs(x) + 0.5), x))


def _bin(start: int, length: int, index: int, bins: int, limit: int) -> slice:
    size = length / bins
    low = math.floor(index * size) + start
    high = math.ceil((index + 1) * size) + start
    return slice(min(max(low, 0), limit), min(max(high, 0), limit))
