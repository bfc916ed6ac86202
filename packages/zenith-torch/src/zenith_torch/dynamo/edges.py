"""A graph of AOTAutograd as a model: what its placeholders and results become.

Note [Sizes as inputs]: a graph may take a size (SymInt) that is no tensor's axis. It arrives as a
tensor of shape (size, 0), which has no memory; its first axis is the home of the symbol, so that
a size is a dimension like any other.

Note [Memory order of results]: AOTAutograd takes views of what we return by the strides that the
trace had. A result that was dense in another order of axes is computed transposed and given back
as the permuted view.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import sympy
import torch

from zenith.ir import GraphIR
from zenith.ir.complexes import Complex, joined
from zenith.runtime.adapter import ImportedModel
from zenith_torch.dims import is_symbolic
from zenith_torch.dynamo.signature import KEY, GraphSignature, Result, Slot
from zenith_torch.lowering import Lowering, operator_name
from zenith_torch.memory import memory_order

__all__ = ["Edges", "import_graph", "unsupported"]

Problem = tuple[torch.fx.Node, str, str]
"""(node, operator with the reason, source line)"""


@dataclass(frozen=True)
class Edges:
    """The model, and how the graph's results are made from its inputs and the model's outputs."""

    model: ImportedModel
    results: list[Result]
    single: bool


def unsupported(
    module: torch.fx.GraphModule, constants: Mapping[int, torch.Tensor]
) -> list[Problem]:
    """The nodes of the graph that have no lowering."""
    lowering, _, _ = _lower(module, constants)
    rows = zip(lowering.failed, lowering.problems, strict=True)
    return [(node, name, line) for node, (name, line) in rows]


def import_graph(
    module: torch.fx.GraphModule, constants: Mapping[int, torch.Tensor], name: str
) -> Edges:
    """Lower the graph. `constants` are the tensors of the placeholders that become weights."""
    lowering, inputs, slots = _lower(module, constants)
    lowering.raise_problems()
    wanted = _output_of(module.graph)
    single = not isinstance(wanted, (list, tuple))
    outputs: list[ir.Value] = []
    leaves = [wanted] if single else list(wanted)
    results = [_result(lowering, leaf, outputs) for leaf in leaves]
    if lowering.builder.extra_inputs:
        slots = [*slots, Slot(KEY, "key")]
    model = lowering.model(inputs, outputs, name)
    signature = GraphSignature(
        slots=slots,
        input_names=[str(v.name) for v in model.graph.inputs],
        output_names=[str(v.name) for v in outputs],
    )
    return Edges(ImportedModel(GraphIR(model), signature), results, single)


def _output_of(graph: torch.fx.Graph) -> Any:
    return next(node for node in graph.nodes if node.op == "output").args[0]


def _lower(
    module: torch.fx.GraphModule, constants: Mapping[int, torch.Tensor]
) -> tuple[Lowering, list[ir.Value], list[Slot]]:
    lowering = Lowering()
    builder, values = lowering.builder, lowering.values
    builder.takes_key = True
    places = [node for node in module.graph.nodes if node.op == "placeholder"]
    inputs: list[ir.Value] = []
    slots: list[Slot] = []
    homes: set[Any] = set()
    for position, node in enumerate(places):
        val = node.meta.get("val")
        if not isinstance(val, torch.Tensor):
            values[node] = lowering.symbols.dim(val) if is_symbolic(val) else val
            continue
        if _is_token(node):
            values[node] = None
            continue
        lowering.check_type(val, f"'{node.name}'")
        if position in constants:
            values[node] = lowering.weight(constants[position], node.name)
            continue
        value, values[node] = lowering.input(node.name, val)
        homes.update(d for d in builder.shape_of(value) if isinstance(d, sympy.Symbol))
        inputs.append(value)
        slots.append(Slot(position, "tensor", val.dtype))
    for position, node in enumerate(places):  # see Note [Sizes as inputs]
        size = values.get(node)
        if isinstance(size, sympy.Symbol) and size not in homes:
            homes.add(size)
            inputs.append(builder.input(node.name, torch.uint8, (size, 0)))
            slots.append(Slot(position, "size"))
    lowering.lower_nodes(module.graph, values)
    return lowering, inputs, slots


def _is_token(node: torch.fx.Node) -> bool:
    """Whether a placeholder only orders side effects: a tensor in the trace, None in calls."""
    users = list(node.users)
    return bool(users) and all(
        operator_name(user.target) == "with_effects" and user.args[0] is node for user in users
    )


def _result(lowering: Lowering, leaf: Any, outputs: list[ir.Value]) -> Result:
    """What one leaf of the graph's output is; a computed one is appended to `outputs`."""
    if not isinstance(leaf, torch.fx.Node):
        return Result("constant", leaf)
    if leaf.op == "placeholder":
        places = [node for node in leaf.graph.nodes if node.op == "placeholder"]
        return Result("input", places.index(leaf))
    builder, value, val = lowering.builder, lowering.values[leaf], leaf.meta.get("val")
    if isinstance(value, (int, float, bool)) or value is None:
        return Result("constant", value)
    builder.label, builder.source = "", ""
    kind, order = "tensor", None
    if isinstance(value, Complex):
        kind, value = "complex", joined(builder, value)
        assert val is not None, "a complex result has its meta"
        order = memory_order(val)
    elif not isinstance(value, ir.Value):
        kind, value = "size", builder.size_scalar(value)
    elif isinstance(val, torch.Tensor):
        order = memory_order(val)
    if order is not None:  # see Note [Memory order of results]
        last = (len(order),) if kind == "complex" else ()
        value = builder.transpose(value, (*order, *last))
    if value.producer() is None or value in outputs or kind == "size":
        value = builder.op("Identity", value)
    outputs.append(value)
    inverse = None if order is None else tuple(order.index(axis) for axis in range(len(order)))
    return Result(kind, len(outputs) - 1, inverse)
