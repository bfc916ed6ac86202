"""The core's graph builder in JAX's terms: its dtypes, its sizes, and bodies of control flow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import onnx_ir as ir
import sympy

from zenith.ir.builder import Formal, NotSupportedError, Scalar, WriteBody
from zenith.ir.complexes import Complex, joined
from zenith.ir.dims import Dim, exactly
from zenith_jax.dims import sizes
from zenith_jax.dtypes import is_key, onnx_type, physical
from zenith_jax.views import ViewBuilder

__all__ = ["Builder", "NotSupportedError", "Scalar"]


class Builder(ViewBuilder):
    """What a handler writes to; dtypes may be numpy's.

    A handler sees its results' facts in `out_dtype`, `out_shape` (of the first) and `out_shapes`,
    its inputs' abstract values in `in_avals`, its primitive's name as `target`. `inline` lowers a
    closed jaxpr on values, `program` a function of JAX arrays on the handler's own inputs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.out_dtype: ir.DataType = ir.DataType.FLOAT
        self.out_shape: tuple[Dim, ...] = ()
        self.out_shapes: list[tuple[Dim, ...]] = []
        self.in_avals: list[Any] = []
        self.target = ""
        self.inline: Callable[[Any, Sequence[ir.Value]], list[ir.Value]]
        self.program: Callable[[Callable[..., Any], Sequence[ir.Value]], list[ir.Value]]
        self._weights: dict[int, tuple[Any, Any]] = {}
        self._known_sizes: dict[ir.Value, Dim] = {}
        self._complements: dict[ir.Value, ir.Value] = {}
        self._pooled_sums: dict[ir.Value, tuple[ir.Value, int]] = {}

    def onnx_type(self, dtype: Any) -> ir.DataType:
        if isinstance(dtype, ir.DataType):
            return dtype
        found = onnx_type(dtype)
        if found is None:
            raise NotSupportedError(f"Zenith does not compute with {dtype}")
        return found

    def ops(self, op_type: str, *inputs: ir.Value | None, **rest: Any) -> list[ir.Value]:
        """A node with several outputs; numpy's integers become attributes too."""
        plain: dict[str, Any] = {
            k: int(v) if isinstance(v, np.integer) else v for k, v in rest.items()
        }
        return super().ops(op_type, *inputs, **plain)

    def pointwise(
        self, op_type: str, *operands: ir.Value, dtype: Any = None, **attributes: Any
    ) -> ir.Value:
        """An elementwise operator; of numbers that are known, the number that it gives."""
        fold = _FOLDED.get(op_type)
        if fold is not None and all(v.const_value is not None for v in operands):
            numbers = [self.constant_of(v) for v in operands]
            if all(n is not None and n.ndim == 0 for n in numbers):
                found = fold(*numbers)
                return self.number(found, found.dtype if dtype is None else dtype)
        return super().pointwise(op_type, *operands, dtype=dtype, **attributes)

    def physical(self, aval: Any) -> tuple[ir.DataType, tuple[Dim, ...]]:
        """Element type and shape of an abstract value's data."""
        dtype, shape = physical(aval)
        return self.onnx_type(dtype), sizes(shape)

    def weight(self, array: Any, name: str = "const") -> Any:
        """A constant over an array's own memory; the same array is one value."""
        if id(array) not in self._weights:
            data = np.asarray(jax.random.key_data(array) if is_key(array.dtype) else array)
            if data.dtype.kind == "c":
                parts = [np.ascontiguousarray(part) for part in (data.real, data.imag)]
                made: Any = Complex(*(self.constant(part, name) for part in parts))
            else:
                made = self.constant(data, name)
            self._weights[id(array)] = (array, made)
        return self._weights[id(array)][1]

    def whole(self, value: Any) -> ir.Value:
        """One value of a complex one too: its joined parts."""
        return joined(self, value) if isinstance(value, Complex) else value

    def full(self, value: Scalar, dtype: Any, shape: Sequence[Dim]) -> ir.Value:
        """One number in every place."""
        return self.expand(self.number(value, dtype), shape)

    # --- sizes --------------------------------------------------------------------------------

    def known_size(self, value: ir.Value) -> Dim | None:
        """The size or number that a 0-d value is known to be."""
        if value in self._known_sizes:
            return self._known_sizes[value]
        if value.const_value is not None and self.rank_of(value) == 0:
            number = value.const_value.numpy().item()
            if isinstance(number, int) or float(number).is_integer():
                return int(number)
        return None

    def note_size(self, value: ir.Value, size: Dim) -> ir.Value:
        """Remember which size a 0-d value holds."""
        self._known_sizes[value] = size
        return value

    def constant_of(self, value: ir.Value) -> np.ndarray[Any, Any] | None:
        """The data of a constant, else None."""
        return None if value.const_value is None else value.const_value.numpy()

    # --- what a later handler may find out ----------------------------------------------------

    def note_complement(self, value: ir.Value, argument: ir.Value) -> ir.Value:
        """Remember that `value` is erfc(argument)."""
        self._complements[value] = argument
        return value

    def complement_of(self, value: ir.Value) -> ir.Value | None:
        """x where `value` is erfc(x)."""
        return self._complements.get(value)

    def note_pooled_sum(self, value: ir.Value, mean: ir.Value, count: int) -> None:
        """Remember that `value` is `count` times the average `mean`."""
        self._pooled_sums[value] = (mean, count)

    def pooled_sum(self, value: ir.Value) -> tuple[ir.Value, int] | None:
        """(mean, count) where `value` is the sum over windows."""
        return self._pooled_sums.get(value)

    # --- bodies -------------------------------------------------------------------------------

    def body(self, name: str, formal: Formal, write: WriteBody) -> ir.Graph:
        """Complex results are joined; what was folded inside a body is not known outside of it."""
        made = dict(self._made)
        graph = super().body(name, formal, lambda given: [*map(self.whole, write(given))])
        self._made = made
        return graph

    def conditional(
        self,
        condition: ir.Value,
        then_branch: ir.Graph,
        else_branch: ir.Graph,
        results: Sequence[tuple[ir.DataType, tuple[Dim, ...]]],
    ) -> list[ir.Value]:
        """If."""
        branches = {"then_branch": then_branch, "else_branch": else_branch}
        return self.ops("If", condition, results=results, **branches)

    def range_of(self, size: Dim, dtype: Any) -> ir.Value:
        """0, 1, ..., size - 1: a constant where the size is a number."""
        kind = self.onnx_type(dtype)
        size = exactly(size)
        if isinstance(size, int):
            key = ("range", size, kind)
            if key not in self._numbers:
                self._numbers[key] = self.constant(np.arange(size).astype(kind.numpy()), "range")
            return self._numbers[key]
        count = self.size_scalar(size)
        zero, one = self.number(0, ir.DataType.INT64), self.number(1, ir.DataType.INT64)
        wide = self.op("Range", zero, count, one, shape=[sympy.sympify(size)])
        return self.cast(wide, kind)


_FOLDED: dict[str, Callable[..., Any]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Max": np.maximum,
    "Min": np.minimum,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
}
