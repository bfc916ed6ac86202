"""Calls and control flow: scan, while, cond, and everything that wraps a jaxpr."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax_oracle import arrays, check, compare, compiled_ops

import zenith


@jax.custom_jvp
def _clipped(x: Any) -> Any:
    return jnp.clip(x, -1, 1)


@_clipped.defjvp
def _clipped_jvp(primals: Any, tangents: Any) -> Any:
    return _clipped(primals[0]), tangents[0]


@jax.custom_vjp
def _doubled(x: Any) -> Any:
    return x * 2


_doubled.defvjp(lambda x: (_doubled(x), x), lambda x, g: (g * x,))

CALLS: dict[str, Any] = {
    "jit": lambda x: jax.jit(lambda y: jax.jit(jnp.tanh)(y) + 1)(x),
    "custom_jvp": lambda x: _clipped(x) + 1,
    "custom_jvp grad": jax.grad(lambda x: _clipped(x * 2).sum()),
    "custom_vjp": lambda x: _doubled(x) + 1,
    "custom_vjp grad": jax.grad(lambda x: _doubled(x).sum()),
    "checkpoint": jax.checkpoint(lambda x: jnp.sin(x) * 2),
    "checkpoint grad": jax.grad(lambda x: jax.checkpoint(lambda y: jnp.sin(y).sum())(x)),
    "vmap": jax.vmap(lambda row: row @ row),
    "jvp": lambda x: jax.jvp(jnp.tanh, (x,), (jnp.ones_like(x),)),
    "hessian": lambda x: jax.hessian(lambda v: (jnp.tanh(v) ** 2).sum())(x[0]),
    "linearize": lambda x: jax.linearize(jnp.sin, x)[1](x),
    "barrier": lambda x: lax.optimization_barrier(x) + lax.stop_gradient(x),
    "closure": lambda x: jax.jit(lambda y: y + jnp.arange(4.0))(x),
    "platform": lambda x: lax.platform_dependent(x, cpu=jnp.sin, default=jnp.cos),
    "empty": jax.grad(lambda x: lax.fori_loop(0, 3, lambda k, c: jnp.sin(c) * x[0, k], 1.0)),
    "named": lambda x: jax.named_call(jnp.cos, name="inner")(x),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls(name: str) -> None:
    check(CALLS[name], *arrays((3, 4)))


def test_one_device_needs_no_collectives() -> None:
    """What is written for a mesh runs where the mesh is this machine."""

    def function(x: Any) -> Any:
        total = lax.psum(x, "d") + lax.pmean(x, "d") + lax.axis_index("d")
        total += lax.all_gather(x, "d").sum() + lax.all_gather(x, "d", tiled=True)
        total += lax.psum_scatter(x, "d", tiled=True) + lax.all_to_all(x, "d", 0, 0, tiled=True)
        return total + lax.ppermute(x, "d", [(0, 0)])

    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("d",))
    spec = jax.sharding.PartitionSpec("d")
    sharded = jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=spec)
    check(lambda x: sharded(x) * 2, arrays((4, 3))[0])


SCANS: dict[str, Any] = {
    "sum": lambda x: lax.scan(lambda c, a: (c + a, c * a), x[0], x),
    "back": lambda x: lax.scan(lambda c, a: (c + a, c * a), x[0], x, reverse=True),
    "no inputs": lambda x: lax.scan(lambda c, _: (c * 1.5, c.sum()), x[0], None, length=3),
    "no outputs": lambda x: lax.scan(lambda c, a: (jnp.tanh(c + a), None), x[0], x)[0],
    "no carry": lambda x: lax.map(lambda a: a * 2 + x[0], x),
    "tree": lambda x: lax.scan(
        lambda c, a: ({"n": c["n"] + 1, "v": c["v"] + a["x"]}, a["y"] * c["n"]),
        {"n": 0, "v": x[0]},
        {"x": x, "y": x + 1},
    ),
    "outer": lambda x: lax.scan(lambda c, a: (c @ x[:4].T @ x[:4], c[0] + a), x[:2], x)[1],
    "nested": lambda x: lax.scan(
        lambda c, a: (c + lax.scan(lambda d, e: (d + e, None), 0.0, a)[0], c), 1.0, x
    ),
    "constant": lambda x: lax.scan(lambda c, a: (jnp.ones_like(c), a), x[0], x),
    "fori": lambda x: lax.fori_loop(0, 5, lambda i, v: v * 1.1 + i, x),
    "associative": lambda x: lax.associative_scan(jnp.add, x),
}


@pytest.mark.parametrize("name", SCANS)
def test_scan(name: str) -> None:
    check(SCANS[name], *arrays((5, 4)), atol=1e-5)


def test_gradient_of_a_scan() -> None:
    w, x = arrays((4, 4), (6, 4))

    def loss(w: Any) -> Any:
        return lax.scan(lambda c, a: (jnp.tanh(c @ w + a), None), x[0], x)[0].sum()

    check(jax.value_and_grad(loss), w, atol=1e-5)


def _collatz(n: Any) -> Any:
    return lax.while_loop(
        lambda s: s[0] != 1,
        lambda s: (jnp.where(s[0] % 2 == 0, s[0] // 2, 3 * s[0] + 1), s[1] + 1),
        (n, 0),
    )


def test_while() -> None:
    compiled = zenith.compile(_collatz, sample_input=(jnp.asarray(27),), fallback="error")
    for start in (27, 1, 97):
        compare(compiled(jnp.asarray(start)), _collatz(jnp.asarray(start)))


def test_while_with_constants_and_arrays() -> None:
    (x,) = arrays((4,))

    def function(x: Any, limit: Any) -> Any:
        return lax.while_loop(lambda v: v.sum() < limit, lambda v: v * 1.5 + jnp.abs(x), jnp.abs(x))

    check(function, x, 20.0)
    check(jax.vmap(lambda n: _collatz(n)[1]), jnp.asarray([3, 7, 1]))


def test_cond() -> None:
    (x,) = arrays((4,))

    def function(flag: Any, x: Any) -> Any:
        return lax.cond(flag, lambda v: v * 2, lambda v: -v, x)

    compiled = zenith.compile(function, sample_input=(jnp.asarray(True), x), fallback="error")
    assert "If" in compiled_ops(compiled)
    for flag in (True, False):
        compare(compiled(jnp.asarray(flag), x), function(jnp.asarray(flag), x))


def test_switch() -> None:
    (x,) = arrays((4,))
    branches = [lambda v: v, lambda v: v + 1, lambda v: jnp.ones(4), lambda v: v[::-1] * 3]
    function = lambda i, x: lax.switch(i, branches, x)  # noqa: E731
    compiled = zenith.compile(function, sample_input=(jnp.asarray(0), x), fallback="error")
    for index in (-3, 0, 1, 2, 3, 8):
        compare(compiled(jnp.asarray(index), x), function(jnp.asarray(index), x))


def test_a_condition_in_a_loop_reads_outer_values() -> None:
    x, y = arrays((5, 4), (4,))

    def function(x: Any, y: Any) -> Any:
        def step(carry: Any, row: Any) -> Any:
            return lax.cond(row.sum() > 0, lambda: carry + y, lambda: carry - row), carry.max()

        return lax.scan(step, y * 2, x)

    check(function, x, y)


def test_random_bits_in_a_loop() -> None:
    def function(key: Any) -> Any:
        return lax.fori_loop(
            0,
            3,
            lambda i, v: v + jax.random.uniform(jax.random.fold_in(key, i), (4,)),
            jnp.zeros(4),
        )

    check(function, jax.random.key(3))
