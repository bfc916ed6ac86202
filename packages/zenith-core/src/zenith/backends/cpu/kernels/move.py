"""Operators that copy: Concat, Pad, Tile, DepthToSpace, SpaceToDepth, Trilu."""

from __future__ import annotations

from zenith.backends.cpu.emit import Emit
from zenith.backends.cpu.kernels.views import ANY, known, known_ints, need, reshaped, unbound
from zenith.ir.dims import Dim, exactly
from zenith.runtime.kernel_registry import KernelSpec
from zenith.runtime.op_view import OpView

__all__ = ["PAD_MODES", "SPECS"]

MAX_RANK = 8  # of a native tensor
PAD_MODES = {"constant": 0, "reflect": 1, "edge": 2, "wrap": 3}


def _emit_concat(e: Emit) -> None:
    inputs = [need(e, index) for index in range(len(e.op.inputs))]
    axis = e.op.attr("axis") % inputs[0].rank
    out = e.output(0, order=inputs[0].nearest_order())
    start: Dim = 0
    for x in inputs:
        e.join(x, out.slice(axis, start, x.shape[axis]))
        start = exactly(start + x.shape[axis])


def _supports_concat(op: OpView) -> str | None:
    # An empty rank-1 input beside others of a higher rank is an old exporters' habit.
    ranks = {value.rank for value in op.inputs if value is not None}
    return None if len(ranks) == 1 else "inputs differ in rank"


def _pads(op: OpView, rank: int) -> list[Dim] | None:
    """Elements before each axis; those after follow from the output's shape."""
    pads = known(op, 1)
    axes = known_ints(op, 3) if op.input(3) is not None else range(rank)
    if pads is None or axes is None:
        return None
    begin: list[Dim] = [0] * rank
    for axis, pad in zip(axes, pads, strict=False):
        begin[axis % rank] = pad
    return begin


def _supports_pad(op: OpView) -> str | None:
    mode = op.attr("mode", "constant")
    if mode not in PAD_MODES:
        return f"unknown mode {mode}"
    if _pads(op, op.outputs[0].rank) is None:
        return "pads or axes are computed from data"
    return unbound(op)


def _emit_pad(e: Emit) -> None:
    x = need(e, 0)
    begin = _pads(e.op, x.rank) or []
    fill = e.operand(2) if e.op.input(2) is not None else None
    # Axes go to the kernel in memory order: its rows are then runs of memory in any layout.
    order = x.order() or tuple(range(x.rank))
    out = e.output(0, order=order)
    e.step(
        "pad",
        [x.transpose(order), fill],
        [out.transpose(order)],
        begin=[begin[axis] for axis in order],
        mode=PAD_MODES[e.op.attr("mode", "constant")],
    )


def _tiled_axes(op: OpView) -> list[int]:
    """Axes that need one more axis for their repeats."""
    shape, repeats = op.outputs[0].shape, known(op, 1) or ()
    value = op.inputs[0]
    assert value is not None
    return [a for a in range(len(shape)) if repeats[a] != 1 and value.shape[a] != 1]


def _supports_tile(op: OpView) -> str | None:
    if known(op, 1) is None:
        return "repeats are computed from data"
    if op.outputs[0].rank + len(_tiled_axes(op)) > MAX_RANK:
        return f"rank and repeated axes together exceed {MAX_RANK}"
    return unbound(op)


def _emit_tile(e: Emit) -> None:
    x, repeats, split = need(e, 0), known(e.op, 1) or (), _tiled_axes(e.op)
    shape: list[Dim] = []
    for axis, n in enumerate(x.shape):
        shape += [repeats[axis], n] if axis in split else [repeats[axis] * n]
    for axis in reversed(split):
        x = x.unsqueeze(axis)
    out = e.output(0).reshape(shape)
    assert out is not None, "a dense tensor can take any shape"
    e.copy(x.expand(shape), out)


def _rearrange(e: Emit, split: list[Dim], perm: list[int]) -> None:
    """Output = input seen as `split`, axes permuted, neighbours merged to the output's shape."""
    x = need(e, 0)
    source = reshaped(e, 0, split).transpose(perm)
    static = all(isinstance(n, int) for n in (*x.shape, *split))
    target = e.output(0, order=x.order() if static else None).reshape(source.shape)
    assert target is not None, "splitting axes keeps a view"
    e.copy(source, target)


def _emit_depth_to_space(e: Emit) -> None:
    block, out = e.op.attr("blocksize"), e.op.outputs[0].shape
    n, _, h, w = need(e, 0).shape
    if e.op.attr("mode", "DCR") == "DCR":
        _rearrange(e, [n, block, block, out[1], h, w], [0, 3, 4, 1, 5, 2])
    else:
        _rearrange(e, [n, out[1], block, block, h, w], [0, 1, 4, 2, 5, 3])


def _emit_space_to_depth(e: Emit) -> None:
    block, out = e.op.attr("blocksize"), e.op.outputs[0].shape
    n, c = need(e, 0).shape[:2]
    depth_first = e.op.attr("mode", "DCR") == "DCR"
    perm = [0, 3, 5, 1, 2, 4] if depth_first else [0, 1, 3, 5, 2, 4]
    _rearrange(e, [n, c, out[2], block, out[3], block], perm)


def _emit_trilu(e: Emit) -> None:
    k = known(e.op, 1)
    computed = e.op.input(1) is not None and k is None
    e.step(
        "trilu",
        [need(e, 0), need(e, 1) if computed else None],
        [e.output(0)],
        k=k[0] if k else 0,
        upper=int(e.op.attr("upper", 1)),
    )


SPECS = [
    KernelSpec(
        "concat_copy", "ai.onnx:Concat", _emit_concat, dtypes={0: ANY}, supports=_supports_concat
    ),
    KernelSpec("pad", "ai.onnx:Pad", _emit_pad, dtypes={0: ANY}, supports=_supports_pad),
    KernelSpec("tile_copy", "ai.onnx:Tile", _emit_tile, dtypes={0: ANY}, supports=_supports_tile),
    KernelSpec("depthtospace_copy", "ai.onnx:DepthToSpace", _emit_depth_to_space, dtypes={0: ANY}),
    KernelSpec("spacetodepth_copy", "ai.onnx:SpaceToDepth", _emit_space_to_depth, dtypes={0: ANY}),
    KernelSpec("trilu", "ai.onnx:Trilu", _emit_trilu, dtypes={0: ANY}),
]
