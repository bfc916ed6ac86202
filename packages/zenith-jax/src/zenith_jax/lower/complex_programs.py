"""What computes with complex numbers, as programs of JAX on their parts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from zenith_jax.dtypes import real_type

__all__ = ["PROGRAMS", "Pair"]

Array = Any
F = TypeVar("F", bound=Callable[..., Any])


class Pair(NamedTuple):
    """What a `Complex` is in a program of JAX: two arrays of real numbers."""

    real: Array
    imag: Array


PROGRAMS: dict[str, Callable[..., Any]] = {}


def _program(*names: str) -> Callable[[F], F]:
    def register(function: F) -> F:
        PROGRAMS.update(dict.fromkeys(names, function))
        return function

    return register


# --- making and taking apart ----------------------------------------------------------------------


@_program("complex")
def complex_(real: Array, imag: Array) -> Pair:
    return Pair(real, imag)


@_program("real")
def real(x: Pair) -> Array:
    return x.real


@_program("imag")
def imag(x: Pair) -> Array:
    return x.imag


@_program("conj")
def conj(x: Any, *, input_dtype: Any) -> Pair:
    return Pair(x.real, -x.imag) if isinstance(x, Pair) else Pair(x, jnp.zeros_like(x))


@_program("convert_element_type")
def convert_element_type(x: Any, *, new_dtype: Any) -> Any:
    kind = np.dtype(new_dtype)
    if not isinstance(x, Pair):
        part = lax.convert_element_type(x, real_type(kind))
        return Pair(part, jnp.zeros_like(part))
    if kind.kind == "c":
        return Pair(*(lax.convert_element_type(part, real_type(kind)) for part in x))
    if kind == np.bool_:
        return (x.real != 0) | (x.imag != 0)
    return lax.convert_element_type(x.real, kind)


# --- arithmetic -----------------------------------------------------------------------------------


@_program("mul")
def mul(x: Pair, y: Pair) -> Pair:
    return Pair(x.real * y.real - x.imag * y.imag, x.real * y.imag + x.imag * y.real)


@_program("square")
def square(x: Pair) -> Pair:
    return Pair((x.real - x.imag) * (x.real + x.imag), 2 * x.real * x.imag)


@_program("div")
def div(x: Pair, y: Pair) -> Pair:
    """By the larger part of y first, so that no square leaves the range of the type."""
    scale = jnp.maximum(jnp.abs(y.real), jnp.abs(y.imag))
    c, d = y.real / scale, y.imag / scale
    norm = scale * (c * c + d * d)
    return Pair((x.real * c + x.imag * d) / norm, (x.imag * c - x.real * d) / norm)


def _one(like: Pair) -> Pair:
    return Pair(jnp.ones_like(like.real), jnp.zeros_like(like.real))


def _sum(x: Pair, y: Pair, sign: int = 1) -> Pair:
    return Pair(x.real + sign * y.real, x.imag + sign * y.imag)


@_program("integer_pow")
def integer_pow(x: Pair, *, y: int) -> Pair:
    result, exponent = _one(x), abs(y)
    while exponent:
        if exponent & 1:
            result = mul(result, x)
        exponent >>= 1
        x = square(x)
    return div(_one(x), result) if y < 0 else result


@_program("abs")
def absolute(x: Pair) -> Array:
    return jnp.hypot(x.real, x.imag)


@_program("sign")
def sign(x: Pair) -> Pair:
    length = absolute(x)
    below = jnp.where(length == 0, 1, length)
    return Pair(x.real / below, x.imag / below)


@_program("eq")
def eq(x: Pair, y: Pair) -> Array:
    return (x.real == y.real) & (x.imag == y.imag)


@_program("ne")
def ne(x: Pair, y: Pair) -> Array:
    return ~eq(x, y)


@_program("is_finite")
def is_finite(x: Pair) -> Array:
    return lax.is_finite(x.real) & lax.is_finite(x.imag)


def _product(times: Callable[[Array, Array], Array], x: Pair, y: Pair) -> Pair:
    return Pair(
        times(x.real, y.real) - times(x.imag, y.imag), times(x.real, y.imag) + times(x.imag, y.real)
    )


@_program("dot_general")
def dot_general(x: Pair, y: Pair, *, dimension_numbers: Any, preferred_element_type: Any) -> Pair:
    kind = None if preferred_element_type is None else real_type(preferred_element_type)
    times = functools.partial(
        lax.dot_general, dimension_numbers=dimension_numbers, preferred_element_type=kind
    )
    return _product(times, x, y)


@_program("conv_general_dilated")
def conv_general_dilated(x: Pair, y: Pair, *, preferred_element_type: Any, **how: Any) -> Pair:
    return _product(functools.partial(lax.conv_general_dilated, **how), x, y)


@_program("cumprod")
def cumprod(x: Pair, *, axis: int, reverse: bool) -> Pair:
    found: Pair = lax.associative_scan(mul, x, reverse=reverse, axis=axis)
    return found


@_program("reduce_prod")
def reduce_prod(x: Pair, *, axes: Any) -> Pair:
    for axis in sorted(axes, reverse=True):
        running = cumprod(x, axis=axis, reverse=False)
        x = Pair(*(lax.index_in_dim(part, -1, axis, keepdims=False) for part in running))
    return x


@_program("sort")
def sort(*operands: Any, dimension: int, is_stable: bool, num_keys: int) -> list[Any]:
    """By the real parts, and the imaginary ones where these are equal."""
    keys = sum(2 if isinstance(v, Pair) else 1 for v in operands[:num_keys])
    flat, tree = jax.tree_util.tree_flatten(list(operands))
    found = lax.sort(flat, dimension=dimension, is_stable=is_stable, num_keys=keys)
    result: list[Any] = jax.tree_util.tree_unflatten(tree, found)
    return result


# --- functions of one number ----------------------------------------------------------------------


@_program("exp")
def exp(x: Pair) -> Pair:
    grown = jnp.exp(x.real)
    zero = x.imag == 0  # 0 times infinity is no zero
    return Pair(grown * jnp.cos(x.imag), jnp.where(zero, x.imag, grown * jnp.sin(x.imag)))


@_program("exp2")
def exp2(x: Pair) -> Pair:
    return exp(Pair(x.real * np.log(2), x.imag * np.log(2)))


@_program("expm1")
def expm1(x: Pair) -> Pair:
    """exp(x) cos y - 1 is (exp(x) - 1) cos y - 2 sin(y / 2)^2, which keeps its digits near 0."""
    less = jnp.expm1(x.real)
    return Pair(
        less * jnp.cos(x.imag) - 2 * jnp.sin(x.imag / 2) ** 2, jnp.exp(x.real) * jnp.sin(x.imag)
    )


@_program("log")
def log(x: Pair) -> Pair:
    return Pair(jnp.log(absolute(x)), jnp.arctan2(x.imag, x.real))


@_program("log1p")
def log1p(x: Pair) -> Pair:
    more = Pair(x.real + 1, x.imag)
    excess = x.real * (2 + x.real) + x.imag * x.imag
    near = jnp.log1p(excess) / 2
    small = jnp.abs(excess) < 0.5
    length = jnp.where(small, near, jnp.log(absolute(more)))
    return Pair(length, jnp.arctan2(more.imag, more.real))


@_program("logistic")
def logistic(x: Pair) -> Pair:
    return div(_one(x), _sum(_one(x), exp(Pair(-x.real, -x.imag))))


@_program("sqrt")
def sqrt(x: Pair) -> Pair:
    root = jnp.sqrt((absolute(x) + jnp.abs(x.real)) / 2)
    other = jnp.where(root == 0, 0, jnp.abs(x.imag) / (2 * jnp.where(root == 0, 1, root)))
    right = x.real >= 0
    return Pair(jnp.where(right, root, other), jnp.copysign(jnp.where(right, other, root), x.imag))


@_program("rsqrt")
def rsqrt(x: Pair) -> Pair:
    return div(_one(x), sqrt(x))


@_program("pow")
def pow_(x: Pair, y: Any) -> Pair:
    exponent = y if isinstance(y, Pair) else Pair(y, jnp.zeros_like(y))
    found = exp(mul(exponent, log(x)))
    zero, nothing = absolute(x) == 0, absolute(exponent) == 0
    at_zero = jnp.where(nothing, 1, 0).astype(found.real.dtype)
    return Pair(jnp.where(zero, at_zero, found.real), jnp.where(zero, 0, found.imag))


@_program("sinh")
def sinh(x: Pair) -> Pair:
    return Pair(jnp.sinh(x.real) * jnp.cos(x.imag), jnp.cosh(x.real) * jnp.sin(x.imag))


@_program("cosh")
def cosh(x: Pair) -> Pair:
    return Pair(jnp.cosh(x.real) * jnp.cos(x.imag), jnp.sinh(x.real) * jnp.sin(x.imag))


@_program("tanh")
def tanh(x: Pair) -> Pair:
    t, c, s = jnp.tanh(x.real), jnp.cos(x.imag), jnp.sin(x.imag)
    below = c * c + (t * s) ** 2
    return Pair(t / below, s * c * (1 - t) * (1 + t) / below)


def _turned(function: Callable[[Pair], Pair], x: Pair) -> Pair:
    """-i f(i x): of a hyperbolic function the circular one."""
    found = function(Pair(-x.imag, x.real))
    return Pair(found.imag, -found.real)


@_program("sin")
def sin(x: Pair) -> Pair:
    return _turned(sinh, x)


@_program("cos")
def cos(x: Pair) -> Pair:
    return cosh(Pair(-x.imag, x.real))


@_program("tan")
def tan(x: Pair) -> Pair:
    return _turned(tanh, x)


# --- their inverses, after Kahan's "Branch cuts for complex elementary functions" -----------------


def _roots(x: Pair) -> tuple[Pair, Pair]:
    """The square roots of 1 - x and 1 + x."""
    return sqrt(_sum(_one(x), x, -1)), sqrt(_sum(_one(x), x))


@_program("asin")
def asin(x: Pair) -> Pair:
    less, more = _roots(x)
    above = mul(Pair(less.real, -less.imag), more).imag
    return Pair(jnp.arctan2(x.real, mul(less, more).real), jnp.arcsinh(above))


@_program("acos")
def acos(x: Pair) -> Pair:
    less, more = _roots(x)
    above = mul(Pair(more.real, -more.imag), less).imag
    return Pair(2 * jnp.arctan2(less.real, more.real), jnp.arcsinh(above))


@_program("acosh")
def acosh(x: Pair) -> Pair:
    less, more = sqrt(_sum(x, _one(x), -1)), sqrt(_sum(x, _one(x)))
    length = mul(Pair(less.real, -less.imag), more).real
    return Pair(jnp.arcsinh(length), 2 * jnp.arctan2(less.imag, more.real))


@_program("asinh")
def asinh(x: Pair) -> Pair:
    return _turned(asin, x)


@_program("atanh")
def atanh(x: Pair) -> Pair:
    found = _sum(log1p(x), log1p(Pair(-x.real, -x.imag)), -1)
    return Pair(found.real / 2, found.imag / 2)


@_program("atan")
def atan(x: Pair) -> Pair:
    return _turned(atanh, x)
