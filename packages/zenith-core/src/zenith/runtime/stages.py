"""The stages between GraphIR and an execution plan, for a model and the bodies of its loops.

assign: canonicalize and partition's first half (who runs each node); plan: partition, lower, select
and plan. `ZenithEngine` calls both, with the report of fallbacks between.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from onnx_shape_inference import SYM_DATA_KEY

from zenith.config import CompileConfig
from zenith.errors import NoKernelFoundError
from zenith.events import events
from zenith.ir import GraphIR
from zenith.ir.control import closed, is_control, settle_condition, subgraphs
from zenith.ir.dims import UnknownSizeError, dim_names
from zenith.ir.inline import inline_calls
from zenith.ir.types import constant_data
from zenith.passes import PassManager, optimize_graph
from zenith.passes.base import Pass
from zenith.passes.expand_functions import expand_functions
from zenith.passes.lower_precision import LowerPrecision
from zenith.passes.rewrite import FLOAT_KEY
from zenith.passes.widen_half import widen_half
from zenith.runtime.autotune import Autotuner
from zenith.runtime.backend import Backend, CallableProgram, Program
from zenith.runtime.control import Body, ControlProgram
from zenith.runtime.dispatcher import KernelDispatcher, Selection
from zenith.runtime.explain import NodeReport
from zenith.runtime.kernel_registry import Cost, KernelRegistry
from zenith.runtime.op_view import OpView
from zenith.runtime.partition import (
    EXECUTOR,
    Choice,
    Partition,
    assign_backends,
    describe_node,
    known_at_compile_time,
    op_view,
    partition,
)
from zenith.runtime.plan import ExecutionPlan, PlannedPartition, tensor_specs

if TYPE_CHECKING:
    from zenith.plugins import PluginManager
    from zenith.runtime.quantizer import Quantizer

__all__ = ["FallbackWarning", "Stages", "Unit"]


class FallbackWarning(UserWarning):
    """Nodes of a model do not run on the first backend of its target."""


@dataclass
class Unit:
    """One graph, the model's or a body's, after canonicalization, and who runs its nodes.

    bodies: of every control-flow node, by attribute name: the subgraph as a unit of its own, and
    the values of this graph that it captures.
    """

    graph: GraphIR
    chosen: dict[ir.Node, Choice]
    bodies: dict[ir.Node, dict[str, tuple[Unit, list[ir.Value]]]]


class Stages:
    """The stages for one model, and what they have to say."""

    def __init__(
        self,
        plugins: PluginManager,
        registry: KernelRegistry,
        config: CompileConfig,
        targets: tuple[str, ...],
    ) -> None:
        self._plugins = plugins
        self._registry = registry
        self._config = config
        self._targets = targets
        self._dispatcher = KernelDispatcher(registry, config.opt_level)
        self._planning = [t for t in targets if plugins.backend(t).plans_sizes]
        self.tuner = Autotuner(config) if config.mode == "max-autotune" else None
        self._fallbacks: list[str] = []
        self._failures: list[str] = []
        self.passes: list[str] = []
        self.reports: list[NodeReport] = []
        self._kernel_notes: Counter[str] = Counter()
        self._program_notes: list[str] = []
        self.copies: list[str] = []
        self.quantizer: Quantizer | None = None
        self._lowered = 0  # nodes in the precision that was asked for
        self._beside = 0  # nodes in bfloat16 between those in int8

    def assign(self, graph: GraphIR, where: str = "") -> Unit:
        """Canonicalize, and choose a backend for every node, bodies included."""
        _name_sizes_by_inputs(graph)
        graph, report = optimize_graph(graph, self._config.opt_level)
        graph.check_types()
        self.passes += [f"{where}{record}" for record in report.records]
        self._adapt(graph, where)
        self._quantize(graph, where)
        found = assign_backends(graph, self._targets, self._dispatcher, self._planning)
        self._failures += found.failures
        bodies: dict[ir.Node, dict[str, tuple[Unit, list[ir.Value]]]] = {}
        for node, choice in found.chosen.items():
            if choice.backend == EXECUTOR:
                bodies[node] = {}
                for name, inner in subgraphs(node).items():
                    model, captured = closed(inner, graph.model)
                    if node.op_type == "Loop":
                        settle_condition(model.graph)
                    body = self.assign(GraphIR(model), f"{where}{node.name}.{name}: ")
                    bodies[node][name] = (body, captured)
            elif choice.backend != self._targets[0]:
                self._note_fallback(op_view(graph, node), choice.backend)
        return Unit(graph, found.chosen, bodies)

    def _adapt(self, graph: GraphIR, where: str) -> None:
        """Put what no native backend runs into terms that one does run."""
        _inline_unclaimed(graph, self._targets, self._dispatcher)
        native = self._targets[: self._targets.index("reference")]

        def claims(node: ir.Node) -> bool:
            op = op_view(graph, node)
            return is_control(node) or any(
                isinstance(self._dispatcher.select(target, op), Selection) for target in native
            )

        if not native:
            return
        expanded = expand_functions(graph, claims)
        widened = widen_half(graph, claims)
        if expanded or widened:
            graph.infer_shapes()
        self.passes += [
            f"{where}{name}: {count} changed"
            for name, count in (("expand_functions", expanded), ("widen_half", widened))
            if count
        ]

    def _quantize(self, graph: GraphIR, where: str) -> None:
        if self.quantizer is None:
            return
        if where:  # a body: what its values are, only its own runs show
            self.quantizer.keep(graph, "it is part of a loop or branch")
            return
        backends = (t for t in self._targets if "int8" in self._plugins.backend(t).precisions)
        changed = self.quantizer.run(graph, self._registry, next(backends))
        self._lowered += changed
        self.passes.append(f"quantize: {changed} changed")

    def _note_fallback(self, op: OpView, backend: str) -> None:
        first = self._targets[0]
        if known_at_compile_time(op):
            return
        answer = self._dispatcher.select(first, op)
        if isinstance(answer, Selection):
            why = "sizes it has to do with depend on data"
        else:
            why = " | ".join(f"{n}: {r}" for n, r in answer) or f"no kernel for {op.key}"
        self._fallbacks.append(f"  {describe_node(op)}\n    runs on {backend}; {first}: {why}")
        name = op.node.name or ""
        events.emit("fallback", node=name, op=op.key, backend=backend, why=why)

    def report_fallbacks(self) -> None:
        """Raise for nodes that nobody runs; report those that the first backend does not run."""
        if self._failures:
            raise NoKernelFoundError(
                f"no kernel for {len(self._failures)} node(s) on {', '.join(self._targets)}\n"
                + "\n".join(self._failures),
                next='fallback="warn" lets the reference backend run them, slowly',
            )
        lines = self._fallbacks
        if not lines:
            return
        text = f"{len(lines)} node(s) do not run on {self._targets[0]}:\n" + "\n".join(lines)
        if self._config.fallback == "error":
            raise NoKernelFoundError(
                text, next='fallback="warn" runs them on the backends named above, slowly'
            )
        if self._config.fallback == "warn":
            warnings.warn(text, FallbackWarning, stacklevel=5)

    def plan(self, unit: Unit, where: str = "") -> tuple[ExecutionPlan, GraphIR]:
        """Partition, lower, select and plan; also the graph that runs."""
        graph = unit.graph
        fixed = _take_constants(graph) if where else {}
        slots = {value: i for i, value in enumerate(graph.inputs)}
        planned: list[PlannedPartition] = []
        owned = _Owned()
        parts = partition(graph, unit.chosen, self._planning)
        for part in parts:
            inputs = tuple(slots[v] for v in part.inputs)
            for value in part.outputs:
                slots.setdefault(value, len(slots))
            outputs = tuple(slots[v] for v in part.outputs)
            if part.backend == EXECUTOR:
                program: Program = self._control(part, unit, where)
                selections: Sequence[Selection] = ()
            else:
                program, selections = self._program(part, where)
                owned.add(part.graph, program)
            planned.append(
                PlannedPartition(part.backend, program, inputs, outputs, tuple(selections))
            )
        if len(parts) == 1 and parts[0].backend != EXECUTOR:
            # Lowering may have replaced the values of the graph itself.
            results: Sequence[ir.Value] = parts[0].outputs
        else:
            results = graph.outputs
        results = list(results)
        for index, value in fixed.items():
            results.insert(index, value)
            graph.model.graph.outputs.insert(index, value)
        owned.take_over(graph)
        constants: dict[int, np.ndarray[Any, Any]] = {}
        for value in results:  # weights that no partition computes
            if value not in slots and value.const_value is not None:
                slots[value] = len(slots)
                constants[slots[value]] = constant_data(value.const_value).view()
        plan = ExecutionPlan(
            tensor_specs(graph.inputs),
            tensor_specs(graph.outputs),
            tuple(slots[v] for v in results),
            len(slots),
            tuple(planned),
            constants,
        )
        return plan, graph

    def _program(self, part: Partition, where: str) -> tuple[Program, Sequence[Selection]]:
        backend = self._plugins.backend(part.backend)
        if not part.choice.call:
            self._lower(part, backend, where)
        selections = self._select(part, backend)
        if self.tuner is not None and not part.choice.call:
            rows = self._dispatcher.accepting
            selections = self.tuner.choose(backend, part.graph, selections, rows)
        program = (
            CallableProgram(part.graph, selections, backend.whose)
            if part.choice.call
            else backend.build(part.graph, selections, self._config)
        )
        names = (
            [s.spec.name for s in selections]
            if part.choice.call
            else backend.kernel_names(selections, program)
        )
        self.reports += _node_reports(part, selections, names, where)
        notes = (selection.spec.note(selection.op) for selection in selections)
        self._kernel_notes.update(note for note in notes if note is not None)
        self.copies += getattr(program, "copies", [])
        self._program_notes += getattr(program, "notes", [])
        return program, selections

    def _control(self, part: Partition, unit: Unit, where: str) -> ControlProgram:
        node = part.nodes[0]
        self.reports.append(
            NodeReport(
                name=f"{where}{node.name}",
                op=f"ai.onnx:{node.op_type}",
                backend=EXECUTOR,
                kernel=node.op_type.lower(),
                dtype="",
                why="control flow: the executor runs the plans of its bodies",
                candidates=(),
                flops=0,
                bytes=0,
                source=node.metadata_props.get("zenith.source", ""),
            )
        )
        bodies = {}
        for name, (body, captured) in unit.bodies[node].items():
            plan, _ = self.plan(body, f"{where}{node.name}.{name}/")
            bodies[name] = Body(plan, tuple(part.inputs.index(v) for v in captured))
        constants = {
            v: np.array(constant_data(v.const_value), order="C")
            for v in node.inputs
            if v is not None and v.const_value is not None and v not in part.inputs
        }
        return ControlProgram(node, part.inputs, part.outputs, bodies, constants)

    def _lower(self, part: Partition, backend: Backend, where: str) -> None:
        names = list(backend.pipeline(self._config.opt_level))
        if not names:
            return
        steps = [self._pass(name, part) for name in names]
        report = PassManager(steps).run(part.graph)
        lowered = report.changed(LowerPrecision.name)
        if self._config.precision == "int8":
            self._beside += lowered
        else:
            self._lowered += lowered
        _inline_unclaimed(part.graph, (part.backend,), self._dispatcher)
        self.passes += [f"{where}{part.backend}: {record}" for record in report.records]

    def _pass(self, name: str, part: Partition) -> str | Pass:
        """The pass of this name, told what it has to know of this compilation."""
        precision = self._config.precision
        if name != LowerPrecision.name or precision not in ("bf16", "int8"):
            found: str | Pass = self._plugins.passes.get(name, name)
            return found

        def select(node: ir.Node) -> Selection | None:
            answer = self._dispatcher.select(part.backend, op_view(part.graph, node))
            return answer if isinstance(answer, Selection) else None

        def ask(node: ir.Node) -> frozenset[str] | None:
            found = select(node)
            return None if found is None else found.spec.tags

        def beside_int8(node: ir.Node) -> str | None:
            found = select(node)
            assert found is not None, "its tags were asked for before"
            return found.spec.beside_int8(found.op)

        return LowerPrecision(ask, beside_int8 if precision == "int8" else None)

    @property
    def notes(self) -> list[str]:
        """What explain() says about the whole compilation."""
        precision = self._config.precision
        notes: list[str] = []
        if precision != "fp32":
            notes.append(
                f"precision={precision!r}: {self._lowered} of {len(self.reports)} nodes compute in "
                "it or move such values; the others stay as the model declares them"
            )
        if self._beside:
            notes.append(
                f"{self._beside} nodes between products of integers compute in bfloat16 or move "
                "such values: faster than float32 here, and finer than 8 bits"
            )
        notes += [f"{note} (nodes: {n})" for note, n in self._kernel_notes.items()]
        return notes + self._program_notes

    def _select(self, part: Partition, backend: Backend) -> list[Selection]:
        selections: list[Selection] = []
        failures: list[str] = []
        for node in part.graph.nodes:
            op = op_view(part.graph, node)
            if not part.choice.call and backend.plans_sizes and known_at_compile_time(op):
                continue
            answer = self._dispatcher.select(part.backend, op, call=part.choice.call)
            if isinstance(answer, Selection):
                selections.append(answer)
                events.emit(
                    "kernel_selected",
                    node=node.name or "",
                    op=op.key,
                    backend=part.backend,
                    kernel=answer.spec.name,
                    rejected=answer.lost,
                )
            else:
                tried = " | ".join(f"{n}: {r}" for n, r in answer)
                failures.append(f"  {describe_node(op)}\n    tried  {tried}")
        if failures:
            raise NoKernelFoundError(
                f"no kernel on {part.backend} for {len(failures)} node(s) after lowering\n"
                + "\n".join(failures),
                next="opt_level=0 compiles without the passes that made them",
            )
        return selections


def _name_sizes_by_inputs(graph: GraphIR) -> None:
    """Infer shapes anew where a size is declared in names that no input shows.

    Inference prefers declared names to what it finds, and a plan cannot tell what they are: on
    outputs, and on inputs of a body that captures a value of size ``2*n`` but nothing of size n.
    """
    shown = {str(d) for v in graph.inputs for d in v.shape or () if str(d).isidentifier()}
    hidden = {str(d) for v in graph.outputs for d in v.shape or () if str(d).isidentifier()} - shown
    renamed: dict[str, ir.SymbolicDim] = {}
    for value in graph.inputs:
        for d in value.shape or ():
            text = str(d)
            if not isinstance(d, int) and not dim_names(d) <= shown:
                renamed.setdefault(text, ir.SymbolicDim(f"_i{len(renamed)}"))
        if value.shape is not None and any(str(d) in renamed for d in value.shape):
            value.shape = ir.Shape(renamed.get(str(d), d) for d in value.shape)
            value.metadata_props.pop(SYM_DATA_KEY, None)
    if not hidden and not renamed:
        return
    before = {v: v.shape for node in graph.nodes for v in node.outputs}
    for value in before:
        value.shape = None
        value.metadata_props.pop(SYM_DATA_KEY, None)
    graph.infer_shapes()
    for value, shape in before.items():
        if value.shape is None:
            value.shape = shape


def _constant(value: ir.Value) -> ir.Value | None:
    """The constant that `value` is, by itself or as an output's Identity of it."""
    node = value.producer()
    if node is not None and node.op_type == "Identity" and node.inputs[0] is not None:
        value = node.inputs[0]
    return None if value.const_value is None or value.is_graph_input() else value


def _take_constants(body: GraphIR) -> dict[int, ir.Value]:
    """Outputs of a body that are constants, taken from it: no iteration need copy them."""
    fixed = {
        index: constant
        for index, value in enumerate(body.outputs)
        if (constant := _constant(value)) is not None
    }
    for index in reversed(fixed):
        del body.model.graph.outputs[index]
    return fixed


def _inline_unclaimed(graph: GraphIR, targets: Sequence[str], dispatcher: KernelDispatcher) -> None:
    """Replace fused operators that no backend has a kernel for by their bodies."""
    unclaimed = set()
    for node in graph.nodes:
        op = op_view(graph, node)
        if op.body is not None and not any(
            isinstance(dispatcher.select(t, op), Selection) for t in targets
        ):
            unclaimed.add(node)
    if unclaimed:
        inline_calls(graph.model, unclaimed.__contains__)
        PassManager(("lift_constants",)).run(graph)  # those of the bodies
        graph.infer_shapes()


def _node_reports(
    part: Partition, selections: Sequence[Selection], kernels: Sequence[str], where: str
) -> list[NodeReport]:
    reports = []
    for selection, kernel in zip(selections, kernels, strict=True):
        op = selection.op
        cost = _cost(selection)
        reports.append(
            NodeReport(
                name=f"{where}{op.node.name or ''}",
                op=op.key + (f".{op.overload}" if op.overload else ""),
                backend=part.backend,
                kernel=kernel,
                dtype=op.outputs[0].dtype if op.outputs else "",
                why=_why(selection),
                candidates=selection.lost,
                flops=cost.flops,
                bytes=cost.bytes,
                source=op.node.metadata_props.get("zenith.source", ""),
            )
        )
    return reports


def _cost(selection: Selection) -> Cost:
    """What a node costs; nothing that could be said where a rank depends on data."""
    try:
        return selection.spec.cost(selection.op)
    except UnknownSizeError:
        return Cost()


def _why(selection: Selection) -> str:
    """Why this kernel; and in a quantized model, why the node computes in a type of floats."""
    kept = selection.op.node.metadata_props.get(FLOAT_KEY)
    if kept is None:
        return selection.why
    halves = any(v.dtype == "bfloat16" for v in selection.op.outputs)
    return f"{selection.why}; {'bfloat16' if halves else 'float32'}: {kept}"


class _Owned:
    """Constants that programs own, by name: plain ones, and packed ones that can be unpacked."""

    def __init__(self) -> None:
        self.constants: dict[str, np.ndarray[Any, Any]] = {}
        self.packed: dict[str, Any] = {}

    def add(self, graph: GraphIR, program: Program) -> None:
        """What a program made of the initializers of its graph."""
        constants = getattr(program, "constants", {})
        packed = getattr(program, "packed", {})
        for name, value in graph.initializers.items():
            if value in constants:
                self.constants[name] = constants[value]
            elif value in packed:
                self.packed[name] = packed[value]

    def take_over(self, graph: GraphIR) -> None:
        """Make initializers views of what the programs own, and let the sources go.

        Packed weights unpack when somebody reads them, so no weight is held twice.
        """
        for name, value in graph.initializers.items():
            tensor = value.const_value
            if tensor is None:
                continue
            if name in self.constants:
                value.const_value = ir.Tensor(self.constants[name], dtype=tensor.dtype, name=name)
            elif name in self.packed:
                value.const_value = ir.LazyTensor(
                    _unpacker(self.packed[name], name),
                    dtype=tensor.dtype,
                    shape=ir.Shape(tensor.shape.numpy()),
                    name=name,
                )
            else:
                value.const_value = ir.Tensor(
                    np.array(tensor.numpy()), dtype=tensor.dtype, name=name
                )


def _unpacker(packed: Any, name: str | None) -> Any:
    return lambda: ir.Tensor(packed.unpack(), name=name)
