"""Complex numbers and Fourier transforms against JAX."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax_oracle import arrays, check, compare, compiled_ops

import zenith
from zenith.errors import UnsupportedOperationError, ValidationError

_HARD = [0.0, 1.0, -1.0, 1e-4, -1e-4, 3.0, -20.0, 20.0, 0.5]


def _numbers(*shape: int, seed: int = 0) -> Any:
    real, imag = arrays(shape, shape, seed=seed)
    return lax.complex(real, imag)


def _plane() -> Any:
    """Numbers of all quadrants, on the axes and near 0."""
    real, imag = np.meshgrid(_HARD, _HARD)
    return jnp.asarray((real + 1j * imag).astype(np.complex64))


def test_arithmetic() -> None:
    def function(x: Any, y: Any) -> Any:
        z = x * jnp.conj(y) + 2j * x - 1 / y
        return z, x**3, x**-2, x**y, jnp.abs(z), jnp.sign(x), x == y, x != x, jnp.isfinite(z / 0)

    check(function, _numbers(4, 5), _numbers(4, 5, seed=1), jit=True)


def test_functions() -> None:
    """Against numpy in double precision: JAX's own have other errors in places."""
    of_small = ["exp", "expm1", "sin", "cos", "tan", "sinh", "cosh", "tanh"]
    names = [*of_small, "log", "log1p", "sqrt", "arcsin", "arccos", "arctan", "arcsinh", "arccosh",
             "arctanh"]  # fmt: skip
    given = {n: _plane() * jnp.float32(0.3 if n in of_small else 1) for n in names}

    def function(given: Any) -> Any:
        return {name: getattr(jnp, name)(x) for name, x in given.items()}

    found = zenith.compile(function, sample_input=(given,), fallback="error")(given)
    theirs = function(given)
    for name, x in given.items():
        with np.errstate(all="ignore"):
            wanted = getattr(np, name)(np.asarray(x, np.complex128))
            fine = np.abs(wanted - theirs[name]) < 1e-3  # on a cut the sign of a zero decides
        assert fine.sum() > 60
        np.testing.assert_allclose(
            np.asarray(found[name])[fine], wanted[fine], rtol=3e-5, atol=3e-6, err_msg=name
        )


def test_what_moves_them() -> None:
    def function(x: Any, i: Any) -> Any:
        y = jnp.concatenate([x, jnp.pad(x, ((0, 0), (1, 1)))], 1).T[::-1]
        y = y.at[1:3].add(2j).at[i].set(0)
        best = jnp.where(y.real > 0, y, jnp.conj(y))
        return y[i], best.reshape(-1), y.sum(0), jnp.cumsum(y, 1), jnp.prod(x), jnp.sort(x, 1)

    check(function, _numbers(3, 4), jnp.asarray([5, 0]), jit=True)


def test_products() -> None:
    def function(x: Any, y: Any, image: Any, kernel: Any) -> Any:
        folded = lax.conv(image, kernel, (1, 1), "SAME")
        return jnp.einsum("bij,bjk->bki", x, y), x[0] @ y[0], folded

    check(function, _numbers(2, 3, 4), _numbers(2, 4, 5), _numbers(1, 2, 5, 5),
          _numbers(3, 2, 3, 3), jit=True)  # fmt: skip


@pytest.mark.parametrize("size", [8, 7])
def test_fourier_transforms(size: int) -> None:
    def function(x: Any, z: Any) -> Any:
        f = jnp.fft
        half = f.rfft2(x)
        whole = f.fftn(z), f.ifft(z, axis=1), f.fft2(x), half, f.rfft(x, axis=0, norm="ortho")
        back = f.irfft2(half, s=x.shape[-2:]), f.irfft(z, n=size), f.ifftshift(f.fftshift(z))
        return *whole, *back, f.fft(x, n=2 * size), f.hfft(z)

    x, z = arrays((2, 5, size))[0], _numbers(2, 5, size)
    compiled = check(function, x, z, atol=2e-5, jit=True)
    assert "DFT" in compiled_ops(compiled)


def test_a_size_that_is_free() -> None:
    def function(x: Any) -> Any:
        spectrum = jnp.fft.fft(x, axis=1) * (1 + 2j)
        return jnp.fft.ifft(spectrum, axis=1).imag, spectrum[0]

    compiled = zenith.compile(function, sample_input=tuple(arrays((2, 6))), dynamic={0: {0: "n"}})
    for rows in (1, 3):
        (x,) = arrays((rows, 6))
        compare(compiled(x), function(x), atol=1e-5)


def test_bodies_of_control_flow() -> None:
    decay = jnp.asarray([0.9 + 0.1j, 0.5 - 0.5j], jnp.complex64)

    def function(x: Any) -> Any:
        def step(state: Any, u: Any) -> Any:
            state = decay * state + u
            return state, (state.real, state)

        last, outs = lax.scan(step, jnp.zeros(2, jnp.complex64), x)
        grown = lax.while_loop(lambda v: jnp.abs(v).sum() < 9, lambda v: v * (1 + 1j), last)
        each = jax.vmap(lambda v: lax.while_loop(lambda v: v.real < 3, lambda v: v * 2 + 1, v))
        chosen = lax.cond(x.real.sum() > 0, lambda v: v * 2j, jnp.conj, last)
        return outs, grown, each(x[0]), chosen

    check(function, _numbers(6, 2), jit=True)


def test_gradients_go_through_them() -> None:
    weight = _numbers(5, 3) * 0.2

    def loss(w: Any, x: Any) -> Any:
        return jnp.sum(jnp.abs(jnp.fft.rfft(jnp.tanh(x), axis=-1) @ w) ** 2)

    check(jax.grad(loss), weight, arrays((2, 8))[0], jit=True, atol=1e-5)
    check((jax.grad(loss, argnums=1)), weight, arrays((2, 8))[0], jit=True, atol=1e-5)


def test_edges_and_constants() -> None:
    weight = np.asarray(_numbers(3, 3))
    function = lambda z, t: {"y": z @ weight, "t": z * t}  # noqa: E731
    z = _numbers(2, 3)
    compiled = check(function, z, 2j)
    compare(compiled(np.asarray(z), 1.5), function(z, jnp.complex64(1.5)))
    with pytest.raises(ValidationError, match="complex64"):
        compiled(z.real, 2j)
    with pytest.raises(ValidationError, match="is the number"):
        zenith.compile(jnp.sin, sample_input=(1.0,))(1j)
    traced = jax.jit(lambda z: compiled(z + 1, jnp.complex64(3j))["t"].imag)
    compare(traced(z), ((z + 1) * 3j).imag)
    with jax.enable_x64(True):
        wide = z.astype(jnp.complex128)
        compare(zenith.compile(jnp.cos, sample_input=(wide,))(wide), jnp.cos(wide), rtol=1e-12)


def test_what_has_no_form_is_named() -> None:
    with pytest.raises(UnsupportedOperationError, match="cholesky .*complex numbers"):
        zenith.compile(jnp.linalg.cholesky, sample_input=(_numbers(3, 3),))
