"""Random numbers: JAX's own algorithms over `zenith.ThreeFry2x32`, so bits are the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import onnx_ir as ir

from zenith.ir.dims import exactly, product
from zenith_jax.builder import Builder, NotSupportedError
from zenith_jax.dtypes import described, physical
from zenith_jax.lower.bits import convert
from zenith_jax.lower.registry import lower

__all__: list[str] = []

UINT32, UINT64 = ir.DataType.UINT32, ir.DataType.UINT64


def _by_jax(name: str, function: Callable[..., Any]) -> None:
    """A primitive of keys in terms of the simpler ones that JAX itself writes for its algorithm.

    function: (key algorithm, key or seed, another operand or none, parameters) -> array.
    """

    @lower(name, writes="zenith.ThreeFry2x32 and integer operators")
    def handler(b: Builder, *values: ir.Value, **params: Any) -> ir.Value:
        avals = b.in_avals
        algorithm = params.pop("impl", None) or avals[0].dtype._impl
        mapped = _over_all_keys(lambda *v: function(algorithm, *v, **params), avals)
        b.in_avals = [described(s, d) for d, s in (physical(a) for a in avals)]
        return b.program(mapped, values)[0]


def _over_all_keys(function: Callable[..., Any], avals: list[Any]) -> Callable[..., Any]:
    """The rules are for one key; arrays of them are mapped over, first axis outermost."""
    rank = max(a.ndim for a in avals)
    if any(a.ndim not in (0, rank) for a in avals):
        raise NotSupportedError("of keys and numbers of different rank")
    axes = tuple(0 if a.ndim else None for a in avals)
    for _ in range(rank):
        function = jax.vmap(function, in_axes=axes)
    return function


_by_jax("random_seed", lambda algorithm, seed: algorithm.seed(seed))
_by_jax("random_split", lambda algorithm, key, shape: algorithm.split(key, shape))
_by_jax("random_fold_in", lambda algorithm, key, data: algorithm.fold_in(key, data))
_by_jax(
    "random_bits",
    lambda algorithm, key, bit_width, shape: algorithm.random_bits(key, bit_width, shape),
)


@lower("random_wrap", "random_unwrap", "random_clone", writes="nothing: a key is its data")
def same_key(b: Builder, key: ir.Value, *, impl: Any = None) -> ir.Value:
    return key


@lower("threefry2x32", writes="zenith.ThreeFry2x32")
def threefry2x32(
    b: Builder, k0: ir.Value, k1: ir.Value, x0: ir.Value, x1: ir.Value
) -> list[ir.Value]:
    shape = b.out_shape
    x0, x1 = b.expand(x0, shape), b.expand(x1, shape)
    keys = [b.reshape(k, []) if all(d == 1 for d in b.shape_of(k)) else k for k in (k0, k1)]
    results = [(UINT32, shape), (UINT32, shape)]
    return b.ops("ThreeFry2x32", *keys, x0, x1, results=results, domain="zenith")


@lower("iota_2x32_shape", writes="Range, Reshape")
def iota_2x32_shape(b: Builder, *, shape: Any) -> list[ir.Value]:
    """The high and low halves of each element's place."""
    target = b.out_shape
    count = exactly(product(target))
    if isinstance(count, int):
        places = np.arange(count, dtype=np.uint64).reshape(target)
        halves = ((places >> np.uint64(32)).astype(np.uint32), places.astype(np.uint32))
        return [b.constant(half, "counter") for half in halves]
    wide = convert(b, b.range_of(count, ir.DataType.INT64), UINT64)
    high = b.op("BitShift", wide, b.number(32, UINT64), direction="RIGHT")
    return [b.reshape(convert(b, half, UINT32), target) for half in (high, wide)]
