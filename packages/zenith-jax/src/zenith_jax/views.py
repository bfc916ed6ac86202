"""Values that are another value with its axes moved or with axes of size 1 added or dropped.

Note [Frames]: traced programs reshape and transpose all the time: a reduction drops its axis and
a broadcast puts it back, `vmap` adds an axis of size 1, an image is channels-last while Conv is
not. Such a value is remembered as a *view* of its *base*: axis i of the view is axis `axes[i]` of
the base, or None where it is a new one of size 1. Elementwise operators and reductions are then
written in the base's frame, and their results are views again, so that what the passes match
(normalisations, softmax, attention, a convolution and its activation) stays one connected piece.
Nothing is lost when a view is needed as it is: the node that makes it is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from zenith.ir.builder import GraphBuilder
from zenith.ir.dims import Dim, broadcast, exactly

__all__ = ["ViewBuilder"]

Axes = tuple[int | None, ...]


class ViewBuilder(GraphBuilder):
    """A graph builder that keeps track of views; see Note [Frames]."""

    def __init__(self) -> None:
        super().__init__()
        self._bases: dict[ir.Value, tuple[ir.Value, Axes]] = {}
        self._made: dict[tuple[ir.Value, Axes, tuple[Dim, ...]], ir.Value] = {}
        self._expanded: dict[ir.Value, ir.Value] = {}

    # --- views --------------------------------------------------------------------------------

    def base(self, value: ir.Value) -> tuple[ir.Value, Axes]:
        """(base, axes) of a view; a value that is none is its own base."""
        return self._bases.get(value) or (value, tuple(range(self.rank_of(value))))

    def view(self, value: ir.Value, shape: Sequence[Dim], axes: Sequence[int | None]) -> ir.Value:
        """`value` with its axes moved: axis i of the result is axis `axes[i]` of `value`."""
        base, inner = self.base(value)
        axes = tuple(None if a is None else inner[a] for a in axes)
        shape = tuple(shape)
        if axes == tuple(range(self.rank_of(base))):
            return base
        key = (base, axes, shape)
        if key not in self._made:
            made = self._materialise(base, shape, axes)
            if made is not base:
                self._bases[made] = (base, axes)
            self._made[key] = made
        return self._made[key]

    def _materialise(self, base: ir.Value, shape: tuple[Dim, ...], axes: Axes) -> ir.Value:
        """Nodes that make a view: at most one Transpose and a Reshape of axes of size 1."""
        source = self.shape_of(base)
        order = [a for a in axes if a is not None and source[a] != 1]
        if order == sorted(order):
            return self._reshaped(base, shape)
        kept = [a for a in axes if a is not None]
        rest = [a for a in range(len(source)) if a not in kept]
        if len(kept) + len(rest) == len(axes):  # one Transpose does it all
            spare = iter(rest)
            return super().transpose(base, [next(spare) if a is None else a for a in axes])
        return self._reshaped(super().transpose(base, [*rest, *kept]), shape)

    def _reshaped(self, value: ir.Value, shape: tuple[Dim, ...]) -> ir.Value:
        """Another shape that differs by axes of size 1 only."""
        if value.const_value is not None:
            return self.constant(value.const_value.numpy().reshape(shape), value.name or "const")
        source = self.shape_of(value)
        if all(isinstance(d, int) for d in source):
            return super().reshape(value, shape)
        value = super().squeeze(value, *(a for a, d in enumerate(source) if d == 1))
        return super().unsqueeze(value, *(a for a, d in enumerate(shape) if d == 1))

    # --- movement -----------------------------------------------------------------------------

    def transpose(self, value: ir.Value, perm: Sequence[int]) -> ir.Value:
        shape = self.shape_of(value)
        return self.view(value, [shape[p] for p in perm], list(perm))

    def reshape(self, value: ir.Value, shape: Sequence[Dim]) -> ir.Value:
        """The same elements under another shape; a view where only axes of size 1 differ."""
        source, target = self.shape_of(value), tuple(shape)
        long = [a for a, d in enumerate(source) if d != 1]
        if [source[a] for a in long] == [d for d in target if d != 1]:
            rest = iter(long)
            return self.view(value, target, _aligned(source, target, rest))
        if value.const_value is not None and all(isinstance(d, int) for d in target):
            return self.constant(value.const_value.numpy().reshape(target), value.name or "const")
        return super().reshape(value, target)

    def unsqueeze(self, value: ir.Value, *axes: int) -> ir.Value:
        rank = self.rank_of(value) + len(axes)
        old = iter(range(self.rank_of(value)))
        places = [None if a in axes else next(old) for a in range(rank)]
        shape = self.shape_of(value)
        return self.view(value, [1 if p is None else shape[p] for p in places], places)

    def squeeze(self, value: ir.Value, *axes: int) -> ir.Value:
        shape = self.shape_of(value)
        places = [a for a in range(len(shape)) if a not in axes]
        return self.view(value, [shape[a] for a in places], places)

    # --- operators in the base's frame --------------------------------------------------------

    def pointwise(
        self, op_type: str, *operands: ir.Value, dtype: Any = None, **attributes: Any
    ) -> ir.Value:
        """An elementwise operator; all operands are of one rank or of rank 0."""
        shape = broadcast(*(self.shape_of(v) for v in operands))
        small = [self.unexpanded(v) for v in operands]
        if all(self.rank_of(v) == 0 for v in small) and shape:
            result = self.op(op_type, *small, dtype=dtype, **attributes)
        else:
            result = self._framed(op_type, small, dtype, attributes)
        return self.expand(result, shape)

    def _framed(
        self, op_type: str, operands: Sequence[ir.Value], dtype: Any, attributes: dict[str, Any]
    ) -> ir.Value:
        """The operator in the base's frame, its result as a view."""
        shape = broadcast(*(self.shape_of(v) for v in operands))
        frame = self._frame(operands, len(shape))
        if frame is None:
            operands = self._short_constants(operands, len(shape))
            return self.op(op_type, *operands, dtype=dtype, **attributes)
        rank, axes = frame
        moved = self._short_constants([self._in_frame(v, rank, axes) for v in operands], rank)
        result = self.op(op_type, *moved, dtype=dtype, **attributes)
        if self.rank_of(result) < rank:
            result = super().unsqueeze(result, *range(rank - self.rank_of(result)))
        return self.view(result, shape, axes)

    def expand(self, value: ir.Value, shape: Sequence[Dim]) -> ir.Value:
        """Broadcast to `shape`; elementwise operators go on with what was broadcast."""
        target = tuple(exactly(d) for d in shape)
        if self.shape_of(value) == target:
            return value
        result = super().expand(value, target)
        rank = self.rank_of(value)
        if rank in (0, len(target)):
            self._expanded[result] = self.unexpanded(value)
        return result

    def unexpanded(self, value: ir.Value) -> ir.Value:
        """What `value` is a broadcast of: with axes of size 1, or a number."""
        base, axes = self.base(value)
        source = self._expanded.get(base)
        if source is None:
            return value
        sizes = self.shape_of(source)
        if not sizes:
            return source
        return self.view(source, [1 if a is None else sizes[a] for a in axes], axes)

    def _short_constants(self, operands: Sequence[ir.Value], rank: int) -> list[ir.Value]:
        """Constants without leading axes of size 1, so that a row is a row: ONNX broadcasts it."""
        if all(v.const_value is not None or self.rank_of(v) < rank for v in operands):
            return list(operands)
        found = []
        for value in operands:
            shape = self.shape_of(value)
            lead = next((i for i, d in enumerate(shape) if d != 1), len(shape))
            if value.const_value is not None and lead:
                value = self.view(value, shape[lead:], range(lead, len(shape)))
            found.append(value)
        return found

    def _frame(self, operands: Sequence[ir.Value], rank: int) -> tuple[int, Axes] | None:
        """The base's rank and axes in which fewest operands must be transposed; None: as it is."""
        tensors = [v for v in operands if self.rank_of(v) == rank and v.const_value is None]
        views = [v for v in tensors if v in self._bases]
        best: tuple[int, Axes] | None = None
        fewest = sum(not self._in_order(*self.base(v)) for v in views) or 1
        for view in views:
            base, axes = self.base(view)
            if any(
                d != 1 and axes[i] is None
                for v in operands
                if self.rank_of(v)
                for i, d in enumerate(self.shape_of(v))
            ):
                continue
            count = sum(not self._matches(v, axes) for v in tensors)
            if count < fewest:
                best, fewest = (self.rank_of(base), axes), count
        return best

    def _in_order(self, base: ir.Value, axes: Axes) -> bool:
        source = self.shape_of(base)
        order = [a for a in axes if a is not None and source[a] != 1]
        return order == sorted(order)

    def _matches(self, value: ir.Value, axes: Axes) -> bool:
        """Whether `value` goes into the frame `axes` without a Transpose."""
        base, mine = self.base(value)
        shape = self.shape_of(value)
        pairs = sorted((mine[i], axes[i]) for i, d in enumerate(shape) if d != 1)
        return [b for _, b in pairs] == sorted(b for _, b in pairs)

    def _in_frame(self, value: ir.Value, rank: int, axes: Axes) -> ir.Value:
        """`value` with the axes of the frame."""
        shape = self.shape_of(value)
        if not shape:
            return value
        places: list[int | None] = [None] * rank
        target: list[Dim] = [1] * rank
        for i, axis in enumerate(axes):
            if axis is not None:
                places[axis], target[axis] = i, shape[i]
        return self.view(value, target, places)

    def reduce(
        self, op_type: str, value: ir.Value, axes: Sequence[int] | None, keepdims: bool
    ) -> ir.Value:
        """One of the Reduce* operators; where an axis stays, written with all axes kept."""
        rank = self.rank_of(value)
        which = sorted({a % rank for a in axes} if axes else range(rank)) if rank else []
        base, inner = self.base(value)
        places = [inner[a] for a in which if inner[a] is not None]
        source = self.shape_of(base)
        if not keepdims and len(which) == rank:
            return super().reduce(op_type, base, None, False)
        kept = base
        if places:
            sizes = [1 if a in places else d for a, d in enumerate(source)]
            order = self.ints(sorted(p for p in places if p is not None))
            kept = self.op(op_type, base, order, shape=sizes, keepdims=1)
        shape = self.shape_of(value)
        if keepdims:
            return self.view(kept, [1 if a in which else d for a, d in enumerate(shape)], inner)
        left = [a for a in range(rank) if a not in which]
        return self.view(kept, [shape[a] for a in left], [inner[a] for a in left])


def _aligned(source: tuple[Dim, ...], target: tuple[Dim, ...], rest: Any) -> list[int | None]:
    """For each axis of `target` the axis of `source` it is; those of size 1 stay where they can."""
    axes: list[int | None] = [None if d == 1 else next(rest) for d in target]
    if len(source) == len(target) and source == target:
        return list(range(len(target)))
    return axes
