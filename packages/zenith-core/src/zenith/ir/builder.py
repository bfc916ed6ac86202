"""How adapters write a graph: every value has its dtype and its (symbolic) shape from the start."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import sympy
from onnx_shape_inference import SYM_DATA_KEY

from zenith.ir._describe import SOURCE_KEY
from zenith.ir.control import reads
from zenith.ir.dims import Dim, broadcast, exactly, product

__all__ = ["Formal", "GraphBuilder", "NotSupportedError", "Scalar", "WriteBody"]

Scalar = bool | int | float
_BEFORE_ALL = -(2**31)  # where a slice that goes backwards ends when it takes all

Formal = Sequence[tuple[ir.DataType, tuple[Dim, ...]]]
"""Element type and shape of each input of a body."""

WriteBody = Callable[[list[ir.Value]], Sequence[ir.Value]]
"""Writes the nodes of a body from its inputs; gives its outputs."""


class NotSupportedError(Exception):
    """A use of an operator that has no lowering; the message says which use."""


class GraphBuilder:
    """Appends nodes to one graph.

    Nodes are named after `label` and carry `source` (the line of the model) for errors. The facts
    of a value are `shape_of`, `rank_of` and `value.dtype`. Wherever a dtype is expected, an adapter
    may let `onnx_type` take its framework's own.
    """

    def __init__(self) -> None:
        self.nodes: list[ir.Node] = []
        self.source = ""
        self.label = ""
        self._shapes: dict[ir.Value, tuple[Dim, ...]] = {}
        self._names: set[str] = set()
        self._numbers: dict[tuple[Any, ...], ir.Value] = {}
        self._views: dict[tuple[ir.Value, tuple[int, ...]], ir.Value] = {}
        self._sizes: dict[Any, ir.Value] = {}
        self._symbol_homes: dict[sympy.Symbol, tuple[ir.Value, int]] = {}
        self._hoisted: list[ir.Value] = []  # constants of bodies

    def onnx_type(self, dtype: Any) -> ir.DataType:
        """ONNX's name of an element type."""
        return ir.DataType(dtype)

    # --- values -------------------------------------------------------------------------------

    def unique(self, name: str) -> str:
        """`name`, or `name_1`, ... when it is taken."""
        candidate, count = name, 0
        while candidate in self._names:
            count += 1
            candidate = f"{name}_{count}"
        self._names.add(candidate)
        return candidate

    def declare(self, value: ir.Value, shape: Sequence[Dim]) -> ir.Value:
        """Write the shape on the value and remember it."""
        dims = tuple(exactly(d) for d in shape)
        self._shapes[value] = dims
        value.shape = ir.Shape(d if isinstance(d, int) else ir.SymbolicDim(d) for d in dims)
        return value

    def input(self, name: str, dtype: Any, shape: Sequence[Dim]) -> ir.Value:
        """A graph input; its axes become the homes of the symbols they are."""
        value = ir.Value(name=self.unique(name), type=ir.TensorType(self.onnx_type(dtype)))
        self.declare(value, shape)
        for axis, size in enumerate(shape):
            if isinstance(size, sympy.Symbol):
                self._symbol_homes.setdefault(size, (value, axis))
        return value

    def constant(self, array: np.ndarray[Any, Any], name: str = "const") -> ir.Value:
        """A constant that shares the array's memory; it becomes an initializer when used."""
        name = self.unique(name)
        tensor = ir.Tensor(array, name=name)
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), const_value=tensor)
        return self.declare(value, array.shape)

    def number(self, value: Any, dtype: Any, shape: Sequence[int] = ()) -> ir.Value:
        """A small constant; equal ones are made once."""
        kind = self.onnx_type(dtype)
        array = np.asarray(value, dtype=kind.numpy()).reshape(tuple(shape))
        key = (kind, tuple(shape), array.tobytes())
        if key not in self._numbers:
            self._numbers[key] = self.constant(array)
        return self._numbers[key]

    def ints(self, values: Sequence[int]) -> ir.Value:
        """A 1-D int64 constant."""
        return self.number(list(values), ir.DataType.INT64, (len(values),))

    def shape_of(self, value: ir.Value) -> tuple[Dim, ...]:
        return self._shapes[value]

    def rank_of(self, value: ir.Value) -> int:
        return len(self._shapes[value])

    def axis(self, value: ir.Value, axis: int) -> int:
        """A non-negative axis of `value`."""
        return axis + max(self.rank_of(value), 1) if axis < 0 else axis

    def static_shape_of(self, value: ir.Value) -> tuple[int, ...]:
        """The shape when it has no symbols, else the use is not supported."""
        shape = self.shape_of(value)
        if not all(isinstance(d, int) for d in shape):
            raise NotSupportedError("needs a static shape")
        return shape

    # --- nodes --------------------------------------------------------------------------------

    def op(
        self,
        op_type: str,
        *inputs: ir.Value | None,
        shape: Sequence[Dim] | None = None,
        dtype: Any = None,
        **attributes: Any,
    ) -> ir.Value:
        """A node with one output. By default: type of the first input, inputs' broadcast shape."""
        if shape is None:
            shape = broadcast(*(self.shape_of(v) for v in inputs if v is not None))
        first = next((v for v in inputs if v is not None), None)
        if dtype is None:
            assert first is not None
            dtype = first.dtype
        return self.ops(op_type, *inputs, results=[(dtype, shape)], **attributes)[0]

    def ops(
        self,
        op_type: str,
        *inputs: ir.Value | None,
        results: Sequence[tuple[Any, Sequence[Dim]]],
        domain: str = "",
        **attributes: Any,
    ) -> list[ir.Value]:
        """A node with several outputs, given as (dtype, shape).

        domain: "zenith" for an operator of ours; `zenith.ops.add_functions` then completes the
        model.
        """
        outputs = []
        for dtype, shape in results:
            name = self.unique(f"{self.label}.{op_type}" if self.label else op_type)
            value = ir.Value(name=name, type=ir.TensorType(self.onnx_type(dtype)))
            outputs.append(self.declare(value, shape))
        metadata = {SOURCE_KEY: self.source} if self.source else {}
        attributes = {k: v for k, v in attributes.items() if v is not None}
        self.nodes.append(
            ir.node(
                op_type,
                list(inputs),
                attributes,
                domain=domain,
                outputs=outputs,
                name=outputs[0].name,
                metadata_props=metadata,
            )
        )
        return outputs

    def pointwise(
        self, op_type: str, *operands: ir.Value, dtype: Any = None, **attributes: Any
    ) -> ir.Value:
        """An elementwise operator; an adapter may know a shorter form of its results."""
        return self.op(op_type, *operands, dtype=dtype, **attributes)

    def cast(self, value: ir.Value, dtype: Any) -> ir.Value:
        """`value` as `dtype`; nothing when it already is."""
        kind = self.onnx_type(dtype)
        if value.dtype == kind:
            return value
        if value.const_value is not None and self.shape_of(value) == ():
            return self.number(value.const_value.numpy().astype(kind.numpy()), kind)
        return self.op("Cast", value, dtype=kind, to=kind)

    def operand(self, value: Any, dtype: Any) -> ir.Value:
        """A tensor, Python number or symbolic size as a value of `dtype`."""
        if isinstance(value, ir.Value):
            return self.cast(value, dtype)
        if isinstance(value, sympy.Expr):
            return self.cast(self.size_scalar(value), dtype)
        return self.number(value, dtype)

    # --- movement -----------------------------------------------------------------------------

    def transpose(self, value: ir.Value, perm: Sequence[int]) -> ir.Value:
        """Permuted axes; of a constant, a view of the same memory."""
        perm = tuple(perm)
        if perm == tuple(range(len(perm))):
            return value
        if value.const_value is not None:
            if (value, perm) not in self._views:
                array = value.const_value.numpy().transpose(perm)
                suffix = ".T" if perm == (1, 0) else f".perm{''.join(map(str, perm))}"
                self._views[value, perm] = self.constant(array, f"{value.name}{suffix}")
            return self._views[value, perm]
        shape = self.shape_of(value)
        return self.op("Transpose", value, shape=[shape[p] for p in perm], perm=list(perm))

    def reshape(self, value: ir.Value, shape: Sequence[Dim]) -> ir.Value:
        """The same elements under another shape.

        The target is a constant where it can be: 0 copies a size, one size may be -1.
        """
        source, target = self.shape_of(value), tuple(exactly(d) for d in shape)
        if source == target:
            return value
        numbers: list[int] = []
        open_axes = 0
        for axis, size in enumerate(target):
            if isinstance(size, int):
                numbers.append(size)
            elif axis < len(source) and source[axis] == size:
                numbers.append(0)
            else:
                numbers.append(-1)
                open_axes += 1
        zero_sized = any(d == 0 for d in (*source, *target) if isinstance(d, int))
        if open_axes <= 1 and not (zero_sized and (open_axes or 0 in source)):
            return self.op("Reshape", value, self.ints(numbers), shape=target)
        return self.op("Reshape", value, self.size_vector(target), shape=target, allowzero=1)

    def unsqueeze(self, value: ir.Value, *axes: int) -> ir.Value:
        """New axes of size 1 at the given (non-negative, final) positions."""
        if not axes:
            return value
        rest = iter(self.shape_of(value))
        rank = self.rank_of(value) + len(axes)
        shape = [1 if axis in axes else next(rest) for axis in range(rank)]
        return self.op("Unsqueeze", value, self.ints(sorted(axes)), shape=shape)

    def squeeze(self, value: ir.Value, *axes: int) -> ir.Value:
        """Without the given axes of size 1."""
        if not axes:
            return value
        shape = [d for axis, d in enumerate(self.shape_of(value)) if axis not in axes]
        return self.op("Squeeze", value, self.ints(sorted(axes)), shape=shape)

    def expand(self, value: ir.Value, shape: Sequence[Dim]) -> ir.Value:
        """Broadcast to `shape`; sizes that stay are written as 1, which keeps them."""
        source, target = self.shape_of(value), tuple(shape)
        if source == target:
            return value
        padded = (1,) * (len(target) - len(source)) + source
        sizes = [1 if a == b else b for a, b in zip(padded, target, strict=True)]
        return self.op("Expand", value, self.size_vector(sizes), shape=target)

    def slice(self, value: ir.Value, axis: int, start: Dim, end: Dim, step: int = 1) -> ir.Value:
        """Elements start, start+step, ... before end of one axis; 0 <= start <= end <= size."""
        shape = list(self.shape_of(value))
        if (start, end, step) == (0, shape[axis], 1):
            return value
        length = exactly(sympy.floor(sympy.sympify(end - start + step - 1) / step))
        shape[axis] = length
        bounds = [self.size_vector([start]), self.size_vector([end]), self.ints([axis])]
        if step != 1:
            bounds.append(self.ints([step]))
        return self.op("Slice", value, *bounds, shape=shape)

    def flip(self, value: ir.Value, axes: Sequence[int]) -> ir.Value:
        """The other way round along some axes."""
        if not axes:
            return value
        count = len(axes)
        bounds = [self.ints([bound] * count) for bound in (-1, _BEFORE_ALL)]
        steps = (self.ints(list(axes)), self.ints([-1] * count))
        return self.op("Slice", value, *bounds, *steps, shape=self.shape_of(value))

    def concat(self, values: Sequence[ir.Value], axis: int) -> ir.Value:
        """Values one after the other along one axis."""
        if len(values) == 1:
            return values[0]
        shape = list(self.shape_of(values[0]))
        shape[axis] = exactly(sum((self.shape_of(v)[axis] for v in values[1:]), shape[axis]))
        return self.op("Concat", *values, shape=shape, axis=axis)

    def gather(self, value: ir.Value, indices: ir.Value, axis: int) -> ir.Value:
        """Slices of `value` along one axis; negative indices count from the end."""
        shape = self.shape_of(value)
        result = (*shape[:axis], *self.shape_of(indices), *shape[axis + 1 :])
        return self.op("Gather", value, indices, shape=result, axis=axis)

    def reduce(
        self, op_type: str, value: ir.Value, axes: Sequence[int] | None, keepdims: bool
    ) -> ir.Value:
        """One of the Reduce* operators; no axes, or an empty list, means all of them."""
        rank = self.rank_of(value)
        which = sorted({self.axis(value, a) for a in axes} if axes else range(rank))
        if rank == 0:
            return value
        shape = [1 if a in which else d for a, d in enumerate(self.shape_of(value))]
        if not keepdims:
            shape = [d for a, d in enumerate(self.shape_of(value)) if a not in which]
        return self.op(op_type, value, self.ints(which), shape=shape, keepdims=int(keepdims))

    # --- sizes as tensors ---------------------------------------------------------------------

    def size_vector(self, sizes: Sequence[Dim]) -> ir.Value:
        """A 1-D int64 tensor of sizes: a constant, or computed from the inputs' shapes."""
        sizes = [exactly(s) for s in sizes]
        if all(isinstance(s, int) for s in sizes):
            return self.ints(sizes)
        key = tuple(sizes)
        if key not in self._sizes:
            parts = [self._size(size) for size in sizes]
            if len(parts) == 1:
                return parts[0]
            node_value = self.op("Concat", *parts, shape=[len(parts)], axis=0)
            self._sizes[key] = self._known(node_value, sizes)
        return self._sizes[key]

    def size_scalar(self, size: Dim) -> ir.Value:
        """A 0-d int64 tensor of one size."""
        size = exactly(size)
        if isinstance(size, int):
            return self.number(size, ir.DataType.INT64)
        key = ("scalar", size)
        if key not in self._sizes:
            value = self.op("Squeeze", self._size(size), self.ints([0]), shape=[])
            self._sizes[key] = self._known(value, [size])
        return self._sizes[key]

    def _known(self, value: ir.Value, sizes: Sequence[Dim]) -> ir.Value:
        content = [s if isinstance(s, int) else str(s) for s in sizes]
        value.metadata_props[SYM_DATA_KEY] = json.dumps(content)
        return value

    def _size(self, size: Dim) -> ir.Value:
        """One size as a tensor of one element."""
        size = exactly(size)
        if isinstance(size, int):
            return self.ints([size])
        if size not in self._sizes:
            self._sizes[size] = self._known(self._compute_size(size), [size])
        return self._sizes[size]

    def _compute_size(self, size: sympy.Expr) -> ir.Value:
        if size.is_Symbol:
            if size not in self._symbol_homes:
                raise NotSupportedError(f"the size '{size}' depends on the data")
            value, axis = self._symbol_homes[size]
            return self.op(
                "Shape", value, dtype=ir.DataType.INT64, shape=[1], start=axis, end=axis + 1
            )
        if isinstance(size, sympy.floor):
            over, under = sympy.fraction(sympy.together(size.args[0]))
            if under.is_Integer and int(under) == 1:
                return self._size(over)
            above, below = self._size(over), self._size(under)
            if not over.is_nonnegative:  # Div rounds towards zero
                above = self.op("Sub", above, self.op("Mod", above, below))
            return self.op("Div", above, below)
        op_type = _SIZE_OPS.get(size.func)
        if op_type is not None:
            over, under = sympy.fraction(sympy.together(size))
            if op_type in ("Add", "Mul") and exactly(under) != 1:
                return self.op("Div", self._size(sympy.expand(over)), self._size(under))
            result = self._size(size.args[0])
            for arg in size.args[1:]:
                result = self.op(op_type, result, self._size(arg))
            return result
        raise NotSupportedError(f"the size '{size}' has no form as a tensor")

    # --- end ----------------------------------------------------------------------------------

    def rename(self, value: ir.Value, name: str) -> None:
        """Give a computed value (and its node) a name of the source."""
        node = value.producer()
        value.name = self.unique(name)
        if node is not None and node.outputs[0] is value:
            node.name = value.name

    # --- bodies -------------------------------------------------------------------------------

    def body(self, name: str, formal: Formal, write: WriteBody) -> ir.Graph:
        """A subgraph of the given inputs; `write` lowers it. It reads outer values by name."""
        saved = (self.nodes, dict(self._sizes), self.label)
        self.nodes = []
        inputs = []
        for index, (dtype, shape) in enumerate(formal):
            value = ir.Value(name=self.unique(f"{name}.in{index}"), type=ir.TensorType(dtype))
            inputs.append(self.declare(value, shape))
        outputs: list[ir.Value] = []
        for value in write(inputs):
            own = any(value is o for node in self.nodes for o in node.outputs)
            if not own or value in outputs:
                value = self.op("Identity", value)
            outputs.append(value)
        self.drop_unused(outputs)
        nodes = self.nodes
        self._hoisted += self.initializers(outputs)
        self.nodes, self._sizes, self.label = saved
        return ir.Graph(inputs, outputs, nodes=nodes, name=self.unique(name))

    def drop_unused(self, outputs: Sequence[ir.Value]) -> None:
        """Leave out nodes that no output needs: most views are never read as they are."""
        needed = {*outputs}
        kept = []
        for node in reversed(self.nodes):
            if needed.isdisjoint(node.outputs):
                for index in range(len(node.inputs)):
                    node.replace_input_with(index, None)
                continue
            kept.append(node)
            needed.update(reads(node))
        self.nodes = kept[::-1]

    def initializers(self, outputs: Sequence[ir.Value]) -> list[ir.Value]:
        """The constants that nodes use, in order of first use; those of bodies belong to the
        outermost graph."""
        used = [v for node in self.nodes for v in node.inputs if v is not None]
        own = [v for v in (*used, *outputs) if v.const_value is not None]
        return list(dict.fromkeys([*own, *self._hoisted]))

    def elements(self, value: ir.Value) -> Dim:
        """Number of elements."""
        return product(self.shape_of(value))


_SIZE_OPS: dict[Any, str] = {
    sympy.Add: "Add",
    sympy.Mul: "Mul",
    sympy.Mod: "Mod",
    sympy.Max: "Max",
    sympy.Min: "Min",
    sympy.Pow: "Pow",
}
