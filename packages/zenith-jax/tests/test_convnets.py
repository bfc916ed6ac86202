"""Convolutional nets of flax, forward and backward: channels last in, fused kernels out."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax_oracle import arrays, check, compare, compiled_ops

import zenith
from zenith.errors import CompilationError

linen = pytest.importorskip("flax.linen")


def _math(compiled: Any) -> list[str]:
    """The operators that are not views."""
    views = {"Reshape", "Transpose", "Split", "Slice", "Squeeze", "Unsqueeze"}
    return [op for op in compiled_ops(compiled) if op not in views]


class Net(linen.Module):  # type: ignore[misc]
    """A small convolutional net with batch normalisation."""

    @linen.compact
    def __call__(self, x: Any, train: bool = False) -> Any:
        x = linen.Conv(8, (3, 3))(x)
        x = linen.relu(linen.BatchNorm(use_running_average=not train)(x))
        x = linen.avg_pool(x, (2, 2), (2, 2))
        x = linen.relu(linen.Conv(16, (3, 3), strides=(2, 2), padding="SAME")(x))
        x = linen.max_pool(x, (2, 2), (2, 2))
        x = linen.relu(linen.Dense(32)(x.reshape(x.shape[0], -1)))
        return linen.log_softmax(linen.Dense(10)(x))


def _net() -> tuple[Net, Any, Any]:
    (x,) = arrays((2, 16, 16, 3))
    net = Net()
    variables = jax.jit(net.init)(jax.random.key(0), x)
    rng = np.random.default_rng(1)  # statistics as after a training
    statistics = jax.tree.map(
        lambda v: jnp.asarray(rng.uniform(0.5, 2, v.shape), v.dtype), variables["batch_stats"]
    )
    return net, {**variables, "batch_stats": statistics}, x


def test_a_convolutional_net() -> None:
    net, variables, x = _net()
    apply = lambda x: net.apply(variables, x)  # noqa: E731
    compiled = check(apply, x, model=(net, variables), jit=True, atol=1e-5)
    ops = _math(compiled)
    assert sum(op.startswith("ConvBiasAct") and op.endswith("relu") for op in ops) == 2
    assert not any("Pointwise" in op for op in ops)
    assert compiled_ops(compiled).count("Transpose") <= 2
    bound = net.bind(variables)
    compare(zenith.compile(bound, sample_input=(x,))(x), jax.jit(apply)(x), atol=1e-5)


def test_gradients_of_a_convolutional_net() -> None:
    net, variables, x = _net()

    def loss(params: Any, x: Any) -> Any:
        out, state = net.apply(
            {"params": params, "batch_stats": variables["batch_stats"]},
            x,
            train=True,
            mutable=["batch_stats"],
        )
        return -out[:, 3].mean(), state

    function = jax.value_and_grad(loss, has_aux=True)
    check(function, variables["params"], x, jit=True, atol=1e-5, rtol=1e-3)


def test_a_linen_module_alone_is_refused() -> None:
    with pytest.raises(CompilationError, match="has no parameters"):
        zenith.compile(Net(), sample_input=arrays((1, 16, 16, 3))[0])
