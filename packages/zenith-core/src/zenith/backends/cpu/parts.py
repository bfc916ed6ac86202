"""Plan stage: a large batch goes through the plan part by part.

What a kernel writes of a whole batch is often larger than the caches, and the next one reads it
from memory. Steps that treat each entry of a batch alone (`Step.batch`) may as well run over a few
entries at a time, one after the other, before it is the next entries' turn: then what passes
between them stays near. `in_parts` arranges it so where tensors are large, and leaves the other
steps whole, those with large weights among them, which the whole batch reads once.

Sizes have to be known: a dynamic batch runs whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from zenith.backends.cpu.operand import Operand, item_bytes
from zenith.backends.cpu.program import Step, Storage

__all__ = ["in_parts"]

# Tensors of a step that take up more than this are read from memory, less are in a shared cache.
_FAR_BYTES = 15 << 20
# What those of a part may take up, to be in the second level caches of a few cores.
_NEAR_BYTES = 4 << 20
# Every part is a step of its own in the plan.
_MOST_PARTS = 256
# Between a step and those up to this far away, tensors pass: a residual block has three steps.
_REACH = 2


@dataclass
class _Segment:
    """Neighbouring steps that run over the same parts of a batch."""

    steps: list[Step]
    parts: int

    def operands(self) -> Iterator[Operand]:
        for step in self.steps:
            yield from (*step.reads, *step.writes)


def in_parts(steps: Sequence[Step], storages: list[Storage]) -> list[Step]:
    """The same computation, large batches in parts. Memory for the parts of what only passes
    between such steps is appended to `storages`."""
    segments = list(_segments(steps, storages))
    users: dict[int, set[int]] = {}
    for index, segment in enumerate(segments):
        for operand in segment.operands():
            users.setdefault(operand.storage, set()).add(index)
    result: list[Step] = []
    for segment in segments:
        if segment.parts == 1:
            result += segment.steps
            continue
        used = dict.fromkeys(o.storage for o in segment.operands())
        inner = [s for s in used if storages[s].place == "arena" and len(users[s]) == 1]
        for part in range(segment.parts):
            own = {storage: len(storages) + i for i, storage in enumerate(inner)}
            storages += [Storage("arena", -1, storages[s].bytes // segment.parts) for s in inner]
            result += [_part_of(step, part, segment.parts, own, storages) for step in segment.steps]
    return result


def _segments(steps: Sequence[Step], storages: Sequence[Storage]) -> Iterator[_Segment]:
    batches = [_batch(step, storages) for step in steps]
    moved = [
        _traffic(step, storages)[0] if n > 1 else 0 for step, n in zip(steps, batches, strict=True)
    ]
    wanted = [_fitting(m, n) if m > _FAR_BYTES else 1 for m, n in zip(moved, batches, strict=True)]
    segments: list[_Segment] = []
    for at, step in enumerate(steps):
        near = range(max(0, at - _REACH), min(len(steps), at + _REACH + 1))
        reached = [j for j in near if set(batches[min(at, j) : max(at, j) + 1]) == {batches[at]}]
        parts = max(wanted[j] for j in reached)
        if segments and segments[-1].parts == parts and batches[at - 1] == batches[at]:
            segments[-1].steps.append(step)
        else:
            segments.append(_Segment([step], parts))
    for segment in segments:  # of a single step, parts share nothing
        yield segment if len(segment.steps) > 1 else _Segment(segment.steps, 1)


def _batch(step: Step, storages: Sequence[Storage]) -> int:
    """The batch of a step that may run in parts of it, else 1.

    Every tensor but constants then lies in memory entry by entry; and the constants, which every
    part reads, are less than what stays near.
    """
    n = step.batch
    if not isinstance(n, int) or n < 2:
        return 1
    for o in (*step.reads, *step.writes):
        if storages[o.storage].place == "constant":
            continue
        sizes = (*o.shape, *o.strides, o.offset, storages[o.storage].bytes)
        if o.rank < 2 or not all(isinstance(size, int) for size in sizes):
            return 1
        whole = o.shape[0] * o.strides[0] * item_bytes(o.dtype) == storages[o.storage].bytes
        if o.shape[0] % n != 0 or not whole or not 0 <= o.offset < o.strides[0]:
            return 1
    moved, weights = _traffic(step, storages)
    return n if _fitting(moved, n) * weights <= moved else 1


def _traffic(step: Step, storages: Sequence[Storage]) -> tuple[Any, Any]:
    """Bytes of the tensors that a step reads and writes, and of its constants."""
    sizes = {o.storage: o.size * item_bytes(o.dtype) for o in (*step.reads, *step.writes)}
    weights = [size for s, size in sizes.items() if storages[s].place == "constant"]
    return sum(sizes.values()) - sum(weights), sum(weights)


def _fitting(moved: int, batch: int) -> int:
    """The fewest equal parts that are near."""
    equal = [k for k in range(1, min(batch, _MOST_PARTS) + 1) if batch % k == 0]
    return next((k for k in equal if moved <= k * _NEAR_BYTES), equal[-1])


def _part_of(
    step: Step, part: int, parts: int, own: dict[int, int], storages: Sequence[Storage]
) -> Step:
    def cut(o: Operand | None) -> Operand | None:
        if o is None or storages[o.storage].place == "constant":
            return o
        length = o.shape[0] // parts
        if o.storage in own:
            return replace(o, storage=own[o.storage], shape=(length, *o.shape[1:]))
        return o.slice(0, part * length, length)

    inputs, outputs = (tuple(map(cut, operands)) for operands in (step.inputs, step.outputs))
    return replace(step, inputs=inputs, outputs=outputs, part=(part + 1, parts))
