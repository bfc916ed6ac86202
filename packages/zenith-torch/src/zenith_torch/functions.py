"""Functions of statistics and physics, as programs of simpler operators of PyTorch.

The rules of `FUNCTIONS` join PyTorch's own decompositions. What a program calls has a handler, or
is taken apart further. Sums run in single or double precision, as PyTorch's kernels do.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch._decomp import decompositions

__all__ = ["FUNCTIONS"]

Tensor = torch.Tensor
rules: Any = decompositions  # without types
ops: Any = torch.ops.aten

FUNCTIONS: dict[Any, Callable[..., Any]] = {}


def _program(*operators: Any, wide: bool = True) -> Callable[[Any], Any]:
    """Register a program; `wide` ones compute in single precision at least."""

    def register(function: Any) -> Any:
        program = rules.pw_cast_for_int_to_real(function) if wide else function
        FUNCTIONS.update(dict.fromkeys(operators, program))
        return function

    return register


# --- Bessel functions -----------------------------------------------------------------------------


def _scaled_bessel(order: int, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """e^-x I(x) / x^order: the power series up to 40, the asymptotic one beyond."""
    near, beyond = np.minimum(x, 40), np.maximum(x, 40)
    term = np.full_like(x, 0.5**order)
    series, far_term = term.copy(), np.ones_like(x)
    far = far_term.copy()
    for k in range(1, 120):
        term = term * (near / 2) ** 2 / (k * (k + order))
        series += term
    for k in range(1, 20):
        far_term = far_term * ((2 * k - 1) ** 2 - 4 * order**2) / (8 * k * beyond)
        far += far_term
    beyond_40 = far / np.sqrt(2 * np.pi * beyond) / beyond**order
    scaled: np.ndarray[Any, Any] = np.where(x <= 40, np.exp(-near) * series, beyond_40)
    return scaled


@functools.cache
def _fits(order: int) -> tuple[list[float], list[float]]:
    """Chebyshev coefficients of e^-x I(x) / x^order up to 8; of e^-x I(x) sqrt(x), in 1 / x."""
    fit: Any = np.polynomial.chebyshev.chebinterpolate

    def beyond(t: np.ndarray[Any, Any]) -> Any:
        inverse = np.maximum((t + 1) / 16, 1e-12)
        return _scaled_bessel(order, 1 / inverse) / inverse ** (order + 0.5)

    near = fit(lambda t: _scaled_bessel(order, 4 * (t + 1)), 32)
    return near.tolist(), fit(beyond, 26).tolist()


def _chebyshev(coefficients: list[float], x: Tensor) -> Tensor:
    """Clenshaw's sum, of the terms that the type can see."""
    seen = [i for i, c in enumerate(coefficients) if abs(c) > torch.finfo(x.dtype).eps / 8]
    last = previous = torch.zeros_like(x)
    for coefficient in coefficients[seen[-1] : 0 : -1]:
        last, previous = 2 * x * last - previous + coefficient, last
    return x * last - previous + coefficients[0]


def _bessel(order: int, x: Tensor) -> Tensor:
    """e^-|x| I(x)."""
    near, beyond = _fits(order)
    size = x.abs()
    large = size.clamp(min=8)
    result = torch.where(
        size <= 8,
        _chebyshev(near, size.clamp(max=8) / 4 - 1) * size**order,
        _chebyshev(beyond, 16 / large - 1) * large.rsqrt(),
    )
    return torch.sign(x) * result if order == 1 else result


def _unscaled(order: int, x: Tensor) -> Tensor:
    # e^|x| alone is infinite before the product is.
    half = (x.abs() / 2).exp()
    return _bessel(order, x) * half * half


_program(ops.special_i0e.default)(functools.partial(_bessel, 0))
_program(ops.special_i1e.default)(functools.partial(_bessel, 1))
_program(ops.i0.default, ops.special_modified_bessel_i0.default)(functools.partial(_unscaled, 0))
_program(ops.special_i1.default, ops.special_modified_bessel_i1.default)(
    functools.partial(_unscaled, 1)
)


# --- polygamma ------------------------------------------------------------------------------------

_TERMS = 12
# B_2k / (2k)!
_BERNOULLI = (
    *(1 / 12, -1 / 720, 1 / 30240, -1 / 1209600, 1 / 47900160),
    *(-691 / 1307674368000, 1 / 74724249600),
)


def _zeta(s: int, q: Tensor) -> Tensor:
    """The sum of (q + k)^-s over all k >= 0, for positive q: Euler and Maclaurin's."""
    total = q**-s
    for k in range(1, _TERMS):
        total = total + (q + k) ** -s
    end = q + _TERMS
    power = end**-s
    total = total + power * end / (s - 1) + power / 2
    rising, power = s, power / end
    for k, coefficient in enumerate(_BERNOULLI):
        total = total + coefficient * rising * power
        rising *= (s + 2 * k + 1) * (s + 2 * k + 2)
        power = power / (end * end)
    return total


def _cotangent(n: int, x: Tensor) -> Tensor:
    """The n-th derivative of cot(pi x): a polynomial in it."""
    polynomial = np.polynomial.Polynomial([0.0, 1.0])
    for _ in range(n):
        polynomial = -math.pi * np.polynomial.Polynomial([1.0, 0.0, 1.0]) * polynomial.deriv()
    cot = 1 / torch.tan(math.pi * (x - x.round()))
    result = torch.zeros_like(x)
    for coefficient in polynomial.coef[::-1]:
        result = result * cot + float(coefficient)
    return result


@_program(ops.polygamma.default)
def _polygamma(n: int, x: Tensor) -> Tensor:
    """The n-th derivative of digamma."""
    if n == 0:
        return torch.digamma(x)
    sign = -1.0 if n % 2 == 0 else 1.0
    mirrored = torch.where(x < 0, 1 - x, x)
    there = sign * math.factorial(n) * _zeta(n + 1, mirrored)
    result = torch.where(x < 0, -sign * there - math.pi * _cotangent(n, x), there)
    return torch.where((x <= 0) & (x == x.floor()), sign * math.inf, result)


# --- of whole tensors -----------------------------------------------------------------------------


@_program(ops.dist.default, wide=False)
def _dist(x: Tensor, y: Tensor, p: float = 2) -> Tensor:
    """The norm of all differences."""
    distance: Tensor = torch.linalg.vector_norm(x - y, p)
    return distance


@_program(ops.nanmedian.default, wide=False)
def _nanmedian(x: Tensor) -> Tensor:
    """The lower one of two; a sort has NaN last."""
    ordered = x.flatten().sort()[0]
    count = torch.isnan(ordered).logical_not().sum()
    return ordered.gather(0, ((count - 1) // 2).clamp(min=0).reshape(1)).reshape(())


@_program(ops.masked_scatter_backward.default, wide=False)
def _masked_scatter_backward(grad: Tensor, mask: Tensor, sizes: list[Any]) -> Tensor:
    """The gradients of what was put where the mask is, in its order; zero for what was not."""
    count = math.prod(sizes)
    mask = mask.expand_as(grad).flatten()
    places = torch.where(mask, mask.cumsum(0) - 1, count)
    return grad.new_zeros(count + 1).scatter(0, places, grad.flatten())[:count].reshape(sizes)


def _frequencies(half: bool, n: Any, d: float = 1.0, **how: Any) -> Tensor:
    """Of a transform's results: k / (n d), with the upper half below zero."""
    how.setdefault("dtype", torch.get_default_dtype())
    count = n // 2 + 1 if half else n
    k = torch.arange(count, device=how.get("device"))
    turns = torch.where(k < (n + 1) // 2 + half, k, k - n).to(how["dtype"])
    frequencies: Tensor = turns / (n * d)
    return frequencies


_program(ops.fft_fftfreq.default, wide=False)(functools.partial(_frequencies, False))
_program(ops.fft_rfftfreq.default, wide=False)(functools.partial(_frequencies, True))


# --- bits -----------------------------------------------------------------------------------------

_INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16}


@_program(ops.nextafter.default, wide=False)
def _nextafter(x: Tensor, y: Tensor) -> Tensor:
    """The neighbour of x on the way to y: its bits, as a number, one up or down."""
    kind = _INTEGERS[x.dtype.itemsize]
    step = torch.where((y > x) == (x > 0), 1, -1).to(kind)
    smallest = torch.where(y > 0, 1, torch.iinfo(kind).min + 1).to(kind)
    moved = torch.where(x == 0, smallest, x.view(kind) + step).view(x.dtype)
    return torch.where(x.isnan() | y.isnan(), x + y, torch.where(x == y, y, moved))
