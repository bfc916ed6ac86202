"""Views and movement: other shapes and orders of the same elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import sympy
import torch

from zenith.ir.dims import Dim, exactly, floor_div, product
from zenith.ir.matrices import grid
from zenith_torch.builder import Builder, NotSupportedError
from zenith_torch.dtypes import to_torch
from zenith_torch.lower.registry import lower

_END = 2**63 - 1


@lower(
    "aten.view.default",
    "aten.reshape.default",
    "aten._unsafe_view.default",
    "aten.unflatten.int",
    "aten.flatten.using_ints",
    "aten.squeeze.default",
    "aten._reshape_copy.default",
)
def view(b: Builder, x: ir.Value, *_: Any) -> ir.Value:
    return b.reshape(x, b.out_shape)


@lower("aten.view.dtype")
def view_bits(b: Builder, x: ir.Value, _: Any) -> ir.Value:
    if to_torch(x.dtype).itemsize != b.out_dtype.itemsize:
        raise NotSupportedError("elements of another size")
    kind = b.onnx_type(b.out_dtype)
    return x if x.dtype == kind else b.op("BitCast", x, dtype=kind, to=kind)


@lower("aten.permute.default")
def permute(b: Builder, x: ir.Value, dims: Sequence[int]) -> ir.Value:
    return b.transpose(x, [b.axis(x, d) for d in dims])


@lower("aten.transpose.int", "aten.swapaxes.default", "aten.swapdims.default")
def transpose(b: Builder, x: ir.Value, first: int, second: int) -> ir.Value:
    order = list(range(b.rank_of(x)))
    if order:
        i, j = b.axis(x, first), b.axis(x, second)
        order[i], order[j] = order[j], order[i]
    return b.transpose(x, order)


@lower("aten.t.default", "aten.numpy_T.default")
def reverse_axes(b: Builder, x: ir.Value) -> ir.Value:
    return b.transpose(x, range(b.rank_of(x))[::-1])


@lower("aten.unsqueeze.default")
def unsqueeze(b: Builder, x: ir.Value, dim: int) -> ir.Value:
    return b.unsqueeze(x, dim + b.rank_of(x) + 1 if dim < 0 else dim)


@lower("aten.squeeze.dim", "aten.squeeze.dims")
def squeeze(b: Builder, x: ir.Value, dim: int | Sequence[int]) -> ir.Value:
    if b.rank_of(x) == 0:
        return x
    dims = [dim] if isinstance(dim, int) else list(dim)
    shape = b.shape_of(x)
    return b.squeeze(x, *sorted({a for a in (b.axis(x, d) for d in dims) if shape[a] == 1}))


@lower("aten.expand.default", "aten.expand_as.default", "aten.broadcast_to.default")
def expand(b: Builder, x: ir.Value, *_: Any, **__: Any) -> ir.Value:
    return b.expand(x, b.out_shape)


@lower("aten.repeat.default")
def repeat(b: Builder, x: ir.Value, repeats: Sequence[Dim]) -> ir.Value:
    missing = len(repeats) - b.rank_of(x)
    x = b.reshape(x, (*[1] * missing, *b.shape_of(x)))
    return b.op("Tile", x, b.size_vector(repeats), shape=b.out_shape)


@lower("aten.repeat_interleave.self_int")
def repeat_interleave(
    b: Builder, x: ir.Value, repeats: Dim, dim: int | None = None, **_: Any
) -> ir.Value:
    if dim is None:
        x, dim = b.reshape(x, (b.elements(x),)), 0
    axis = b.axis(x, dim)
    shape = list(b.shape_of(x))
    wide = b.expand(b.unsqueeze(x, axis + 1), (*shape[: axis + 1], repeats, *shape[axis + 1 :]))
    return b.reshape(wide, b.out_shape)


def bound(value: Dim | None, size: Dim, default: Dim) -> Dim:
    """A slice bound as torch means it: from the end if negative, clamped to [0, size]."""
    if value is None:
        return default
    if isinstance(value, int):
        if value == _END:
            return size
        if isinstance(size, int):
            return max(0, min(value + size if value < 0 else value, size))
        if value == 0:
            return 0
        if value < 0:
            return sympy.Max(0, size + value)
        return sympy.Min(value, size)
    if value == size:
        return size
    return value


@lower("aten.slice.Tensor")
def slice_(
    b: Builder,
    x: ir.Value,
    dim: int = 0,
    start: Dim | None = None,
    end: Dim | None = None,
    step: int = 1,
) -> ir.Value:
    axis = b.axis(x, dim)
    size, length = b.shape_of(x)[axis], b.out_shape[axis]
    if step == 1 and length == size:
        return x
    if b.is_unknown(length):  # the data decides the bounds; Slice clamps them as PyTorch does
        ends = (0 if start is None else start, _END if end is None else end)
        bounds = [b.size_vector([place]) for place in ends]
        result = b.op("Slice", x, *bounds, b.ints([axis]), b.ints([step]), shape=b.out_shape)
        return b.knows(length, result, axis)
    first = bound(start, size, 0)
    if not isinstance(first, int) and isinstance(start, int):
        # The capture knows the length: start = size - length without a Max.
        first = exactly(size - length) if step == 1 and bound(end, size, size) == size else first
    last = exactly(first + length) if step == 1 else bound(end, size, size)
    result = b.slice(x, axis, first, last, step)
    return b.declare(result, b.out_shape)


@lower("aten.narrow.default")
def narrow(b: Builder, x: ir.Value, dim: int, start: Dim, length: Dim) -> ir.Value:
    axis = b.axis(x, dim)
    return b.slice(x, axis, start, exactly(start + length))


@lower("aten.select.int")
def select(b: Builder, x: ir.Value, dim: int, index: Dim) -> ir.Value:
    axis = b.axis(x, dim)
    size = b.shape_of(x)[axis]
    start = exactly(index + size) if isinstance(index, int) and index < 0 else index
    return b.squeeze(b.slice(x, axis, start, exactly(start + 1)), axis)


def _split(b: Builder, x: ir.Value, sizes: Sequence[Dim], axis: int) -> list[ir.Value]:
    if len(sizes) == 1:
        return [x]
    shape = b.shape_of(x)
    results = [(b.out_dtype, (*shape[:axis], s, *shape[axis + 1 :])) for s in sizes]
    return b.ops("Split", x, b.size_vector(sizes), results=results, axis=axis)


@lower("aten.split_with_sizes.default")
def split_with_sizes(b: Builder, x: ir.Value, sizes: Sequence[Dim], dim: int = 0) -> list[ir.Value]:
    return _split(b, x, sizes, b.axis(x, dim))


@lower("aten.split.Tensor", "aten.chunk.default")
def split(b: Builder, x: ir.Value, *arguments: Any, **_: Any) -> list[ir.Value]:
    dim = arguments[1] if len(arguments) > 1 else _.get("dim", 0)
    axis = b.axis(x, dim)
    return _split(b, x, [shape[axis] for shape in b.out_shapes], axis)


@lower("aten.unbind.int")
def unbind(b: Builder, x: ir.Value, dim: int = 0) -> list[ir.Value]:
    axis = b.axis(x, dim)
    count = b.shape_of(x)[axis]
    if not isinstance(count, int):
        raise NotSupportedError("unbind of a dynamic axis")
    return [b.squeeze(part, axis) for part in _split(b, x, [1] * count, axis)]


@lower("aten.cat.default", "aten.concat.default")
def cat(b: Builder, tensors: Sequence[ir.Value], dim: int = 0) -> ir.Value:
    rank = len(b.out_shape)
    parts = [t for t in tensors if not (b.shape_of(t) == (0,) and rank != 1)]
    parts = [b.cast(t, b.out_dtype) for t in parts]
    return b.concat(parts, dim + rank if dim < 0 else dim)


@lower("aten.stack.default")
def stack(b: Builder, tensors: Sequence[ir.Value], dim: int = 0) -> ir.Value:
    axis = dim + len(b.out_shape) if dim < 0 else dim
    return b.concat([b.cast(b.unsqueeze(t, axis), b.out_dtype) for t in tensors], axis)


@lower("aten.flip.default")
def flip(b: Builder, x: ir.Value, dims: Sequence[int]) -> ir.Value:
    return b.flip(x, [b.axis(x, d) for d in dims]) if b.rank_of(x) else x


@lower("aten.roll.default")
def roll(b: Builder, x: ir.Value, shifts: Sequence[Dim], dims: Sequence[int] = ()) -> ir.Value:
    shifts = [shifts] if isinstance(shifts, int) else list(shifts)
    dims = [dims] if isinstance(dims, int) else list(dims)
    if not dims:
        flat = b.reshape(x, (b.elements(x),))
        return b.reshape(_rolled(b, flat, shifts[0], 0), b.out_shape)
    for shift, dim in zip(shifts, dims, strict=True):
        x = _rolled(b, x, shift, b.axis(x, dim))
    return x


def _rolled(b: Builder, x: ir.Value, shift: Dim, axis: int) -> ir.Value:
    size = b.shape_of(x)[axis]
    cut = exactly(-shift) if _known_negative(shift) else exactly(size - shift)
    if isinstance(shift, int) and isinstance(size, int):
        cut = (-shift) % size if size else 0
    if cut in (0, size):
        return x
    return b.concat([b.slice(x, axis, cut, size), b.slice(x, axis, 0, cut)], axis)


def _known_negative(value: Dim) -> bool:
    return bool(sympy.sympify(value).is_negative)


@lower("aten.pixel_shuffle.default")
def pixel_shuffle(b: Builder, x: ir.Value, factor: int) -> ir.Value:
    return _with_four_axes(b, x, "DepthToSpace", blocksize=factor, mode="CRD")


@lower("aten.pixel_unshuffle.default")
def pixel_unshuffle(b: Builder, x: ir.Value, factor: int) -> ir.Value:
    *lead, c, h, w = b.shape_of(x)
    n = product(lead)
    rows, columns = exactly(sympy.sympify(h) / factor), exactly(sympy.sympify(w) / factor)
    blocks = b.reshape(x, (n, c, rows, factor, columns, factor))
    return b.reshape(b.transpose(blocks, (0, 1, 3, 5, 2, 4)), b.out_shape)


def _with_four_axes(b: Builder, x: ir.Value, op_type: str, **attributes: Any) -> ir.Value:
    lead = b.shape_of(x)[:-3]
    x = b.reshape(x, (product(lead), *b.shape_of(x)[-3:]))
    result = b.op(op_type, x, shape=(product(lead), *b.out_shape[-3:]), **attributes)
    return b.reshape(result, b.out_shape)


@lower("aten.unfold.default")
def unfold(b: Builder, x: ir.Value, dim: int, size: int, step: int) -> ir.Value:
    if b.rank_of(x) == 0:
        return b.reshape(x, b.out_shape)
    axis = b.axis(x, dim)
    count = b.out_shape[axis]
    windows = b.gather(x, grid(b, (count, size), (step, 1)), axis)
    rank = b.rank_of(windows)
    order = [a for a in range(rank) if a != axis + 1] + [axis + 1]
    return b.transpose(windows, order)


@lower("aten.im2col.default")
def im2col(
    b: Builder,
    x: ir.Value,
    kernel: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> ir.Value:
    unbatched = b.rank_of(x) == 3
    if unbatched:
        x = b.unsqueeze(x, 0)
    n, c, *sizes = b.shape_of(x)
    if any(padding):
        sizes = [exactly(size + 2 * pad) for size, pad in zip(sizes, padding, strict=True)]
        x = b.op("Pad", x, b.ints([0, 0, *padding] * 2), shape=(n, c, *sizes))
    axes = zip(sizes, kernel, dilation, stride, strict=True)
    counts = [exactly(floor_div(n - d * (k - 1) - 1, s) + 1) for n, k, d, s in axes]
    rows, columns = (
        grid(b, (k, count), (d, s))
        for k, count, d, s in zip(kernel, counts, dilation, stride, strict=True)
    )
    x = b.gather(x, rows, 2)  # n c kh oh w
    x = b.gather(x, columns, 4)  # n c kh oh kw ow
    return b.reshape(b.transpose(x, (0, 1, 2, 4, 3, 5)), b.out_shape)


@lower("aten.as_strided.default")
def as_strided(
    b: Builder, x: ir.Value, size: Sequence[int], stride: Sequence[int], storage_offset: int = 0
) -> ir.Value:
    count = b.elements(x)
    places = _positions(b, count, size, stride, storage_offset)
    return b.gather(b.reshape(x, (count,)), places, 0)


@lower("aten.as_strided_scatter.default")
def as_strided_scatter(
    b: Builder,
    x: ir.Value,
    source: ir.Value,
    size: Sequence[int],
    stride: Sequence[int],
    storage_offset: int = 0,
) -> ir.Value:
    count, shape = b.elements(x), b.shape_of(x)
    places = _positions(b, count, size, stride, storage_offset)
    total = b.elements(places)
    places, source = b.reshape(places, (total,)), b.reshape(source, (total,))
    flat = b.reshape(x, (count,))
    written = b.op("ScatterElements", flat, places, source, shape=(count,), axis=0)
    return b.reshape(written, shape)


def _positions(
    b: Builder, count: Dim, size: Sequence[Dim], stride: Sequence[Dim], offset: Dim | None
) -> ir.Value:
    """Places in the memory of a dense row-major tensor, as which `Lowering` has checked it."""
    last = (offset or 0) + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if 0 not in size and sympy.sympify(count - last).is_nonpositive:
        raise NotSupportedError("strides beyond the tensor's own elements")
    return grid(b, size, stride, offset or 0)


@lower("aten.tril.default")
def tril(b: Builder, x: ir.Value, diagonal: int = 0) -> ir.Value:
    return b.op("Trilu", x, b.number(diagonal, torch.int64), shape=b.shape_of(x), upper=0)


@lower("aten.triu.default")
def triu(b: Builder, x: ir.Value, diagonal: int = 0) -> ir.Value:
    return b.op("Trilu", x, b.number(diagonal, torch.int64), shape=b.shape_of(x), upper=1)


@lower("aten.diagonal.default")
def diagonal(b: Builder, x: ir.Value, offset: int = 0, dim1: int = 0, dim2: int = 1) -> ir.Value:
    first, second = b.axis(x, dim1), b.axis(x, dim2)
    shape = b.shape_of(x)
    rest = [a for a in range(len(shape)) if a not in (first, second)]
    x = b.transpose(x, [*rest, first, second])
    rows, columns = shape[first], shape[second]
    flat = b.reshape(x, (*(shape[a] for a in rest), rows * columns))
    start = offset if offset >= 0 else -offset * columns
    return b.gather(flat, grid(b, b.out_shape[-1:], (exactly(columns + 1),), start), len(rest))


@lower("aten.meshgrid.indexing", "aten.meshgrid.default")
def meshgrid(b: Builder, tensors: Sequence[ir.Value], indexing: str = "ij") -> list[ir.Value]:
    axes = list(range(len(tensors)))
    if indexing == "xy":
        axes[:2] = axes[:2][::-1]
    sizes = [b.elements(tensors[axis]) for axis in axes]
    grids = []
    for axis, tensor in zip(axes, tensors, strict=True):
        shape = [size if a == axis else 1 for a, size in enumerate(sizes)]
        grids.append(b.expand(b.reshape(tensor, shape), sizes))
    return grids
