"""Tools shared by the rewrite passes: facts about values, and replacing nodes.

A pass is a matcher over def-use chains. It asks questions here (`sole_user`, `scalar`,
`same_shape`: each answers no when it cannot prove yes) and hands the result to `Rewriter.replace`,
which keeps types, names of graph outputs and source locations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from onnx_shape_inference import SYM_DATA_KEY

from zenith import ops
from zenith.ir import DOMAIN, SOURCE_KEY, GraphIR

__all__ = [
    "Array",
    "Dims",
    "FLOAT_KEY",
    "Rewriter",
    "array",
    "attr",
    "commuted",
    "const_shape",
    "dims",
    "float_type",
    "ints",
    "is_op",
    "last_axis",
    "produced_by",
    "rank",
    "reduced_axis",
    "same_dim",
    "same_shape",
    "scalar",
    "sole_user",
    "static_shape",
    "transposed",
]

# Metadata of a node: why it computes in floats in a model that was asked for in int8.
FLOAT_KEY = "zenith.float32"
# What new nodes take over from all that they replace.
MERGED_KEYS = (SOURCE_KEY, FLOAT_KEY)

Array: TypeAlias = np.ndarray[Any, Any]
Dims: TypeAlias = tuple[int | ir.SymbolicDim, ...]


def is_op(node: ir.Node | None, *types: str) -> bool:
    """Is it a standard operator of one of these types?"""
    return node is not None and node.op_type in types and node.domain == ""


def produced_by(value: ir.Value | None, *types: str) -> ir.Node | None:
    """The standard operator of one of `types` that computes `value`, else None."""
    node = None if value is None else value.producer()
    return node if is_op(node, *types) else None


def sole_user(value: ir.Value) -> ir.Node | None:
    """The node with the only use of `value`; None if it has others or is a graph output."""
    uses = value.uses()
    if len(uses) != 1 or value.is_graph_output():
        return None
    user = next(iter(uses)).node
    producer = value.producer()
    return user if producer is None or user.graph is producer.graph else None


def attr(node: ir.Node, name: str, default: Any) -> Any:
    """An attribute's value, or `default` when it is absent."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def array(value: ir.Value | None) -> Array | None:
    """The data of a constant, else None. Never written to."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return value.const_value.numpy()


def const_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """The shape of a constant, else None. Does not touch its data."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return tuple(int(d) for d in value.const_value.shape)  # type: ignore[arg-type]


def scalar(value: ir.Value | None) -> float | None:
    """The one number a constant holds (any rank), else None."""
    if value is None or value.const_value is None or value.const_value.size != 1:
        return None
    data = array(value)
    return None if data is None or data.dtype.kind not in "fiuV" else float(data.reshape(())[()])


def ints(value: ir.Value | None) -> list[int] | None:
    """The integers a small constant tensor holds, flattened, else None."""
    if value is None or value.const_value is None or value.const_value.size > 4096:
        return None
    data = array(value)
    return None if data is None or data.dtype.kind not in "iu" else [int(i) for i in data.ravel()]


def rank(value: ir.Value | None) -> int | None:
    return None if value is None or value.shape is None else value.shape.rank()


def dims(value: ir.Value | None) -> Dims | None:
    """The shape, if every dim is an int or a named expression; else None."""
    if value is None or value.shape is None:
        return None
    shape = value.shape.dims
    if any(not isinstance(d, int) and d.value is None for d in shape):
        return None
    return tuple(shape)


def same_dim(a: int | ir.SymbolicDim, b: int | ir.SymbolicDim) -> bool:
    """Are two dims provably equal?"""
    if isinstance(a, int) or isinstance(b, int):
        return a == b
    return a.value is not None and a.value == b.value


def same_shape(a: ir.Value | None, b: ir.Value | None) -> bool:
    """Are two shapes provably equal?"""
    left, right = dims(a), dims(b)
    return left is not None and left == right


def last_axis(node: ir.Node, value: ir.Value | None, name: str = "axis", default: int = -1) -> bool:
    """Does the node's axis attribute mean the last axis of `value`?"""
    axis, r = attr(node, name, default), rank(value)
    return axis == -1 or (r is not None and axis == r - 1)


def reduced_axis(node: ir.Node) -> int | None:
    """The one axis a Reduce node with keepdims=1 works on, counted from 0; else None."""
    r = rank(node.inputs[0])
    axes = ints(node.inputs[1]) if len(node.inputs) > 1 else None
    if r is None or axes is None or len(axes) != 1 or attr(node, "keepdims", 1) != 1:
        return None
    return axes[0] % r


def static_shape(value: ir.Value | None) -> list[int] | None:
    """The shape, if every dim is an int; else None."""
    found = dims(value)
    if found is None:
        return None
    sizes = [d for d in found if isinstance(d, int)]
    return sizes if len(sizes) == len(found) else None


def float_type(value: ir.Value | None) -> bool:
    return value is not None and value.dtype is not None and value.dtype.is_floating_point()


def commuted(node: ir.Node) -> Iterable[tuple[ir.Value | None, ir.Value | None]]:
    """Both orders of a binary node's inputs."""
    a, b = node.inputs[0], node.inputs[1]
    return ((a, b), (b, a))


class Rewriter:
    """Builds new nodes and puts them in place of old ones."""

    def __init__(self, graph: GraphIR) -> None:
        self.graph = graph
        self.model = graph.model
        self._fresh = 0

    def constant(self, data: Array, hint: str) -> ir.Value:
        """A new initializer; `data` is not copied."""
        name = self._name(hint)
        return self._register(ir.Tensor(data, name=name))

    def lazy(
        self, data: Callable[[], Array], dtype: ir.DataType, shape: Sequence[int], hint: str
    ) -> ir.Value:
        """A new initializer whose data is made whenever it is asked for, and not kept."""
        name = self._name(hint)

        def tensor() -> ir.Tensor[Any]:
            return ir.Tensor(data(), name=name)

        return self._register(ir.LazyTensor(tensor, dtype, ir.Shape(shape), name=name))

    def adopt(self, tensor: Any, hint: str) -> ir.Value:
        """A new initializer with the data of a tensor of another graph."""
        data = ir.LazyTensor(
            lambda: tensor, tensor.dtype, ir.Shape(tensor.shape), name=self._name(hint)
        )
        return self._register(data)

    def _register(self, tensor: ir.Tensor[Any] | ir.LazyTensor) -> ir.Value:
        value = ir.Value(name=tensor.name, const_value=tensor)
        value.shape = ir.Shape(tuple(tensor.shape))
        value.type = ir.TensorType(tensor.dtype)
        self.model.graph.register_initializer(value)
        return value

    def _name(self, hint: str) -> str:
        names = self.model.graph.initializers
        while True:
            name = f"{hint}_{self._fresh}" if self._fresh else hint
            self._fresh += 1
            if name not in names:
                return name

    def op(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any] | None = None,
        *,
        outputs: int = 1,
        dtype: ir.DataType | None = None,
        shape: Iterable[int | ir.SymbolicDim] | None = None,
    ) -> ir.Node:
        """A new standard node, not yet in the graph. dtype and shape: of its first output, needed
        where no old value lends its own (`replace`)."""
        node = ir.node(op_type, inputs, attributes or {}, num_outputs=outputs)
        if dtype is not None and shape is not None:
            node.outputs[0].type = ir.TensorType(dtype)
            node.outputs[0].shape = ir.Shape(shape)
        return node

    def fused(
        self,
        op_type: str,
        overload: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any] | None = None,
        *,
        outputs: int = 1,
    ) -> ir.Node:
        """A new zenith node; its function is added to the model."""
        if op_type in ops.OPERATORS:
            ops.ensure(self.model, op_type, overload)
        return ir.node(
            op_type,
            inputs,
            attributes or {},
            domain=DOMAIN,
            overload=overload,
            num_outputs=outputs,
        )

    def replace(
        self,
        old: Sequence[ir.Node],
        values: Mapping[ir.Value, ir.Value],
        new: Sequence[ir.Node],
        *,
        at: ir.Node | None = None,
    ) -> bool:
        """Put `new` into the graph after `at` (default: the last of `old`) and use `values[v]`
        wherever v was used; then remove those of `old` that nothing uses any more.

        old: in topological order. False, with nothing changed, when a graph output would have to
        become a graph input, an initializer or another output.
        """
        created = {v for node in new for v in node.outputs}
        outputs = [v for v in values if v.is_graph_output()]
        if len({values[v] for v in outputs}) < len(outputs):
            return False
        for v in outputs:
            w = values[v]
            if w not in created and (
                w.is_graph_input() or w.is_initializer() or w.is_graph_output()
            ):
                return False
        graph = self.model.graph
        graph.insert_after(at or old[-1], new)
        for key in MERGED_KEYS:
            merged = _merged(old, key)
            for node in new if merged else ():
                node.metadata_props[key] = merged
        for v, w in values.items():
            if w in created or w.type is None:
                w.type = v.type
                w.shape = v.shape
                if SYM_DATA_KEY in v.metadata_props:
                    w.metadata_props[SYM_DATA_KEY] = v.metadata_props[SYM_DATA_KEY]
            elif w.shape is None:
                w.shape = v.shape
            name = v.name
            if v.is_graph_output():
                v.replace_all_uses_with(w, replace_graph_outputs=True)
                v.name = None
                w.name = name
            else:
                v.replace_all_uses_with(w)
                if w in created and not w.is_graph_output():
                    v.name = None
                    w.name = name
        self.remove_dead(old)
        return True

    def bypass(self, node: ir.Node, source: ir.Value) -> bool:
        """Remove `node`, whose first output equals `source`. False if it must stay."""
        return self.replace([node], {node.outputs[0]: source}, [])

    def remove_dead(self, nodes: Sequence[ir.Node]) -> None:
        """Remove those of `nodes` (topological order) whose outputs nothing uses."""
        for node in reversed(nodes):
            if node.graph is None:
                continue
            if all(not v.uses() and not v.is_graph_output() for v in node.outputs):
                self.model.graph.remove(node, safe=True)


def _merged(nodes: Iterable[ir.Node], key: str) -> str:
    found: dict[str, None] = {}
    for node in nodes:
        for part in node.metadata_props.get(key, "").split("; "):
            if part:
                found[part] = None
    return "; ".join(found)


def transposed(rw: Rewriter, value: ir.Value | None) -> ir.Value:
    """The transpose of a constant matrix, as a view of its data."""
    data = array(value)
    assert value is not None and data is not None
    return rw.constant(data.T, f"{value.name}_t")
