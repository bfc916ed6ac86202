"""Decompositions and solvers: JAX's numbers where they are unique, else what they must satisfy."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax_oracle import arrays, check, compare

import zenith
from zenith.errors import UnsupportedOperationError


def positive(*shape: int) -> jax.Array:
    (a,) = arrays(shape, seed=3)
    return a @ jnp.swapaxes(a, -1, -2) + jnp.eye(shape[-1])


def test_cholesky() -> None:
    compiled = check(jnp.linalg.cholesky, positive(2, 5, 5), jit=True)
    broken = positive(2, 5, 5).at[1, 2, 2].set(-1.0)
    found = np.asarray(compiled(broken))
    assert np.isfinite(found[0]).all() and np.isnan(found[1]).any()
    compare(compiled(broken), jnp.linalg.cholesky(broken))


def test_a_batch_may_be_symbolic() -> None:
    compiled = zenith.compile(
        jnp.linalg.cholesky, sample_input=(positive(2, 3, 3),), dynamic={0: {0: "n"}}
    )
    for count in (1, 5):
        compare(compiled(positive(count, 3, 3)), jnp.linalg.cholesky(positive(count, 3, 3)))


@pytest.mark.parametrize(("left_side", "transpose_a"), [(True, True), (False, False)])
def test_triangular_solve(left_side: bool, transpose_a: bool) -> None:
    a, b = arrays((4, 4), (4, 4))

    def function(a: Any, b: Any) -> Any:
        how = {"left_side": left_side, "transpose_a": transpose_a}
        lower = lax.linalg.triangular_solve(a + 3 * jnp.eye(4), b, lower=True, **how)
        return lower, lax.linalg.triangular_solve(a, b, lower=False, unit_diagonal=True, **how)

    check(function, a, b, jit=True, atol=1e-4)


def test_lu_and_what_is_made_of_it() -> None:
    a, b = arrays((2, 5, 5), (2, 5, 3))
    compiled = check(lambda a: lax.linalg.lu(a[:, :, :4]), a, jit=True)  # more rows than columns
    singular = jnp.ones_like(a)
    compare(compiled(singular), lax.linalg.lu(singular[:, :, :4]))
    check(lambda a, b: (jnp.linalg.solve(a, b), jnp.linalg.slogdet(a)), a, b, jit=True, atol=1e-4)


@pytest.mark.parametrize("shape", [(6, 3), (3, 6), (4, 4)])
def test_qr(shape: tuple[int, int]) -> None:
    (a,) = arrays(shape)
    a = a.at[:, 1].set(0.0)  # a column with nothing to reflect
    check(lambda a: (jnp.linalg.qr(a), jnp.linalg.qr(a, mode="complete")), a, jit=True)


def test_reflectors() -> None:
    a, x = arrays((5, 3), (5, 2))

    def function(a: Any, x: Any) -> Any:
        raw, factors = jnp.linalg.qr(a, mode="raw")
        packed = raw.T
        return (
            packed,
            lax.linalg.householder_product(packed, factors),
            lax.linalg.ormqr(packed, factors, x, left=True, transpose=True),
            lax.linalg.ormqr(packed, factors, x.T, left=False),
        )

    check(function, a, x, jit=True)


@pytest.mark.parametrize("size", [1, 7])
def test_eigh(size: int) -> None:
    (a,) = arrays((2, size, size))
    a = a + jnp.swapaxes(a, 1, 2)
    compiled = zenith.compile(jnp.linalg.eigh, sample_input=(a,), fallback="error")
    values, vectors = compiled(a)
    np.testing.assert_allclose(values, jnp.linalg.eigh(a)[0], atol=3e-6, rtol=1e-5)
    back = vectors * values[:, None] @ jnp.swapaxes(vectors, 1, 2)
    np.testing.assert_allclose(back, a, atol=1e-5, rtol=1e-5)
    assert np.isnan(compiled(a.at[0, 0, 0].set(jnp.nan))[0][0]).all()


@pytest.mark.parametrize(
    ("shape", "full"), [((7, 4), True), ((4, 7), False), ((5, 5), True), ((3, 1), False)]
)
def test_svd(shape: tuple[int, int], full: bool) -> None:
    (a,) = arrays(shape)
    a = a.at[-1].set(a[0])  # of lower rank, where it is not wide
    function = lambda a: jnp.linalg.svd(a, full_matrices=full)  # noqa: E731
    left, values, right = zenith.compile(function, sample_input=(a,), fallback="error")(a)
    wanted = jnp.linalg.svd(a, full_matrices=full)
    assert [v.shape for v in (left, values, right)] == [v.shape for v in wanted]
    np.testing.assert_allclose(values, wanted[1], atol=3e-6, rtol=1e-5)
    count = len(values)
    np.testing.assert_allclose(left[:, :count] * values @ right[:count], a, atol=1e-5)
    for side in (left.T @ left, right @ right.T):
        np.testing.assert_allclose(side, np.eye(len(side)), atol=1e-5)


def test_solvers_of_other_kinds() -> None:
    below, diagonal, above, x = arrays((6,), (6,), (6,), (6, 2))
    a, (b,) = positive(4, 4), arrays((4,))
    check(
        lambda *v: lax.linalg.tridiagonal_solve(*v), below, diagonal, above, x, jit=True, atol=1e-4
    )
    check(lambda a, b: jax.scipy.sparse.linalg.cg(lambda v: a @ v, b)[0], a, b, jit=True, atol=1e-4)


def test_gradients_go_through() -> None:
    def loss(a: Any, b: Any) -> Any:
        factor = jnp.linalg.cholesky(a @ a.T + jnp.eye(4))
        return jnp.sum(jax.scipy.linalg.solve_triangular(factor, b, lower=True) ** 2)

    a, b = arrays((4, 4), (4,))
    check(jax.value_and_grad(loss), a, b, jit=True, atol=1e-4, rtol=1e-4)


def test_what_is_not_there_is_named_with_its_line() -> None:
    def function(a: Any) -> Any:
        return jnp.linalg.eigvals(a).real, lax.linalg.hessenberg(a)[0]

    with pytest.raises(UnsupportedOperationError, match="eig.*hessenberg") as caught:
        zenith.compile(function, sample_input=(jnp.eye(3),))
    assert str(caught.value).count("test_linalg.py") >= 2

    def sizes(a: Any) -> Any:
        return jnp.linalg.cholesky(a)

    with pytest.raises(UnsupportedOperationError, match="cholesky .of matrices of symbolic size"):
        zenith.compile(sizes, sample_input=(jnp.eye(3),), dynamic={0: {0: "n", 1: "n"}})
