"""Random numbers: the same bits as JAX, from a key that is an input."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax_oracle import check, compare, compiled_ops

import zenith

EXACT: dict[str, Any] = {
    "bits": lambda k: jax.random.bits(k, (3, 5)),
    "bits8": lambda k: jax.random.bits(k, (7,), jnp.uint8),
    "bits16": lambda k: jax.random.bits(k, (7,), jnp.uint16),
    "uniform": lambda k: jax.random.uniform(k, (30, 7)),
    "bernoulli": lambda k: jax.random.bernoulli(k, 0.3, (50,)),
    "randint": lambda k: jax.random.randint(k, (20,), -5, 100),
    "permutation": lambda k: jax.random.permutation(k, 11),
    "choice": lambda k: jax.random.choice(k, 9, (4,), replace=False),
    "split": lambda k: jax.random.split(k, 3),
    "split twice": lambda k: jax.random.split(jax.random.split(k)[1], (2, 2)),
    "fold_in": lambda k: jax.random.fold_in(k, 7),
    "clone": lambda k: jax.random.clone(k),
    "mapped": lambda k: jax.vmap(lambda s: jax.random.uniform(s, (3,)))(jax.random.split(k, 4)),
    "scalar": lambda k: jax.random.uniform(k),
}


@pytest.mark.parametrize("name", EXACT)
def test_bits_are_the_same(name: str) -> None:
    compiled = zenith.compile(EXACT[name], sample_input=(jax.random.key(0),), fallback="allow")
    for seed in (0, 1, 2**31):
        wanted = EXACT[name](jax.random.key(seed))
        compare(compiled(jax.random.key(seed)), wanted, rtol=0, atol=0)


CLOSE: dict[str, Any] = {
    "normal": lambda k: jax.random.normal(k, (40, 5)),
    "truncated_normal": lambda k: jax.random.truncated_normal(k, -2, 2, (40,)),
    "gumbel": lambda k: jax.random.gumbel(k, (40,)),
    "exponential": lambda k: jax.random.exponential(k, (40,)),
    "laplace": lambda k: jax.random.laplace(k, (40,)),
    "gamma": lambda k: jax.random.gamma(k, jnp.array([0.3, 2.0, 7.0])),
}


@pytest.mark.parametrize("name", CLOSE)
def test_distributions(name: str) -> None:
    check(CLOSE[name], jax.random.key(3), rtol=3e-5, atol=1e-5)


def test_raw_keys_and_seeds() -> None:
    check(lambda k: jax.random.uniform(k, (4,)), jax.random.PRNGKey(3), rtol=0, atol=0)
    check(lambda s: jax.random.uniform(jax.random.key(s), (4,)), 12, rtol=0, atol=0)


def test_one_node_a_draw() -> None:
    compiled = check(lambda k: jax.random.bits(k, (64,)), jax.random.key(0))
    assert compiled_ops(compiled).count("ThreeFry2x32") == 1


@pytest.mark.parametrize("shape", [(), (37,), (2, 3)])
def test_many_keys_are_one_node_a_draw(shape: tuple[int, ...]) -> None:
    def function(key: Any) -> Any:
        draw = jax.vmap(jax.vmap(lambda k: jax.random.bits(k, shape)))
        return draw(jax.random.split(key, (4, 5)))

    compiled = check(function, jax.random.key(9), rtol=0, atol=0)
    assert compiled_ops(compiled).count("ThreeFry2x32") == 2  # the keys' and theirs


def test_symbolic_sizes() -> None:
    def function(k: Any, x: Any) -> Any:
        return x + jax.random.uniform(k, x.shape)

    key, x = jax.random.key(0), jnp.zeros((2, 3))
    compiled = zenith.compile(
        function, sample_input=(key, x), dynamic={"x": {0: "n"}}, fallback="allow"
    )
    for rows in (1, 2, 9):
        compare(compiled(key, jnp.zeros((rows, 3))), function(key, jnp.zeros((rows, 3))), 0, 0)


def test_a_key_of_another_kind_is_refused() -> None:
    compiled = zenith.compile(lambda k: jax.random.bits(k, (3,)), sample_input=jax.random.key(0))
    with pytest.raises(zenith.errors.ValidationError, match="key"):
        compiled(jax.random.key(0, impl="rbg"))
    with pytest.raises(zenith.errors.ValidationError):
        compiled(np.float32(1))
