"""Sliding windows of Conv and the pools: attributes with ONNX's defaults, padding, views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sympy

from zenith.backends.cpu.emit import Emit
from zenith.backends.cpu.operand import Operand, channels_last_order
from zenith.ir.dims import Dim, exactly, floor_div
from zenith.runtime.op_view import OpView

__all__ = ["Window", "as_pixels", "output_pixels", "rank_reason", "window_of"]


@dataclass(frozen=True)
class Window:
    """A window over two spatial axes; a 1-D one has height 1. Pads: top, left, bottom, right."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[Dim, Dim, Dim, Dim]
    dilations: tuple[int, int]


def rank_reason(op: OpView) -> str | None:
    """None for images [N, C, H, W] and signals [N, C, W], else why not."""
    x = op.inputs[0]
    assert x is not None
    return None if x.rank in (3, 4) else f"inputs of rank {x.rank} have no kernel, only 3 and 4"


def _nonnegative(size: Dim) -> Dim:
    return max(size, 0) if isinstance(size, int) else exactly(sympy.Max(size, 0))


def window_of(op: OpView, kernel: Sequence[int]) -> Window:
    """The window of a Conv or pool node with this kernel shape. auto_pad is resolved."""
    axes = len(kernel)
    strides = op.attr("strides") or [1] * axes
    dilations = op.attr("dilations") or [1] * axes
    pads: list[Dim] = list(op.attr("pads") or [0] * (2 * axes))
    auto_pad = op.attr("auto_pad", "NOTSET")
    if auto_pad == "VALID":
        pads = [0] * (2 * axes)
    elif auto_pad.startswith("SAME"):
        x = op.inputs[0]
        assert x is not None
        for axis in range(axes):
            reach = (op.outputs[0].shape[2 + axis] - 1) * strides[axis]
            reach += (kernel[axis] - 1) * dilations[axis] + 1
            total = _nonnegative(exactly(reach - x.shape[2 + axis]))
            less = floor_div(total, 2)
            more = exactly(total - less)
            pads[axis], pads[axes + axis] = (
                (less, more) if auto_pad == "SAME_UPPER" else (more, less)
            )
    height = [1] * (2 - axes)
    none = [0] * (2 - axes)

    def pair(values: Sequence[int], missing: Sequence[int]) -> tuple[int, int]:
        both = [*missing, *values]
        return both[0], both[1]

    begin, end = pair(pads[:axes], none), pair(pads[axes:], none)
    return Window(
        kernel=pair(kernel, height),
        strides=pair(strides, height),
        pads=(*begin, *end),
        dilations=pair(dilations, height),
    )


def as_pixels(operand: Operand) -> Operand:
    """[N, C, *spatial] seen as [N, H, W, C], with H = 1 for a 1-D one."""
    view = operand.transpose(channels_last_order(operand.rank))
    return view.unsqueeze(1) if view.rank == 3 else view


def output_pixels(e: Emit) -> Operand:
    """Output 0 of the node in channels-last memory, as [N, OH, OW, M]."""
    return as_pixels(e.output(0, order=channels_last_order(e.op.outputs[0].rank)))
