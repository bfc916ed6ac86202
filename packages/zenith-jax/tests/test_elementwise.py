"""Every elementwise primitive against JAX, on the values where functions differ."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from jax import lax
from jax_oracle import arrays, check, integers

import zenith_jax

SPECIAL = np.array(
    [0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 1.5, 2.5, -2.5, 1e-5, -1e-5, 30.0, -30.0, np.inf, -np.inf,
     np.nan, 0.4999999, 1e-20],
    np.float32,
)  # fmt: skip
UNIT = np.linspace(-0.99, 0.99, 24, dtype=np.float32)
POSITIVE = np.array([0.0, 1e-20, 1e-3, 0.5, 1.0, 2.0, 7.5, 1e6, np.inf, np.nan], np.float32)

UNARY: dict[str, tuple[Any, np.ndarray[Any, Any]]] = {
    "abs": (lax.abs, SPECIAL),
    "acos": (lax.acos, UNIT),
    "acosh": (lax.acosh, POSITIVE + 1),
    "asin": (lax.asin, UNIT),
    "asinh": (lax.asinh, SPECIAL),
    "atan": (lax.atan, SPECIAL),
    "atanh": (lax.atanh, UNIT),
    "cbrt": (lax.cbrt, SPECIAL),
    "ceil": (lax.ceil, SPECIAL),
    "cos": (lax.cos, SPECIAL[:13]),
    "cosh": (lax.cosh, SPECIAL),
    "digamma": (lax.digamma, np.array([0.3, 1.0, 2.5, 10.0, -0.5, -1.7, 100.0], np.float32)),
    "erf": (lax.erf, SPECIAL),
    "erf_inv": (lax.erf_inv, np.concatenate([UNIT, [0.9999, -0.99999, 1, -1]]).astype("f4")),
    "erfc": (lax.erfc, np.concatenate([SPECIAL, [3.0, 5.0, 8.0, 9.0]]).astype("f4")),
    "exp": (lax.exp, SPECIAL),
    "exp2": (lax.exp2, SPECIAL),
    "expm1": (lax.expm1, SPECIAL),
    "floor": (lax.floor, SPECIAL),
    "is_finite": (lax.is_finite, SPECIAL),
    "lgamma": (lax.lgamma, np.array([0.3, 1.0, 2.0, 2.5, 10.0, -0.5, -1.7, 100.0, 0.0], "f4")),
    "log": (lax.log, POSITIVE),
    "log1p": (lax.log1p, np.concatenate([POSITIVE, UNIT, [-1.0]]).astype("f4")),
    "logistic": (lax.logistic, SPECIAL),
    "neg": (lax.neg, SPECIAL),
    "round_away": (lambda x: lax.round(x, lax.RoundingMethod.AWAY_FROM_ZERO), SPECIAL),
    "round_even": (lambda x: lax.round(x, lax.RoundingMethod.TO_NEAREST_EVEN), SPECIAL),
    "rsqrt": (lax.rsqrt, POSITIVE),
    "sign": (lax.sign, SPECIAL),
    "sin": (lax.sin, SPECIAL[:13]),
    "sinh": (lax.sinh, SPECIAL),
    "sqrt": (lax.sqrt, POSITIVE),
    "square": (lax.square, SPECIAL),
    "tan": (lax.tan, UNIT),
    "tanh": (lax.tanh, SPECIAL),
    "cube": (lambda x: x**3, SPECIAL),
    "inverse square": (lambda x: x**-2, POSITIVE),
    "seventh power": (lambda x: x**7, SPECIAL),
    "zeroth power": (lambda x: lax.integer_pow(x, 0), SPECIAL),
    "reduce_precision": (lambda x: lax.reduce_precision(x, 8, 7), SPECIAL),
    "to float16": (lambda x: x.astype(jnp.float16), UNIT),
    "to bfloat16": (lambda x: x.astype(jnp.bfloat16), SPECIAL),
    "to int": (lambda x: x.astype(jnp.int32), UNIT * 100),
    "to bool": (lambda x: x.astype(bool), SPECIAL),
    "bits": (lambda x: lax.bitcast_convert_type(x, jnp.uint32), SPECIAL[:15]),
    "bits in parts": (
        lambda x: lax.bitcast_convert_type(x, jnp.int16),
        SPECIAL[:15],
    ),
    "bits of parts": (
        lambda x: lax.bitcast_convert_type(lax.bitcast_convert_type(x, jnp.uint8), jnp.uint32),
        SPECIAL[:15],
    ),
    "gelu": (lambda x: jax.nn.gelu(x, approximate=False), SPECIAL[:13]),
    "gelu tanh": (lambda x: jax.nn.gelu(x), SPECIAL[:13]),
    "softplus": (jax.nn.softplus, SPECIAL),
    "silu": (jax.nn.silu, SPECIAL[:13]),
    "elu": (jax.nn.elu, SPECIAL),
    "selu": (jax.nn.selu, SPECIAL),
    "relu6": (jax.nn.relu6, SPECIAL),
    "hard_swish": (jax.nn.hard_swish, SPECIAL[:13]),
    "log_sigmoid": (jax.nn.log_sigmoid, SPECIAL[:13]),
}


@pytest.mark.parametrize("name", UNARY)
def test_unary(name: str) -> None:
    function, values = UNARY[name]
    check(function, jnp.asarray(values))


BINARY: dict[str, Any] = {
    "add": lax.add,
    "atan2": lax.atan2,
    "div": lax.div,
    "eq": lax.eq,
    "ge": lax.ge,
    "gt": lax.gt,
    "le": lax.le,
    "lt": lax.lt,
    "max": lax.max,
    "min": lax.min,
    "mul": lax.mul,
    "ne": lax.ne,
    "nextafter": lax.nextafter,
    "pow": lax.pow,
    "rem": lax.rem,
    "sub": lax.sub,
    "logaddexp": jnp.logaddexp,
}


@pytest.mark.parametrize("name", BINARY)
def test_binary(name: str) -> None:
    values = SPECIAL[:16]
    x, y = np.meshgrid(values, values)
    if name == "rem":  # what is left of huge quotients is not the point
        x, y = np.meshgrid(values[:13], values[2:13])
    check(BINARY[name], jnp.asarray(x), jnp.asarray(y))


INTEGER: dict[str, Any] = {
    "add": lax.add,
    "and": lax.bitwise_and,
    "clamp": lambda x, y: lax.clamp(jnp.asarray(2, x.dtype), x, y),
    "div": lax.div,
    "eq": lax.eq,
    "floor_divide": jnp.floor_divide,
    "lt": lax.lt,
    "max": lax.max,
    "min": lax.min,
    "mod": jnp.mod,
    "mul": lax.mul,
    "ne": lax.ne,
    "not": lambda x, y: lax.bitwise_not(x),
    "or": lax.bitwise_or,
    "neg": lambda x, y: lax.neg(x),
    "sign": lambda x, y: lax.sign(x),
    "abs": lambda x, y: lax.abs(x),
    "rem": lax.rem,
    "select": lambda x, y: jnp.where(x > y, x, y),
    "shift_left": lambda x, y: lax.shift_left(x, y % 40),
    "shift_left 3": lambda x, y: lax.shift_left(x, jnp.asarray(3, x.dtype)),
    "shift_right_arithmetic": lambda x, y: lax.shift_right_arithmetic(x, y % 40),
    "shift_right_logical": lambda x, y: lax.shift_right_logical(x, y % 40),
    "sub": lax.sub,
    "xor": lax.bitwise_xor,
    "clz": lambda x, y: lax.clz(x),
    "population_count": lambda x, y: lax.population_count(x),
    "square": lambda x, y: x**2,
    "to float": lambda x, y: x.astype(jnp.float32),
    "to int8": lambda x, y: x.astype(jnp.int8),
    "to uint8": lambda x, y: x.astype(jnp.uint8),
    "to uint32": lambda x, y: x.astype(jnp.uint32),
}


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.int8, np.uint8, np.int16])
@pytest.mark.parametrize("name", INTEGER)
def test_integers(name: str, dtype: Any) -> None:
    unsigned = np.dtype(dtype).kind == "u"
    if name == "abs" and unsigned:
        pytest.skip("JAX has no abs of unsigned numbers")
    low = 0 if unsigned else -100
    x, y = integers((6, 9), low, 120, dtype), integers((6, 9), 1, 60, dtype)
    check(INTEGER[name], x, y)


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.int16])
def test_mulhi(dtype: Any) -> None:
    bounds = np.iinfo(dtype)
    x = jnp.asarray(np.array([bounds.max, bounds.min, 12345, 3], dtype))
    check(lax.mulhi, x, x[::-1])


def test_booleans() -> None:
    x, y = jnp.asarray([True, False, True, False]), jnp.asarray([True, True, False, False])
    for function in (lax.bitwise_and, lax.bitwise_or, lax.bitwise_xor, lax.eq, lax.ne, lax.max,
                     lax.min, lax.lt, lax.ge):  # fmt: skip
        check(function, x, y)
    check(lax.bitwise_not, x)
    check(lambda x, y: x.astype(jnp.float32) + y, x, y)


def test_numbers_mix_with_arrays() -> None:
    (x,) = arrays((3, 4))
    check(lambda x: 2 * x + 1 - x / 3, x)
    check(lambda x: jnp.maximum(x, 0.1) ** 0.5, x)
    check(lambda x, s: x * s, x, 2.5)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half(dtype: Any) -> None:
    (x,) = arrays((5, 7))
    x = x.astype(dtype)
    tolerance = 2e-2 if dtype == jnp.bfloat16 else 3e-3
    check(lambda x: jnp.tanh(x) * 2 + jnp.exp(x), x, rtol=tolerance, atol=tolerance)


def test_float64() -> None:
    with jax.enable_x64(True):
        x = jnp.asarray(np.linspace(-3, 3, 31))
        check(lambda x: jnp.exp(x) * jnp.tanh(x) + lax.expm1(x), x, rtol=1e-13)
        check(lax.erfc, x * 2, rtol=1e-11)
        check(lax.erf_inv, x / 3.5, rtol=1e-12)
        check(lax.lgamma, x + 4, rtol=1e-12)
        check(lambda x: x.astype(jnp.int64) * 2**40, x)


def test_results_are_float64_outside_of_x64() -> None:
    import zenith

    with jax.enable_x64(True):
        x = jnp.asarray(np.linspace(-3, 3, 5))
        compiled = zenith.compile(lambda x: x + 1e-12, sample_input=(x,))
    result = compiled(x)
    assert result.dtype == jnp.float64
    np.testing.assert_array_equal(np.asarray(result), np.asarray(x) + 1e-12)


def test_selection() -> None:
    x, y, z = arrays((3, 4), (3, 4), (3, 4))
    which = integers((3, 4), 0, 3)
    check(lambda w, x, y, z: lax.select_n(w, x, y, z), which, x, y, z)
    check(lambda c, x, y: jnp.where(c[:, :1] > 1, x, y), which, x, y)
    check(lambda x, y: lax.select(True, x, y), x, y)
    check(lambda x: jnp.clip(x, -0.5, 0.5), x)


def test_functions_of_statistics_and_physics() -> None:
    """One compile for all: each is a loop or a long series."""
    x, y = (jnp.abs(v) * 2 + 0.1 for v in arrays((6,), (6,)))
    part = jnp.array([0.0, 0.1, 0.4, 0.9, 0.999, 1.0], jnp.float32)
    wide = jnp.array([-40.0, -3.0, 0.0, 7.9, 8.1, 1e30], jnp.float32)

    def function(x: Any, y: Any, part: Any, wide: Any) -> Any:
        special = jax.scipy.special
        return (
            (lax.bessel_i0e(wide), lax.bessel_i1e(wide), lax.igamma(x, y), lax.igammac(x, y)),
            (special.betainc(x, y, part), special.zeta(x + 1, y), lax.polygamma(part * 0 + 2, y)),
        )

    check(function, x, y, part, wide, jit=True)


def test_bessel_keeps_its_digits_near_zero() -> None:
    x = np.array([1e-6, -1e-4, 1e-3, -0.02, 0.3, 2.0], np.float32)
    got = np.asarray(zenith_jax.compile(lax.bessel_i1e, sample_input=(x,))(x))
    np.testing.assert_allclose(got, scipy.special.i1e(x.astype(np.float64)), rtol=1e-6)


def test_reductions_over_an_axis_that_vmap_names() -> None:
    def function(v: Any) -> Any:
        return v - lax.pmean(v, "batch"), lax.pmax(v, "batch")

    check(jax.vmap(function, axis_name="batch"), arrays((3, 4))[0])
