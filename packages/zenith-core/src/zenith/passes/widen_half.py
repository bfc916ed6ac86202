"""Run in float32 what a backend has no float16 or bfloat16 kernel for.

Such a node becomes Cast -> the node in float32 -> Cast back, so each operator still rounds its
result once, as the standard says. Constants are widened at compile time. What the backend claims in
half precision (moving data, casts, selection) is left alone. Which nodes those are is not listed
here: `claims` asks the backend's own rows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from zenith.ir import GraphIR
from zenith.passes.rewrite import Rewriter, array, const_shape

__all__ = ["widen_half", "would_widen"]

_HALF = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
# Attributes that name the type of a result or of intermediate values.
_TYPE_ATTRIBUTES = frozenset(
    {"dtype", "output_dtype", "precision", "softmax_precision", "stash_type", "to"}
)
_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
_EAGER = 4096  # elements of a constant that is widened at once; larger ones when they are read


def widen_half(graph: GraphIR, claims: Callable[[ir.Node], bool]) -> int:
    """Widen the nodes of `graph` (its top level) that `claims` accepts in float32 only; how many.

    claims: whether the backend has a kernel for a node, which need not be in the graph.
    """
    widener = _Widener(graph, claims)
    return sum(widener.widen(node) for node in graph.nodes)


def would_widen(graph: GraphIR, node: ir.Node, claims: Callable[[ir.Node], bool]) -> bool:
    """Whether `widen_half` would widen this node."""
    return _Widener(graph, claims).would_widen(node)


class _Widener:
    def __init__(self, graph: GraphIR, claims: Callable[[ir.Node], bool]) -> None:
        self._rewriter = Rewriter(graph)
        self._claims = claims
        self._wide: dict[ir.Value, ir.Value] = {}  # by the value that is widened
        self._fresh: list[ir.Value] = []  # those of them that the last trial added

    def widen(self, node: ir.Node) -> bool:
        """Widen `node` in the graph, if the backend claims it in float32 only."""
        trial = self._trial(node)
        if trial is None:
            return False
        results, new = trial
        return self._rewriter.replace([node], results, new) or self._discard(new)

    def would_widen(self, node: ir.Node) -> bool:
        """Whether `widen` would; the graph stays as it is."""
        trial = self._trial(node)
        if trial is not None:
            self._discard(trial[1])
        return trial is not None

    def _trial(self, node: ir.Node) -> tuple[dict[ir.Value, ir.Value], list[ir.Node]] | None:
        """What takes the place of the values of `node`, and the nodes that compute it."""
        if node.domain not in ("", "ai.onnx") or not _touches_half(node):
            return None
        if any(a.type in _GRAPHS for a in node.attributes.values()) or self._claims(node):
            return None
        self._fresh = []
        casts: dict[ir.Value, ir.Node] = {}
        inputs = [self._widened(v, casts) for v in node.inputs]
        new = ir.Node(
            "",
            node.op_type,
            inputs,
            [_wide_attribute(a) for a in node.attributes.values()],
            num_outputs=len(node.outputs),
            name=node.name,
        )
        results: dict[ir.Value, ir.Value] = {}
        rounding: list[ir.Node] = []
        for old, out in zip(node.outputs, new.outputs, strict=True):
            half = old.dtype in _HALF
            out.type = ir.TensorType(ir.DataType.FLOAT) if half else old.type
            out.shape = old.shape
            used = bool(old.uses()) or old.is_graph_output()
            if not old.name:
                out.name = ""
            elif half and used:
                assert old.dtype is not None
                rounding.append(_cast(out, old.dtype, f"round({old.name})"))
                results[old] = rounding[-1].outputs[0]
            else:
                results[old] = out
        nodes = [*casts.values(), new, *rounding]
        self._fresh += casts
        self._wide |= {value: cast.outputs[0] for value, cast in casts.items()}
        if not self._claims(new):
            self._discard(nodes)
            return None
        return results, nodes

    def _discard(self, nodes: list[ir.Node]) -> bool:
        """Forget a trial: its nodes use nothing any more, its constants are gone. False."""
        for node in nodes:
            for k in range(len(node.inputs)):
                node.replace_input_with(k, None)
        for value in self._fresh:
            wide = self._wide.pop(value)
            if wide.is_initializer():
                del self._rewriter.model.graph.initializers[str(wide.name)]
        self._fresh = []
        return False

    def _widened(self, value: ir.Value | None, casts: dict[ir.Value, ir.Node]) -> ir.Value | None:
        """`value` in float32: a constant, an earlier cast of it, or a new one put into `casts`."""
        if value is None or value.dtype not in _HALF:
            return value
        if value in self._wide:
            return self._wide[value]
        shape = const_shape(value)
        if shape is None:
            if value not in casts:
                casts[value] = _cast(value, ir.DataType.FLOAT, f"widen({value.name})")
            return casts[value].outputs[0]

        def data() -> np.ndarray:
            half = array(value)
            assert half is not None
            return half.astype(np.float32)

        name = f"{value.name}_float32"
        if int(np.prod(shape, dtype=np.int64)) <= _EAGER:
            wide = self._rewriter.constant(data(), name)
        else:
            wide = self._rewriter.lazy(data, ir.DataType.FLOAT, shape, name)
        self._wide[value] = wide
        self._fresh.append(value)
        return wide


def _touches_half(node: ir.Node) -> bool:
    return any(v is not None and v.dtype in _HALF for v in (*node.inputs, *node.outputs))


def _wide_attribute(attribute: ir.Attr) -> ir.Attr:
    names_type = attribute.name in _TYPE_ATTRIBUTES and attribute.type == ir.AttributeType.INT
    if names_type and attribute.value in [int(t) for t in _HALF]:
        return ir.AttrInt64(attribute.name, int(ir.DataType.FLOAT))
    return attribute


def _cast(value: ir.Value, to: ir.DataType, name: str) -> ir.Node:
    node = ir.node("Cast", [value], {"to": int(to)}, name=name)
    node.outputs[0].type = ir.TensorType(to)
    node.outputs[0].shape = value.shape
    return node
