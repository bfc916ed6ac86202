"""Random numbers: bits of zenith.ThreeFry2x32 under the call's key, one stream for each operator.

Note [Random bits]: the key is a graph input of two uint32 that every call draws from PyTorch's own
generator: `torch.manual_seed` makes a run repeat itself, and the numbers are not eager's. Counters
are (number of the operator in the graph, number of the element).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from zenith.ir import DOMAIN
from zenith.ir.dims import Dim, product
from zenith_torch.builder import Builder, NotSupportedError
from zenith_torch.lower.create import filled
from zenith_torch.lower.elementwise import dropout
from zenith_torch.lower.registry import lower


def random_bits(b: Builder, shape: Sequence[Dim]) -> ir.Value:
    """Uniform uint32 of the given shape; see Note [Random bits]."""
    key = b.random_key()
    halves = [b.reshape(b.slice(key, 0, i, i + 1), ()) for i in (0, 1)]
    count = product(shape)
    zero, one = (b.number(n, torch.int64) for n in (0, 1))
    numbers = b.op("Range", zero, b.size_scalar(count), one, shape=(count,))
    low = b.cast(numbers, torch.uint32)
    high = b.expand(b.number(b.streams, torch.uint32), (count,))
    b.streams += 1
    results = [(torch.uint32, (count,))] * 2
    bits, _ = b.ops("ThreeFry2x32", *halves, high, low, results=results, domain=DOMAIN)
    return b.reshape(bits, tuple(shape))


def happens(b: Builder, chance: float, shape: Sequence[Dim]) -> ir.Value:
    """Booleans that are true with the given chance."""
    bound = round(chance * 2**32)
    if bound <= 0 or bound >= 2**32:
        return filled(b, bound > 0, shape, torch.bool)
    bits = random_bits(b, shape)
    return b.op("Less", bits, b.number(bound, torch.uint32), shape=tuple(shape), dtype=torch.bool)


@lower("aten.native_dropout.default")
def native_dropout(b: Builder, x: ir.Value, p: float, train: bool | None) -> list[ir.Value]:
    shape = b.shape_of(x)
    if not train or p == 0:
        return [dropout(b, x, p, False), filled(b, True, shape, torch.bool)]
    kept = happens(b, 1 - p, shape)
    scaled = b.op("Mul", x, b.number(1 / (1 - p) if p < 1 else 0.0, b.out_dtype))
    zero = b.number(0, b.out_dtype)
    return [b.op("Where", kept, scaled, zero, shape=shape, dtype=b.out_dtype), kept]


@lower("aten.rand.default", "aten.rand_like.default")
def rand(b: Builder, *_: Any, **__: Any) -> ir.Value:
    """Uniform in [0, 1): 24 bits, as many as a float32 has."""
    if b.out_dtype is torch.float64:
        raise NotSupportedError("random numbers of float64")
    shift = b.number(8, torch.uint32)
    high = b.op("BitShift", random_bits(b, b.out_shape), shift, direction="RIGHT")
    uniform = b.op("Mul", b.cast(high, torch.float32), b.number(2.0**-24, torch.float32))
    return b.cast(uniform, b.out_dtype)


@lower("aten.randn.default", "aten.randn_like.default")
def randn(b: Builder, *_: Any, **__: Any) -> ir.Value:
    """Standard normal, by Box and Muller's transform of two uniform numbers."""
    if b.out_dtype is torch.float64:
        raise NotSupportedError("random numbers of float64")
    radius, angle = (b.cast(random_bits(b, b.out_shape), torch.float32) for _ in range(2))
    half = b.number(0.5, torch.float32)  # never 0, whose logarithm is infinite
    inside = b.op("Mul", b.op("Add", radius, half), b.number(2.0**-32, torch.float32))
    least = b.op("Mul", b.op("Log", inside), b.number(-2, torch.float32))
    least = b.op("Sqrt", b.op("Max", least, b.number(0, torch.float32)))
    turn = b.op("Cos", b.op("Mul", angle, b.number(np.pi * 2.0**-31, torch.float32)))
    return b.cast(b.op("Mul", least, turn), b.out_dtype)


def _open_uniform(b: Builder, shape: Sequence[Dim]) -> ir.Value:
    """float32 strictly between 0 and 1, whose logarithms are finite: 23 bits and a half."""
    high = b.op("BitShift", random_bits(b, shape), b.number(9, torch.uint32), direction="RIGHT")
    middle = b.op("Add", b.cast(high, torch.float32), b.number(0.5, torch.float32))
    return b.op("Mul", middle, b.number(2.0**-23, torch.float32))


@lower("aten.uniform.default")
def uniform(b: Builder, x: ir.Value, low: float = 0.0, high: float = 1.0, **_: Any) -> ir.Value:
    wide = b.op("Mul", rand(b), b.number(high - low, b.out_dtype))
    return b.op("Add", wide, b.number(low, b.out_dtype))


@lower("aten.normal_functional.default")
def normal(b: Builder, x: ir.Value, mean: float = 0.0, std: float = 1.0, **_: Any) -> ir.Value:
    wide = b.op("Mul", randn(b), b.number(std, b.out_dtype))
    return b.op("Add", wide, b.number(mean, b.out_dtype))


@lower("aten.exponential.default")
def exponential(b: Builder, x: ir.Value, rate: float = 1.0, **_: Any) -> ir.Value:
    if b.out_dtype is torch.float64:
        raise NotSupportedError("random numbers of float64")
    logs = b.op("Log", _open_uniform(b, b.out_shape))
    return b.cast(b.op("Mul", logs, b.number(-1 / rate, torch.float32)), b.out_dtype)


@lower("aten.multinomial.default")
def multinomial(
    b: Builder, chances: ir.Value, count: Dim, replacement: bool = False, **_: Any
) -> ir.Value:
    """The largest of log(chance) with Gumbel noise: one of them for each draw, or the first few."""
    chances = b.cast(chances, torch.float32)
    *lead, classes = b.shape_of(chances)
    logs = b.op("Log", chances)
    if replacement:
        logs = b.unsqueeze(logs, len(lead))
    shape = (*lead, count, classes) if replacement else (*lead, classes)
    waits = b.op("Neg", b.op("Log", _open_uniform(b, shape)))
    keys = b.op("Sub", logs, b.op("Log", waits), shape=shape)
    last = len(shape) - 1
    if replacement:
        return b.op("ArgMax", keys, shape=(*lead, count), dtype=torch.int64, axis=last, keepdims=0)
    kinds = [(torch.float32, (*lead, count)), (torch.int64, (*lead, count))]
    return b.ops("TopK", keys, b.size_vector([count]), results=kinds, axis=last)[1]


@lower("aten.bernoulli.p")
def bernoulli(b: Builder, x: ir.Value, p: float = 0.5, **_: Any) -> ir.Value:
    return b.cast(happens(b, p, b.shape_of(x)), b.out_dtype)


@lower("aten.randperm.default")
def randperm(b: Builder, n: Dim, **_: Any) -> ir.Value:
    """The order of random numbers."""
    kinds = [(torch.int64, (n,)), (torch.int64, (n,))]
    numbers = b.cast(random_bits(b, (n,)), torch.int64)
    order = b.ops("TopK", numbers, b.size_vector([n]), results=kinds, axis=0)[1]
    return b.cast(order, b.out_dtype)
