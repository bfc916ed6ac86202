"""Fourier transforms, DFT and STFT, and determinants."""

from __future__ import annotations

from dataclasses import replace

from zenith.backends.cpu.emit import Emit
from zenith.backends.cpu.kernels.views import known, need, unbound
from zenith.backends.cpu.operand import Operand
from zenith.ir.dims import Dim, exactly
from zenith.runtime.kernel_registry import KernelSpec
from zenith.runtime.op_view import OpView

__all__ = ["SPECS"]

FLOATS = frozenset({"float32", "float64", "float16", "bfloat16"})
FORWARD, INVERSE, REAL_INVERSE = range(3)


def _axis(op: OpView) -> int | None:
    x = op.inputs[0]
    assert x is not None
    given = known(op, 2)
    if op.input(2) is None:
        return x.rank - 2
    return int(given[0]) % x.rank if given is not None and isinstance(given[0], int) else None


def _direction(op: OpView) -> int:
    if not op.attr("inverse", 0):
        return FORWARD
    return REAL_INVERSE if op.attr("onesided", 0) else INVERSE


def _length(op: OpView, axis: int) -> Dim | None:
    """Points of the transform."""
    x = op.inputs[0]
    assert x is not None
    if op.input(1) is not None:
        given = known(op, 1)
        if given is not None:
            return given[0]
        half = op.attr("onesided", 0) and not op.attr("inverse", 0)
        return None if half else op.outputs[0].shape[axis]
    if _direction(op) == REAL_INVERSE:
        return exactly(2 * (x.shape[axis] - 1))
    return x.shape[axis]


def _supports_dft(op: OpView) -> str | None:
    axis = _axis(op)
    if axis is None:
        return "the axis is computed from data"
    if _length(op, axis) is None:
        return "the length is computed from data"
    return unbound(op)


def _emit_dft(e: Emit) -> None:
    axis = _axis(e.op)
    assert axis is not None
    length = _length(e.op, axis)
    assert length is not None
    e.step(
        "dft",
        [need(e, 0), None],
        [e.output(0)],
        axis=axis,
        length=length,
        inverse=_direction(e.op),
    )


def _frame(op: OpView) -> tuple[Dim, Dim] | None:
    """Points of a frame, and from one frame to the next."""
    x, window, step = op.inputs[0], op.input(2), known(op, 1)
    assert x is not None
    if step is None:
        return None
    if op.input(3) is not None:
        length = known(op, 3)
        return None if length is None else (length[0], step[0])
    return (window.shape[0] if window is not None else x.shape[1], step[0])


def _supports_stft(op: OpView) -> str | None:
    return unbound(op) if _frame(op) is not None else "frames are computed from data"


def _emit_stft(e: Emit) -> None:
    x, frame = need(e, 0), _frame(e.op)
    assert frame is not None
    length, step = frame
    out = e.output(0)
    # Frames overlap: the view walks the signal by `step` and by 1.
    parts = x.shape[2] if x.rank == 3 else 1
    inner = x.strides[2] if x.rank == 3 else 0
    frames: Operand = replace(
        x,
        shape=(x.shape[0], out.shape[1], length, parts),
        strides=(x.strides[0], exactly(step * x.strides[1]), x.strides[1], inner),
    )
    window = e.operand(2) if e.op.input(2) is not None else None
    e.step("dft", [frames, window], [out], axis=2, length=length, inverse=FORWARD)


def _emit_det(e: Emit) -> None:
    e.step("det", [need(e, 0)], [e.output(0)])


SPECS = [
    KernelSpec("dft", "ai.onnx:DFT", _emit_dft, dtypes={0: FLOATS}, supports=_supports_dft),
    KernelSpec("stft", "ai.onnx:STFT", _emit_stft, dtypes={0: FLOATS}, supports=_supports_stft),
    KernelSpec("det", "ai.onnx:Det", _emit_det, dtypes={0: FLOATS}),
]
