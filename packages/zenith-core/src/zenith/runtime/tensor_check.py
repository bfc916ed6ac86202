"""Whether an array that crosses the edge of Python kernels is what the graph says it is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_ir as ir

__all__ = ["TensorCheck"]


class TensorCheck:
    """What is known of a value before it is there: a tensor's dtype, rank, sizes and names of
    sizes. A sequence, or an optional value, is not looked at."""

    def __init__(self, value: ir.Value) -> None:
        self.name = value.name or ""
        self._tensor = bool(self.name) and isinstance(value.type, ir.TensorType | None)
        self._dtype = None if value.dtype is None else value.dtype.numpy()
        self._text = value.dtype == ir.DataType.STRING
        self._dims: list[int | str | None] | None = None
        if value.shape is not None:
            self._dims = [d if isinstance(d, int) else d.value for d in value.shape]

    def __str__(self) -> str:
        dims = (
            "?"
            if self._dims is None
            else ", ".join("?" if d is None else str(d) for d in self._dims)
        )
        return f"{'unknown' if self._dtype is None else self._dtype.name}[{dims}]"

    def bind(self, array: Any, sizes: dict[str, int]) -> None:
        """Note what the named sizes of an input are."""
        if isinstance(array, np.ndarray) and self._dims is not None:
            for dim, size in zip(self._dims, array.shape, strict=False):
                if isinstance(dim, str) and dim.isidentifier():
                    sizes.setdefault(dim, size)

    def mismatch(self, value: Any, sizes: dict[str, int]) -> str | None:
        """What `value` is instead, or None when it fits. sizes: the named ones that are known."""
        if not self._tensor:
            return None
        if not isinstance(value, np.ndarray | np.generic):
            return "None" if value is None else f"a {type(value).__name__}, not an array"
        shape, kind = value.shape, value.dtype
        right = kind.kind in "OSUT" if self._text else self._dtype in (None, kind)
        if right and (self._dims is None or _fits(self._dims, shape, sizes)):
            return None
        return f"{kind.name}[{', '.join(str(n) for n in shape)}]"


def _fits(dims: list[int | str | None], shape: Iterable[int], sizes: dict[str, int]) -> bool:
    shape = tuple(shape)
    return len(dims) == len(shape) and all(
        size == (dim if isinstance(dim, int) else sizes.get(dim or "", size))
        for dim, size in zip(dims, shape, strict=True)
    )
