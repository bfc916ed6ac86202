"""Sequences are lists and optionals are None: calls that move references, and copies of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from zenith.runtime.kernel_registry import KernelSpec, no_cost
from zenith.runtime.op_view import OpView

__all__ = ["SPECS"]


def _position(index: Any, length: int, *, end: int = 0) -> int:
    """An index into a list, counted from its end when negative."""
    at = int(np.asarray(index).reshape(-1)[0])
    if not -length - end <= at < length + end:
        raise IndexError(f"position {at} is outside a sequence of {length}")
    return at + length if at < 0 else at


def _construct(op: OpView, inputs: Sequence[Any]) -> list[Any]:
    return [list(inputs)]


def _empty(op: OpView, inputs: Sequence[Any]) -> list[Any]:
    return [[]]


def _at(op: OpView, inputs: Sequence[Any]) -> list[Any]:
    return [inputs[0][_position(inputs[1], len(inputs[0]))]]


def _insert(op: OpView, inputs: Sequence[Any]) -> list[Any]:
    items = list(inputs[0])
    where = inputs[2] if len(inputs) > 2 else None
    at = len(items) if where is None else _position(where, len(items), end=1)
    items.insert(at, inputs[1])
    return [items]


def _erase(op: OpView, inputs: Sequence[Any]) -> list[Any]:
    items = list(inputs[0])
    where = inputs[1] if len(inputs) > 1 else None
    del items[len(items) - 1 if where is None else _position(where, len(items))]
    return [items]


def _length(op: OpView, inputs: Sequence[Any]) -> list[Any]:
    return [np.array(len(inputs[0]), np.int64)]


def _concat(op: OpView, inputs: Sequence[Any]) -> list[Any]:
    join = np.stack if op.attr("new_axis", 0) else np.concatenate
    return [join(inputs[0], op.attr("axis"))]


def _split(op: OpView, inputs: Sequence[Any]) -> list[Any]:
    x, axis = inputs[0], op.attr("axis", 0)
    n = x.shape[axis]
    sizes = inputs[1] if len(inputs) > 1 else None
    if sizes is not None and sizes.ndim == 1:
        lengths = [int(size) for size in sizes]
    else:
        step = 1 if sizes is None else int(sizes)
        if step < 1:
            raise ValueError(f"parts of {step} elements")
        lengths = [min(step, n - start) for start in range(0, n, step)]
    if sum(lengths) != n:
        raise ValueError(f"parts of {lengths} do not make up an axis of {n}")
    parts = np.split(x, np.cumsum(lengths)[:-1], axis)
    if sizes is None and not op.attr("keepdims", 1):
        parts = [np.squeeze(part, axis) for part in parts]
    return [parts]


def _optional(op: OpView, inputs: Sequence[Any]) -> list[Any]:
    return [inputs[0] if inputs else None]


def _get(op: OpView, inputs: Sequence[Any]) -> list[Any]:
    if inputs[0] is None:
        raise ValueError("an optional without a value has no element")
    return [inputs[0]]


def _has(op: OpView, inputs: Sequence[Any]) -> list[Any]:
    return [np.array(bool(inputs) and inputs[0] is not None)]


def _same(op: OpView, inputs: Sequence[Any]) -> list[Any]:
    return [inputs[0]]


def _row(op: str, run: Any) -> KernelSpec:
    return KernelSpec(
        f"{op.lower()}_list", f"ai.onnx:{op}", run, cost=no_cost, call=True,
        tensors_only=False,
    )  # fmt: skip


SPECS = [
    _row("SequenceConstruct", _construct),
    _row("SequenceEmpty", _empty),
    _row("SequenceAt", _at),
    _row("SequenceInsert", _insert),
    _row("SequenceErase", _erase),
    _row("SequenceLength", _length),
    _row("ConcatFromSequence", _concat),
    _row("SplitToSequence", _split),
    _row("Optional", _optional),
    _row("OptionalGetElement", _get),
    _row("OptionalHasElement", _has),
    _row("Identity", _same),
]
