"""Element types: those of JAX are numpy's and ml_dtypes'; keys of random numbers are uint32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import ml_dtypes
import numpy as np
import onnx_ir as ir

__all__ = [
    "TO_ONNX",
    "described",
    "is_complex",
    "is_float",
    "is_key",
    "is_signed",
    "onnx_type",
    "physical",
    "real_type",
]

TO_ONNX: dict[np.dtype[Any], ir.DataType] = {
    np.dtype(numpy_type): onnx
    for numpy_type, onnx in (
        (np.float32, ir.DataType.FLOAT),
        (np.float64, ir.DataType.DOUBLE),
        (np.float16, ir.DataType.FLOAT16),
        (ml_dtypes.bfloat16, ir.DataType.BFLOAT16),
        (np.int64, ir.DataType.INT64),
        (np.int32, ir.DataType.INT32),
        (np.int16, ir.DataType.INT16),
        (np.int8, ir.DataType.INT8),
        (np.uint8, ir.DataType.UINT8),
        (np.uint16, ir.DataType.UINT16),
        (np.uint32, ir.DataType.UINT32),
        (np.uint64, ir.DataType.UINT64),
        (np.bool_, ir.DataType.BOOL),
    )
}
_FLOATS = {
    ir.DataType.FLOAT,
    ir.DataType.DOUBLE,
    ir.DataType.FLOAT16,
    ir.DataType.BFLOAT16,
}
_SIGNED = {ir.DataType.INT8, ir.DataType.INT16, ir.DataType.INT32, ir.DataType.INT64}


def onnx_type(dtype: Any) -> ir.DataType | None:
    """ONNX's name of an element type of JAX, None where it has none."""
    if is_key(dtype):
        return ir.DataType.UINT32
    return TO_ONNX.get(np.dtype(dtype))


def is_key(dtype: Any) -> bool:
    """Whether it is the type of a random key (`jax.random.key`)."""
    return bool(jax.numpy.issubdtype(dtype, jax.dtypes.prng_key))


def is_complex(aval: Any) -> bool:
    """Whether an abstract value holds complex numbers."""
    return bool(jax.numpy.issubdtype(getattr(aval, "dtype", np.bool_), np.complexfloating))


def real_type(dtype: Any) -> np.dtype[Any]:
    """The type of the parts of a complex type; any other type itself."""
    kind = np.dtype(dtype)
    return np.finfo(kind).dtype if kind.kind == "c" else kind


def is_float(value: ir.Value) -> bool:
    return value.dtype in _FLOATS


def is_signed(value: ir.Value) -> bool:
    """Whether it holds signed integers."""
    return value.dtype in _SIGNED


def described(shape: Sequence[Any], dtype: Any) -> Any:
    """An array's description."""
    return jax.ShapeDtypeStruct(tuple(shape), dtype)  # type: ignore[no-untyped-call]


def physical(aval: Any) -> tuple[Any, tuple[Any, ...]]:
    """(dtype, shape) of the data: a key is a row of uint32, a complex number two real ones."""
    if is_complex(aval):
        return real_type(aval.dtype), (*aval.shape, 2)
    if not is_key(aval.dtype):
        return np.dtype(aval.dtype), tuple(aval.shape)
    row = jax.eval_shape(jax.random.key_data, described((), aval.dtype))
    return np.dtype(row.dtype), (*aval.shape, *row.shape)
