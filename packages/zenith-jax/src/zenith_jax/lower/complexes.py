"""Complex numbers, as pairs: see Note [Complex values] of the core.

What moves elements, or is linear in them, is the ordinary handler on each part. What computes is a
program of JAX on the parts, which is traced and lowered like any other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import onnx_ir as ir

from zenith.ir.complexes import Complex, joined, separate, signal_of, transformed
from zenith_jax.builder import Builder, NotSupportedError
from zenith_jax.dims import size
from zenith_jax.lower.bits import same
from zenith_jax.lower.complex_programs import PROGRAMS, Pair
from zenith_jax.lower.registry import HANDLERS, Handler, lower

__all__ = ["complex_handler"]

_BY_PART = frozenset(
    (
        *("add", "add_any", "broadcast_in_dim", "broadcast_to", "concatenate", "cumsum"),
        *("dynamic_slice", "dynamic_update_slice", "expand_dims", "gather", "neg", "pad"),
        *("reduce_precision", "reduce_sum", "reduce_window_sum", "reshape", "rev", "scatter"),
        *("scatter-add", "scatter-sub", "select_n", "slice", "split", "squeeze", "stack", "sub"),
        *("tile", "transpose", "unstack"),
    )
)
_IN_BODIES = frozenset(("cond", "scan", "while"))


def complex_handler(name: str) -> Handler | None:
    """The handler of a primitive some of whose operands or results are complex."""
    if name in PROGRAMS:
        return _by_program(PROGRAMS[name])
    if name in _BY_PART:
        return _by_part(HANDLERS[name])
    if name in _IN_BODIES:
        return _with_joined(HANDLERS[name])
    if HANDLERS.get(name) is same:
        return same
    return fft if name == "fft" else None


def _by_part(handler: Handler) -> Handler:
    @functools.wraps(handler)
    def both(b: Builder, *values: Any, **params: Any) -> Any:
        def side(i: int) -> Any:
            found = handler(b, *(v[i] if isinstance(v, Complex) else v for v in values), **params)
            return list(found) if isinstance(found, list | tuple) else [found]

        return [Complex(*parts) for parts in zip(side(0), side(1), strict=True)]

    return both


def _by_program(function: Callable[..., Any]) -> Handler:
    @functools.wraps(function)
    def handler(b: Builder, *values: Any, **params: Any) -> Any:
        parts, shapes = [], []
        for value, aval in zip(values, b.in_avals, strict=True):
            here = list(value) if isinstance(value, Complex) else [value]
            parts += here
            shapes += [aval] * len(here)
        forms: list[bool] = []

        def flat(*arrays: Any) -> list[Any]:
            rest = iter(arrays)
            given = [
                Pair(next(rest), next(rest)) if isinstance(v, Complex) else next(rest)
                for v in values
            ]
            result = function(*given, **params)
            results = result if isinstance(result, list) else [result]
            forms.extend(isinstance(r, Pair) for r in results)
            return [part for r in results for part in (r if isinstance(r, Pair) else [r])]

        b.in_avals, wanted = shapes, b.out_shapes
        found = iter(b.program(flat, parts))
        # a part that comes from a number of rank 0 is still one
        return [
            Complex(b.expand(next(found), shape), b.expand(next(found), shape))
            if pair
            else b.expand(next(found), shape)
            for pair, shape in zip(forms, wanted, strict=True)
        ]

    return handler


def _with_joined(handler: Handler) -> Handler:
    @functools.wraps(handler)
    def whole(b: Builder, *values: Any, **params: Any) -> Any:
        return handler(b, *(b.whole(v) for v in values), **params)

    return whole


# --- Fourier transforms ---------------------------------------------------------------------------


def fft(b: Builder, x: Any, *, fft_type: Any, fft_lengths: Any) -> Any:
    """Over the last axes; JAX divides an inverse by the sizes, as the operator does."""
    lengths = [size(n) for n in fft_lengths]
    shape = b.shape_of(x.real if isinstance(x, Complex) else x)
    axes = list(range(len(shape) - len(lengths), len(shape)))
    kind = fft_type.name
    if kind == "RFFT":
        value = b.unsqueeze(x, len(shape))
        for axis in reversed(axes):
            value = transformed(b, value, axis, inverse=False, onesided=axis == axes[-1])
        return separate(b, value)
    value = joined(b, x)
    inner = axes[:-1] if kind == "IRFFT" else axes
    for axis in inner:
        value = transformed(b, value, axis, inverse=kind != "FFT")
    if kind == "IRFFT":
        return signal_of(b, separate(b, value), axes[-1], lengths[-1])
    return separate(b, value)


@lower("complex", "conj", "imag", "real", writes="nothing: parts are values of their own")
@lower("fft", writes="DFT")
def only_complex(b: Builder, *_: Any, **__: Any) -> ir.Value:
    """Their operands or results are complex, which leads to those above."""
    raise NotSupportedError("of real numbers")
