"""Constant folding: nodes whose result is known at compile time become initializers."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
import onnx
import onnx_ir as ir
from onnx_shape_inference import SYM_DATA_KEY

from zenith.ir import OPSET, GraphIR
from zenith.ir.reference import as_array, reference_evaluator
from zenith.ir.types import item_bytes
from zenith.passes.cse import is_random
from zenith.passes.rewrite import (
    Rewriter,
    array,
    attr,
    ints,
    is_op,
    produced_by,
    scalar,
    static_shape,
)

Array: TypeAlias = np.ndarray[Any, Any]

# Operators whose result is a view of their input: no size limit, no copy.
_VIEWS = frozenset({"Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
# Operators that pick items of their inputs, or positions of items: how many, the data says.
_PICKS = frozenset({"Compress", "NonMaxSuppression", "NonZero", "Unique"})
_WINDOWED = frozenset({"Conv", "ConvInteger", "ConvTranspose", "DeformConv", "QLinearConv"})


@dataclass(frozen=True)
class FoldConstants:
    """Evaluate nodes of constant inputs with the reference evaluator, views with numpy.

    A model may come from anywhere: what folding allocates is bounded by the model's own size, and
    the size of a result is known before it is computed.

    limit: bytes of a result that is worth keeping; a bigger one is folded only if every user of it
        folds as well.
    most: bytes that all results of a run may have together; more if the model's constants have.
    work: multiplications that a folded product may take.
    integers: whether weights of quantized products stay the integers they are.
    """

    name: ClassVar[str] = "fold_constants"
    integers: bool = True
    limit: int = 16 << 20
    most: int = 256 << 20
    work: int = 1 << 30

    def run(self, graph: GraphIR) -> int:
        rewriter = Rewriter(graph)
        nodes = graph.nodes
        candidates = self._candidates(nodes)
        left = max(self.most, 4 * sum(_nbytes(v) or 0 for v in graph.initializers.values()))
        changed = 0
        for node in nodes:
            results = self._known(node)
            if results is None and node in candidates and self._worthwhile(node, candidates, left):
                results = _evaluate(node)
            if results is not None:
                changed += _replace(rewriter, node, results)
                left -= sum(r.nbytes for r in results) if node.op_type not in _VIEWS else 0
        return changed

    def _candidates(self, nodes: Sequence[ir.Node]) -> set[ir.Node]:
        """Nodes that depend on constants only."""
        found: set[ir.Node] = set()
        for node in nodes:
            if node.domain or not node.inputs or is_random(node):
                continue
            if any(a.type in _GRAPHS for a in node.attributes.values()):
                continue
            if self.integers and _quantized_weight(node):
                continue
            if all(v is None or _constant(v) or v.producer() in found for v in node.inputs):
                found.add(node)
        return found

    def _worthwhile(self, node: ir.Node, candidates: set[ir.Node], left: int) -> bool:
        """Are all inputs constants by now, and is the result small or a view?"""
        if not all(v is None or _constant(v) for v in node.inputs):
            return False
        if node.op_type in _VIEWS:
            return True
        total = 0
        for value in node.outputs:
            size = _result_bytes(node, value)
            if size is None:
                return False
            total += size
            if size <= self.limit:
                continue
            if value.is_graph_output() or any(u.node not in candidates for u in value.uses()):
                return False
        return total <= left and _work(node) <= self.work

    def _known(self, node: ir.Node) -> list[Array] | None:
        """The result of a shape computation whose content shape inference has found."""
        if len(node.outputs) != 1 or node.domain or is_random(node):
            return None
        value = node.outputs[0]
        text = value.metadata_props.get(SYM_DATA_KEY)
        if node.op_type == "Shape" and node.inputs[0] is not None:
            shape = node.inputs[0].shape
            if shape is None:
                return None
            content: list[Any] = list(shape)[slice(attr(node, "start", 0), attr(node, "end", None))]
        elif text is None:
            return None
        else:
            content = json.loads(text)
        if not all(type(item) is int for item in content) or value.shape is None:
            return None
        if value.dtype not in (ir.DataType.INT64, ir.DataType.INT32):
            return None
        sizes = static_shape(value)
        if sizes is None or math.prod(sizes) != len(content):
            return None
        return [np.array(content, dtype=value.dtype.numpy()).reshape(sizes)]


@dataclass(frozen=True)
class FoldDequantized(FoldConstants):
    """Also weights that nobody multiplies as integers: after what does so was fused."""

    name: ClassVar[str] = "fold_dequantized"
    integers: bool = False


def _quantized_weight(node: ir.Node) -> bool:
    """Does it dequantize the weights of a product whose other side is dequantized too?"""
    return node.op_type == "DequantizeLinear" and any(
        use.idx == 1
        and is_op(use.node, "MatMul", "Gemm", "Conv")
        and produced_by(use.node.inputs[0], "DequantizeLinear") is not None
        for use in node.outputs[0].uses()
    )


_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def _constant(value: ir.Value) -> bool:
    return value.const_value is not None and value.is_initializer() and not value.is_graph_input()


def _nbytes(value: ir.Value) -> int | None:
    """Size of a value's data, None where it is not inferred."""
    sizes = static_shape(value)
    if sizes is None or value.dtype is None:
        return None
    return math.prod(sizes) * item_bytes(value.dtype)


def _result_bytes(node: ir.Node, value: ir.Value) -> int | None:
    """An upper bound of the size of one of the node's results, None where there is none."""
    if not value.name and not value.uses():
        return 0
    found = _nbytes(value)
    if found is not None:
        return found
    given = [_nbytes(v) or 0 for v in node.inputs if v is not None]
    if node.op_type in _PICKS:
        return sum(given) * 8 * max(1, *(len(v.shape or ()) for v in node.inputs if v is not None))
    if node.op_type == "Range":
        start, limit, delta = (scalar(v) for v in node.inputs)
        if (
            start is None
            or limit is None
            or not delta
            or not math.isfinite((limit - start) / delta)
        ):
            return None
        return max(0, math.ceil((limit - start) / delta)) * 8
    return None


def _work(node: ir.Node) -> int:
    """Multiplications that the reference evaluator makes; 0 for operators whose work is as much as
    their data."""
    shapes = [static_shape(v) for v in node.inputs if v is not None]
    results = static_shape(node.outputs[0])
    if any(s is None for s in shapes) or results is None:
        return 0
    sizes = [s for s in shapes if s is not None]
    if node.op_type == "Einsum":
        text = attr(node, "equation", "").replace(" ", "").split("->")[0]
        letters = {
            letter: size
            for term, shape in zip(text.split(","), sizes)
            for letter, size in zip(term.replace(".", ""), shape)
        }
        return math.prod(max(size, 1) for size in letters.values())
    if node.op_type in ("MatMul", "Gemm") and sizes[0]:
        return math.prod(results) * max(sizes[0])
    if node.op_type in _WINDOWED and len(sizes) > 1:  # in Python, an element at a time
        return 64 * math.prod(results) * math.prod(sizes[1][1:])
    return 0


def _replace(rewriter: Rewriter, node: ir.Node, results: list[Array]) -> int:
    used = [(v, r) for v, r in zip(node.outputs, results, strict=True) if v.uses()]
    if not used or any(v.is_graph_output() for v in node.outputs):
        return 0
    for value, result in used:
        if result.dtype != value.dtype.numpy() if value.dtype is not None else True:
            return 0
    for value, result in used:
        constant = rewriter.constant(result, f"{value.name}_folded")
        value.replace_all_uses_with(constant)
    rewriter.remove_dead([node])
    return 1


def _evaluate(node: ir.Node) -> list[Array] | None:
    """The node's outputs, or None when the reference evaluator cannot say (the node then stays,
    and a kernel runs it or reports it)."""
    inputs = [array(v) for v in node.inputs]
    if node.op_type in _VIEWS or node.op_type == "Expand":
        view = _view(node, inputs)
        return None if view is None else [view]
    if any(x is not None and x.dtype.kind == "V" for x in inputs):
        return None
    try:
        with np.errstate(all="ignore"):
            return _reference(node, inputs)
    except Exception as error:  # noqa: BLE001  it raises anything: an operator or dtype it lacks
        logging.getLogger("zenith").info(
            "node '%s' (%s) is not folded and will run: %s", node.name, node.op_type, error
        )
        return None


def _reference(node: ir.Node, inputs: list[Array | None]) -> list[Array]:
    proto = ir.to_proto(node)
    names = [f"i{k}" if v is not None else "" for k, v in enumerate(node.inputs)]
    outputs = [f"o{k}" for k in range(len(node.outputs))]
    del proto.input[:], proto.output[:]
    proto.input.extend(names)
    proto.output.extend(outputs)
    feeds = {name: x for name, x in zip(names, inputs, strict=True) if x is not None}
    infos = [
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(x.dtype), x.shape
        )
        for name, x in feeds.items()
    ]
    results = [onnx.helper.make_empty_tensor_value_info(name) for name in outputs]
    model = onnx.helper.make_model(
        onnx.helper.make_graph([proto], "fold", infos, results),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
    )
    found = reference_evaluator(model).run(None, feeds)
    return [as_array(x) for x in found]


def _view(node: ir.Node, inputs: list[Array | None]) -> Array | None:
    """The result as a view of the input's memory."""
    x = inputs[0]
    if x is None:
        return None
    kind = node.op_type
    if kind == "Identity":
        return x
    if kind == "Transpose":
        return x.transpose(attr(node, "perm", None))
    if kind == "Expand":
        shape = ints(node.inputs[1])
        return None if shape is None else np.broadcast_to(x, np.broadcast_shapes(x.shape, shape))
    if kind == "Slice":
        return _slice(x, [ints(v) for v in node.inputs[1:]], node)
    sizes = static_shape(node.outputs[0])
    return None if sizes is None else x.reshape(sizes)


def _slice(x: Array, parts: list[list[int] | None], node: ir.Node) -> Array | None:
    given = [v is not None for v in node.inputs[1:]]
    if any(g and p is None for g, p in zip(given, parts, strict=True)):
        return None
    starts, ends = parts[0], parts[1]
    if starts is None or ends is None:
        return None
    axes = parts[2] if len(parts) > 2 and parts[2] is not None else list(range(len(starts)))
    steps = parts[3] if len(parts) > 3 and parts[3] is not None else [1] * len(starts)
    index = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 0 and end < -x.shape[axis]:
            index[axis] = slice(start, None, step)
        else:
            index[axis] = slice(start, end, step)
    return x[tuple(index)]
