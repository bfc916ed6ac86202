"""The same model from four frameworks ends in the same kernels, and in the same numbers."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import convnet
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
import torch
import transformer

import zenith

FRAMEWORKS = ("torch", "jax", "keras", "onnx")


def compiled(net: ModuleType, framework: str, weights: Any, x: np.ndarray[Any, Any]) -> Any:
    """The model of `net` in this framework, compiled, and its result for `x` as an array."""
    if net is convnet and framework in ("jax", "keras"):
        x = x.transpose(0, 2, 3, 1)
    given = {"torch": torch.from_numpy, "jax": jnp.asarray, "keras": tf.constant}.get(framework)
    sample = (x if given is None else given(x),)
    model = getattr(net, f"in_{framework}")(weights)
    found = zenith.compile(model, sample_input=sample, fallback="error")
    return found, np.asarray(found(*sample))


def kernels(model: Any) -> list[tuple[str, str]]:
    """What computes, in order: operators with their epilogues, and kernels. Views cost nothing."""
    return [(n.op, n.kernel) for n in model.explain().nodes if "_view_" not in n.kernel]


@pytest.mark.parametrize("net", [transformer, convnet], ids=["transformer", "convnet"])
def test_the_same_plan_from_every_framework(net: ModuleType) -> None:
    rng = np.random.default_rng(0)
    weights, x = net.weights(rng), net.example(rng)
    found = {name: compiled(net, name, weights, x) for name in FRAMEWORKS}
    expected, results = kernels(found["torch"][0]), found["torch"][1]
    assert len(expected) >= 5
    for name, (model, y) in found.items():
        assert kernels(model) == expected, name
        np.testing.assert_allclose(y, results, rtol=1e-5, atol=1e-5, err_msg=name)


def test_the_numbers_are_right() -> None:
    rng = np.random.default_rng(1)
    weights, x = transformer.weights(rng), transformer.example(rng)
    wanted = transformer.in_numpy(weights, x)
    for name in FRAMEWORKS:
        _, y = compiled(transformer, name, weights, x)
        np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-5, err_msg=name)
