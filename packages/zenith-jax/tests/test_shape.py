"""Movement, reductions, order: against JAX."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jax_oracle import arrays, check, integers

MOVES: dict[str, Any] = {
    "reshape": lambda x: x.reshape(4, 6, 5) + 1,
    "reshape order": lambda x: lax.reshape(x, (6, 20), dimensions=(2, 0, 1)),
    "ravel": lambda x: x.ravel(),
    "transpose": lambda x: x.transpose(2, 0, 1) * 2,
    "squeeze": lambda x: (x[:1] + 1).squeeze(0),
    "expand": lambda x: x[:, None, :, None] + jnp.ones((4, 1, 6, 1, 5)),
    "broadcast_in_dim": lambda x: lax.broadcast_in_dim(x[0, 0], (2, 5, 3), (1,)),
    "broadcast_to": lambda x: jnp.broadcast_to(x[:, :1], (4, 6, 5)),
    "slice": lambda x: lax.slice(x, (1, 0, 1), (3, 6, 5), (1, 2, 3)),
    "slice of transpose": lambda x: x.T[1:3, :, ::2],
    "rev": lambda x: lax.rev(x, (0, 2)),
    "concatenate": lambda x: jnp.concatenate([x, x[:, :2], x * 2], 1),
    "stack": lambda x: jnp.stack([x, x + 1], 1),
    "unstack": lambda x: list(x * 2),
    "split": lambda x: jnp.split(x, [1, 4], axis=1),
    "tile": lambda x: jnp.tile(x, (2, 1, 3)),
    "repeat": lambda x: jnp.repeat(x, 3, axis=1),
    "pad": lambda x: jnp.pad(x, ((1, 2), (0, 0), (3, 0))),
    "pad inside": lambda x: lax.pad(x, 1.5, ((1, 0, 2), (0, 0, 0), (-1, 2, 1))),
    "pad cut": lambda x: lax.pad(x, 0.0, ((-1, -2, 0), (2, -3, 0), (0, 0, 0))),
    "pad reflect": lambda x: jnp.pad(x, ((0, 0), (2, 2), (1, 1)), mode="reflect"),
    "pad edge": lambda x: jnp.pad(x, ((0, 0), (2, 2), (1, 1)), mode="edge"),
    "iota": lambda x: lax.broadcasted_iota(jnp.int32, (4, 6), 1) + x[..., 0],
    "arange": lambda x: jnp.arange(0, 5, dtype=jnp.float32) * x,
    "eye": lambda x: jnp.eye(5) @ x.transpose(0, 2, 1),
    "tril": lambda x: jnp.tril(x),
    "roll": lambda x: jnp.roll(x, 2, axis=1),
    "moveaxis": lambda x: jnp.moveaxis(x, 0, -1)[..., 0],
    "vmap": jax.vmap(lambda x: (x - x.mean(0)).T),
    "flip and add": lambda x: jnp.flip(x, 1) + x,
    "diagonal": lambda x: jnp.diagonal(x, axis1=0, axis2=1),
    "frames": lambda x: x.transpose(1, 0, 2) + x.mean(2).T[:, :, None] * x.transpose(1, 0, 2),
    "trace": lambda x: jnp.trace(x),
    "outer": lambda x: jnp.outer(x[0, 0], x[0, :, 0]),
    "meshgrid": lambda x: jnp.meshgrid(x[0, 0], x[0, :, 0]),
    "zeros_like": lambda x: jnp.zeros_like(x) + jnp.full((5,), 3.0),
}


@pytest.mark.parametrize("name", MOVES)
def test_movement(name: str) -> None:
    check(MOVES[name], *arrays((4, 6, 5)))


def test_integers_move() -> None:
    x = integers((4, 6), -50, 50)
    check(lambda x: jnp.concatenate([x[:, ::-1], lax.rev(x, (0,))]).T, x)
    check(lambda x: jnp.pad(x > 0, ((1, 1), (0, 2))), x)


REDUCTIONS: dict[str, Any] = {
    "sum": lambda x: x.sum(1),
    "sum all": lambda x: x.sum(),
    "sum several": lambda x: x.sum((0, 2)),
    "sum kept": lambda x: x.sum(-1, keepdims=True),
    "mean": lambda x: x.mean(-1),
    "mean of transposed": lambda x: x.transpose(2, 0, 1).mean(1),
    "prod": lambda x: x.prod(1),
    "max": lambda x: x.max(0),
    "min": lambda x: x.min((1, 2)),
    "var": lambda x: x.var(-1),
    "std": lambda x: x.std(0),
    "any": lambda x: (x > 1.5).any(1),
    "all": lambda x: (x > -1).all(-1),
    "xor": lambda x: lax.reduce_xor_p.bind(x > 0, axes=(1,)),
    "argmax": lambda x: jnp.argmax(x, 1),
    "argmin": lambda x: jnp.argmin(x, -1),
    "argmax all": lambda x: jnp.argmax(x),
    "cumsum": lambda x: jnp.cumsum(x, 1),
    "cumsum back": lambda x: lax.cumsum(x, 2, reverse=True),
    "cumprod": lambda x: jnp.cumprod(x, 0),
    "cummax": lambda x: lax.cummax(x, 1),
    "cummin back": lambda x: lax.cummin(x, 2, reverse=True),
    "cumlogsumexp": lambda x: lax.cumlogsumexp(x, 1),
    "logsumexp": lambda x: jax.nn.logsumexp(x, -1),
    "softmax": lambda x: jax.nn.softmax(x, 1),
    "log_softmax": lambda x: jax.nn.log_softmax(x),
    "sort": lambda x: jnp.sort(x, 1),
    "argsort": lambda x: jnp.argsort(x, -1),
    "sort descending": lambda x: jnp.sort(x, descending=True),
    "lexsort": lambda x: jnp.lexsort((x[:, :, 0], jnp.round(x[:, :, 1]))),
    "top_k": lambda x: lax.top_k(x, 3),
    "median": lambda x: jnp.median(x, -1),
    "reduce": lambda x: lax.reduce(x, 0.5, lax.add, (1,)),
    "reduce max": lambda x: lax.reduce(x, -1.0, lax.max, (0, 1)),
    "norm": lambda x: jnp.linalg.norm(x, axis=-1),
    "one_hot": lambda x: jax.nn.one_hot(jnp.argmax(x, -1), 5),
}


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions(name: str) -> None:
    check(REDUCTIONS[name], *arrays((4, 6, 5)))


INTEGER_REDUCTIONS: dict[str, Any] = {
    "sum": lambda x: x.sum(1),
    "own sum": lambda x: lax.reduce_sum_p.bind(x, axes=(1,), out_sharding=None),
    "prod": lambda x: x[:, :3].prod(1),
    "max": lambda x: x.max(0),
    "min": lambda x: x.min(),
    "argmax": lambda x: jnp.argmax(x, 1),
    "cumsum": lambda x: jnp.cumsum(x, 1),
    "cummax": lambda x: lax.cummax(x, 1),
    "sort": lambda x: jnp.sort(x, 1),
    "argsort": lambda x: jnp.argsort(x, 1),
    "mean": lambda x: x.mean(1),
}


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.int8, np.uint8])
@pytest.mark.parametrize("name", INTEGER_REDUCTIONS)
def test_integer_reductions(name: str, dtype: Any) -> None:
    low = 0 if np.dtype(dtype).kind == "u" else -10
    check(INTEGER_REDUCTIONS[name], integers((4, 7), low, 10, dtype))


def test_order_with_nan_and_equal_elements() -> None:
    x = jnp.asarray([[3.0, np.nan, -1, 3, np.inf, -np.inf, np.nan, 0], [1, 1, 1, 0, 0, 2, 2, 2]])
    places = jnp.broadcast_to(jnp.arange(8), (2, 8))
    check(lambda x, p: lax.sort((x, p), dimension=1, num_keys=1, is_stable=True), x, places)
    check(lambda x: jnp.argmax(x, 1), x)
    check(lambda x: jnp.argmin(x, 1), x)
    check(lambda x: jnp.sort(x > 0.5, 1), x)
    check(lambda x: x.max(1), x)


def test_an_axis_of_one_and_none() -> None:
    (x,) = arrays((1, 5, 1))
    check(lambda x: x.sum(0) + x.mean(2) + x.transpose(2, 1, 0)[0], x)
    check(lambda x: jax.nn.softmax(x, 1).transpose(1, 0, 2), x)
    (empty,) = arrays((0, 5))
    check(lambda x: (x * 2, x.sum(0), jnp.concatenate([x, x])), empty)
