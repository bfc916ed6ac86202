"""Common subexpressions: equal constants and equal computations exist once."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import sympy
from onnx_shape_inference import SYM_DATA_KEY

from zenith.ir import GraphIR
from zenith.ir.dims import dim_names, parse_dim, symbol
from zenith.ir.shapes import generated
from zenith.passes.rewrite import Rewriter

RANDOM = frozenset(
    {
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)


def is_random(node: ir.Node) -> bool:
    """May two runs of the node differ?"""
    if node.op_type == "Dropout" and node.domain == "":
        return len(node.inputs) > 2 and node.inputs[2] is not None
    return node.op_type in RANDOM and node.domain == ""


@dataclass(frozen=True)
class EliminateCommon:
    """Merge equal initializers up to `limit` elements, and nodes of equal operator, inputs and
    attributes. Random operators and operators with subgraphs are left alone."""

    name: ClassVar[str] = "cse"
    limit: int = 1024

    def run(self, graph: GraphIR) -> int:
        changed = self._constants(graph)
        rewriter = Rewriter(graph)
        seen: dict[Hashable, ir.Node] = {}
        renamed: dict[sympy.Symbol, sympy.Symbol] = {}
        for node in graph.nodes:
            key = self._key(node)
            if key is None:
                continue
            first = seen.setdefault(key, node)
            if first is node:
                continue
            values = dict(zip(node.outputs, first.outputs, strict=True))
            for gone, kept in values.items():
                renamed.update(_other_names(gone, kept))
            changed += rewriter.replace([node], values, [])
        if renamed:
            _rename_sizes(graph, renamed)
        return changed

    def _constants(self, graph: GraphIR) -> int:
        seen: dict[Hashable, ir.Value] = {}
        changed = 0
        for value in list(graph.initializers.values()):
            tensor = value.const_value
            if tensor is None or value.is_graph_input() or value.is_graph_output():
                continue
            if tensor.size > self.limit or tensor.dtype == ir.DataType.STRING:
                continue
            key = (tensor.dtype, tuple(tensor.shape), tensor.tobytes())
            first = seen.setdefault(key, value)
            if first is not value:
                value.replace_all_uses_with(first)
                del graph.model.graph.initializers[value.name or ""]
                changed += 1
        return changed

    def _key(self, node: ir.Node) -> Hashable | None:
        if is_random(node):
            return None
        attributes: list[Hashable] = []
        for name in sorted(node.attributes):
            attribute = node.attributes[name]
            value: object = attribute.value
            if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
                return None
            if isinstance(value, (list, tuple, np.ndarray)):
                value = tuple(value)
            elif attribute.type == ir.AttributeType.TENSOR:
                tensor = attribute.as_tensor()
                if tensor.size > self.limit or tensor.dtype == ir.DataType.STRING:
                    return None
                value = (tensor.dtype, tuple(tensor.shape), tensor.tobytes())
            elif not isinstance(value, (int, float, str, bytes)):
                return None
            attributes.append((name, attribute.type, value))
        present = tuple(bool(v.name) or bool(v.uses()) for v in node.outputs)
        inputs = tuple(-1 if v is None else id(v) for v in node.inputs)
        return (node.op_identifier(), inputs, present, tuple(attributes))


def _other_names(gone: ir.Value, kept: ir.Value) -> dict[sympy.Symbol, sympy.Symbol]:
    """For sizes that depend on data: what inference called one that goes, and one that stays."""
    pairs = zip(gone.shape or (), kept.shape or (), strict=False)
    names = [(str(a), str(b)) for a, b in pairs if generated(a) and generated(b) and a != b]
    return {symbol(a): symbol(b) for a, b in names}


def _rename_sizes(graph: GraphIR, renamed: Mapping[sympy.Symbol, sympy.Symbol]) -> None:
    """Kernels take sizes of two names for different ones."""
    for value in (v for node in graph.model.graph.all_nodes() for v in node.outputs):
        dims = list(value.shape or ())
        for axis, dim in enumerate(dims):
            while not isinstance(dim, int) and not renamed.keys().isdisjoint(_symbols(dim)):
                dim = ir.SymbolicDim(parse_dim(dim).xreplace(renamed))
            dims[axis] = dim
        if value.shape is not None and dims != list(value.shape):
            value.shape = ir.Shape(dims)
            value.metadata_props.pop(SYM_DATA_KEY, None)


def _symbols(dim: ir.SymbolicDim) -> set[sympy.Symbol]:
    return {symbol(name) for name in dim_names(dim)}
