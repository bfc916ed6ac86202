"""gather, scatter and their dynamic relatives: GatherND and ScatterND over the indexed axes.

Note [Indexing]: an index that leaves the array is clamped, or its result filled, or its update
dropped, as the primitive's mode says. Axes that are taken whole need no index: they are moved
behind the others and taken along.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from zenith.ir.dims import Dim, exactly
from zenith_jax.builder import Builder, NotSupportedError
from zenith_jax.dims import sizes
from zenith_jax.dtypes import is_float
from zenith_jax.lower.bits import convert
from zenith_jax.lower.reduce import greatest, least
from zenith_jax.lower.registry import lower

__all__: list[str] = []

BOOL, INT64 = ir.DataType.BOOL, ir.DataType.INT64


@dataclass
class _Indexed:
    """Where each axis of the operand gets its index from.

    starts: per indexed axis, its first index, [batch]; None for a batching axis or one not named.
    window: per axis, how many elements are taken. batching: operand axis -> batch axis.
    """

    shape: tuple[Dim, ...]
    batch: tuple[Dim, ...]
    window: list[Dim]
    starts: dict[int, ir.Value]
    batching: dict[int, int]

    @property
    def indexed(self) -> list[int]:
        return [a for a in range(len(self.shape)) if self._needs_index(a)]

    @property
    def whole(self) -> list[int]:
        return [a for a in range(len(self.shape)) if not self._needs_index(a)]

    @property
    def windowed(self) -> list[int]:
        """Indexed axes of which several elements are taken."""
        return [a for a in self.indexed if self.window[a] != 1]

    def _needs_index(self, axis: int) -> bool:
        return axis in self.batching or self.window[axis] != self.shape[axis]


def _read(
    b: Builder,
    operand: ir.Value,
    indices: ir.Value,
    window: Sequence[Dim],
    index_map: Sequence[int],
    operand_batching: Sequence[int],
    indices_batching: Sequence[int],
) -> _Indexed:
    shape, batch = b.shape_of(operand), b.shape_of(indices)[:-1]
    axis = len(batch)
    starts = {}
    for place, operand_axis in enumerate(index_map):
        column = b.slice(indices, axis, place, place + 1)
        starts[int(operand_axis)] = convert(b, b.squeeze(column, axis), INT64)
    batching = dict(zip(map(int, operand_batching), map(int, indices_batching), strict=True))
    return _Indexed(shape, batch, list(window), starts, batching)


def _limit(b: Builder, it: _Indexed, axis: int) -> ir.Value:
    """The largest start that keeps the window inside."""
    return b.size_scalar(exactly(it.shape[axis] - it.window[axis]))


def _inside(b: Builder, it: _Indexed) -> ir.Value | None:
    """[batch]: whether all of the window is inside; None where that is known."""
    found: ir.Value | None = None
    for axis, start in it.starts.items():
        number, limit = b.constant_of(start), exactly(it.shape[axis] - it.window[axis])
        if number is not None and isinstance(limit, int) and _within(number, limit):
            continue
        above = b.pointwise("GreaterOrEqual", start, b.number(0, INT64), dtype=BOOL)
        below = b.pointwise("LessOrEqual", start, _limit(b, it, axis), dtype=BOOL)
        both = b.pointwise("And", above, below)
        found = both if found is None else b.pointwise("And", found, both)
    return found


def _within(numbers: np.ndarray[Any, Any], limit: int) -> bool:
    return bool(np.all((numbers >= 0) & (numbers <= limit)))


def _clamped(b: Builder, it: _Indexed, axis: int) -> ir.Value:
    """The start of one axis, moved inside."""
    start, limit = it.starts[axis], exactly(it.shape[axis] - it.window[axis])
    number = b.constant_of(start)
    if number is not None and isinstance(limit, int):
        inside = np.clip(number, 0, limit)
        return start if (inside == number).all() else b.constant(inside.astype(np.int64), "index")
    low = b.pointwise("Max", start, b.number(0, INT64))
    return b.pointwise("Min", low, _limit(b, it, axis))


def _grid(b: Builder, it: _Indexed, starts: dict[int, ir.Value]) -> ir.Value:
    """[batch, windowed axes, indexed axes]: one index per element that is looked up."""
    windowed = it.windowed
    rank = len(it.batch) + len(windowed)
    full = [*it.batch, *(it.window[a] for a in windowed)]
    columns = []
    for axis in it.indexed:
        if axis in it.batching:
            place = it.batching[axis]
            value = b.range_of(it.batch[place], INT64)
            value = b.unsqueeze(value, *(a for a in range(rank) if a != place))
        else:
            value = starts[axis] if axis in starts else b.number(0, INT64)
            value = b.reshape(value, [*b.shape_of(value), *([1] * (rank - b.rank_of(value)))])
            if axis in windowed:
                place = len(it.batch) + windowed.index(axis)
                offsets = b.range_of(it.window[axis], INT64)
                offsets = b.unsqueeze(offsets, *(a for a in range(rank) if a != place))
                value = b.pointwise("Add", value, offsets)
        columns.append(b.unsqueeze(b.expand(value, full), rank))
    return b.concat(columns, rank)


def _gathered(b: Builder, operand: ir.Value, it: _Indexed) -> ir.Value:
    """[batch, windowed axes, whole axes], starts clamped."""
    indexed = it.indexed
    if not indexed:
        return b.expand(operand, [*it.batch, *it.shape])
    starts = {a: _clamped(b, it, a) for a in indexed if a in it.starts}
    if len(indexed) == 1 and not it.batching and not it.windowed:
        axis = indexed[0]
        found = b.gather(operand, starts.get(axis, b.number(0, INT64)), axis)
        count = len(it.batch)
        lead = [*range(axis, axis + count)]
        rest = [a for a in range(b.rank_of(found)) if a not in lead]
        return b.transpose(found, [*lead, *rest])
    moved = b.transpose(operand, [*indexed, *it.whole])
    shape = [*it.batch, *(it.window[a] for a in it.windowed), *(it.shape[a] for a in it.whole)]
    return b.op("GatherND", moved, _grid(b, it, starts), shape=shape)


@lower("gather", writes="Gather or GatherND, Where to fill")
def gather(
    b: Builder,
    operand: ir.Value,
    indices: ir.Value,
    *,
    dimension_numbers: Any,
    slice_sizes: Any,
    mode: Any,
    fill_value: Any,
) -> ir.Value:
    n = dimension_numbers
    window = list(sizes(slice_sizes))
    window += b.shape_of(operand)[len(window) :]
    it = _read(
        b,
        operand,
        indices,
        window,
        n.start_index_map,
        n.operand_batching_dims,
        n.start_indices_batching_dims,
    )
    if any(window[a] != 1 for a in (*n.collapsed_slice_dims, *n.operand_batching_dims)):
        raise NotSupportedError("with windows on collapsed axes")
    found = _gathered(b, operand, it)
    if mode.name == "FILL_OR_DROP":
        inside = _inside(b, it)
        if inside is not None:
            rank = b.rank_of(found)
            inside = b.unsqueeze(inside, *range(len(it.batch), rank)) if it.batch else inside
            fill = b.number(_fill(operand, fill_value), operand.dtype)
            found = b.pointwise("Where", inside, found, fill, dtype=operand.dtype)
    elif mode.name not in ("CLIP", "PROMISE_IN_BOUNDS", "ONE_HOT"):
        raise NotSupportedError(f"in mode {mode.name}")
    # Axes now: batch, windowed, whole; those of size 1 that were indexed come back or go.
    dropped = {*map(int, n.collapsed_slice_dims), *map(int, n.operand_batching_dims)}
    offsets = [a for a in range(len(it.shape)) if a not in dropped]
    have = [*it.windowed, *it.whole]
    count = len(it.batch)
    extra = [a for a in have if a in dropped]  # whole axes of size 1
    found = b.squeeze(found, *(count + have.index(a) for a in extra))
    have = [a for a in have if a not in extra]
    missing = [a for a in offsets if a not in have]
    found = b.unsqueeze(found, *range(b.rank_of(found), b.rank_of(found) + len(missing)))
    have += missing
    places = iter(offsets)
    batch = iter(range(count))
    places_out = [int(d) for d in n.offset_dims]
    rank = count + len(offsets)
    tail = rank - (len(places_out) + count)  # a key's own axis
    places_out += range(rank - tail, rank)
    perm = [count + have.index(next(places)) if a in places_out else next(batch)
            for a in range(rank)]  # fmt: skip
    return b.transpose(found, perm)


def _fill(operand: ir.Value, fill_value: Any) -> Any:
    """What stands in for an element outside."""
    if fill_value is not None:
        return fill_value
    if is_float(operand):
        return np.nan
    assert operand.dtype is not None
    if operand.dtype == BOOL:
        return True
    kind = operand.dtype.numpy()
    return np.iinfo(kind).min if kind.kind == "i" else np.iinfo(kind).max


# --- scatter --------------------------------------------------------------------------------------

_REDUCTIONS = {
    "scatter": "none",
    "scatter-add": "add",
    "scatter-sub": "add",
    "scatter-mul": "mul",
    "scatter-min": "min",
    "scatter-max": "max",
}


@lower(*_REDUCTIONS, writes="ScatterND")
def scatter(
    b: Builder,
    operand: ir.Value,
    indices: ir.Value,
    updates: ir.Value,
    *,
    dimension_numbers: Any,
    mode: Any,
    update_jaxpr: Any,
    update_consts: Any,
) -> ir.Value:
    n = dimension_numbers
    reduction = _REDUCTIONS[b.target]
    if reduction == "none" and update_jaxpr is not None and _has_work(update_jaxpr):
        raise NotSupportedError("with a function of its own")
    if operand.dtype == BOOL and reduction != "none":
        raise NotSupportedError(f"{reduction} of booleans")
    if b.target == "scatter-sub":
        updates = b.pointwise("Neg", updates)
    shape = b.shape_of(operand)
    dropped = {*map(int, n.inserted_window_dims), *map(int, n.operand_batching_dims)}
    kept = [a for a in range(len(shape)) if a not in dropped]
    update_window = [int(d) for d in n.update_window_dims]
    window: list[Dim] = [1] * len(shape)
    for axis, place in zip(kept, update_window, strict=True):
        window[axis] = b.shape_of(updates)[place]
    it = _read(
        b,
        operand,
        indices,
        window,
        n.scatter_dims_to_operand_dims,
        n.operand_batching_dims,
        n.scatter_indices_batching_dims,
    )
    # updates as [batch, windowed axes, whole axes]
    batch_places = [a for a in range(b.rank_of(updates)) if a not in update_window]
    place_of = dict(zip(kept, update_window, strict=True))
    taken = [a for a in (*it.windowed, *it.whole) if a in place_of]
    gone = [place_of[a] for a in kept if a not in taken]
    updates = b.transpose(updates, [*batch_places, *(place_of[a] for a in taken), *gone])
    lead = len(it.batch)
    wanted = [*it.batch, *(it.window[a] for a in it.windowed), *(it.shape[a] for a in it.whole)]
    updates = b.reshape(updates, wanted)
    return _scattered(b, operand, updates, it, reduction, mode.name == "CLIP", lead)


def _has_work(jaxpr: Any) -> bool:
    inner = jaxpr.jaxpr if hasattr(jaxpr, "jaxpr") else jaxpr
    return bool(inner.eqns)


def _scattered(
    b: Builder,
    operand: ir.Value,
    updates: ir.Value,
    it: _Indexed,
    reduction: str,
    clip: bool,
    lead: int,
) -> ir.Value:
    indexed = it.indexed
    if not indexed:  # a window is all of the operand
        inside = None if clip else _inside(b, it)
        if lead:
            updates, inside = _one_of_all(b, operand, updates, reduction, inside, lead), None
        return _combined(b, operand, updates, reduction, inside)
    starts = {a: _clamped(b, it, a) for a in indexed if a in it.starts}
    inside = None if clip else _inside(b, it)
    order = [*indexed, *it.whole]
    moved = b.transpose(operand, order)
    grid = _grid(b, it, starts)
    shape = b.shape_of(moved)
    if inside is not None and reduction != "none":
        mask = b.unsqueeze(inside, *range(lead, b.rank_of(updates))) if lead else inside
        neutral = b.number(_neutral(operand, reduction), operand.dtype)
        updates = b.pointwise("Where", mask, updates, neutral, dtype=operand.dtype)
    elif inside is not None:
        if lead == 0:  # one window: keep what is there
            axis_count = len(it.windowed)
            full = [*(it.window[a] for a in it.windowed), *(it.shape[a] for a in it.whole)]
            there = b.op("GatherND", moved, grid, shape=full)
            updates = b.pointwise("Where", inside, updates, there, dtype=operand.dtype)
            assert axis_count == len(it.windowed)
        else:
            return _with_spare_row(b, moved, updates, it, inside, starts, order)
    result = b.op("ScatterND", moved, grid, updates, shape=shape,
                  reduction=reduction if reduction != "none" else None)  # fmt: skip
    return b.transpose(result, [order.index(a) for a in range(len(order))])


def _with_spare_row(
    b: Builder,
    moved: ir.Value,
    updates: ir.Value,
    it: _Indexed,
    inside: ir.Value,
    starts: dict[int, ir.Value],
    order: list[int],
) -> ir.Value:
    """Updates that leave the array go to a row behind it, which is cut off again."""
    shape = list(b.shape_of(moved))
    axis = next(a for a in it.indexed if a in it.starts)
    place = it.indexed.index(axis)
    row = [*shape[:place], it.window[axis], *shape[place + 1 :]]
    spare = b.expand(b.number(0, moved.dtype), row)
    longer = b.concat([moved, spare], place)
    length = b.size_scalar(shape[place])
    starts = {**starts, axis: b.pointwise("Where", inside, starts[axis], length, dtype=INT64)}
    grid = _grid(b, it, starts)
    result = b.op("ScatterND", longer, grid, updates, shape=b.shape_of(longer))
    result = b.slice(result, place, 0, shape[place])
    return b.transpose(result, [order.index(a) for a in range(len(order))])


def _one_of_all(
    b: Builder,
    operand: ir.Value,
    updates: ir.Value,
    reduction: str,
    inside: ir.Value | None,
    lead: int,
) -> ir.Value:
    """Updates of the same elements, [batch, elements], as a single one."""
    if reduction == "none":
        if inside is not None:
            raise NotSupportedError("of several windows that are all of the array")
        for axis in reversed(range(lead)):  # JAX leaves open which one it is
            updates = b.squeeze(b.slice(updates, axis, 0, 1), axis)
        return updates
    if inside is not None:
        mask = b.unsqueeze(inside, *range(lead, b.rank_of(updates)))
        neutral = b.number(_neutral(operand, reduction), operand.dtype)
        updates = b.pointwise("Where", mask, updates, neutral, dtype=operand.dtype)
    op_type = {"add": "ReduceSum", "mul": "ReduceProd", "min": "ReduceMin", "max": "ReduceMax"}
    return b.reduce(op_type[reduction], updates, range(lead), False)


def _combined(
    b: Builder, operand: ir.Value, updates: ir.Value, reduction: str, inside: ir.Value | None
) -> ir.Value:
    op_type = {"add": "Add", "mul": "Mul", "min": "Min", "max": "Max"}.get(reduction)
    result = b.pointwise(op_type, operand, updates) if op_type else updates
    if inside is None:
        return result
    return b.pointwise("Where", inside, result, operand, dtype=operand.dtype)


def _neutral(operand: ir.Value, reduction: str) -> Any:
    """What an update must be to change nothing."""
    if reduction in ("add", "mul"):
        return 0 if reduction == "add" else 1
    return least(operand.dtype) if reduction == "max" else greatest(operand.dtype)


# --- one window -----------------------------------------------------------------------------------


def _one_window(
    b: Builder, operand: ir.Value, starts: Sequence[ir.Value], window: Sequence[Dim]
) -> _Indexed:
    shape = b.shape_of(operand)
    first = {a: convert(b, s, INT64) for a, s in enumerate(starts)}
    window = [*window, *shape[len(window) :]]
    return _Indexed(shape, (), window, first, {})


@lower("dynamic_slice", writes="Gather, Slice of known places")
def dynamic_slice(b: Builder, operand: ir.Value, *starts: ir.Value, slice_sizes: Any) -> ir.Value:
    starts = starts[: len(slice_sizes)]
    it = _one_window(b, operand, starts, sizes(slice_sizes))
    result = operand
    for axis in it.indexed:
        start = _clamped(b, it, axis)
        number, count = b.constant_of(start), it.window[axis]
        if number is not None:
            first = int(number)
            result = b.slice(result, axis, first, exactly(first + count))
            continue
        if count == 1:
            place = b.reshape(start, [1])
        else:
            place = b.op("Add", start, b.range_of(count, INT64))
        result = b.gather(result, place, axis)
    return result


@lower("dynamic_update_slice", writes="ScatterND")
def dynamic_update_slice(
    b: Builder, operand: ir.Value, update: ir.Value, *starts: ir.Value
) -> ir.Value:
    it = _one_window(b, operand, starts, b.shape_of(update)[: len(starts)])
    if not it.indexed:
        return update
    # axes of one element are indexed, not windowed, and go from the update
    order = [*it.windowed, *it.whole]
    updates = b.transpose(update, [*order, *(a for a in it.indexed if a not in it.windowed)])
    updates = b.reshape(updates, [b.shape_of(update)[a] for a in order])
    return _scattered(b, operand, updates, it, "none", True, 0)
