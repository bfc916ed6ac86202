"""Multinomial."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun

__all__ = ["Multinomial"]


class Multinomial(OpRun):
    """Draws of class numbers from rows of unnormalised log probabilities."""

    op_domain = ""

    def _run(
        self,
        x: NDArray[Any],
        dtype: int | None = None,
        sample_size: int | None = None,
        seed: float | None = None,
    ) -> tuple[NDArray[Any]]:
        generator = np.random.default_rng(None if seed is None else abs(int(seed)))
        logits = x.astype(np.float64)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        edges = np.cumsum(weights / weights.sum(axis=1, keepdims=True), axis=1)
        draws = generator.random((len(x), sample_size or 1, 1))
        classes = np.sum(draws >= edges[:, None, :-1], axis=2)
        to = onnx.helper.tensor_dtype_to_np_dtype(dtype or onnx.TensorProto.INT32)
        return (classes.astype(to),)
