"""Plan stage: a tensor that is joined with others is written where they are joined.

A Concat copies each input to its place in the result. Where an input has memory of its own, the
kernel that computes it may as well write it there, and the others that read it read it there:
`in_place` rewrites those steps and drops the copy. In the result an input is a row of numbers at a
time (the channels of a pixel), so these kernels must know tensors whose rows lie apart.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import sympy

from zenith.backends.cpu.operand import Operand, item_bytes, same
from zenith.backends.cpu.program import Step, Storage
from zenith.ir.dims import Dim, exactly

__all__ = ["in_place"]

# Kernels that read, and that write, any strides. (pointwise is slow to write short rows.)
_READS_ANY, _WRITES_ANY = frozenset({"copy", "pointwise"}), frozenset({"copy"})
# Kernels whose operands are rows, dense in themselves and at one distance from each other.
_ROWS_APART = frozenset({
    "conv_f32", "conv_few_channels_f32", "conv_winograd2_f32", "conv_winograd4_f32",
    "conv_depthwise_f32", "conv_transpose_f32", "conv_bottleneck_f32", "conv_bf16",
    "conv_depthwise_bf16", "conv_bottleneck_bf16", "conv_int8", "depthwise_int8", "linear_f32",
    "linear_ozaki_f32", "linear_bf16", "max_pool_f32", "max_pool_bf16", "average_pool_f32",
    "average_pool_bf16", "resize_float32", "resize_bfloat16", "resize_nearest", "group_norm_f32",
    "group_norm_bf16",
})  # fmt: skip


def in_place(steps: Sequence[Step], storages: Sequence[Storage]) -> list[Step]:
    """The same computation, with fewer copies of what is joined."""
    joined = _Joined(steps, storages)
    for index, step in enumerate(steps):
        if step.joins:
            joined.try_drop(index)
    return [step for step in joined.steps if step is not None]


class _Joined:
    """The steps while copies are dropped; a dropped one is None, so that the others keep places."""

    def __init__(self, steps: Sequence[Step], storages: Sequence[Storage]) -> None:
        self.steps: list[Step | None] = list(steps)
        self.storages = storages
        self.users: dict[int, set[int]] = defaultdict(set)
        self.parts: dict[int, set[int]] = defaultdict(set)  # who uses parts of a result
        for index, step in enumerate(steps):
            for operand in (*step.reads, *step.writes):
                self.users[operand.storage].add(index)
            if step.joins:
                self.parts[step.writes[0].storage].add(index)

    def try_drop(self, at: int) -> None:
        """Drop the copy `at`, if all who use its source can use the place in the result instead."""
        copy = self.steps[at]
        assert copy is not None
        (source,), (target,) = copy.reads, copy.writes
        rows = _rows(source, target, self.storages[source.storage])
        if rows is None or not self._only_parts(target.storage):
            return
        moved: dict[int, Step] = {}
        for index, step in self._using(source.storage):
            if index == at:
                continue
            found = _moved(step, source.storage, rows)
            if found is None or (index > at and _writes(step, source.storage)):
                return
            moved[index] = found
        for index, step in moved.items():
            self.steps[index] = step
        self.steps[at] = None
        self.users[target.storage] |= moved.keys()
        self.parts[target.storage] |= moved.keys()

    def _using(self, storage: int) -> Iterable[tuple[int, Step]]:
        return [(i, step) for i in self.users[storage] if (step := self.steps[i]) is not None]

    def _only_parts(self, storage: int) -> bool:
        """Whether only parts of a result are used before it is whole, and nobody writes it later.

        A result that begins as an input stays a copy: the runtime may make it that input's memory.
        """
        using = self._using(storage)
        whole = max(i for i, step in using if step.joins and _writes(step, storage))
        for index, step in using:
            if index not in self.parts[storage] and (index < whole or _writes(step, storage)):
                return False
            if step.joins and any(self.storages[o.storage].place == "input" for o in step.reads):
                return False
        return True


def _writes(step: Step, storage: int) -> bool:
    return any(o.storage == storage for o in step.writes)


@dataclass(frozen=True)
class _Rows:
    """Where a dense tensor goes in memory `storage`: rows of `run` numbers, the first at `start`,
    the next ones `apart`."""

    storage: int
    run: int
    apart: Dim
    start: Dim

    def moved(self, view: Operand) -> Operand | None:
        """A view of the tensor, in its new place; None where it goes from one row to the next."""
        rows, first = self._split(view.offset)
        strides: list[Dim] = []
        last = first
        for n, stride in zip(view.shape, view.strides, strict=True):
            apart, within = self._split(stride)
            if n != 1 and within != 0:
                if apart != 0 or not isinstance(n, int):
                    return None
                last += (n - 1) * within
            strides.append(exactly(apart + within))
        if not isinstance(last, int) or last >= self.run:
            return None
        start = exactly(self.start + rows + first)
        return replace(view, storage=self.storage, strides=tuple(strides), offset=start)

    def _split(self, distance: Dim) -> tuple[Dim, Dim]:
        """What whole rows of a distance in the dense tensor become, and the rest of it."""
        if isinstance(distance, int):
            count, rest = divmod(distance, self.run)
            return exactly(count * self.apart), rest
        count = sympy.expand(distance / self.run)
        whole = all(factor.is_integer for factor in count.as_coefficients_dict().values())
        return (exactly(count * self.apart), 0) if whole else (0, distance)


def _rows(source: Operand, target: Operand, memory: Storage) -> _Rows | None:
    """None unless the tensor has its memory for itself and lies in the target row by row."""
    order = source.order()
    size = exactly(source.size * item_bytes(source.dtype))
    if memory.place != "arena" or order is None or not same(size, memory.bytes):
        return None
    run: Dim = 1
    count: Dim = 1  # of rows
    apart: Dim | None = None
    for axis in reversed(order):
        n, stride = target.shape[axis], target.strides[axis]
        if n == 1:
            continue
        if apart is None and same(stride, run):
            run = exactly(run * n)
            continue
        apart = stride if apart is None else apart
        if not same(stride, apart * count):
            return None
        count = exactly(count * n)
    if not isinstance(run, int) or run == 0:
        return None
    return _Rows(target.storage, run, run if apart is None else apart, target.offset)


def _moved(step: Step, storage: int, rows: _Rows) -> Step | None:
    """The step with its operands in `storage` moved; None if its kernel cannot use them there."""
    new: dict[Operand | None, Operand] = {}
    for operands, any_strides in ((step.reads, _READS_ANY), (step.writes, _WRITES_ANY)):
        for operand in operands:
            if operand.storage != storage:
                continue
            moved = rows.moved(operand)
            if moved is None:
                return None
            if step.kernel not in any_strides and not _usable(step.kernel, operand, moved):
                return None
            new[operand] = moved
    return replace(
        step,
        inputs=tuple(new.get(o, o) for o in step.inputs),
        outputs=tuple(new.get(o, o) for o in step.outputs),
        placed=step.placed or any(o in new for o in step.outputs),
    )


def _usable(kernel: str, before: Operand, moved: Operand) -> bool:
    if moved.strides == before.strides:
        return True
    axes = [a for a, n in enumerate(moved.shape) if n != 1]
    within = [a for a in axes if moved.strides[a] == 1]
    if kernel not in _ROWS_APART or len(within) != 1:
        return False
    axes.remove(within[0])
    return all(
        same(moved.strides[a], moved.strides[b] * moved.shape[b])
        for a, b in itertools.pairwise(axes)
    )
