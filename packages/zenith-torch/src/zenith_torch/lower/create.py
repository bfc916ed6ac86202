"""Tensors made from numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from zenith.ir.dims import Dim, exactly
from zenith_torch.builder import Builder, NotSupportedError, Scalar
from zenith_torch.lower.registry import lower


def filled(b: Builder, value: Any, shape: Sequence[Dim], dtype: torch.dtype) -> ir.Value:
    """A tensor of one number: its broadcast."""
    return b.expand(b.operand(value, dtype), tuple(shape))


@lower("aten.full.default", "aten.new_full.default", "aten.full_like.default")
def full(b: Builder, first: Any, *rest: Any, **_: Any) -> ir.Value:
    return filled(b, rest[-1], b.out_shape, b.out_dtype)


@lower(
    "aten.zeros.default",
    "aten.zeros_like.default",
    "aten.new_zeros.default",
    "aten._efficientzerotensor.default",
    "aten.empty.memory_format",
    "aten.empty_like.default",
    "aten.new_empty.default",
    "aten.empty_permuted.default",
    "aten.empty_strided.default",
    "aten.new_empty_strided.default",
)
def zeros(b: Builder, *_: Any, **__: Any) -> ir.Value:
    return filled(b, 0, b.out_shape, b.out_dtype)


@lower("aten.ones.default", "aten.ones_like.default", "aten.new_ones.default")
def ones(b: Builder, *_: Any, **__: Any) -> ir.Value:
    return filled(b, 1, b.out_shape, b.out_dtype)


@lower("aten.scalar_tensor.default")
def scalar_tensor(b: Builder, value: Any, **_: Any) -> ir.Value:
    return b.operand(value, b.out_dtype)


@lower("aten.arange.start_step")
def arange_step(b: Builder, start: Dim, end: Dim, step: Dim = 1, **_: Any) -> ir.Value:
    if all(isinstance(v, (int, float)) for v in (start, end, step)):
        return b.constant(torch.arange(start, end, step, dtype=b.out_dtype).numpy())
    scalars = [b.operand(v, torch.int64) for v in (start, end, step)]
    return b.cast(b.op("Range", *scalars, shape=b.out_shape), b.out_dtype)


@lower("aten.arange.start")
def arange_start(b: Builder, start: Dim, end: Dim, **_: Any) -> ir.Value:
    return arange_step(b, start, end)


@lower("aten.arange.default")
def arange(b: Builder, end: Dim, **_: Any) -> ir.Value:
    return arange_step(b, 0, end)


@lower("aten.linspace.default")
def linspace(b: Builder, start: Scalar, end: Scalar, steps: Dim, **_: Any) -> ir.Value:
    if isinstance(steps, int):
        return b.constant(torch.linspace(start, end, steps, dtype=b.out_dtype).numpy())
    count = [b.number(0, torch.int64), b.size_scalar(steps), b.number(1, torch.int64)]
    positions = b.cast(b.op("Range", *count, shape=[steps]), b.out_dtype)
    last = b.operand(exactly(steps - 1), b.out_dtype)
    step = b.op("Div", b.number(end - start, b.out_dtype), last)
    return b.op("Add", b.op("Mul", positions, step), b.number(start, b.out_dtype))


@lower("aten.eye.default", "aten.eye.m")
def eye(b: Builder, n: int, m: int | None = None, **_: Any) -> ir.Value:
    if not all(isinstance(d, int) for d in b.out_shape):
        base = filled(b, 0, b.out_shape, torch.int32)
        return b.cast(b.op("EyeLike", base), b.out_dtype)
    return b.constant(np.eye(*b.out_shape).astype(_numpy_type(b)))


@lower("aten.tril_indices.default", "aten.triu_indices.default")
def triangle_indices(b: Builder, row: int, col: int, offset: int = 0, **_: Any) -> ir.Value:
    function = torch.tril_indices if "tril" in b.target else torch.triu_indices
    return b.constant(function(row, col, offset, dtype=b.out_dtype).numpy())


def _numpy_type(b: Builder) -> Any:
    from zenith_torch.dtypes import TO_ONNX

    return TO_ONNX[b.out_dtype].numpy()


@lower("aten.one_hot.default")
def one_hot(b: Builder, x: ir.Value, num_classes: int = -1) -> ir.Value:
    if num_classes < 0:
        raise NotSupportedError("one_hot without num_classes")
    depth, values = b.number(num_classes, torch.int64), b.ints([0, 1])
    return b.op("OneHot", x, depth, values, shape=b.out_shape, dtype=torch.int64, axis=-1)
