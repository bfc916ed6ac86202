"""Sliding windows of Conv and the pools: attributes with ONNX's defaults, padding, views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sympy

from zenith.backends.cpu.emit import Emit
from zenith.backends.cpu.operand import Operand, channels_last_order
from zenith.ir.dims import Dim, exactly, floor_div
from zenith.runtime.op_view import OpView

__all__ = [
    "Window",
    "as_pixels",
    "output_pixels",
    "rank_reason",
    "transposed_window_of",
    "window_of",
]


@dataclass(frozen=True)
class Window:
    """A window over `axes` spatial axes; those a signal lacks, in front, have size 1.

    pads: before each axis, then after each.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[Dim, ...]
    dilations: tuple[int, ...]

    @property
    def begin(self) -> tuple[Dim, ...]:
        """Pads before each axis; those after follow from the output's size."""
        return self.pads[: len(self.kernel)]


def rank_reason(op: OpView, most: int = 2) -> str | None:
    """None for [N, C, *spatial] with 1 to `most` spatial axes, else why not."""
    x = op.inputs[0]
    assert x is not None
    if 3 <= x.rank <= most + 2:
        return None
    return f"inputs of rank {x.rank} have no kernel, only 3 to {most + 2}"


def _nonnegative(size: Dim) -> Dim:
    return max(size, 0) if isinstance(size, int) else exactly(sympy.Max(size, 0))


def _halves(total: Dim, more_at_end: bool) -> tuple[Dim, Dim]:
    less = floor_div(total, 2)
    more = exactly(total - less)
    return (less, more) if more_at_end else (more, less)


def _window(op: OpView, kernel: Sequence[int], pads: Sequence[Dim], axes: int) -> Window:
    missing = axes - len(kernel)
    ones, zeros = (1,) * missing, (0,) * missing
    count = len(kernel)
    return Window(
        kernel=(*ones, *kernel),
        strides=(*ones, *(op.attr("strides") or [1] * count)),
        pads=(*zeros, *pads[:count], *zeros, *pads[count:]),
        dilations=(*ones, *(op.attr("dilations") or [1] * count)),
    )


def window_of(op: OpView, kernel: Sequence[int], axes: int = 2) -> Window:
    """The window of a Conv or pool node with this kernel shape. auto_pad is resolved."""
    count = len(kernel)
    strides = op.attr("strides") or [1] * count
    dilations = op.attr("dilations") or [1] * count
    pads: list[Dim] = list(op.attr("pads") or [0] * (2 * count))
    auto_pad = op.attr("auto_pad", "NOTSET")
    if auto_pad == "VALID":
        pads = [0] * (2 * count)
    elif auto_pad.startswith("SAME"):
        x = op.inputs[0]
        assert x is not None
        for axis in range(count):
            reach = (op.outputs[0].shape[2 + axis] - 1) * strides[axis]
            reach += (kernel[axis] - 1) * dilations[axis] + 1
            total = _nonnegative(exactly(reach - x.shape[2 + axis]))
            pads[axis], pads[count + axis] = _halves(total, auto_pad == "SAME_UPPER")
    return _window(op, kernel, pads, axes)


def transposed_window_of(op: OpView, kernel: Sequence[int], axes: int = 3) -> Window:
    """The window of a ConvTranspose node: pads follow from an output_shape or auto_pad."""
    count = len(kernel)
    strides = op.attr("strides") or [1] * count
    dilations = op.attr("dilations") or [1] * count
    pads: list[Dim] = list(op.attr("pads") or [0] * (2 * count))
    auto_pad = op.attr("auto_pad", "NOTSET")
    if op.attr("output_shape") or auto_pad.startswith("SAME"):
        x = op.inputs[0]
        assert x is not None
        extra = op.attr("output_padding") or [0] * count
        for axis in range(count):
            full = (x.shape[2 + axis] - 1) * strides[axis] + extra[axis]
            full += (kernel[axis] - 1) * dilations[axis] + 1
            total = _nonnegative(exactly(full - op.outputs[0].shape[2 + axis]))
            pads[axis], pads[count + axis] = _halves(total, auto_pad == "SAME_UPPER")
    elif auto_pad == "VALID":
        pads = [0] * (2 * count)
    return _window(op, kernel, pads, axes)


def as_pixels(operand: Operand, axes: int = 2) -> Operand:
    """[N, C, *spatial] seen as [N, *spatial, C], with `axes` spatial axes (1 those in front)."""
    view = operand.transpose(channels_last_order(operand.rank))
    while view.rank < axes + 2:
        view = view.unsqueeze(1)
    return view


def output_pixels(e: Emit, axes: int = 2) -> Operand:
    """Output 0 of the node in channels-last memory, as `as_pixels` sees it."""
    return as_pixels(e.output(0, order=channels_last_order(e.op.outputs[0].rank)), axes)
