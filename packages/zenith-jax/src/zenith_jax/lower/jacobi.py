"""Jacobi's rotations, as functions of JAX arrays: eigenvalues and singular values.

Note [Tournament]: half of the columns are paired with the other half, and all pairs are rotated at
once. One order of the columns, applied after each round, brings every two of them together once in
n - 1 rounds, as a round robin does, and then each is back in its place: a sweep. Rotations that
are small shrink quadratically from sweep to sweep.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from zenith_jax.lower.orthogonal import qr

__all__ = ["svd", "symmetric_eigen"]

Array = Any
State = tuple[Array, Array]
_SWEEPS = 20  # far more than are needed for any matrix that converges


def _next_round(size: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Where each place gets its column from: all go round, but for the first."""
    half = size // 2
    top, bottom = list(range(half)), list(range(half, size))
    if half > 1:
        top, bottom = [0, bottom[0], *top[1:-1]], [*bottom[1:], top[-1]]
    return np.array([*top, *bottom])


def _rotation(first: Array, second: Array, between: Array) -> tuple[Array, Array]:
    """Cosine and sine that make `between` zero, where [[first, between], [between, second]]."""
    still = between == 0
    ratio = (second - first) / jnp.where(still, 1, 2 * between)
    side = jnp.where(ratio < 0, -1, 1).astype(ratio.dtype)
    tangent = side / (jnp.abs(ratio) + jnp.hypot(ratio, jnp.ones_like(ratio)))
    cosine = 1 / jnp.sqrt(1 + tangent * tangent)
    return jnp.where(still, 1, cosine), jnp.where(still, 0, tangent * cosine)


def _turned(columns: Array, cosine: Array, sine: Array, order: Array) -> Array:
    """Each pair of columns rotated, then put in the order of the next round."""
    first, second = jnp.split(columns, 2, axis=1)
    pairs = [cosine * first - sine * second, sine * first + cosine * second]
    return jnp.concatenate(pairs, axis=1)[:, order]


def _sweeps(start: State, size: int, turn: Callable[[State], tuple[State, Array]]) -> State:
    """Sweep until no rotation of a sweep was worth it; `turn` is a round, and tells the worst."""

    def sweep(state: tuple[State, Array, Array]) -> tuple[State, Array, Array]:
        pair, _, count = state
        pair, worst = lax.scan(lambda s, _: turn(s), pair, None, length=size - 1)
        return pair, jnp.max(worst), count + 1

    small = float(np.finfo(start[0].dtype).eps)
    state = (start, jnp.full((), jnp.inf, start[0].dtype), 0)
    goes_on = lambda s: (s[1] > small) & (s[2] < _SWEEPS)  # noqa: E731
    return lax.while_loop(goes_on, sweep, state)[0]


def _even(columns: Array, square: bool) -> Array:
    """With a column of zeros more where their count is odd; it pairs with any, and never turns."""
    odd = columns.shape[1] % 2
    return jnp.pad(columns, ((0, odd if square else 0), (0, odd)))


def symmetric_eigen(a: Array) -> State:
    """Eigenvalues in no order, and eigenvectors in columns."""
    count = len(a)
    if count == 1:
        return a[0], jnp.ones_like(a)
    start = _even(a, True)
    size = len(start)
    order, half = jnp.asarray(_next_round(size)), size // 2
    norm = jnp.sqrt(jnp.sum(start * start))

    def turn(state: State) -> tuple[State, Array]:
        a, vectors = state
        diagonal, between = jnp.diagonal(a), jnp.diagonal(a, half)
        cosine, sine = _rotation(diagonal[:half], diagonal[half:], between)
        a = _turned(_turned(a, cosine, sine, order).T, cosine, sine, order)
        worst = jnp.max(jnp.abs(between)) / jnp.where(norm == 0, 1, norm)
        return (a, _turned(vectors, cosine, sine, order)), worst

    a, vectors = _sweeps((start, jnp.eye(size, dtype=a.dtype)), size, turn)
    unknown = 0 * norm  # a NaN in the matrix is a NaN in all results
    return jnp.diagonal(a)[:count] + unknown, vectors[:count, :count] + unknown


def svd(a: Array, full_matrices: bool) -> tuple[Array, Array, Array]:
    """U, singular values from the largest, and V transposed, by rotations of the columns."""
    if a.shape[0] < a.shape[1]:
        left, values, right = svd(a.T, full_matrices)
        return right.T, values, left.T
    count = a.shape[1]
    columns, right = a, jnp.eye(count, dtype=a.dtype)
    if count > 1:
        start = _even(a, False)
        size = start.shape[1]
        order, half = jnp.asarray(_next_round(size)), size // 2

        def turn(state: State) -> tuple[State, Array]:
            columns, right = state
            first, second = columns[:, :half], columns[:, half:]
            squares = jnp.sum(columns * columns, axis=0)
            between = jnp.sum(first * second, axis=0)
            cosine, sine = _rotation(squares[:half], squares[half:], between)
            size = jnp.sqrt(squares[:half]) * jnp.sqrt(squares[half:])
            worst = jnp.max(jnp.abs(between) / jnp.where(size == 0, 1, size))
            columns = _turned(columns, cosine, sine, order)
            return (columns, _turned(right, cosine, sine, order)), worst

        columns, right = _sweeps((start, jnp.eye(size, dtype=a.dtype)), size, turn)
        columns, right = columns[:, :count], right[:count, :count]
    values = jnp.sqrt(jnp.sum(columns * columns, axis=0))
    order = jnp.argsort(-values)
    # columns are orthogonal: their QR has them for Q, and fills in where a singular value is 0
    left, triangle = qr(columns[:, order], pivoting=False, full_matrices=full_matrices,
                        use_magma=None)  # fmt: skip
    sides = jnp.where(jnp.diagonal(triangle) < 0, -1, 1).astype(a.dtype)
    left = jnp.concatenate([left[:, :count] * sides, left[:, count:]], axis=1)
    return left, values[order], right[:, order].T
