"""Indexing by data: gather, scatter, dynamic slices, in all modes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax_oracle import arrays, check, integers

ROWS = jnp.asarray([0, 3, -1, 2, 9, -9, 1])
READS: dict[str, Any] = {
    "rows": lambda x, i: x[i],
    "columns": lambda x, i: x[:, i],
    "last": lambda x, i: x[..., i],
    "pairs": lambda x, i: x[i, i],
    "pairs apart": lambda x, i: x[i, :, i],
    "grid": lambda x, i: x[i[:, None], i[None, :3]],
    "one": lambda x, i: x[i[1]],
    "window": lambda x, i: x[i[1], 1:3],
    "take": lambda x, i: jnp.take(x, i, axis=1),
    "take clip": lambda x, i: jnp.take(x, i, axis=1, mode="clip"),
    "take fill": lambda x, i: x.at[i].get(mode="fill", fill_value=7.0),
    "take wrap": lambda x, i: jnp.take(x, i, axis=0, mode="wrap"),
    "along": lambda x, i: jnp.take_along_axis(x, (i[None, None, :4] % 5).repeat(4, 0), axis=2),
    "vmap": lambda x, i: jax.vmap(lambda row, j: row[j])(x, i[:4]),
    "vmap both": lambda x, i: jax.vmap(lambda row, j: row[j], in_axes=(1, None))(x, i[:4]),
    "vmap slices": lambda x, i: jax.vmap(lambda row, j: lax.dynamic_slice(row, (j, 1), (2, 3)))(
        x, i[:4]
    ),
    "mask": lambda x, i: jnp.where((i % 2 == 0)[:4, None, None], x, 0.0),
    "dynamic_slice": lambda x, i: lax.dynamic_slice(x, (i[0], i[1], 1), (2, 3, 4)),
    "dynamic_slice far": lambda x, i: lax.dynamic_slice(x, (i[4], i[5], i[2]), (2, 3, 1)),
    "dynamic_index": lambda x, i: lax.dynamic_index_in_dim(x, i[3], 1, keepdims=False),
    "choose": lambda x, i: jnp.select([i[:5] > 1, i[:5] < 0], [x[0, 0], x[1, 1]], 0.5),
    "take whole": lambda x, i: x[jnp.zeros(3, int)][:, i],
    "searchsorted": lambda x, i: jnp.searchsorted(jnp.sort(x[0, 0]), x[1]),
}


@pytest.mark.parametrize("name", READS)
def test_reads(name: str) -> None:
    (x,) = arrays((4, 6, 5))
    check(READS[name], x, ROWS)


def test_reads_of_integers_fill() -> None:
    x = integers((4, 5), -9, 9)
    check(lambda x, i: jnp.take(x, i, axis=0), x, ROWS)
    check(lambda x, i: jnp.take(x > 0, i, axis=0), x, ROWS)
    check(lambda x, i: jnp.take(x.astype(jnp.uint8), i, axis=0), x, ROWS)


UNIQUE = jnp.asarray([0, 3, 2, -5, 9])
WRITES: dict[str, Any] = {
    "set": lambda x, i: x.at[i].set(1.5),
    "set row": lambda x, i: x.at[i].set(x[0] * 2),
    "set column": lambda x, i: x.at[:, i].set(x[:, :1]),
    "set pairs": lambda x, i: x.at[i, 1].set(0.0),
    "set one": lambda x, i: x.at[i[1]].set(0.0),
    "set one outside": lambda x, i: x.at[i[4]].set(0.0),
    "set clip": lambda x, i: x.at[i[:3]].set(2.0, mode="clip"),
    "set window": lambda x, i: x.at[i[1], 1:3].set(4.0),
    "set known": lambda x, i: x.at[2, 1:3].set(4.0),
    "add": lambda x, i: x.at[i].add(1.5),
    "add twice": lambda x, i: x.at[jnp.concatenate([i, i])].add(x[:1]),
    "sub": lambda x, i: x.at[i].subtract(1.5),
    "mul": lambda x, i: x.at[:, i].mul(2.5),
    "max": lambda x, i: x.at[i].max(0.5),
    "min": lambda x, i: x.at[i, i].min(-0.5),
    "vmap": lambda x, i: jax.vmap(lambda row, j: row.at[j].set(1.0))(x, i[:4]),
    "update": lambda x, i: lax.dynamic_update_slice(x, x[:2, :3, :1] * 2, (i[1], 2, i[0])),
    "update row": lambda x, i: lax.dynamic_update_slice(x, x[:1] * 2, (i[1], 0, 0)),
    "update far": lambda x, i: lax.dynamic_update_slice(x, x[:, :2] * 2, (0, i[4], 0)),
    "update index": lambda x, i: lax.dynamic_update_index_in_dim(x, x[:, 0] * 2, i[2], 1),
    "update all": lambda x, i: lax.dynamic_update_slice(x, x * 2, (i[1], 0, 0)),
    "bincount": lambda x, i: jnp.bincount(jnp.abs(i), length=10),
    "segment_sum": lambda x, i: jax.ops.segment_sum(x[0], jnp.abs(i[:1]).repeat(6), 4),
    "nested": lambda x, i: x.at[i].set(x.at[i].add(1.0)[1]),
    "scalar": lambda x, i: x[0, 0, 0].at[...].set(2.0) + x[0, 0, 1].at[...].add(1.0),
    "one segment": lambda x, i: [
        jax.ops.segment_sum(x[0], jnp.abs(i[:1]).repeat(6) // 9, 1),
        x[:1].at[i * 0].add(2.0),
        x[:1].at[jnp.minimum(i, 0)].max(x[1]),
    ],
}


@pytest.mark.parametrize("name", WRITES)
def test_writes(name: str) -> None:
    (x,) = arrays((4, 6, 5))
    check(WRITES[name], x, UNIQUE)


def test_writes_of_integers() -> None:
    x = integers((4, 5), -9, 9)
    check(lambda x, i: x.at[i].set(7), x, UNIQUE)
    check(lambda x, i: x.at[i].max(7), x, UNIQUE)
    check(lambda x, i: (x > 0).at[i].set(True), x, UNIQUE)


@pytest.mark.parametrize("name", ["rows", "pairs apart", "window", "vmap", "take"])
def test_gradients_of_reads(name: str) -> None:
    (x,) = arrays((4, 6, 5))
    function = READS[name]
    check(jax.grad(lambda x, i: jnp.nansum(function(x, i) ** 2)), x, jnp.clip(ROWS, -4, 3))


def test_an_embedding_is_one_gather() -> None:
    table = arrays((100, 8))[0]
    compiled = check(lambda i: table[i] * 2, integers((2, 5), 0, 100))
    ops = [n.op for n in compiled.explain().nodes]
    assert sum("Gather" in op for op in ops) == 1
    assert not any("GatherND" in op or "Transpose" in op for op in ops)


def test_a_cache_is_written_in_place_of_one_row() -> None:
    cache, row = arrays((2, 16, 4), (2, 1, 4))
    write = lambda c, r, p: lax.dynamic_update_slice(c, r, (0, p, 0))  # noqa: E731
    for position in (0, 7, 15, 40):
        check(write, cache, row, np.int32(position))
