"""Models of flax and equinox: the same numbers, and the kernels a person would choose."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax_oracle import arrays, check, compare, compiled_ops

import zenith
from zenith.errors import CompilationError, ValidationError

nnx = pytest.importorskip("flax.nnx")
linen = pytest.importorskip("flax.linen")
eqx = pytest.importorskip("equinox")

BLOCK = ["LayerNormalization", "Linear", "Attention", "Linear.add", "LayerNormalization",
         "Linear.gelu_tanh", "Linear.add"]  # fmt: skip


class Block(nnx.Module):  # type: ignore[misc]
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int, rngs: Any, rate: float = 0.0) -> None:
        self.first, self.second = nnx.LayerNorm(width, rngs=rngs), nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(heads, width, decode=False, rngs=rngs)
        self.wide = nnx.Linear(width, 4 * width, rngs=rngs)
        self.narrow = nnx.Linear(4 * width, width, rngs=rngs)
        self.dropout = nnx.Dropout(rate, rngs=rngs)

    def __call__(self, x: Any, mask: Any = None) -> Any:
        x = x + self.attention(self.first(x), mask=mask)
        return x + self.dropout(self.narrow(nnx.gelu(self.wide(self.second(x)))))


def _math(compiled: Any) -> list[str]:
    """The operators that are not views."""
    views = {"Reshape", "Transpose", "Split", "Slice", "Squeeze", "Unsqueeze"}
    return [op for op in compiled_ops(compiled) if op not in views]


def test_a_transformer_block_is_made_of_fused_kernels() -> None:
    block, (x,) = Block(32, 4, nnx.Rngs(0)), arrays((2, 10, 32))
    compiled = check(block, x, jit=True, atol=1e-5)
    assert _math(compiled) == BLOCK
    compiled = check(block, x, nnx.make_causal_mask(jnp.ones((2, 10))), jit=True, atol=1e-5)
    assert [op for op in _math(compiled) if "Pointwise" not in op] == BLOCK


def test_a_batch_of_one() -> None:
    block, (x,) = Block(32, 4, nnx.Rngs(0)), arrays((1, 10, 32))
    assert "Attention" in compiled_ops(check(block, x, jit=True, atol=1e-5))


def test_one_compile_serves_all_sizes() -> None:
    block = Block(32, 4, nnx.Rngs(0))
    compiled = zenith.compile(
        block,
        sample_input=(jax.ShapeDtypeStruct((2, 10, 32), jnp.float32),),
        dynamic={"x": {0: "batch", 1: "sequence"}},
        fallback="error",
    )
    assert _math(compiled) == BLOCK
    for batch, length in ((1, 1), (2, 10), (3, 7), (1, 33)):
        (x,) = arrays((batch, length, 32))
        compare(compiled(x), jax.jit(block)(x), atol=1e-5)


def test_a_table_of_positions_limits_the_length() -> None:
    table, x = arrays((12, 4), (2, 5, 4))
    compiled = zenith.compile(
        lambda x: x + table[: x.shape[1]],
        sample_input=(x,),
        dynamic={"x": {0: "b", 1: "s"}},
        fallback="error",
    )
    for batch, length in ((1, 1), (3, 12)):
        (x,) = arrays((batch, length, 4))
        compare(compiled(x), x + table[:length])
    with pytest.raises(ValidationError, match="good for 12"):
        compiled(arrays((1, 13, 4))[0])


def test_gradients_of_a_block() -> None:
    block, (x,) = Block(16, 2, nnx.Rngs(0)), arrays((2, 5, 16))
    definition, params, rest = nnx.split(block, nnx.Param, ...)

    def loss(params: Any, x: Any) -> Any:
        return (nnx.merge(definition, params, rest)(x) ** 2).mean()

    check(jax.value_and_grad(loss), params, x, jit=True, atol=1e-5, rtol=1e-3)


def test_dropout_drops_the_same_elements() -> None:
    module = linen.Dropout(0.5, deterministic=False)
    (x,) = arrays((40, 40))
    key = jax.random.key(5)
    compiled = zenith.compile((module, {}), sample_input=((x,), {"rngs": {"dropout": key}}))
    for seed in (5, 6):
        rngs = {"dropout": jax.random.key(seed)}
        wanted = module.apply({}, x, rngs=rngs)
        np.testing.assert_array_equal(np.asarray(compiled(x, rngs=rngs)), np.asarray(wanted))


def test_state_that_changes_is_refused() -> None:
    block = Block(32, 4, nnx.Rngs(0), rate=0.5)
    (x,) = arrays((2, 10, 32))
    with pytest.raises(CompilationError, match=r"changes its own state.*count"):
        zenith.compile(block, sample_input=(x,))
    block.eval()
    compare(zenith.compile(block, sample_input=(x,))(x), jax.jit(block)(x), atol=1e-5)
    norm = nnx.BatchNorm(32, rngs=nnx.Rngs(0))
    with pytest.raises(CompilationError, match="mean"):
        zenith.compile(norm, sample_input=(x,))
    norm.eval()
    compare(zenith.compile(norm, sample_input=(x,))(x), norm(x), atol=1e-5)


class _Keyed(nnx.Module):  # type: ignore[misc]
    """Asks for a key at each call, as the recurrent layers of flax.nnx do for a state of zeros."""

    def __init__(self, scale: float) -> None:
        self.rngs, self.scale = nnx.Rngs(0), scale

    def __call__(self, x: Any) -> Any:
        key = self.rngs.params()
        return x + self.scale * jax.random.normal(key, x.shape) if self.scale else jnp.tanh(x)


def test_counters_of_random_numbers_that_are_not_drawn() -> None:
    (x,) = arrays((2, 3))
    compare(zenith.compile(_Keyed(0), sample_input=(x,))(x), jnp.tanh(x))
    with pytest.raises(CompilationError, match=r"changes its own state.*count"):
        zenith.compile(_Keyed(0.1), sample_input=(x,))


def test_a_function_may_change_the_state_it_is_given() -> None:
    """`(function, state)` with flax.nnx variables: they belong to the trace, not to the caller."""
    norm = nnx.BatchNorm(3, momentum=0.5, rngs=nnx.Rngs(0))
    definition, state = nnx.split(norm)

    def function(state: Any, x: Any) -> Any:
        module = nnx.merge(definition, state)
        return module(x), nnx.to_pure_dict(nnx.state(module))

    (x,) = arrays((8, 3))
    compiled = zenith.compile((function, state), sample_input=(x,))
    compare(compiled(x), jax.jit(function)(state, x), atol=1e-5)


def test_parameters_that_are_one_array() -> None:
    (weight, x) = arrays((3, 4), (2, 3))
    compiled = zenith.compile((lambda w, x: jnp.tanh(x @ w), weight), sample_input=(x,))
    compare(compiled(x), jnp.tanh(x @ weight))


def test_equinox() -> None:
    mlp = eqx.nn.MLP(8, 4, 16, 2, key=jax.random.key(0))
    x, batch = arrays((8,), (5, 8))
    check(mlp, x)
    compiled = check(jax.vmap(mlp), batch)
    assert compiled_ops(compiled) == ["Linear.bias.relu", "Linear.bias.relu", "Linear.bias"]
    norm = eqx.nn.LayerNorm(8)
    assert "LayerNormalization" in compiled_ops(check(jax.vmap(norm), batch))
    check(eqx.nn.MultiheadAttention(2, 8, key=jax.random.key(1)), batch, batch, batch)
    check(eqx.nn.Conv2d(3, 4, 3, key=jax.random.key(1)), arrays((3, 8, 8))[0], jit=True, atol=1e-5)
    check(eqx.nn.GRUCell(8, 4, key=jax.random.key(1)), x, jnp.zeros(4))


def test_a_step_of_training() -> None:
    w, b, x, y = arrays((4, 3), (3,), (8, 4), (8, 3))

    def loss(params: Any) -> Any:
        return ((jnp.tanh(x @ params["w"]) + params["b"] - y) ** 2).mean()

    def step(params: Any, momentum: Any) -> Any:
        value, grads = jax.value_and_grad(loss)(params)
        momentum = jax.tree.map(lambda m, g: 0.9 * m + g, momentum, grads)
        return value, jax.tree.map(lambda p, m: p - 0.1 * m, params, momentum), momentum

    params = {"w": w, "b": b}
    check(step, params, jax.tree.map(jnp.zeros_like, params), jit=True)


def test_weights_have_their_names_and_nothing_else_is_kept() -> None:
    params = {"layer": {"kernel": arrays((4, 3))[0]}, "scale": 2.0}
    apply = lambda p, x: x @ p["layer"]["kernel"] * p["scale"]  # noqa: E731
    (x,) = arrays((2, 4))
    compiled = zenith.compile((apply, params), sample_input=(x,), opt_level=0)
    assert "layer.kernel" in compiled.graph.to_text()
    wanted = apply(params, x)
    alive = weakref.ref(apply)
    del apply, params
    gc.collect()
    assert alive() is None
    compare(compiled(x), wanted)
