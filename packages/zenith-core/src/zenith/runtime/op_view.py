"""What a kernel's predicate, cost and emitter may look at: one node with its values resolved."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from onnx_shape_inference import SYM_DATA_KEY

from zenith.ir.dims import Dim, UnknownSizeError, exactly, parse_dim, product
from zenith.ir.types import constant_data, item_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["OpView", "ValueView"]


class ValueView:
    """A value's static facts: dtype, shape, and its content where that is known."""

    def __init__(self, value: ir.Value) -> None:
        self.value = value
        self.name = value.name or ""

    @functools.cached_property
    def dtype(self) -> str:
        """numpy name of the element type: "float32", "int64", "bool", "bfloat16", "string".

        Of a sequence or an optional, the type as text: no kernel for tensors takes it.
        """
        if isinstance(self.value.type, ir.SequenceType | ir.OptionalType):
            return str(self.value.type)
        return self.value.dtype.numpy().name if self.value.dtype is not None else "unknown"

    @functools.cached_property
    def shape(self) -> tuple[Dim, ...]:
        """Sizes: int, or a sympy expression over the graph's symbols."""
        if self.value.shape is None:
            raise UnknownSizeError(f"the rank of '{self.name}' depends on data")
        return tuple(parse_dim(d) for d in self.value.shape)

    @property
    def rank(self) -> int:
        return len(self.shape)

    @functools.cached_property
    def size(self) -> Dim:
        """Number of elements."""
        return product(self.shape)

    @functools.cached_property
    def nbytes(self) -> Dim:
        return self.size * item_bytes(self.value.dtype)

    @property
    def is_const(self) -> bool:
        """Whether the value is a constant; unlike `const`, this reads no weights."""
        return self.value.const_value is not None

    @property
    def const(self) -> np.ndarray | None:
        """The constant's data (read only, possibly strided), or None when it is computed.

        It may come from a file, and is not kept: views live as long as the compiled model.
        """
        tensor = self.value.const_value
        return None if tensor is None else constant_data(tensor)

    @functools.cached_property
    def known(self) -> tuple[Dim, ...] | None:
        """A small integer tensor's content as dims, flattened, where it can be told at compile
        time: a constant, or a shape computation over symbols. None otherwise."""
        tensor = self.value.const_value
        if tensor is not None:
            if tensor.size <= 4096 and tensor.dtype != ir.DataType.STRING:
                array = tensor.numpy()
                if array.dtype.kind in "iub":
                    return tuple(int(x) for x in array.ravel())
            return None
        text = self.value.metadata_props.get(SYM_DATA_KEY)
        if text is None:
            return None
        return tuple(parse_dim(d) for d in json.loads(text))


class OpView:
    """One node: operator key, attributes, inputs and outputs. A missing optional input is None."""

    def __init__(
        self,
        node: ir.Node,
        values: Mapping[ir.Value, ValueView] | None = None,
        body: ir.Function | None = None,
    ) -> None:
        self.node = node
        self.body = body  # of a fused operator: its meaning in standard operators
        self.type = node.op_type
        self.domain = node.domain or "ai.onnx"
        self.overload = node.overload or ""
        self.key = f"{self.domain}:{self.type}"

        def view(value: ir.Value | None) -> ValueView | None:
            if value is None:
                return None
            known = values.get(value) if values is not None else None
            return known if known is not None else ValueView(value)

        self.inputs: list[ValueView | None] = [view(v) for v in node.inputs]
        self.outputs: list[ValueView] = [ValueView(v) for v in node.outputs]

    def attr(self, name: str, default: Any = None) -> Any:
        """Attribute value as a Python object (int, float, str, list), or `default` if absent."""
        attribute = self.node.attributes.get(name)
        if attribute is None:
            return default
        value = attribute.value
        return list(value) if isinstance(value, tuple) else value

    def misfit(self, index: int, *shape: Dim | None) -> str | None:
        """Why input `index` has another shape than a kernel takes (None: any size); None if it has
        that shape for sure, or is missing. Kernels count on it: they check no sizes."""
        value = self.input(index)
        if value is None:
            return None
        fits = value.rank == len(shape) and all(
            wanted is None or exactly(n - wanted) == 0
            for n, wanted in zip(value.shape, shape, strict=True)
        )
        if fits:
            return None
        wanted = ", ".join("?" if n is None else str(n) for n in shape)
        return f"'{value.name}' has shape {list(value.shape)}, not surely [{wanted}]"

    def input(self, index: int) -> ValueView | None:
        """The input at `index`; None when it is missing or beyond the end."""
        return self.inputs[index] if index < len(self.inputs) else None

    def required(self, index: int) -> ValueView:
        """The input at `index`, which the operator's schema requires."""
        value = self.input(index)
        assert value is not None, f"required input {index} of {self.type} is missing"
        return value
