"""Element types: torch, ONNX and numpy names of the same thing, and zero-copy views."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import torch

__all__ = ["FROM_NUMPY_NAME", "NUMPY_NAME", "TO_ONNX", "array_view", "tensor_view", "to_torch"]

TO_ONNX: dict[torch.dtype, ir.DataType] = {
    torch.float32: ir.DataType.FLOAT,
    torch.float64: ir.DataType.DOUBLE,
    torch.float16: ir.DataType.FLOAT16,
    torch.bfloat16: ir.DataType.BFLOAT16,
    torch.int64: ir.DataType.INT64,
    torch.int32: ir.DataType.INT32,
    torch.int16: ir.DataType.INT16,
    torch.int8: ir.DataType.INT8,
    torch.uint8: ir.DataType.UINT8,
    torch.uint16: ir.DataType.UINT16,
    torch.uint32: ir.DataType.UINT32,
    torch.uint64: ir.DataType.UINT64,
    torch.bool: ir.DataType.BOOL,
}
_TO_TORCH = {onnx: dtype for dtype, onnx in TO_ONNX.items()}
NUMPY_NAME: dict[torch.dtype, str] = {d: o.numpy().name for d, o in TO_ONNX.items()}
FROM_NUMPY_NAME: dict[str, torch.dtype] = {name: dtype for dtype, name in NUMPY_NAME.items()}


def to_torch(dtype: ir.DataType | None) -> torch.dtype:
    """The torch type of an ONNX element type."""
    assert dtype is not None
    return _TO_TORCH[dtype]


def resolved(tensor: torch.Tensor) -> torch.Tensor:
    """With values in memory: PyTorch may leave a sign, or zeros, to be understood."""
    return tensor.clone() if tensor._is_zerotensor() else tensor.resolve_neg()


def array_view(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """The data of a CPU tensor as an array: no copy, strides kept, bfloat16 by ml_dtypes."""
    tensor = resolved(tensor.detach())
    if tensor.device.type != "cpu":
        tensor = tensor.cpu()
    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def tensor_view(array: np.ndarray[Any, Any]) -> torch.Tensor:
    """A tensor over the array's data; a read-only or non-native array is copied first."""
    if not array.flags.writeable or not array.flags.aligned or not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="), copy=True)
    if any(stride < 0 for stride in array.strides):
        array = array.copy()
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
