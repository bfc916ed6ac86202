"""Complex numbers and Fourier transforms of adapters, as pairs of real values.

Note [Complex values]: neither ONNX operators nor kernels have complex elements. While a graph is
written a complex tensor is a `Complex`, two real values of the same shape. What only moves elements
is done to both parts with the ordinary handler; what computes has a handler of its own. Where such
a tensor crosses the edge of a graph, or of a body of control flow, its parts are *joined*: one real
tensor with a last axis of two, which is also how frameworks lay complex numbers out in memory.
"""

from __future__ import annotations

from typing import NamedTuple

import onnx_ir as ir
import sympy

from zenith.ir.builder import GraphBuilder
from zenith.ir.dims import Dim, exactly

__all__ = ["Complex", "joined", "separate", "signal_of", "transformed"]


class Complex(NamedTuple):
    """A complex tensor; see Note [Complex values]."""

    real: ir.Value
    imag: ir.Value


def joined(b: GraphBuilder, value: Complex) -> ir.Value:
    """One real tensor with both parts along a new last axis."""
    rank = b.rank_of(value.real)
    return b.concat([b.unsqueeze(part, rank) for part in value], rank)


def separate(b: GraphBuilder, value: ir.Value) -> Complex:
    """What `joined` took together."""
    last = b.rank_of(value) - 1
    parts = (b.squeeze(b.slice(value, last, i, i + 1), last) for i in (0, 1))
    return Complex(*parts)


def transformed(
    b: GraphBuilder, value: ir.Value, axis: int, inverse: bool, onesided: bool = False
) -> ir.Value:
    """The spectrum along one axis of joined parts, or of real numbers with a last axis of one.

    An inverse transform is divided by the size of the axis. `onesided` leaves out the half that is
    the other one mirrored.
    """
    shape = [*b.shape_of(value)[:-1], 2]
    if onesided:
        shape[axis] = exactly(sympy.floor(sympy.sympify(shape[axis]) / 2) + 1)
    place = b.number(axis, ir.DataType.INT64)
    how = {"inverse": int(inverse), "onesided": int(onesided)}
    return b.op("DFT", value, None, place, shape=shape, **how)


def signal_of(b: GraphBuilder, half: Complex, axis: int, size: Dim) -> ir.Value:
    """The real signal of `size` elements whose spectrum's first half along `axis` is `half`."""
    there = exactly(sympy.floor(sympy.sympify(size) / 2) + 1)
    beyond = exactly(size - there)
    half = Complex(*(b.slice(part, axis, 0, there) for part in half))
    mirror = [b.flip(b.slice(part, axis, 1, exactly(1 + beyond)), [axis]) for part in half]
    whole = Complex(
        b.concat([half.real, mirror[0]], axis),
        b.concat([half.imag, b.op("Neg", mirror[1])], axis),
    )
    return separate(b, transformed(b, joined(b, whole), axis, inverse=True)).real
