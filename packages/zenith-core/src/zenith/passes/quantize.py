"""Static post-training quantization: a float32 graph -> the same graph in the QDQ form of ONNX.

Two steps with the calibration data between them: `plan` finds the nodes to quantize and the values
whose ranges that takes, `quantize` writes QuantizeLinear and DequantizeLinear around the
nodes. Which nodes those are is not listed here: `form` asks the backend's own rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from zenith.errors import CompilationError
from zenith.ir import GraphIR
from zenith.passes.epilogues import Chain, grow
from zenith.passes.rewrite import FLOAT_KEY, Array, Rewriter, array, is_op

__all__ = ["FLOAT_KEY", "Form", "QuantizationPlan", "Range", "plan", "quantize", "source"]

Range = tuple[float, float]


@dataclass(frozen=True)
class Form:
    """How a backend takes an operator: input `activation` as 8-bit integers with one scale, the
    constant input `weight` as int8 with a scale per channel along `axis`."""

    activation: int
    weight: int
    axis: int


@dataclass
class QuantizationPlan:
    """What will be quantized.

    forms: by node; reasons: of every other node that computes in float32, why it does.
    values: those that become integers, in order, each with the nodes that read the integers (None:
    all do, which spares the float32 numbers of what ends a quantized product).
    """

    forms: dict[ir.Node, Form] = field(default_factory=dict)
    reasons: dict[ir.Node, str] = field(default_factory=dict)
    values: dict[ir.Value, list[ir.Node] | None] = field(default_factory=dict)

    @property
    def observed(self) -> list[ir.Value]:
        """The values whose ranges are needed."""
        return list(dict.fromkeys(source(value) for value in self.values))


def plan(graph: GraphIR, form: Callable[[ir.Node], Form | str]) -> QuantizationPlan:
    """form: of a node, or the reason why there is none."""
    found = QuantizationPlan()
    for node in graph.nodes:
        if not any(v.dtype == ir.DataType.FLOAT for v in node.outputs):
            continue
        answer = form(node)
        if isinstance(answer, Form):
            found.forms[node] = answer
        else:
            found.reasons[node] = answer
    wanted: dict[ir.Value, list[ir.Node]] = {}
    for node, taken in found.forms.items():
        value = node.inputs[taken.activation]
        assert value is not None
        wanted.setdefault(value, []).append(node)
    chains = {node: _chain(node) for node in found.forms}
    ends = {chain.result for chain in chains.values()}
    for value in list(wanted):
        origin = source(value)
        if origin is not value and (origin in ends or _only_read_by(value, wanted[value])):
            producer = value.producer()
            assert producer is not None
            wanted.setdefault(origin, []).append(producer)
    found.values = {v: None if source(v) in ends else nodes for v, nodes in wanted.items()}
    for value in _second_products(chains, found.values):
        found.values[value] = None
    return found


def source(value: ir.Value) -> ir.Value:
    """What `value` is the pooled form of: pooling integers is less work, and changes no range."""
    node = value.producer()
    pooled = node is not None and is_op(node, "MaxPool") and len(node.outputs) == 1
    origin = node.inputs[0] if node is not None and pooled else None
    return value if origin is None else origin


def _only_read_by(value: ir.Value, nodes: list[ir.Node]) -> bool:
    return not value.is_graph_output() and all(use.node in nodes for use in value.uses())


def _chain(node: ir.Node) -> Chain:
    """The epilogue that will be part of the product of `node`."""
    linear = not is_op(node, "Conv")
    return grow(node, allow_mul=linear, bias=linear)


def _second_products(
    chains: Mapping[ir.Node, Chain], values: Mapping[ir.Value, object]
) -> list[ir.Value]:
    """Where two products are added and the sum becomes integers: one of the two, which is stored as
    integers until the other one takes it in."""
    inside = {
        v
        for node, chain in chains.items()
        for v in (node.outputs[0], *(step.outputs[0] for step in chain.nodes))
    }
    sums = dict.fromkeys(
        step for chain in chains.values() if chain.result in values for step in chain.nodes
    )
    found = []
    for node in sums:
        sides = [v for v in node.inputs if v is not None and v in inside]
        if not is_op(node, "Add") or len(set(sides)) != 2 or any(v in values for v in sides):
            continue
        found.append(sides[1])
    return found


def quantize(graph: GraphIR, todo: QuantizationPlan, ranges: Mapping[ir.Value, Range]) -> int:
    """Write the QDQ form of `todo` into `graph`; how many nodes take integers now.

    ranges: smallest and largest number of every value of `todo.observed`.
    """
    writer = _Writer(graph)
    spans = [ranges[source(value)] for value in todo.values]  # before pools read something else
    for (value, readers), span in zip(todo.values.items(), spans, strict=True):
        writer.activation(value, readers, span)
    for node, form in todo.forms.items():
        writer.weight(node, form)
    for node, reason in todo.reasons.items():
        node.metadata_props[FLOAT_KEY] = reason
    return len(todo.forms)


class _Writer:
    def __init__(self, graph: GraphIR) -> None:
        self._rewriter = Rewriter(graph)
        self._graph = graph.model.graph
        self._weights: dict[tuple[ir.Value, int], ir.Value] = {}

    def activation(self, value: ir.Value, readers: list[ir.Node] | None, span: Range) -> None:
        """Let `readers` (None: all users) read DequantizeLinear(QuantizeLinear(value))."""
        scale, zero = parameters(*span, name=str(value.name))
        constants = [
            self._rewriter.constant(scale, f"{value.name}_scale"),
            self._rewriter.constant(zero, f"{value.name}_zero"),
        ]
        uses = [u for u in value.uses() if readers is None or u.node in readers]
        assert value.dtype is not None and value.shape is not None
        q = self._rewriter.op(
            "QuantizeLinear", [value, *constants], dtype=ir.DataType.UINT8, shape=value.shape
        )
        dq = self._rewriter.op(
            "DequantizeLinear", [q.outputs[0], *constants], dtype=value.dtype, shape=value.shape
        )
        self._insert(value, [q, dq])
        for use in uses:
            use.node.replace_input_with(use.idx, dq.outputs[0])

    def _insert(self, value: ir.Value, nodes: list[ir.Node]) -> None:
        producer = value.producer()
        if producer is not None:
            self._graph.insert_after(producer, nodes)
        else:
            self._graph.insert_before(self._graph[0], nodes)

    def weight(self, node: ir.Node, form: Form) -> None:
        """The weight as DequantizeLinear of int8."""
        weight = node.inputs[form.weight]
        assert weight is not None
        found = self._weights.get((weight, form.axis))
        if found is None:
            data = array(weight)
            assert data is not None and weight.dtype is not None and weight.shape is not None
            integers, scale = symmetric(data, form.axis)
            constants = [
                self._rewriter.constant(integers, f"{weight.name}_int8"),
                self._rewriter.constant(scale, f"{weight.name}_scale"),
            ]
            dq = self._rewriter.op(
                "DequantizeLinear",
                constants,
                {"axis": form.axis},
                dtype=weight.dtype,
                shape=weight.shape,
            )
            self._graph.insert_before(self._graph[0], [dq])
            found = self._weights[weight, form.axis] = dq.outputs[0]
        node.replace_input_with(form.weight, found)


def parameters(low: float, high: float, name: str) -> tuple[Array, Array]:
    """Scale and zero point of uint8 for numbers from `low` to `high`; 0 has a code of its own."""
    if not (np.isfinite(low) and np.isfinite(high)):
        raise CompilationError(
            f"calibration: value '{name}' has numbers from {low} to {high}",
            next="check calibration_data: the model gives infinity or NaN for it",
        )
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32((high - low) / 255) if high > low else np.float32(1)
    zero = np.uint8(np.clip(np.rint(-low / scale), 0, 255))
    return np.asarray(scale), np.asarray(zero)


def symmetric(weight: Array, axis: int) -> tuple[Array, Array]:
    """int8 weights without zero points, and a scale per channel along `axis`."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.max(np.abs(weight), axis=others, initial=0.0).astype(np.float32)
    scale = np.where(largest > 0, largest / np.float32(127), np.float32(1)).astype(np.float32)
    sizes = [1] * weight.ndim
    sizes[axis] = -1
    integers = np.clip(np.rint(weight / scale.reshape(sizes)), -127, 127)
    return integers.astype(np.int8), scale
