"""Decompositions and solvers, as programs of JAX: loops over columns, as LAPACK's plain forms.

Signs are LAPACK's where it defines them (QR). Eigenvectors and singular vectors are what they are
up to a sign, as everywhere. Leading axes are mapped over and may be symbolic; a matrix is not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import onnx_ir as ir
from jax import lax

from zenith_jax.builder import Builder, NotSupportedError
from zenith_jax.lower.jacobi import svd, symmetric_eigen
from zenith_jax.lower.orthogonal import geqrf, householder_product, ormqr, qr
from zenith_jax.lower.registry import lower

__all__: list[str] = []

Array = Any


def _decomposition(name: str, function: Callable[..., Any], ranks: tuple[int, ...] = (2,)) -> None:
    """Register a function of single matrices; `ranks`: axes of each operand that are not batch."""

    @lower(name, writes="Scan or Loop of MatMul and elementwise operators")
    def handler(b: Builder, *values: ir.Value, **params: Any) -> list[ir.Value]:
        batch = [a.ndim - rank for a, rank in zip(b.in_avals, ranks, strict=True)]
        cores = [a.shape[count:] for a, count in zip(b.in_avals, batch, strict=True)]
        if len({*batch}) != 1 or not all(isinstance(d, int) for core in cores for d in core):
            raise NotSupportedError("of matrices of symbolic size")
        if any(0 in core for core in cores):
            raise NotSupportedError("of empty matrices")
        if any(a.dtype.itemsize < 4 for a in b.in_avals if _is_float(a)):
            raise NotSupportedError(f"of {b.in_avals[0].dtype}")
        mapped = lambda *arrays: function(*arrays, **params)  # noqa: E731
        for _ in range(batch[0]):
            mapped = jax.vmap(mapped)
        return b.program(mapped, values)


def _is_float(aval: Any) -> bool:
    return bool(jnp.issubdtype(aval.dtype, jnp.floating))


def _row(array: Array, i: Array) -> Array:
    return lax.dynamic_index_in_dim(array, i, 0, keepdims=False)


def _column(array: Array, i: Array) -> Array:
    return lax.dynamic_index_in_dim(array, i, 1, keepdims=False)


def _cholesky(a: Array) -> Array:
    """The lower factor; all NaN where the matrix is not positive definite."""
    rows = jnp.arange(len(a))

    def step(j: Array, factor: Array) -> Array:
        rest = _column(a, j) - factor @ _row(factor, j)
        column = jnp.where(rows >= j, rest / jnp.sqrt(rest[j]), 0)
        return lax.dynamic_update_index_in_dim(factor, column, j, 1)

    factor = lax.fori_loop(0, len(a), step, jnp.zeros_like(a))
    return jnp.where(jnp.all(jnp.isfinite(factor)), factor, jnp.nan)


def _triangular_solve(
    a: Array,
    x: Array,
    *,
    left_side: bool,
    lower: bool,
    transpose_a: bool,
    conjugate_a: bool,
    unit_diagonal: bool,
) -> Array:
    if not left_side:  # X A = B says A^T X^T = B^T
        how = {"lower": lower, "conjugate_a": conjugate_a, "unit_diagonal": unit_diagonal}
        return _triangular_solve(a, x.T, left_side=True, transpose_a=not transpose_a, **how).T
    if transpose_a:
        a, lower = a.T, not lower
    size = len(a)

    def step(k: Array, solved: Array) -> Array:
        i = k if lower else size - 1 - k
        weights = _row(a, i)
        value = _row(x, i) - weights @ solved  # rows that are not solved yet are zeros
        if not unit_diagonal:
            value = value / weights[i]
        return lax.dynamic_update_index_in_dim(solved, value, i, 0)

    return lax.fori_loop(0, size, step, jnp.zeros_like(x))


def _lu(a: Array) -> tuple[Array, Array, Array]:
    """Partial pivoting: both factors in one matrix, the pivots, the order of the rows."""
    rows, columns = jnp.arange(a.shape[0], dtype=jnp.int32), jnp.arange(a.shape[1])
    count = min(a.shape)

    def step(j: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        a, pivots, order = state
        size = jnp.where(rows >= j, jnp.abs(_column(a, j)), -1)
        pivot = jnp.argmax(size).astype(jnp.int32)
        pivots = lax.dynamic_update_index_in_dim(pivots, pivot, j, 0)
        swapped = jnp.where(rows == j, pivot, jnp.where(rows == pivot, j, rows))
        a, order = a[swapped], order[swapped]
        column = _column(a, j)
        head = column[j]
        factor = jnp.where(rows > j, column / jnp.where(head == 0, 1, head), 0)
        a = a - factor[:, None] * jnp.where(columns > j, _row(a, j), 0)
        column = jnp.where(rows > j, factor, column)
        return lax.dynamic_update_index_in_dim(a, column, j, 1), pivots, order

    start = (a, jnp.zeros(count, jnp.int32), rows)
    both, pivots, order = lax.fori_loop(0, count, step, start)
    return both, pivots, order


def _order_of_pivots(pivots: Array, *, permutation_size: int) -> Array:
    places = jnp.arange(permutation_size, dtype=jnp.int32)

    def step(j: Array, order: Array) -> Array:
        swapped = jnp.where(places == j, pivots[j], jnp.where(places == pivots[j], j, places))
        return order[swapped]

    return lax.fori_loop(0, len(pivots), step, places)


def _eigh(
    a: Array, *, lower: bool, sort_eigenvalues: bool, subset_by_index: Any, algorithm: Any
) -> tuple[Array, Array]:
    triangle = jnp.tril(a) if lower else jnp.triu(a)
    values, vectors = symmetric_eigen(triangle + triangle.T - jnp.diag(jnp.diag(a)))
    order = jnp.argsort(values)
    first, last = subset_by_index or (0, len(a))
    return vectors[:, order][:, first:last], values[order][first:last]


def _svd(
    a: Array, *, full_matrices: bool, compute_uv: bool, subset_by_index: Any, algorithm: Any
) -> tuple[Array, ...]:
    first, last = subset_by_index or (0, min(a.shape))
    left, values, right = svd(a, full_matrices)
    if subset_by_index is not None:
        left, values, right = left[:, first:last], values[first:last], right[first:last]
    return (values, left, right) if compute_uv else (values,)


def _tridiagonal_solve(
    below: Array, diagonal: Array, above: Array, x: Array, *, perturb_singular: bool
) -> Array:
    """Elimination with the larger of two neighbouring rows as pivot; then backwards."""
    if perturb_singular:
        raise NotSupportedError("with perturb_singular")
    zero = jnp.zeros((), x.dtype)

    def forward(row: Any, following: Any) -> tuple[Any, Any]:
        (d, u, r), (low, d2, u2, r2) = row, following
        stay = jnp.abs(d) >= jnp.abs(low)
        ratio = jnp.where(stay, low / d, d / low)
        done = tuple(
            jnp.where(stay, mine, other) for mine, other in ((d, low), (u, d2), (zero, u2), (r, r2))
        )
        rest = (
            jnp.where(stay, d2 - ratio * u, u - ratio * d2),
            jnp.where(stay, u2, -ratio * u2),
            jnp.where(stay, r2 - ratio * r, r - ratio * r2),
        )
        return rest, done

    def back(later: Any, row: Any) -> tuple[Any, Any]:
        (one, two), (d, u, u2, r) = later, row
        value = (r - u * one - u2 * two) / d
        return (value, one), value

    above = above.at[-1].set(0)
    last, rows = lax.scan(
        forward, (diagonal[0], above[0], x[0]), (below[1:], diagonal[1:], above[1:], x[1:])
    )
    rest = (last[2] / last[0], jnp.zeros_like(x[0]))
    _, solved = lax.scan(back, rest, rows, reverse=True)
    return jnp.concatenate([solved, rest[0][None]])


_decomposition("cholesky", _cholesky)
_decomposition("triangular_solve", _triangular_solve, (2, 2))
_decomposition("lu", _lu)
_decomposition("lu_pivots_to_permutation", _order_of_pivots, (1,))
_decomposition("geqrf", geqrf)
_decomposition("householder_product", householder_product, (2, 1))
_decomposition("ormqr", ormqr, (2, 1, 2))
_decomposition("qr", qr)
_decomposition("eigh", _eigh)
_decomposition("svd", _svd)
_decomposition("tridiagonal_solve", _tridiagonal_solve, (1, 1, 1, 2))
_decomposition(
    "symmetric_product",
    lambda a, c, alpha, beta, **how: alpha * (a @ a.T) + beta * c,
    (2, 2),
)


@lower("custom_linear_solve", writes="what it calls, in its place")
def custom_linear_solve(
    b: Builder, *values: ir.Value, const_lengths: Any, jaxprs: Any
) -> list[ir.Value]:
    counts = (const_lengths.matvec, const_lengths.vecmat, const_lengths.solve)
    first = counts[0] + counts[1]
    known = values[first : first + counts[2]]
    sides = values[first + counts[2] + const_lengths.transpose_solve :]
    return b.inline(jaxprs.solve, [*known, *sides])
