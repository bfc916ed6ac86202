"""Operands of a CPU plan: typed, strided views of storage, with symbolic sizes where dynamic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import sympy

from zenith.ir.dims import Dim, exactly, product

__all__ = ["Operand", "channels_last_order", "dense_strides"]


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


def _same(a: Dim, b: Dim) -> bool:
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    return bool(sympy.expand(a - b) == 0)


@dataclass(frozen=True, eq=False)
class Operand:
    """A view: storage id, dtype (numpy name), shape, strides and offset in elements."""

    storage: int
    dtype: str
    shape: tuple[Dim, ...]
    strides: tuple[Dim, ...]
    offset: Dim = 0

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> Dim:
        return product(self.shape)

    def is_dense(self, order: Sequence[int] | None = None) -> bool:
        """Gapless in axis order `order` (default row-major). Axes of size 1 may have any stride."""
        wanted = dense_strides(self.shape, order)
        return all(
            n == 1 or _same(s, w)
            for n, s, w in zip(self.shape, self.strides, wanted, strict=True)
        )

    def order(self) -> tuple[int, ...] | None:
        """The axis order in which this view is gapless: row-major, channels-last, or None."""
        for order in (tuple(range(self.rank)), channels_last_order(self.rank)):
            if (len(order) == self.rank) and self.is_dense(order):
                return order
        return None

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
        """Broadcast to `shape` (numpy rules) with stride 0 on repeated axes."""
        lead = len(shape) - self.rank
        strides: list[Dim] = [0] * lead
        for n, s, target in zip(self.shape, self.strides, shape[lead:], strict=True):
            strides.append(s if _same(n, target) else 0)
        return replace(self, shape=tuple(shape), strides=tuple(strides))

    def reshape(self, shape: Sequence[Dim]) -> Operand | None:
        """The same elements in row-major order as `shape`, or None when that is not a view."""
        strides = _reshape_strides(self.shape, self.strides, shape)
        if strides is None:
            return None
        return replace(self, shape=tuple(shape), strides=strides)


def _reshape_strides(
    old_shape: Sequence[Dim], old_strides: Sequence[Dim], new_shape: Sequence[Dim]
) -> tuple[Dim, ...] | None:
    """Strides of a reshape without copying, or None.

    Walks both shapes from the right in groups of equal product; within a group the old axes must
    be gapless among themselves.
    """
    old = [(n, s) for n, s in zip(old_shape, old_strides, strict=True) if n != 1]
    result: list[Dim] = [0] * len(new_shape)
    i, j = len(old) - 1, len(new_shape) - 1
    while j >= 0:
        if new_shape[j] == 1:
            j -= 1
            continue
        if i < 0:
            return None
        have, want = old[i][0], new_shape[j]
        first_old, first_new = i, j
        base = old[i][1]
        while not _same(have, want):
            # Grow the side that is a proper divisor of the other. Symbolic quotients decide which.
            if _divides(have, want) and i > 0:
                n, s = old[i - 1]
                if not _same(s, old[i][0] * old[i][1]):
                    return None
                i -= 1
                have = exactly(have * n)
            elif _divides(want, have) and j > 0:
                j -= 1
                want = exactly(want * new_shape[j])
            else:
                return None
        step = base
        for axis in range(first_new, j - 1, -1):
            result[axis] = step
            step = exactly(step * new_shape[axis])
        del first_old
        i, j = i - 1, j - 1
    return tuple(result) if i < 0 else None


def _divides(a: Dim, b: Dim) -> bool:
    """Whether a divides b for every value of the symbols, as far as can be told."""
    if isinstance(a, int) and isinstance(b, int):
        return a != 0 and b % a == 0
    quotient = sympy.cancel(sympy.sympify(b) / a)
    return bool(quotient.is_polynomial() and sympy.fraction(quotient)[1] == 1)
