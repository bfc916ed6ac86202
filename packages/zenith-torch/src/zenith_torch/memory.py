"""In which order the capture says that a tensor's elements lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from zenith_torch.dims import is_symbolic

__all__ = ["memory_order", "whole_order"]


def whole_order(tensor: torch.Tensor) -> tuple[int, ...] | None:
    """The axes from outermost to innermost of a tensor that lies dense from its memory's start."""
    offset = tensor.storage_offset()
    if not isinstance(offset, int) or offset != 0:
        return None
    return tuple(range(tensor.dim())) if tensor.is_contiguous() else memory_order(tensor)


def memory_order(tensor: torch.Tensor) -> tuple[int, ...] | None:
    """The axes from outermost to innermost where a tensor is dense, but not row-major."""
    sizes = [_hint(size) for size in tensor.shape]
    strides = [_hint(stride) for stride in tensor.stride()]
    if None in sizes or None in strides or 0 in sizes:
        return None
    moving = [axis for axis, size in enumerate(sizes) if size != 1]
    ordered = sorted(moving, key=lambda axis: -strides[axis])
    if ordered == moving or not _is_dense(ordered, sizes, strides):
        return None
    places = iter(ordered)
    return tuple(next(places) if axis in moving else axis for axis in range(len(sizes)))


def _is_dense(order: Sequence[int], sizes: Sequence[Any], strides: Sequence[Any]) -> bool:
    expected = 1
    for axis in reversed(order):
        if strides[axis] != expected:
            return False
        expected *= sizes[axis]
    return True


def _hint(size: Any) -> Any:
    """A size as a number: that of the trace where it is symbolic; None where nobody knows."""
    if not is_symbolic(size):
        return size
    return size.node.hint if size.node.has_hint() else None
