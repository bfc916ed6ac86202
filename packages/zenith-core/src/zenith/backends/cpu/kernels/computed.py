"""Operators whose parameters the model computes itself.

Where the sizes of the results are known all the same, a kernel reads the parameters from its
operands. Where they are not, a row of kind "call" works out the sizes and allocates the results.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from zenith import _native
from zenith.backends.cpu.emit import Emit
from zenith.backends.cpu.kernels.generate import RANGE_TYPES
from zenith.backends.cpu.kernels.gather import NUMBERS
from zenith.backends.cpu.kernels.move import PAD_MODES
from zenith.backends.cpu.kernels.views import ANY, need, reshaped, unbound
from zenith.errors import KernelError
from zenith.runtime.kernel_registry import KernelSpec
from zenith.runtime.op_view import OpView

__all__ = ["SPECS", "as_bits", "call_kernel"]

Array: TypeAlias = NDArray[Any]
_INDEX = frozenset({"int64", "int32"})


def _given(e: Emit, index: int) -> Any:
    return e.operand(index) if e.op.input(index) is not None else None


# Planned: sizes are known, values are read when the kernel runs.


def _emit_slice(e: Emit) -> None:
    operands = [need(e, 0), need(e, 1), _given(e, 3), _given(e, 4)]
    e.step("slice", operands, [e.output(0)])


def _emit_pad(e: Emit) -> None:
    x, rank = need(e, 0), e.op.outputs[0].rank
    e.step(
        "pad",
        [x, _given(e, 2), need(e, 1), _given(e, 3)],
        [e.output(0)],
        begin=[0] * rank,
        mode=PAD_MODES[e.op.attr("mode", "constant")],
    )


def _supports_pad(op: OpView) -> str | None:
    mode = op.attr("mode", "constant")
    return unbound(op) if mode in PAD_MODES else f"unknown mode {mode}"


def _emit_tile(e: Emit) -> None:
    e.step("tile", [need(e, 0)], [e.output(0)])


def _emit_reshaped(e: Emit) -> None:
    """Squeeze or Unsqueeze of axes that show in the output's shape only."""
    e.alias(0, reshaped(e, 0, e.op.outputs[0].shape))


# Called: the data decides on sizes.


def as_bits(array: Array) -> Array:
    """The same bytes under a dtype the native runtime reads from numpy (bfloat16 as uint16)."""
    if array.dtype.isbuiltin == 1:
        return array
    return array.view(np.uint16 if array.dtype.itemsize == 2 else np.uint8)


def call_kernel(
    kernel: str, inputs: Sequence[Array | None], outputs: Sequence[Array], **params: Any
) -> None:
    """Run one native kernel of the best instruction set on arrays of any strides."""
    given = [None if x is None else as_bits(x) for x in inputs]
    _native.call(_native.isas()[0], kernel, given, [as_bits(x) for x in outputs], params)


def _copied(view: Array) -> Array:
    """The elements of a view in memory of their own."""
    result = np.empty(view.shape, view.dtype)
    if view.ndim > 8:
        np.copyto(result, view)
    else:
        call_kernel("copy", [view], [result])
    return result


def _list(array: Array | None, default: Sequence[int]) -> list[int]:
    return list(default) if array is None else [int(i) for i in array.ravel()]


def _at(inputs: Sequence[Array | None], index: int) -> Array | None:
    return inputs[index] if index < len(inputs) else None


def _needed(inputs: Sequence[Array | None], index: int) -> Array:
    array = _at(inputs, index)
    assert array is not None, f"required input {index} is missing"
    return array


Inputs: TypeAlias = list[Array | None]


def _call_slice(op: OpView, inputs: Inputs) -> list[Array]:
    x = _needed(inputs, 0)
    starts, ends = _list(_needed(inputs, 1), ()), _list(_needed(inputs, 2), ())
    axes = _list(_at(inputs, 3), range(len(starts)))
    steps = _list(_at(inputs, 4), [1] * len(starts))
    index: list[slice] = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step == 0:
            raise KernelError(f"Slice '{op.node.name}' has a step of 0")
        n = x.shape[axis]
        if step > 0:
            first, last = (min(max(i + n if i < 0 else i, 0), n) for i in (start, end))
            index[axis] = slice(first, last, step)
        else:
            first, last = (min(max(i + n if i < 0 else i, -1), n - 1) for i in (start, end))
            first = max(first, 0) if n else 0
            index[axis] = slice(first, last if last >= 0 else None, step)
    return [_copied(x[tuple(index)])]


def _call_reshape(op: OpView, inputs: Inputs) -> list[Array]:
    x, shape = _needed(inputs, 0), _list(_needed(inputs, 1), ())
    if not op.attr("allowzero", 0):
        shape = [x.shape[i] if n == 0 else n for i, n in enumerate(shape)]
    return [x.reshape(shape)]


def _call_squeeze(op: OpView, inputs: Inputs) -> list[Array]:
    x, axes = _needed(inputs, 0), _at(inputs, 1)
    return [x.squeeze(None if axes is None else tuple(_list(axes, ())))]


def _call_unsqueeze(op: OpView, inputs: Inputs) -> list[Array]:
    return [np.expand_dims(_needed(inputs, 0), tuple(_list(_needed(inputs, 1), ())))]


def _call_expand(op: OpView, inputs: Inputs) -> list[Array]:
    x = _needed(inputs, 0)
    shape = np.broadcast_shapes(x.shape, tuple(_list(_needed(inputs, 1), ())))
    return [_copied(np.broadcast_to(x, shape))]


def _call_tile(op: OpView, inputs: Inputs) -> list[Array]:
    x, repeats = _needed(inputs, 0), _list(_needed(inputs, 1), ())
    result = np.empty([n * r for n, r in zip(x.shape, repeats, strict=True)], x.dtype)
    call_kernel("tile", [x], [result])
    return [result]


def _call_pad(op: OpView, inputs: Inputs) -> list[Array]:
    x, pads = _needed(inputs, 0), _list(_needed(inputs, 1), ())
    axes = _list(_at(inputs, 3), range(x.ndim))
    begin, shape = [0] * x.ndim, list(x.shape)
    for axis, before, after in zip(axes, pads, pads[len(axes) :], strict=False):
        begin[axis] = before
        shape[axis] += before + after
    result = np.empty(shape, x.dtype)
    mode = PAD_MODES[op.attr("mode", "constant")]
    call_kernel("pad", [x, _at(inputs, 2)], [result], begin=begin, mode=mode)
    return [result]


def _call_range(op: OpView, inputs: Inputs) -> list[Array]:
    start, limit, delta = (_needed(inputs, i).reshape(()) for i in range(3))
    if start.dtype.kind in "iu":
        first, last, step = int(start), int(limit), int(delta)
        if step == 0:
            raise KernelError(f"Range '{op.node.name}' has a delta of 0")
        count = -((first - last) // step)
    else:
        count = math.ceil((float(limit) - float(start)) / float(delta))
    result = np.empty(max(count, 0), start.dtype)
    if start.dtype.isbuiltin == 1:
        call_kernel("range", [start, delta], [result])
    else:
        steps = np.arange(len(result), dtype=np.float32) * np.float32(delta)
        result[...] = (np.float32(start) + steps).astype(start.dtype)
    return [result]


def _call_constant_of_shape(op: OpView, inputs: Inputs) -> list[Array]:
    value = op.attr("value")
    fill = np.zeros((), np.float32) if value is None else value.numpy().reshape(())
    return [_copied(np.broadcast_to(fill, tuple(_list(_needed(inputs, 0), ()))))]


def _moved(array: Array, axis: int) -> Array:
    return np.moveaxis(array, axis, -1)


def _call_topk(op: OpView, inputs: Inputs) -> list[Array]:
    x, k = _needed(inputs, 0), int(_needed(inputs, 1).ravel()[0])
    axis = op.attr("axis", -1) % x.ndim
    shape = list(x.shape)
    shape[axis] = k
    values, indices = np.empty(shape, x.dtype), np.empty(shape, np.int64)
    outputs = [_moved(values, axis), _moved(indices, axis)]
    call_kernel("topk", [_moved(x, axis)], outputs, largest=int(op.attr("largest", 1)))
    return [values, indices]


def _call_one_hot(op: OpView, inputs: Inputs) -> list[Array]:
    indices, depth, values = (_needed(inputs, i) for i in range(3))
    axis = op.attr("axis", -1) % (indices.ndim + 1)
    shape = list(indices.shape)
    shape.insert(axis, int(depth.ravel()[0]))
    result = np.empty(shape, values.dtype)
    call_kernel("one_hot", [indices, values], [_moved(result, axis)])
    return [result]


def _call_split(op: OpView, inputs: Inputs) -> list[Array]:
    x, sizes = _needed(inputs, 0), _list(_at(inputs, 1), ())
    axis = op.attr("axis", 0) % x.ndim
    if not sizes:  # equal parts, the last one may be smaller
        count = op.attr("num_outputs", len(op.outputs))
        part = -(-x.shape[axis] // count)
        sizes = [min(part, max(x.shape[axis] - part * i, 0)) for i in range(count)]
    if sum(sizes) != x.shape[axis]:
        raise KernelError(f"Split '{op.node.name}': the parts do not make up the axis")
    return [_copied(part) for part in np.split(x, np.cumsum(sizes)[:-1], axis)]


def _call_cumulative(op: OpView, inputs: Inputs) -> list[Array]:
    x, axis = _needed(inputs, 0), int(_needed(inputs, 1).ravel()[0])
    result = np.empty(x.shape, x.dtype)
    call_kernel(
        op.type.lower(),
        [x],
        [result],
        axis=axis % x.ndim,
        largest=0,
        last=0,
        exclusive=op.attr("exclusive", 0),
        reverse=op.attr("reverse", 0),
    )
    return [result]


def _call_mel_weights(op: OpView, inputs: Inputs) -> list[Array]:
    """Triangles that are linear in mel, one a column, over the bins of a spectrum."""
    bins, length, rate = (int(_needed(inputs, i).ravel()[0]) for i in range(3))
    low, high = (float(_needed(inputs, i).ravel()[0]) for i in (3, 4))
    ends = 2595 * np.log10(1 + np.array([low, high]) / 700)
    mel = ends[0] + np.arange(bins + 2) * ((ends[1] - ends[0]) / (bins + 2))
    at = ((length + 1) * (700 * (10 ** (mel / 2595) - 1)) // rate).astype(np.int64)
    spectrum = length // 2 + 1
    result = np.zeros((spectrum, bins), np.float64)
    for i in range(bins):
        left, top, right = at[i : i + 3]
        if top == left:
            result[top, i] = 1
        else:
            result[left : top + 1, i] = (np.arange(left, top + 1) - left) / (top - left)
        if right > top:
            result[top:right, i] = (right - np.arange(top, right)) / (right - top)
    return [result.astype(op.outputs[0].dtype)]


_CUMULATIVE = frozenset({"float32", "float64", "int32", "int64", "uint32", "uint64"})


def _planned(op: str, run: Callable[[Emit], None], supports: Any = unbound) -> KernelSpec:
    name = f"{op.lower()}_computed"
    return KernelSpec(name, f"ai.onnx:{op}", run, dtypes={0: ANY}, supports=supports)


def _called(
    op: str,
    run: Callable[[OpView, Inputs], list[Array]],
    dtypes: dict[int, frozenset[str]] | None = None,
) -> KernelSpec:
    accepted = {0: ANY} if dtypes is None else dtypes
    return KernelSpec(f"{op.lower()}_call", f"ai.onnx:{op}", run, dtypes=accepted, call=True)


SPECS = [
    _planned("Slice", _emit_slice),
    _planned("Pad", _emit_pad, _supports_pad),
    _planned("Tile", _emit_tile),
    _planned("Squeeze", _emit_reshaped),
    _planned("Unsqueeze", _emit_reshaped),
    _called("Slice", _call_slice),
    _called("Pad", _call_pad),
    _called("Tile", _call_tile),
    _called("Squeeze", _call_squeeze),
    _called("Unsqueeze", _call_unsqueeze),
    _called("Reshape", _call_reshape),
    _called("Expand", _call_expand),
    _called("Split", _call_split),
    _called("Range", _call_range, {0: RANGE_TYPES}),
    _called("ConstantOfShape", _call_constant_of_shape, {0: _INDEX}),
    _called("TopK", _call_topk, {0: NUMBERS - {"bfloat16"}}),
    _called("OneHot", _call_one_hot, {0: NUMBERS - {"bfloat16"}, 2: ANY}),
    _called("CumSum", _call_cumulative, {0: _CUMULATIVE}),
    _called("CumProd", _call_cumulative, {0: _CUMULATIVE}),
    _called("MelWeightMatrix", _call_mel_weights, {0: _INDEX}),
]
