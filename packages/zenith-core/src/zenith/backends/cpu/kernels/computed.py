"""Operators whose parameters the model computes itself.

The sizes of their results are known all the same, and a kernel reads the parameters from its
operands; where sizes are not known, see `late`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from zenith.backends.cpu.emit import Emit
from zenith.backends.cpu.kernels.move import PAD_MODES
from zenith.backends.cpu.kernels.views import ANY, need, reshaped, unbound
from zenith.runtime.kernel_registry import KernelSpec, no_cost
from zenith.runtime.memory_manager import check_bytes
from zenith.runtime.numpy_signature import numpy_dtype
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


# Windows and grids whose size the model computes: numpy writes them, in float64 and rounded once.
_WINDOWS: dict[str, tuple[float, ...]] = {  # a window is the sum of c[k] * cos(2 pi k n / N)
    "HannWindow": (0.5, -0.5),
    "HammingWindow": (25 / 46, 25 / 46 - 1),
    "BlackmanWindow": (0.42, -0.5, 0.08),
}


def _window(op: OpView, inputs: Sequence[Array | None]) -> list[Array]:
    assert inputs[0] is not None
    size, dtype = int(inputs[0].item()), numpy_dtype(op.outputs[0].dtype)
    check_bytes(size * 8)
    period = size if op.attr("periodic", 1) else size - 1
    turns = np.arange(size) * (2 * np.pi / max(period, 1))
    return [sum(c * np.cos(k * turns) for k, c in enumerate(_WINDOWS[op.type])).astype(dtype)]


def _affine_grid(op: OpView, inputs: Sequence[Array | None]) -> list[Array]:
    """Coordinates from -1 to 1, the last axis first, and a one; times theta of each image."""
    theta, size = inputs
    assert theta is not None and size is not None
    sizes = [int(n) for n in size[2:]]
    check_bytes(8 * len(theta) * theta.shape[1] * math.prod(sizes))
    if len(sizes) != theta.shape[1] or int(size[0]) != len(theta):
        raise ValueError(f"theta of shape {theta.shape} does not fit a size of {size.tolist()}")
    if op.attr("align_corners", 0):
        lines = [np.linspace(-1, 1, n) for n in sizes]
    else:
        lines = [(2 * np.arange(n) + 1) / n - 1 for n in sizes]
    axes = np.meshgrid(*lines, indexing="ij")[::-1]
    points = np.stack([*axes, np.ones(sizes)], axis=-1)
    grid = np.tensordot(theta.astype(np.float64), points, ([2], [len(sizes)]))
    return [np.moveaxis(grid, 1, -1).astype(theta.dtype)]


def _crop_or_pad(op: OpView, inputs: Sequence[Array | None]) -> list[Array]:
    """The middle of the input in the middle of the result."""
    x, wanted = inputs
    assert x is not None and wanted is not None
    axes = op.attr("axes")
    sizes = list(x.shape)
    for axis, size in zip(range(x.ndim) if axes is None else axes, wanted, strict=True):
        sizes[axis] = int(size)
    check_bytes(x.itemsize * math.prod(sizes))
    result = np.zeros(sizes, x.dtype)
    common = [min(a, b) for a, b in zip(x.shape, sizes, strict=True)]
    middle = [
        tuple(slice((n - c) // 2, (n - c) // 2 + c) for n, c in zip(whole, common, strict=True))
        for whole in (x.shape, sizes)
    ]
    result[middle[1]] = x[middle[0]]
    return [result]


def _sized(op: str, index: int, run: Callable[..., list[Array]], **dtypes: Any) -> KernelSpec:
    """A row for sizes that are not known before input `index` is there."""

    def supports(view: OpView) -> str | None:
        size = view.input(index)
        if size is None or size.known is not None or size.const is not None:
            return "its size is known: it can be planned"
        return None

    name = f"{op.lower()}_sized"
    return KernelSpec(name, f"ai.onnx:{op}", run, supports=supports, cost=no_cost, call=True,
                      **dtypes)  # fmt: skip


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
    *(_sized(op, 0, _window) for op in _WINDOWS),
    _sized("AffineGrid", 1, _affine_grid, dtypes={0: frozenset({"float32", "float64"})}),
    _sized("CenterCropPad", 1, _crop_or_pad),
]
