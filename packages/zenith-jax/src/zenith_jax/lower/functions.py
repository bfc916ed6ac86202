"""Functions of statistics and physics, as programs of JAX: series, fractions and Chebyshev sums.

JAX itself has the incomplete gamma and beta functions and the gamma distribution as programs of
simpler primitives, and these are taken. The Bessel functions are fitted from SciPy's, which JAX
depends on; zeta is the sum of Euler and Maclaurin.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from fractions import Fraction
from math import factorial
from typing import Any

import jax.numpy as jnp
import numpy as np
import onnx_ir as ir
import scipy.special
from jax import lax
from jax._src.lax import special as jax_special
from jax._src.random import core as jax_random

from zenith_jax.builder import Builder
from zenith_jax.lower.registry import lower

__all__: list[str] = []

Array = Any


def _program(name: str, function: Callable[..., Any], writes: str) -> None:
    @lower(name, writes=writes)
    def handler(b: Builder, *values: ir.Value, **params: Any) -> list[ir.Value]:
        return b.program(lambda *arrays: function(*arrays, **params), values)


_up_and_broadcast: Any = vars(jax_special)["_up_and_broadcast"]  # it has no types
for _name in ("igamma", "igammac", "igamma_grad_a", "regularized_incomplete_beta"):
    _program(
        _name,
        _up_and_broadcast(getattr(jax_special, f"{_name}_impl")),
        "Loop of elementwise operators",
    )
_program(
    "random_gamma",
    functools.partial(jax_random._gamma_impl, use_vmap=True),
    "zenith.ThreeFry2x32 and a Loop",
)


# --- Bessel functions -----------------------------------------------------------------------------


@functools.cache
def _fits(order: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Chebyshev coefficients of e^-x I(x) / x^order up to 8, which keeps its digits where I is
    near 0; and of e^-x I(x) sqrt(x), in 1 / x, beyond."""
    scaled = scipy.special.i0e if order == 0 else scipy.special.i1e

    def close(t: np.ndarray[Any, Any]) -> Any:
        x = 4 * (t + 1)
        return scaled(x) / x**order

    near = np.polynomial.chebyshev.chebinterpolate(close, 32)

    def beyond(t: np.ndarray[Any, Any]) -> Any:
        inverse = np.maximum((t + 1) / 16, 1e-12)
        return scaled(1 / inverse) / np.sqrt(inverse)

    return near, np.polynomial.chebyshev.chebinterpolate(beyond, 26)


def _chebyshev(coefficients: np.ndarray[Any, Any], x: Array) -> Array:
    """Clenshaw's sum."""
    last = previous = jnp.zeros_like(x)
    for coefficient in coefficients[:0:-1]:
        last, previous = 2 * x * last - previous + coefficient, last
    return x * last - previous + coefficients[0]


def _bessel(order: int, x: Array) -> Array:
    """e^-|x| I_order(x)."""
    near, beyond = _fits(order)
    kind = x.dtype
    wide = x.astype(jnp.promote_types(kind, jnp.float32))
    size = jnp.abs(wide)
    large = jnp.maximum(size, 8)
    small = _chebyshev(near.astype(wide.dtype), jnp.minimum(size, 8) / 4 - 1) * size**order
    result = jnp.where(size <= 8, small, _chebyshev(beyond.astype(wide.dtype), 16 / large - 1)
                       * lax.rsqrt(large))  # fmt: skip
    if order == 1:
        result = jnp.sign(wide) * result
    return result.astype(kind)


_program("bessel_i0e", functools.partial(_bessel, 0), "a polynomial")
_program("bessel_i1e", functools.partial(_bessel, 1), "a polynomial")


# --- zeta -----------------------------------------------------------------------------------------

# B_2k / (2k)!
_BERNOULLI = (
    *(1 / 12, -1 / 720, 1 / 30240, -1 / 1209600, 1 / 47900160),
    float(Fraction(-691, 2730) / factorial(12)),
    float(Fraction(7, 6) / factorial(14)),
)
_TERMS = 12


def _zeta(x: Array, q: Array) -> Array:
    """The sum of (q + k)^-x over all k >= 0."""
    kind = x.dtype
    wide = jnp.promote_types(kind, jnp.float32)
    x, q = x.astype(wide), q.astype(wide)
    total = sum((q + k) ** -x for k in range(_TERMS))
    end = q + _TERMS
    power = end**-x
    total = total + power * end / (x - 1) + power / 2
    rising, power = x, power / end
    for k, coefficient in enumerate(_BERNOULLI):
        total = total + coefficient * rising * power
        rising = rising * (x + 2 * k + 1) * (x + 2 * k + 2)
        power = power / (end * end)
    total = jnp.where(x == 1, jnp.inf, total)
    pole = (q <= 0) & (q == jnp.floor(q))
    total = jnp.where(pole, jnp.inf, total)
    outside = (x < 1) | ((q < 0) & ~pole & (x != jnp.floor(x)))
    return jnp.where(outside, jnp.nan, total).astype(kind)


def _polygamma(order: Array, x: Array) -> Array:
    """The derivatives of digamma."""
    sign = jnp.where(order % 2 == 0, -1, 1).astype(x.dtype)
    derivative = sign * jnp.exp(lax.lgamma(order + 1)) * _zeta(order + 1, x)
    result = jnp.where(order == 0, lax.digamma(x), derivative)
    return jnp.where((order < 0) | (order != jnp.floor(order)), jnp.nan, result)


_program("zeta", _zeta, "Pow and a series")
_program("polygamma", _polygamma, "Pow, Exp and a series")
