"""Operators whose parameters the model computes itself.

The sizes of their results are known all the same, and a kernel reads the parameters from its
operands; where sizes are not known, see `late`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from zenith.backends.cpu.emit import Emit
from zenith.backends.cpu.kernels.move import PAD_MODES
from zenith.backends.cpu.kernels.views import ANY, need, reshaped, unbound
from zenith.runtime.kernel_registry import KernelSpec
from zenith.runtime.op_view import OpView

__all__ = ["SPECS"]

Array: TypeAlias = NDArray[Any]
INDEX = frozenset({"int64", "int32"})


def _given(e: Emit, index: int) -> Any:
    return e.operand(index) if e.op.input(index) is not None else None


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


def _mel_weights(op: OpView, inputs: Sequence[Array | None]) -> list[Array]:
    """Triangles that are linear in mel, one a column, over the bins of a spectrum."""
    bins, length, rate, low, high = (x.ravel()[0].item() for x in inputs if x is not None)
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


def _planned(op: str, run: Callable[[Emit], None], supports: Any = unbound) -> KernelSpec:
    name = f"{op.lower()}_computed"
    return KernelSpec(name, f"ai.onnx:{op}", run, dtypes={0: ANY}, supports=supports)


SPECS = [
    _planned("Slice", _emit_slice),
    _planned("Pad", _emit_pad, _supports_pad),
    _planned("Tile", _emit_tile),
    _planned("Squeeze", _emit_reshaped),
    _planned("Unsqueeze", _emit_reshaped),
    KernelSpec(
        "melweightmatrix", "ai.onnx:MelWeightMatrix", _mel_weights, dtypes={0: INDEX}, call=True
    ),
]
