"""Chains and trees of elementwise operators -> zenith.Pointwise."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
from onnx_shape_inference import SYM_DATA_KEY

from zenith import ops
from zenith.ir import GraphIR
from zenith.ops import pointwise
from zenith.passes.rewrite import Rewriter, const_shape, same_shape

_NAMES = """
    Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr
    BitwiseXor Cast Ceil Celu Clip Cos Cosh Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual
    HardSigmoid HardSwish IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Min Mish Mod Mul Neg Not
    Or PRelu Pow Reciprocal Relu Round Selu Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Swish
    Tan Tanh ThresholdedRelu Where Xor
"""
ELEMENTWISE = frozenset(_NAMES.split())
_TYPES = frozenset({ir.DataType.FLOAT, ir.DataType.INT32, ir.DataType.INT64, ir.DataType.BOOL})
# Only what converts them, or chooses among them, is elementwise native code.
_HALF = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
_OF_HALF = frozenset({"Cast", "Where"})


@dataclass(frozen=True)
class FusePointwise:
    """Maximal trees of elementwise nodes of one output shape whose inner values have no user
    outside. Inputs may broadcast. Shape computations of known content are left alone.

    inputs: most computed inputs; constants: most constant ones; nodes: most operators.
    """

    name: ClassVar[str] = "fuse_pointwise"
    inputs: int = 8
    constants: int = 8
    nodes: int = 24

    def run(self, graph: GraphIR) -> int:
        rewriter = Rewriter(graph)
        nodes = graph.nodes
        position = {node: i for i, node in enumerate(nodes)}
        taken: set[ir.Node] = set()
        changed = 0
        for node in reversed(nodes):
            if node in taken or not _fusable(node):
                continue
            tree = self._grow(node, position)
            if len(tree) > 1:
                taken.update(tree)
                changed += _replace(rewriter, tree)
        return changed

    def _grow(self, root: ir.Node, position: dict[ir.Node, int]) -> list[ir.Node]:
        """The tree above `root`, in topological order. Later nodes are asked first, so that all
        users of a value are decided before its producer is."""
        tree = {root}
        heap = [-position[p] for p in _producers(root, position)]
        by_position = {position[p]: p for p in _producers(root, position)}
        heapq.heapify(heap)
        asked: set[int] = set()
        while heap:
            index = -heapq.heappop(heap)
            node = by_position[index]
            if index in asked:
                continue
            asked.add(index)
            out = node.outputs[0]
            inside = all(use.node in tree for use in out.uses()) and not out.is_graph_output()
            if not inside or not _fusable(node) or not same_shape(out, root.outputs[0]):
                continue
            if len(tree) == self.nodes or not self._fits(tree | {node}):
                continue
            tree.add(node)
            for producer in _producers(node, position):
                by_position[position[producer]] = producer
                heapq.heappush(heap, -position[producer])
        return sorted(tree, key=position.__getitem__)

    def _fits(self, tree: set[ir.Node]) -> bool:
        values = _inputs(tree)
        constant = sum(const_shape(v) is not None for v in values)
        return constant <= self.constants and len(values) - constant <= self.inputs


def _producers(node: ir.Node, position: dict[ir.Node, int]) -> list[ir.Node]:
    found = (v.producer() for v in node.inputs if v is not None)
    return [p for p in found if p is not None and p in position]


def _inputs(tree: set[ir.Node] | list[ir.Node]) -> list[ir.Value]:
    """Values the tree reads, in order of first use."""
    inner = {node.outputs[0] for node in tree}
    return list(
        dict.fromkeys(v for n in tree for v in n.inputs if v is not None and v not in inner)
    )


def _fusable(node: ir.Node) -> bool:
    if node.domain or node.op_type not in ELEMENTWISE or node.graph is None:
        return False
    out = node.outputs[0]
    if SYM_DATA_KEY in out.metadata_props or out.shape is None or out.shape.rank() == 0:
        return False
    types = _TYPES | _HALF if node.op_type in _OF_HALF else _TYPES
    if any(v is not None and v.dtype not in types for v in (*node.inputs, out)):
        return False
    return any(v is not None and const_shape(v) is None for v in node.inputs)


def _replace(rw: Rewriter, tree: list[ir.Node]) -> bool:
    values = _inputs(tree)
    names: dict[ir.Value, str] = {v: f"i{k}" for k, v in enumerate(values)}
    lines = []
    for k, node in enumerate(tree):
        operands = ", ".join("" if v is None else names[v] for v in node.inputs)
        names[node.outputs[0]] = f"t{k}"
        lines.append(f"t{k} = {node.op_type}{_attributes(node)} ({operands})")
    function = pointwise.function(len(values), lines, [f"t{len(tree) - 1}"])
    ops.ensure_function(rw.model, function)
    new = rw.fused(pointwise.NAME, function.overload, values)
    return rw.replace(tree, {tree[-1].outputs[0]: new.outputs[0]}, [new])


def _attributes(node: ir.Node) -> str:
    parts = []
    for name in sorted(node.attributes):
        attribute = node.attributes[name]
        value = attribute.value
        if attribute.type == ir.AttributeType.STRING:
            parts.append(f'{name} = "{value}"')
        elif attribute.type == ir.AttributeType.FLOAT:
            parts.append(f"{name} = {float(value):.9e}")
        else:
            parts.append(f"{name} = {value}")
    return f" <{', '.join(parts)}>" if parts else ""
