"""Compile a model and hold it against TensorFlow itself."""

from __future__ import annotations

from collections import Counter
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import zenith

__all__ = ["assert_same", "check", "kernels", "randomise"]


def check(model: Any, *inputs: Any, close: float = 1e-4, **options: Any) -> Any:
    """Compile without fallback, compare a call with the model's own; the compiled model."""
    expected = model(*inputs)
    compiled = zenith.compile(model, **{"fallback": "error", **options})
    assert_same(expected, compiled(*inputs), close)
    return compiled


def assert_same(expected: Any, found: Any, close: float = 1e-4) -> None:
    """Equal structure, types and shapes; numbers within `close`, absolute and relative."""
    tf.nest.assert_same_structure(expected, found)
    for a, b in zip(tf.nest.flatten(expected), tf.nest.flatten(found), strict=True):
        assert isinstance(b, tf.Tensor)
        assert a.dtype == b.dtype and a.shape == b.shape, (a.dtype, b.dtype, a.shape, b.shape)
        wide = np.complex128 if a.dtype.is_complex else np.float64
        got, want = (np.asarray(t).astype(wide) for t in (b, a))
        np.testing.assert_allclose(got, want, close, close)


def randomise(model: Any, seed: int = 0) -> Any:
    """Random weights, variances positive: the values of a new model hide what is folded wrongly."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if "moving_variance" in weight.path or "gamma" in weight.path:
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        elif any(part in weight.path for part in ("moving_mean", "beta", "bias")):
            weight.assign(rng.normal(0, 0.2, weight.shape))
    return model


def kernels(compiled: Any) -> Counter[str]:
    """How often each operator runs, by its name with overload."""
    return Counter(n.op.partition(":")[2] for n in compiled.explain().nodes)


def functional(shape: tuple[int | None, ...], layer: Any) -> Any:
    """A model of one input around a layer, or anything that takes a tensor."""
    x = keras.Input(shape)
    return randomise(keras.Model(x, layer(x)))
