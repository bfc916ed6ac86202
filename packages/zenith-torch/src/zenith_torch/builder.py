"""The core's graph builder in torch's terms: its dtypes, its type promotion, its parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import sympy
import torch

from zenith.ir.builder import GraphBuilder, NotSupportedError, Scalar
from zenith.ir.dims import Dim
from zenith_torch.dtypes import TO_ONNX, array_view, to_torch

__all__ = ["Builder", "NotSupportedError", "Scalar"]


class Builder(GraphBuilder):
    """What a handler writes to; dtypes may be torch's.

    A handler sees its result's facts in `out_dtype` and `out_shape` (of the first result where
    there are several, with the others' in the lists), its operator's name as `target`, and in
    `used` which of several results anybody reads. For complex results the types are those of their
    parts, and `out_complex` is set.

    takes_key: whether calls give a key for random numbers; it is the extra input then (see
    `lower.random`). Numbers are of `random_key`'s key, and `streams` counts who took some.
    """

    def __init__(self) -> None:
        super().__init__()
        self.out_dtype: torch.dtype = torch.float32
        self.out_shape: tuple[Dim, ...] = ()
        self.out_shapes: list[tuple[Dim, ...]] = []
        self.out_dtypes: list[torch.dtype] = []
        self.out_complex = False
        self.target = ""
        self.used: frozenset[int] = frozenset()
        self.takes_key = False
        self.extra_inputs: list[ir.Value] = []
        self.random_key: Callable[[], ir.Value] = self._key_of_call
        self.streams = 0

    def onnx_type(self, dtype: torch.dtype | ir.DataType) -> ir.DataType:
        return TO_ONNX[dtype] if isinstance(dtype, torch.dtype) else ir.DataType(dtype)

    def weight(self, tensor: torch.Tensor, name: str) -> ir.Value:
        """A constant over a parameter's or buffer's own memory."""
        return self.constant(array_view(tensor), name)

    def operand(self, value: Any, dtype: Any) -> ir.Value:
        """Also takes real expressions over sizes, such as ``0.1 / classes``."""
        if isinstance(value, sympy.Expr) and value.is_integer is not True:
            return self.cast(self._real(value), dtype)
        return super().operand(value, dtype)

    def is_unknown(self, size: Dim) -> bool:
        """Whether a size is one that only the data decides, with no value yet that tells it."""
        return isinstance(size, sympy.Symbol) and size not in self._symbol_homes

    def knows(self, size: Dim, value: ir.Value, axis: int) -> ir.Value:
        """`value`, whose axis tells a size from now on."""
        if isinstance(size, sympy.Symbol):
            self._symbol_homes.setdefault(size, (value, axis))
        return value

    def tells(self, size: Dim, value: ir.Value) -> None:
        """A 0-d integer tensor is a size from now on."""
        self._sizes.setdefault(
            size, self._known(self.reshape(self.cast(value, torch.int64), (1,)), [size])
        )

    def _key_of_call(self) -> ir.Value:
        if not self.takes_key:
            raise NotSupportedError("random numbers in a model that is called without a key")
        if not self.extra_inputs:
            self.extra_inputs.append(self.input("random_key", torch.uint32, (2,)))
        return self.extra_inputs[0]

    def _real(self, value: sympy.Expr) -> ir.Value:
        """A real expression over sizes as a 0-d float64."""
        if value.is_number:
            return self.number(float(value), torch.float64)
        if value.is_integer:
            return self.cast(self.size_scalar(value), torch.float64)
        op_type = {sympy.Add: "Add", sympy.Mul: "Mul", sympy.Pow: "Pow"}.get(value.func)
        if op_type is None:
            raise NotSupportedError(f"the number '{value}' has no form as a tensor")
        result = self._real(value.args[0])
        for arg in value.args[1:]:
            result = self.op(op_type, result, self._real(arg))
        return result

    def result_type(self, *values: Any) -> torch.dtype:
        """torch's type promotion over tensors and Python numbers."""

        def stand_in(value: Any) -> Any:
            if isinstance(value, ir.Value):
                shape = (0,) if self.rank_of(value) else ()
                return torch.empty(shape, dtype=to_torch(value.dtype))
            if isinstance(value, sympy.Expr):
                return 1 if value.is_integer else 1.0
            return value

        result = stand_in(values[0])
        if len(values) == 1:
            return torch.result_type(result, result)
        dtype = torch.result_type(result, stand_in(values[1]))
        for value in values[2:]:
            dtype = torch.promote_types(dtype, torch.result_type(result, stand_in(value)))
        return dtype
