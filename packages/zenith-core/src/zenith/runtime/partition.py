"""Partition stage: one backend per node, then maximal runs of nodes of one backend."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import onnx_ir as ir
import sympy

from zenith.ir import GraphIR
from zenith.ir.control import is_control, reads
from zenith.ir.dims import UnknownSizeError, parse_dim
from zenith.runtime.dispatcher import KernelDispatcher, Selection
from zenith.runtime.op_view import OpView, ValueView

__all__ = [
    "EXECUTOR",
    "Assignment",
    "Choice",
    "Partition",
    "assign_backends",
    "describe_node",
    "known_at_compile_time",
    "op_view",
    "partition",
]

EXECUTOR = "executor"  # runs control flow, whatever the target


class Choice(NamedTuple):
    """Who runs a node: a backend, and whether by a call of its own rather than in a plan."""

    backend: str
    call: bool = False


@dataclass
class Assignment:
    """The choice for every node, and the text of each node that nobody can run."""

    chosen: dict[ir.Node, Choice] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


@dataclass
class Partition:
    """Nodes of one backend as a graph of its own; inputs and outputs are values of the source.

    A control-flow node is a partition by itself; `graph` is then the source.
    """

    choice: Choice
    nodes: list[ir.Node]
    graph: GraphIR
    inputs: list[ir.Value]
    outputs: list[ir.Value]

    @property
    def backend(self) -> str:
        return self.choice.backend


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


def _type(view: ValueView) -> str:
    shape = "?" if view.value.shape is None else ",".join(str(d) for d in view.value.shape)
    return f"{view.dtype}[{shape}]"


def assign_backends(
    graph: GraphIR,
    backends: Sequence[str],
    dispatcher: KernelDispatcher,
    planning: Collection[str] = (),
) -> Assignment:
    """For every node the first backend, in order of priority, that has a kernel for it.

    planning: backends whose plans are bound to sizes before they run. They need no kernel for
    shape arithmetic, and cannot plan a node before the sizes it has to do with exist.
    """
    result = Assignment()
    known = _sizes(graph.inputs)
    for node in graph.nodes:
        op = op_view(graph, node)
        choice, tried = _choose(op, backends, dispatcher, planning, known)
        if choice is None:
            result.failures.append(f"  {describe_node(op)}\n    tried  " + " | ".join(tried))
        else:
            result.chosen[node] = choice
        known |= _sizes(node.outputs)
    return result


def _choose(
    op: OpView,
    backends: Sequence[str],
    dispatcher: KernelDispatcher,
    planning: Collection[str],
    known: set[sympy.Symbol],
) -> tuple[Choice | None, list[str]]:
    if is_control(op.node):
        return Choice(EXECUTOR), []
    needed = _symbols_of(op)
    late = sorted(str(s) for s in needed - known) if needed is not None else ["?"]
    tried: list[str] = []
    for backend in backends:
        plans = backend in planning
        if plans and not late and known_at_compile_time(op):
            return Choice(backend), []
        answer = dispatcher.select(backend, op, call=True if plans and late else None)
        if isinstance(answer, Selection):
            return Choice(backend, answer.spec.call), []
        tried += [f"{backend}/{name}: {reason}" for name, reason in answer] or [
            f"{backend}: the size {late[0]} depends on data"
            if plans and late and late != ["?"]
            else f"{backend}: no kernel for {op.key}"
        ]
    return None, tried


def partition(
    graph: GraphIR, chosen: Mapping[ir.Node, Choice], planning: Collection[str] = ()
) -> list[Partition]:
    """Group nodes into as few runs of one choice as the data flow allows, in execution order."""
    choices = set(chosen.values())
    choice = next(iter(choices), Choice("cpu"))
    # A plan takes inputs of known ranks: others are for nobody, and left out.
    whole = choice.backend not in planning or all(v.shape is not None for v in graph.inputs)
    if len(choices) <= 1 and choice.backend != EXECUTOR and whole:
        return [
            Partition(choice, list(graph.nodes), graph, list(graph.inputs), list(graph.outputs))
        ]
    return _Groups(graph, chosen, planning).partitions()


class _Groups:
    """Runs of nodes, and what crosses the borders between them."""

    def __init__(
        self, graph: GraphIR, chosen: Mapping[ir.Node, Choice], planning: Collection[str]
    ) -> None:
        self.graph = graph
        self.chosen = chosen
        self.planning = planning
        self.reads = {node: reads(node) for node in chosen}
        self.sizes = {
            node: _symbols_of(op_view(graph, node)) or set()
            for node, choice in chosen.items()
            if choice.backend in planning and not choice.call
        }

    def partitions(self) -> list[Partition]:
        groups = self._group()
        inputs = [self._inputs(nodes, groups[:k]) for k, (_, nodes) in enumerate(groups)]
        crossing = set(self.graph.outputs).union(*inputs)
        result = []
        for (choice, nodes), needed in zip(groups, inputs, strict=True):
            outputs = [v for node in nodes for v in node.outputs if v in crossing]
            part = (
                self.graph
                if choice.backend == EXECUTOR
                else _extract(self.graph, choice.backend, nodes, needed, outputs)
            )
            result.append(Partition(choice, nodes, part, needed, outputs))
        return result

    def _group(self) -> list[tuple[Choice, list[ir.Node]]]:
        """Stay with one choice for as long as it has a node that can run.

        A planned node can run when the values it reads are computed, and when the sizes it needs
        were known before its group began: a plan is bound to them first.
        """
        nodes = list(self.chosen)
        waiting = {
            node: len({p for v in self.reads[node] if (p := v.producer()) in self.chosen})
            for node in nodes
        }
        users: dict[ir.Node, list[ir.Node]] = {node: [] for node in nodes}
        for node in nodes:
            for producer in {v.producer() for v in self.reads[node]}:
                if producer in users:
                    users[producer].append(node)
        bound = _sizes(self.graph.inputs)
        ready = [node for node in nodes if waiting[node] == 0]
        groups: list[tuple[Choice, list[ir.Node]]] = []
        while ready:
            first = next((n for n in ready if self.sizes.get(n, set()) <= bound), ready[0])
            choice = self.chosen[first]
            taken: list[ir.Node] = []
            left: list[ir.Node] = []
            queue = [first, *(n for n in ready if n is not first)]
            while queue:
                node = queue.pop(0)
                fits = self.chosen[node] == choice and (
                    node is first or self.sizes.get(node, set()) <= bound
                )
                if not fits or (taken and choice.backend == EXECUTOR):
                    left.append(node)
                    continue
                taken.append(node)
                for user in users[node]:
                    waiting[user] -= 1
                    if waiting[user] == 0:
                        queue.append(user)
            for node in taken:
                bound |= _sizes(node.outputs)
            groups.append((choice, taken))
            ready = left
        return groups

    def _inputs(
        self, nodes: Sequence[ir.Node], before: Sequence[tuple[Choice, Sequence[ir.Node]]]
    ) -> list[ir.Value]:
        """What a group reads from outside; for a plan also values that only show a size."""
        own = {v for node in nodes for v in node.outputs}
        values = dict.fromkeys(
            v
            for node in nodes
            for v in self.reads[node]
            if v not in own and (v.const_value is None or v.is_graph_input())
        )
        needed = set().union(*(self.sizes.get(node, set()) for node in nodes))
        needed -= _sizes(values)
        if needed:
            earlier = [v for _, group in before for node in group for v in node.outputs]
            for value in (*self.graph.inputs, *earlier):
                shown = needed & _sizes([value])
                if shown:
                    needed -= shown
                    values[value] = None
        return list(values)


def _extract(
    source: GraphIR,
    backend: str,
    nodes: Sequence[ir.Node],
    inputs: Sequence[ir.Value],
    outputs: Sequence[ir.Value],
) -> GraphIR:
    """Copy `nodes` into a graph of their own."""
    mapped: dict[ir.Value, ir.Value] = {}
    initializers: list[ir.Value] = []

    def read(value: ir.Value | None) -> ir.Value | None:
        if value is None:
            return None
        if value not in mapped:
            copy = ir.Value(name=value.name, shape=value.shape, type=value.type)
            copy.metadata_props.update(value.metadata_props)
            if value.const_value is not None and value not in given:
                copy.const_value = value.const_value
                initializers.append(copy)
            mapped[value] = copy
        return mapped[value]

    given = set(inputs)
    for value in inputs:
        read(value)
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
        copies.append(copy)
    graph = ir.Graph(
        [mapped[v] for v in inputs],
        [mapped[v] for v in outputs],
        nodes=copies,
        initializers=initializers,
        opset_imports=dict(source.model.graph.opset_imports),
        name=f"{source.model.graph.name or 'model'}.{backend}",
    )
    functions = list(source.model.functions.values())
    return GraphIR(ir.Model(graph, ir_version=source.model.ir_version, functions=functions))


def _sizes(values: Iterable[ir.Value]) -> set[sympy.Symbol]:
    """Symbols that are, by themselves, a size of one of the values: the value shows them."""
    found: set[sympy.Symbol] = set()
    for value in values:
        for dim in value.shape or ():
            if not isinstance(dim, int) and dim.value is not None:
                parsed = parse_dim(dim)
                if isinstance(parsed, sympy.Symbol):
                    found.add(parsed)
    return found


def _symbols_of(op: OpView) -> set[sympy.Symbol] | None:
    """Symbols in sizes and known contents of everything a node touches; None if a rank is not
    known."""
    found: set[sympy.Symbol] = set()
    try:
        for view in (*op.inputs, *op.outputs):
            if view is None or not (view.name or view.value.uses()):
                continue
            for dim in (*view.shape, *(view.known or ())):
                if not isinstance(dim, int):
                    found |= dim.free_symbols
    except UnknownSizeError:
        return None
    return found
