"""Operators that are views of their input: no step runs, unless the memory must be made dense."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sympy

from zenith.backends.cpu.emit import Emit
from zenith.backends.cpu.operand import DTYPES, Operand
from zenith.ir.dims import Dim, exactly
from zenith.runtime.kernel_registry import KernelSpec, no_cost
from zenith.runtime.op_view import OpView

__all__ = ["ANY", "SPECS", "known", "known_ints", "need", "nonnegative", "reshaped", "unbound"]

ANY = DTYPES


def need(e: Emit, index: int) -> Operand:
    """Input `index` as it lies; it is one the schema requires."""
    operand = e.operand(index)
    assert operand is not None, f"required input {index} of {e.op.type} is missing"
    return operand


def known(op: OpView, index: int) -> tuple[Dim, ...] | None:
    """Content of a small integer input where it can be told at compile time."""
    value = op.input(index)
    return None if value is None else value.known


def known_ints(op: OpView, index: int) -> list[int] | None:
    """The same where every number is known now, not only when sizes are."""
    found = known(op, index)
    if found is None or not all(isinstance(item, int) for item in found):
        return None
    return [int(item) for item in found]


def _symbols(dims: Sequence[Dim]) -> set[Any]:
    return set().union(*(sympy.sympify(d).free_symbols for d in dims))


def unbound(op: OpView) -> str | None:
    """A reason when an output's size follows from data: its symbols come from no input's shape."""
    given: set[Any] = set()
    for value in op.inputs:
        if value is not None:
            given |= _symbols(value.shape) | _symbols(value.known or ())
    for value in op.outputs:
        if value.value.shape is None:
            return "the rank of an output depends on data"
        for axis, dim in enumerate(value.shape):
            if not _symbols([dim]) <= given:
                return f"the size of output axis {axis} depends on data"
    return None


def nonnegative(dim: Dim) -> bool:
    """Whether a dim is >= 0 whenever all its symbols are >= 1, as far as can be told."""
    if isinstance(dim, int):
        return dim >= 0
    shifted = sympy.expand(dim.xreplace({s: s + 1 for s in dim.free_symbols}))
    return bool(shifted.is_nonnegative)


def reshaped(e: Emit, index: int, shape: Sequence[Dim]) -> Operand:
    """Input `index` seen as `shape`: a view where its strides allow, else of a dense copy."""
    view = need(e, index).reshape(shape) or e.dense(index).reshape(shape)
    assert view is not None, "a dense tensor can take any shape"
    return view


def _emit_reshape(e: Emit) -> None:
    x = need(e, 0)
    view = x.reshape(e.op.outputs[0].shape)
    if view is not None:
        e.alias(0, view)
        return
    target = e.output(0).reshape(x.shape)
    assert target is not None, "a dense tensor can take any shape"
    e.copy(x, target)


def _emit_transpose(e: Emit) -> None:
    x = need(e, 0)
    e.alias(0, x.transpose(e.op.attr("perm", list(reversed(range(x.rank))))))


def _squeezed_axes(op: OpView, shape: Sequence[Dim]) -> list[int] | None:
    if op.input(1) is None:
        return [axis for axis, n in enumerate(shape) if n == 1]
    axes = known_ints(op, 1)
    return None if axes is None else [axis % len(shape) for axis in axes]


def _supports_squeeze(op: OpView) -> str | None:
    x = op.required(0)
    if op.input(1) is None and not all(isinstance(n, int) for n in x.shape):
        return "which axes have size 1 is unknown: axes are not given and sizes are dynamic"
    return None if _squeezed_axes(op, x.shape) is not None else "axes are computed from data"


def _emit_squeeze(e: Emit) -> None:
    x = need(e, 0)
    for axis in sorted(_squeezed_axes(e.op, x.shape) or [], reverse=True):
        x = x.squeeze(axis)
    e.alias(0, x)


def _supports_unsqueeze(op: OpView) -> str | None:
    return None if known_ints(op, 1) is not None else "axes are computed from data"


def _emit_unsqueeze(e: Emit) -> None:
    x, rank = need(e, 0), e.op.outputs[0].rank
    for axis in sorted(axis % rank for axis in known_ints(e.op, 1) or ()):
        x = x.unsqueeze(axis)
    e.alias(0, x)


def _emit_expand(e: Emit) -> None:
    e.alias(0, need(e, 0).expand(e.op.outputs[0].shape))


def _slice_start(start: Dim, n: Dim, step: int) -> Dim | None:
    """Where a slice of an axis of size n begins (ONNX clamps); None when it cannot be told."""
    high = n if step > 0 else n - 1  # the clamp's upper end
    if isinstance(start, int):
        if isinstance(n, int):
            return max(min(start + n if start < 0 else start, high), 0)
        if start < 0:
            at = exactly(start + n)
            return at if nonnegative(at) else exactly(sympy.Max(at, 0))
        if step > 0 or start == 0:
            return start  # beyond the end the length is 0, and nothing is read
        return high if start >= 2**31 - 1 else exactly(sympy.Min(start, high))
    return start if nonnegative(start) and step > 0 else None


def _slices(op: OpView) -> list[tuple[int, Dim, int]] | str:
    """(axis, start, step) of each sliced axis, or the reason why it cannot be told."""
    x, out = op.required(0), op.outputs[0]
    starts, ends = known(op, 1), known(op, 2)
    axes = known(op, 3) if op.input(3) is not None else tuple(range(len(starts or ())))
    steps = known(op, 4) if op.input(4) is not None else (1,) * len(starts or ())
    if starts is None or ends is None or axes is None or steps is None:
        return "starts, ends, axes or steps are computed from data"
    if not all(isinstance(a, int) for a in (*axes, *steps)):
        return "axes and steps must be constant"
    found = []
    for given, start, end, step in zip(axes, starts, ends, steps, strict=True):
        axis = given % x.rank
        n, length = x.shape[axis], out.shape[axis]
        at = _slice_start(start, n, step)
        if at is None:
            return f"whether start {start} counts from the end of axis {axis} is unknown"
        if isinstance(length, int) and length > 0 and not isinstance(n, int):
            # Inference takes a constant end to lie inside; a shorter axis would be overrun.
            last = at + (length - 1) * step
            if not (nonnegative(exactly(n - 1 - last)) and nonnegative(exactly(last))):
                return f"axis {axis} of size {n} may be shorter than the slice to {end}"
        found.append((axis, at, step))
    return found


def _supports_slice(op: OpView) -> str | None:
    reason = unbound(op)
    if reason is None:
        slices = _slices(op)
        reason = slices if isinstance(slices, str) else None
    return reason


def _emit_slice(e: Emit) -> None:
    x, slices = need(e, 0), _slices(e.op)
    assert not isinstance(slices, str), slices
    for axis, start, step in slices:
        x = x.slice(axis, start, e.op.outputs[0].shape[axis], step)
    e.alias(0, x)


def _emit_split(e: Emit) -> None:
    x = need(e, 0)
    axis = e.op.attr("axis", 0) % x.rank
    start: Dim = 0
    for index, out in enumerate(e.op.outputs):
        e.alias(index, x.slice(axis, start, out.shape[axis]))
        start = exactly(start + out.shape[axis])


def _view(op: str, run: Any, supports: Any = unbound) -> KernelSpec:
    return KernelSpec(
        f"{op.lower()}_view", f"ai.onnx:{op}", run, dtypes={0: ANY}, supports=supports, cost=no_cost
    )


SPECS = [
    _view("Reshape", _emit_reshape),
    _view("Flatten", _emit_reshape),
    _view("Transpose", _emit_transpose),
    _view("Squeeze", _emit_squeeze, _supports_squeeze),
    _view("Unsqueeze", _emit_unsqueeze, _supports_unsqueeze),
    _view("Expand", _emit_expand),
    _view("Slice", _emit_slice, _supports_slice),
    _view("Split", _emit_split),
]
