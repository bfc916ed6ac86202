"""Operators whose results have a size that only the data tells: NonZero, Compress, Unique and
NonMaxSuppression. They are calls: the native runtime allocates the results."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from zenith import _native
from zenith.backends.cpu.kernels.views import ANY
from zenith.runtime.kernel_registry import KernelSpec
from zenith.runtime.op_view import OpView

__all__ = ["SPECS"]

Array: TypeAlias = NDArray[Any]
Inputs: TypeAlias = list[Array | None]
_BFLOAT16 = 16  # dtype code of a tensor that reaches the runtime as uint16


def as_bits(array: Array) -> Array:
    """The same bytes under a dtype the native runtime reads from numpy (bfloat16 as uint16)."""
    if array.dtype.kind != "V":  # numpy's own (`isbuiltin` is 0 for them too, once unpickled)
        return array
    return array.view(np.uint16 if array.dtype.itemsize == 2 else np.uint8)


def _code(x: Array) -> int:
    return _BFLOAT16 if x.dtype.name == "bfloat16" else 0


def _row_major(inputs: Inputs, index: int) -> Array:
    x = inputs[index]
    assert x is not None, f"required input {index} is missing"
    return np.ascontiguousarray(x).reshape(x.shape)


def _nonzero(op: OpView, inputs: Inputs) -> list[Array]:
    x = _row_major(inputs, 0)
    return [_native.nonzero(as_bits(x), _code(x))]


def _compress(op: OpView, inputs: Inputs) -> list[Array]:
    x, condition = _row_major(inputs, 0), _row_major(inputs, 1)
    axis = op.attr("axis")
    picked = _native.compress(as_bits(x), condition, None if axis is None else axis % x.ndim)
    return [picked.view(x.dtype)]


def _unique(op: OpView, inputs: Inputs) -> list[Array]:
    x, axis = _row_major(inputs, 0), op.attr("axis")
    values, *rest = _native.unique(
        as_bits(x),
        None if axis is None else axis % x.ndim,
        bool(op.attr("sorted", 1)),
        _code(x),
    )
    return [values.view(x.dtype), *rest][: len(op.outputs)]


def _scalar(inputs: Inputs, index: int) -> float | None:
    x = inputs[index] if index < len(inputs) else None
    return None if x is None else x.ravel()[0].item()


def _suppress(op: OpView, inputs: Inputs) -> list[Array]:
    most, overlap = _scalar(inputs, 2), _scalar(inputs, 3)
    return [
        _native.suppress(
            _row_major(inputs, 0),
            _row_major(inputs, 1),
            int(most or 0),
            overlap or 0.0,
            _scalar(inputs, 4),
            bool(op.attr("center_point_box", 0)),
        )
    ]


SPECS = [
    KernelSpec("nonzero", "ai.onnx:NonZero", _nonzero, dtypes={0: ANY}, call=True),
    KernelSpec("compress", "ai.onnx:Compress", _compress, dtypes={0: ANY}, call=True),
    KernelSpec("unique", "ai.onnx:Unique", _unique, dtypes={0: ANY}, call=True),
    KernelSpec(
        "nonmaxsuppression", "ai.onnx:NonMaxSuppression", _suppress,
        dtypes={0: frozenset({"float32"})}, call=True,
    ),
]  # fmt: skip
