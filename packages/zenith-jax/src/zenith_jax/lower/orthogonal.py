"""Householder reflections, as functions of JAX arrays: QR with LAPACK's signs."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from zenith_jax.builder import NotSupportedError

__all__ = ["geqrf", "householder_product", "ormqr", "qr"]

Array = Any


def geqrf(a: Array) -> tuple[Array, Array]:
    """R and below it the reflectors, column by column; and the reflectors' factors."""
    rows, columns = jnp.arange(a.shape[0]), jnp.arange(a.shape[1])
    count = min(a.shape)

    def step(j: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        a, factors = state
        column = lax.dynamic_index_in_dim(a, j, 1, keepdims=False)
        head, tail = column[j], jnp.where(rows > j, column, 0)
        scale = jnp.max(jnp.abs(tail))
        flat = scale == 0  # nothing to reflect
        scale = jnp.maximum(scale, jnp.abs(head)) + flat  # squares must not overflow
        norm = scale * jnp.sqrt(jnp.sum((tail / scale) ** 2) + (head / scale) ** 2)
        length = jnp.where(head < 0, norm, -norm)
        factor = jnp.where(flat, 0, (length - head) / jnp.where(flat, 1, length))
        tail = tail / jnp.where(flat, 1, head - length)
        vector = tail + (rows == j)
        a = a - factor * vector[:, None] * jnp.where(columns > j, vector @ a, 0)
        done = jnp.where(
            rows > j, tail, jnp.where(rows == j, jnp.where(flat, head, length), column)
        )
        a = lax.dynamic_update_index_in_dim(a, done, j, 1)
        return a, lax.dynamic_update_index_in_dim(factors, factor, j, 0)

    packed, factors = lax.fori_loop(0, count, step, (a, jnp.zeros(count, a.dtype)))
    return packed, factors


def _reflected(reflectors: Array, factors: Array, x: Array, backwards: bool) -> Array:
    """H_1 ... H_k x, or H_k ... H_1 x."""
    rows = jnp.arange(reflectors.shape[0])
    count = len(factors)

    def step(k: Array, x: Array) -> Array:
        j = k if backwards else count - 1 - k
        column = lax.dynamic_index_in_dim(reflectors, j, 1, keepdims=False)
        vector = jnp.where(rows > j, column, 0) + (rows == j)
        return x - factors[j] * vector[:, None] * (vector @ x)

    return lax.fori_loop(0, count, step, x)


def householder_product(a: Array, factors: Array) -> Array:
    """The first columns of the product of the reflections."""
    return _reflected(a, factors, jnp.eye(a.shape[0], a.shape[1], dtype=a.dtype), False)


def ormqr(a: Array, factors: Array, x: Array, *, left: bool, transpose: bool) -> Array:
    """The product of the reflections, times `x`."""
    if left:
        return _reflected(a, factors, x, transpose)
    return _reflected(a, factors, x.T, not transpose).T


def qr(a: Array, *, pivoting: bool, full_matrices: bool, use_magma: Any) -> tuple[Array, Array]:
    if pivoting:
        raise NotSupportedError("with pivoting")
    rows, columns = a.shape
    packed, factors = geqrf(a)
    width = rows if full_matrices else min(rows, columns)
    q = _reflected(packed, factors, jnp.eye(rows, width, dtype=a.dtype), False)
    return q, jnp.triu(packed[:width])
