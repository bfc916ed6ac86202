"""How a call sees that nobody wrote its parameters, at a few nanoseconds for each.

Note [Reading tensors natively]: PyTorch's own attributes `_version` and `data_ptr` cost 60 and 100
ns each, mostly for error handling. The functions behind them are exported by its library and take
an `at::Tensor`, which lies inside the Python object. Where it lies is looked up, not assumed:
`Tensor._cdata` is the pointer that it holds. Where a function or that place is not found, the
attributes are read.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping
from typing import Any

import torch

from zenith._native import NativeReader, Snapshot

__all__ = ["snapshot"]

_VERSION = "_ZN2at6native8_versionERKNS_6TensorE"  # int64_t at::native::_version(const Tensor&)
_POINTER = "aoti_torch_get_data_ptr"  # of the C interface for compiled models


def snapshot(tensors: Mapping[int, torch.Tensor]) -> Snapshot:
    """Tensors by their position among the arguments, with the version and memory they have now."""
    version, pointer = _readers()
    taken = Snapshot()
    for position, tensor in tensors.items():
        # Tensors of inference_mode have no version: only `refresh` tells of a write to them.
        readers = (pointer,) if tensor.is_inference() else (version, pointer)
        taken.add(position, tensor, readers)
    return taken


@functools.cache
def _readers() -> tuple[Any, Any]:
    offset = _offset()
    version, pointer = _function(_VERSION), _function(_POINTER)
    if offset is None or version is None or pointer is None:
        return torch.Tensor._version, torch.Tensor.data_ptr
    return NativeReader(version, offset, False), NativeReader(pointer, offset, True)


def _offset() -> int | None:
    """Where in a Python tensor its `at::Tensor` lies, behind the object's own head."""
    tensor = torch.empty(1)
    head, word = object.__basicsize__, ctypes.sizeof(ctypes.c_void_p)
    for offset in range(head, torch.Tensor.__mro__[1].__basicsize__, word):
        if ctypes.c_void_p.from_address(id(tensor) + offset).value == tensor._cdata:
            return offset
    return None


def _function(name: str) -> int | None:
    """The address of a function of PyTorch's library, which is loaded already."""
    library = ctypes.CDLL(torch._C.__file__)
    if not hasattr(library, name):
        return None
    return ctypes.cast(getattr(library, name), ctypes.c_void_p).value
