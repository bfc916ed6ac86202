"""Operands of a CPU plan: typed, strided views of storage, with symbolic sizes where dynamic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir
import sympy

from zenith.errors import CompilationError
from zenith.ir.dims import Dim, exactly, product

__all__ = [
    "DTYPES",
    "Operand",
    "channels_last_order",
    "dense_strides",
    "dtype_code",
    "item_bytes",
    "same",
]

# numpy name (also of ml_dtypes) -> ONNX name of the type the native runtime sees. It has none for
# float8 and for 4 and 2 bit types: their elements are bytes, one each, as in numpy.
_NATIVE_NAMES = {
    "float32": "FLOAT", "float64": "DOUBLE", "float16": "FLOAT16", "bfloat16": "BFLOAT16",
    "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64", "uint8": "UINT8",
    "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64", "bool": "BOOL",
    "float8_e4m3fn": "UINT8", "float8_e4m3fnuz": "UINT8", "float8_e5m2": "UINT8",
    "float8_e5m2fnuz": "UINT8", "float8_e8m0fnu": "UINT8", "float4_e2m1fn": "UINT8",
    "int4": "UINT8", "uint4": "UINT8", "int2": "UINT8", "uint2": "UINT8",
}  # fmt: skip

DTYPES = frozenset(_NATIVE_NAMES)


def item_bytes(dtype: str) -> int:
    """Bytes per element of a numpy dtype name in the plan's memory."""
    return int(ir.DataType(dtype_code(dtype)).itemsize)


def dtype_code(dtype: str) -> int:
    """ONNX code of the type under which the native runtime addresses a dtype."""
    if dtype not in _NATIVE_NAMES:
        raise CompilationError(f"the CPU backend has no tensors of dtype {dtype}")
    return int(ir.DataType[_NATIVE_NAMES[dtype]])


def channels_last_order(rank: int) -> tuple[int, ...]:
    """Axis order of [N, C, *spatial] stored as [N, *spatial, C]: (0, 2, ..., rank-1, 1)."""
    return (0, *range(2, rank), 1)


def dense_strides(shape: Sequence[Dim], order: Sequence[int] | None = None) -> tuple[Dim, ...]:
    """Strides of a gapless tensor whose axes lie in memory in `order`, outermost first."""
    order = range(len(shape)) if order is None else order
    strides: list[Dim] = [0] * len(shape)
    step: Dim = 1
    for axis in reversed(list(order)):
        strides[axis] = step
        step = step * shape[axis]
    return tuple(exactly(s) for s in strides)


def same(a: Dim, b: Dim) -> bool:
    """Whether two dims are equal for every value of their symbols, as far as can be told."""
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    return bool(a == b) or bool(sympy.expand(a - b) == 0)


@dataclass(frozen=True, eq=False)
class Operand:
    """A view: storage id, dtype (numpy name), shape, strides and offset in elements.

    A stride of 0 repeats an axis; a negative one walks it backwards from `offset`.
    guards: pairs (size, target): the view is right where the size is 1 or the target's.
    """

    storage: int
    dtype: str
    shape: tuple[Dim, ...]
    strides: tuple[Dim, ...]
    offset: Dim = 0
    guards: tuple[tuple[Dim, Dim], ...] = ()

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> Dim:
        return product(self.shape)

    def is_dense(self, order: Sequence[int] | None = None) -> bool:
        """Gapless in axis order `order` (default row-major). Axes of size 1 may have any stride,
        and so may all axes of an empty tensor."""
        if 0 in self.shape:
            return True
        wanted = dense_strides(self.shape, order)
        return all(
            n == 1 or same(s, w) for n, s, w in zip(self.shape, self.strides, wanted, strict=True)
        )

    def order(self) -> tuple[int, ...] | None:
        """The axis order in which this view is gapless: row-major, channels-last, or None."""
        for order in (tuple(range(self.rank)), channels_last_order(self.rank)):
            if (len(order) == self.rank) and self.is_dense(order):
                return order
        return None

    def nearest_order(self) -> tuple[int, ...]:
        """Channels-last where the channels are neighbours in memory and nothing else is, as in a
        range of the channels of such a tensor; else row-major."""
        last = channels_last_order(self.rank)
        if self.order() is not None or self.rank < 3:
            return self.order() or tuple(range(self.rank))
        return last if self.strides[1] == 1 and self.strides[-1] != 1 else tuple(range(self.rank))

    # Views. Each returns a new operand over the same storage.

    def transpose(self, perm: Sequence[int]) -> Operand:
        return replace(
            self,
            shape=tuple(self.shape[p] for p in perm),
            strides=tuple(self.strides[p] for p in perm),
        )

    def slice(self, axis: int, start: Dim, length: Dim, step: int = 1) -> Operand:
        """Elements start, start+step, ... (`length` of them) along `axis`."""
        shape, strides = list(self.shape), list(self.strides)
        offset = exactly(self.offset + start * strides[axis])
        shape[axis], strides[axis] = length, exactly(strides[axis] * step)
        return replace(self, shape=tuple(shape), strides=tuple(strides), offset=offset)

    def unsqueeze(self, axis: int) -> Operand:
        shape, strides = list(self.shape), list(self.strides)
        shape.insert(axis, 1)
        strides.insert(axis, 0)
        return replace(self, shape=tuple(shape), strides=tuple(strides))

    def squeeze(self, axis: int) -> Operand:
        shape, strides = list(self.shape), list(self.strides)
        del shape[axis], strides[axis]
        return replace(self, shape=tuple(shape), strides=tuple(strides))

    def expand(self, shape: Sequence[Dim]) -> Operand:
        """Broadcast to `shape` (numpy rules) with stride 0 on repeated axes.

        A symbolic size may be 1 or the target's: then its stride is an expression that is 0 for a
        size of 1, and the plan checks when it is bound that the size is one of the two.
        """
        lead = len(shape) - self.rank
        strides: list[Dim] = [0] * lead
        guards = list(self.guards)
        for n, s, target in zip(self.shape, self.strides, shape[lead:], strict=True):
            if n == 1 or same(n, target):
                strides.append(0 if n == 1 else s)
            elif isinstance(n, int) and isinstance(target, int):
                raise ValueError(f"size {n} does not broadcast to {target}")
            else:
                strides.append(exactly(s * sympy.Min(1, n - 1)))
                guards.append((n, target))
        return replace(self, shape=tuple(shape), strides=tuple(strides), guards=tuple(guards))

    def exactly_of(self, shape: Sequence[Dim]) -> Operand:
        """The same memory as a tensor of `shape`: of sizes not surely equal, the plan checks when
        it is bound that they are."""
        guards = list(self.guards)
        for n, target in zip(self.shape, shape, strict=True):
            if isinstance(n, int) and isinstance(target, int) and n != target:
                raise ValueError(f"size {n} is not {target}")
            if not same(n, target):
                guards += [(n, target), (target, n)]  # both: 1 is not the other's size
        return replace(self, shape=tuple(shape), guards=tuple(guards))

    def reshape(self, shape: Sequence[Dim]) -> Operand | None:
        """The same elements in row-major order as `shape`, or None when that is not a view."""
        if self.is_dense():
            return replace(self, shape=tuple(shape), strides=dense_strides(shape))
        strides = _reshape_strides(self.shape, self.strides, shape)
        if strides is None:
            return None
        return replace(self, shape=tuple(shape), strides=strides)


def _reshape_strides(
    old_shape: Sequence[Dim], old_strides: Sequence[Dim], new_shape: Sequence[Dim]
) -> tuple[Dim, ...] | None:
    """Strides of a reshape without copying, or None.

    The old axes form runs that are gapless in themselves, innermost first; each run must be the
    product of some neighbouring new axes, which then share its innermost stride.
    """
    runs: list[tuple[Dim, Dim]] = []  # size, stride of the innermost axis
    for n, stride in reversed(list(zip(old_shape, old_strides, strict=True))):
        if n == 1:
            continue
        if runs and same(stride, runs[-1][0] * runs[-1][1]):
            runs[-1] = (runs[-1][0] * n, runs[-1][1])
        else:
            runs.append((n, stride))
    strides: list[Dim] = [0] * len(new_shape)
    axis = len(new_shape) - 1
    for size, stride in runs:
        covered: Dim = 1
        while not same(covered, size):
            if axis < 0:
                return None
            if new_shape[axis] != 1:
                strides[axis] = exactly(covered * stride)
                covered = exactly(covered * new_shape[axis])
            axis -= 1
    if any(n != 1 for n in new_shape[: axis + 1]):
        return None
    return tuple(strides)
