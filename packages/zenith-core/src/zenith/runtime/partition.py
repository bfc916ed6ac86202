"""Partition stage: one backend per node, then maximal runs of nodes of one backend."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import onnx_ir as ir
import sympy

from zenith.errors import NoKernelFoundError
from zenith.ir import GraphIR
from zenith.ir.dims import parse_dim
from zenith.runtime.dispatcher import KernelDispatcher, Selection
from zenith.runtime.op_view import OpView

__all__ = ["Partition", "assign_backends", "describe_node", "partition"]


@dataclass
class Partition:
    """Nodes of one backend as a graph of its own; inputs and outputs are values of the source."""

    backend: str
    graph: GraphIR
    inputs: list[ir.Value]
    outputs: list[ir.Value]


def op_view(graph: GraphIR, node: ir.Node) -> OpView:
    """The node with its function body, if it is a fused operator."""
    function = graph.model.functions.get(node.op_identifier())
    return OpView(node, body=function)


def known_at_compile_time(op: OpView) -> bool:
    """Whether the node is shape arithmetic: no kernel runs for it.

    Every output is an integer tensor whose content is known as sizes, so readers use the sizes.
    """
    return bool(op.outputs) and all(
        v.dtype in ("int64", "int32") and v.known is not None for v in op.outputs
    )


def describe_node(op: OpView) -> str:
    """A node as text with its types and its place in the user's source."""
    source = op.node.metadata_props.get("zenith.source", "")
    ins = ", ".join("_" if v is None else f"{v.name}: {_type(v)}" for v in op.inputs)
    outs = ", ".join(f"{v.name}: {_type(v)}" for v in op.outputs)
    text = f"{outs} = {op.key}{'.' + op.overload if op.overload else ''}({ins})"
    return f"{text}    # {source}" if source else text


def _type(view: object) -> str:
    from zenith.runtime.op_view import ValueView

    assert isinstance(view, ValueView)
    shape = "?" if view.value.shape is None else ",".join(str(d) for d in view.shape)
    return f"{view.dtype}[{shape}]"


def assign_backends(
    graph: GraphIR,
    backends: Sequence[str],
    dispatcher: KernelDispatcher,
    folding: Collection[str] = (),
) -> dict[ir.Node, str]:
    """For every node the first backend, in order of priority, that has a kernel for it.

    folding: backends that need no kernel for shape arithmetic. Nodes nobody can run are reported
    together in one `NoKernelFoundError`.
    """
    chosen: dict[ir.Node, str] = {}
    failures: list[str] = []
    for node in graph.nodes:
        op = op_view(graph, node)
        known = known_at_compile_time(op)
        tried: list[str] = []
        for backend in backends:
            if known and backend in folding:
                chosen[node] = backend
                break
            answer = dispatcher.select(backend, op)
            if isinstance(answer, Selection):
                chosen[node] = backend
                break
            tried += [f"{backend}/{name}: {reason}" for name, reason in answer] or [
                f"{backend}: no kernel for {op.key}"
            ]
        else:
            failures.append(f"  {describe_node(op)}\n    tried  " + " | ".join(tried))
    if failures:
        raise NoKernelFoundError(
            f"no kernel for {len(failures)} node(s) on {', '.join(backends)}\n"
            + "\n".join(failures),
            next='fallback="warn" lets the reference backend run them, slowly',
        )
    return chosen


def partition(graph: GraphIR, chosen: dict[ir.Node, str]) -> list[Partition]:
    """Group nodes into as few runs of one backend as the data flow allows, in execution order."""
    names = {chosen[node] for node in graph.nodes}
    if len(names) <= 1:
        backend = next(iter(names), "cpu")
        return [Partition(backend, graph, list(graph.inputs), list(graph.outputs))]
    groups = _group(list(graph.nodes), chosen)
    return [_extract(graph, backend, nodes) for backend, nodes in groups]


def _group(nodes: list[ir.Node], chosen: dict[ir.Node, str]) -> list[tuple[str, list[ir.Node]]]:
    """Stay with one backend for as long as it has a node whose inputs are ready."""
    waiting = {
        node: len({p for v in _reads(node) if (p := v.producer()) in chosen}) for node in nodes
    }
    ready: dict[str, list[ir.Node]] = {}
    for node in nodes:
        if waiting[node] == 0:
            ready.setdefault(chosen[node], []).append(node)
    groups: list[tuple[str, list[ir.Node]]] = []
    while any(ready.values()):
        backend = next(name for name, queue in ready.items() if queue)
        taken: list[ir.Node] = []
        queue = ready[backend]
        while queue:
            node = queue.pop(0)
            taken.append(node)
            for user in {u for v in node.outputs for u, _ in v.uses() if u in waiting}:
                waiting[user] -= 1
                if waiting[user] == 0:
                    ready.setdefault(chosen[user], []).append(user)
        groups.append((backend, taken))
    return groups


def _reads(node: ir.Node) -> list[ir.Value]:
    return [v for v in node.inputs if v is not None]


def _extract(source: GraphIR, backend: str, nodes: list[ir.Node]) -> Partition:
    """Copy `nodes` into a graph whose inputs and outputs are what crosses the border.

    Inputs that nobody reads may follow: they tell what the symbols in inner shapes are.
    """
    inside = set(nodes)
    graph_outputs = set(source.outputs)
    inputs: dict[ir.Value, ir.Value] = {}
    mapped: dict[ir.Value, ir.Value] = {}
    initializers: list[ir.Value] = []
    outputs: list[ir.Value] = []

    def read(value: ir.Value | None) -> ir.Value | None:
        if value is None:
            return None
        if value not in mapped:
            copy = ir.Value(name=value.name, shape=value.shape, type=value.type)
            copy.metadata_props.update(value.metadata_props)
            if value.const_value is not None:
                copy.const_value = value.const_value
                initializers.append(copy)
            else:
                inputs[value] = copy
            mapped[value] = copy
        return mapped[value]

    copies: list[ir.Node] = []
    for node in nodes:
        copy = ir.Node(
            node.domain,
            node.op_type,
            [read(v) for v in node.inputs],
            list(node.attributes.values()),
            overload=node.overload,
            num_outputs=len(node.outputs),
            name=node.name,
        )
        copy.metadata_props.update(node.metadata_props)
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            new.name, new.shape, new.type = old.name, old.shape, old.type
            new.metadata_props.update(old.metadata_props)
            mapped[old] = new
            leaves = old in graph_outputs or any(u not in inside for u, _ in old.uses())
            if leaves:
                outputs.append(old)
        copies.append(copy)
    for value in _that_fix_sizes(source, mapped):
        read(value)
    graph = ir.Graph(
        list(inputs.values()),
        [mapped[v] for v in outputs],
        nodes=copies,
        initializers=initializers,
        opset_imports=dict(source.model.graph.opset_imports),
        name=f"{source.model.graph.name or 'model'}.{backend}",
    )
    model = ir.Model(
        graph, ir_version=source.model.ir_version, functions=list(source.model.functions.values())
    )
    return Partition(backend, GraphIR(model), list(inputs), outputs)


def _that_fix_sizes(source: GraphIR, mapped: dict[ir.Value, ir.Value]) -> list[ir.Value]:
    """Inputs of the model that have, as a size of their own, a symbol of the mapped values that
    no input among these has (``b`` when only ``2*b`` crosses the border)."""
    needed: set[sympy.Symbol] = set()
    for value in mapped:
        for dim in value.shape or ():
            if not isinstance(dim, int) and dim.value is not None:
                needed |= sympy.sympify(parse_dim(dim)).free_symbols
    for value, copy in mapped.items():
        if copy.producer() is None:
            needed -= _own_symbols(value)
    found = []
    for value in source.inputs:
        if value not in mapped and needed & _own_symbols(value):
            needed -= _own_symbols(value)
            found.append(value)
    return found


def _own_symbols(value: ir.Value) -> set[sympy.Symbol]:
    dims = [parse_dim(d) for d in value.shape or () if isinstance(d, int) or d.value is not None]
    return {d for d in dims if isinstance(d, sympy.Symbol)}
