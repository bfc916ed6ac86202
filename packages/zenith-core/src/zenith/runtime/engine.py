"""The engine: canonicalize -> partition -> lower -> select -> plan, in this order.

`ZenithEngine.compile` is the list of stages; each is a short method or a module of its own.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from onnx_shape_inference import SYM_DATA_KEY

from zenith.config import CompileConfig
from zenith.errors import NoKernelFoundError, PrecisionError
from zenith.events import events
from zenith.ir import GraphIR
from zenith.passes import PassManager, optimize_graph
from zenith.plugins import State, plugin_manager
from zenith.runtime.backend import Backend, Program
from zenith.runtime.compiled_model import CompiledModel
from zenith.runtime.dispatcher import KernelDispatcher, Selection
from zenith.runtime.explain import Explanation, NodeReport
from zenith.runtime.kernel_registry import KernelRegistry
from zenith.runtime.numpy_signature import NumpySignature
from zenith.runtime.partition import (
    Partition,
    assign_backends,
    describe_node,
    known_at_compile_time,
    op_view,
    partition,
)
from zenith.runtime.plan import ExecutionPlan, PlannedPartition, tensor_specs
from zenith.runtime.reference import relative_error

if TYPE_CHECKING:
    from zenith.plugins import PluginManager
    from zenith.runtime.adapter import Signature

__all__ = ["FallbackWarning", "ZenithEngine"]


class FallbackWarning(UserWarning):
    """Nodes of a model do not run on the first backend of its target."""


class ZenithEngine:
    """Compiles GraphIR. `backend` overrides the config's target.

    plugins: where backends and kernels come from; the process's own manager by default.
    """

    def __init__(
        self, backend: str | Sequence[str] | None = None, *, plugins: PluginManager | None = None
    ) -> None:
        self._plugins = plugins if plugins is not None else plugin_manager()
        self._target = backend
        self.registry = KernelRegistry()
        self._plugins.register_kernels(self.registry)

    def compile(
        self,
        graph: GraphIR,
        config: CompileConfig | None = None,
        signature: Signature | None = None,
        *,
        samples: Sequence[Sequence[np.ndarray[Any, Any]]] = (),
    ) -> CompiledModel:
        """Compile `graph`; it is left as it was.

        signature: how calls cross the framework's edge (numpy arrays by default).
        samples: inputs in graph order on which `config.tolerance` is checked.
        """
        config = config if config is not None else CompileConfig()
        started = time.perf_counter()
        name = graph.model.graph.name or "model"
        targets = self._targets(config)
        events.emit("compile_started", model=name, target=targets)
        try:
            source = graph.clone()
            self._add_bodies(source)
            compiled = self._compile(source.clone(), config, signature, targets)
            if config.tolerance is not None:
                _check_tolerance(compiled, source, samples, config.tolerance)
        except Exception as error:
            seconds = time.perf_counter() - started
            events.emit("compile_finished", model=name, seconds=seconds, error=str(error))
            raise
        seconds = time.perf_counter() - started
        nodes = len(compiled.explain().nodes)
        events.emit("compile_finished", model=name, seconds=seconds, nodes=nodes)
        return compiled

    def _compile(
        self,
        graph: GraphIR,
        config: CompileConfig,
        signature: Signature | None,
        targets: tuple[str, ...],
    ) -> CompiledModel:
        dispatcher = KernelDispatcher(self.registry, config.opt_level)
        graph.verify(types=False)
        _name_sizes_by_inputs(graph)
        graph, report = optimize_graph(graph, config.opt_level)
        _inline_unclaimed(graph, targets, dispatcher)
        folding = [t for t in targets if self._plugins.backend(t).folds_sizes]
        chosen = assign_backends(graph, targets, dispatcher, folding)
        self._report_fallbacks(graph, chosen, config, targets, dispatcher)
        passes = [str(record) for record in report.records]
        planned: list[PlannedPartition] = []
        slots = {value: i for i, value in enumerate(graph.inputs)}
        reports: list[NodeReport] = []
        copies: list[str] = []
        parts = partition(graph, chosen)
        for part in parts:
            backend = self._plugins.backend(part.backend)
            passes += self._lower(part, backend, config, dispatcher)
            selections = self._select(part, backend, dispatcher)
            program = backend.build(part.graph, selections, config)
            inputs = tuple(slots[v] for v in part.inputs)
            for value in part.outputs:
                slots.setdefault(value, len(slots))
            outputs = tuple(slots[v] for v in part.outputs)
            planned.append(
                PlannedPartition(part.backend, program, inputs, outputs, tuple(selections))
            )
            reports += _node_reports(part, backend, selections)
            copies += getattr(program, "copies", [])
            _own_weights(part.graph, program)
        constants: dict[int, np.ndarray[Any, Any]] = {}
        if len(parts) == 1:
            graph = parts[0].graph
        else:
            _copy_weights(graph)
            for value in graph.outputs:  # weights that no partition computes
                if value not in slots and value.const_value is not None:
                    slots[value] = len(slots)
                    constants[slots[value]] = value.const_value.numpy()
        plan = ExecutionPlan(
            tensor_specs(graph.inputs),
            tensor_specs(graph.outputs),
            tuple(slots[v] for v in _outputs_of(parts, graph)),
            len(slots),
            tuple(planned),
            constants,
        )
        explanation = Explanation(
            target=", ".join(
                self._plugins.backend(b).describe() for b in dict.fromkeys(p.backend for p in parts)
            ),
            nodes=reports,
            fallbacks=[r for r in reports if r.backend != targets[0]],
            copies=copies,
            passes=passes,
            notes=self._notes(targets, config),
        )
        return CompiledModel(
            graph,
            plan,
            signature if signature is not None else NumpySignature(graph),
            explanation,
            config.threads or 0,
        )

    def _add_bodies(self, graph: GraphIR) -> None:
        """Give nodes of operators that plugins declare the functions that say what they mean."""
        operators = self._plugins.operators
        for node in graph.nodes:
            found = operators.get(f"{node.domain}:{node.op_type}")
            if found is not None and node.op_identifier() not in graph.model.functions:
                function = found.function(node.overload or "")
                graph.model.functions[function.identifier()] = function
                graph.model.opset_imports.setdefault(node.domain, 1)

    def _targets(self, config: CompileConfig) -> tuple[str, ...]:
        """Backend names in order of priority; CPU and reference are always last."""
        asked = self._target if self._target is not None else config.target
        names = [asked] if isinstance(asked, str) else list(asked)
        if names == ["auto"]:
            names = [
                name
                for name in self._plugins.backends
                if name not in ("cpu", "reference")
                and self._plugins.status(name).state is State.READY
            ]
        for name in names:
            self._plugins.backend(name)  # raises PluginError with the stored cause
        last = [n for n in ("cpu", "reference") if n in self._plugins.backends]
        return tuple(dict.fromkeys([*names, *last]))

    def _lower(
        self, part: Partition, backend: Backend, config: CompileConfig, dispatcher: KernelDispatcher
    ) -> list[str]:
        names = list(backend.pipeline(config.opt_level))
        if not names:
            return []
        steps = [self._plugins.passes.get(name, name) for name in names]
        report = PassManager(steps).run(part.graph)
        _inline_unclaimed(part.graph, (part.backend,), dispatcher)
        return [f"{part.backend}: {record}" for record in report.records]

    def _select(
        self, part: Partition, backend: Backend, dispatcher: KernelDispatcher
    ) -> list[Selection]:
        selections: list[Selection] = []
        failures: list[str] = []
        for node in part.graph.nodes:
            op = op_view(part.graph, node)
            if backend.folds_sizes and known_at_compile_time(op):
                continue
            answer = dispatcher.select(part.backend, op)
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

    def _report_fallbacks(
        self,
        graph: GraphIR,
        chosen: dict[ir.Node, str],
        config: CompileConfig,
        targets: tuple[str, ...],
        dispatcher: KernelDispatcher,
    ) -> None:
        lines = []
        for node, backend in chosen.items():
            if backend == targets[0]:
                continue
            op = op_view(graph, node)
            if known_at_compile_time(op):
                continue
            answer = dispatcher.select(targets[0], op)
            reasons = answer if isinstance(answer, list) else []
            why = " | ".join(f"{n}: {r}" for n, r in reasons) or f"no kernel for {op.key}"
            lines.append(f"  {describe_node(op)}\n    runs on {backend}; {targets[0]}: {why}")
            events.emit("fallback", node=node.name or "", op=op.key, backend=backend, why=why)
        if not lines:
            return
        text = f"{len(lines)} node(s) do not run on {targets[0]}:\n" + "\n".join(lines)
        if config.fallback == "error":
            raise NoKernelFoundError(
                text, next='fallback="warn" runs them on the backends named above, slowly'
            )
        if config.fallback == "warn":
            warnings.warn(text, FallbackWarning, stacklevel=5)

    def _notes(self, targets: tuple[str, ...], config: CompileConfig) -> list[str]:
        notes = [f"{name}: {why}" for name in targets if (why := self._plugins.status(name).why)]
        if config.mode == "reduce-overhead":
            notes.append('mode="reduce-overhead": a CPU plan is one native call already')
        return notes


def _name_sizes_by_inputs(graph: GraphIR) -> None:
    """Infer shapes anew where an output declares a size by a name that no input has.

    Inference prefers declared names to what it finds, and a plan cannot tell what they are.
    """
    named = {str(d) for v in graph.inputs for d in v.shape or ()}
    declared = {str(d) for v in graph.outputs for d in v.shape or () if not isinstance(d, int)}
    if not any(name.isidentifier() and name not in named for name in declared):
        return
    before = {v: v.shape for node in graph.nodes for v in node.outputs}
    for value in before:
        value.shape = None
        value.metadata_props.pop(SYM_DATA_KEY, None)
    graph.infer_shapes()
    for value, shape in before.items():
        if value.shape is None:
            value.shape = shape


def _inline_unclaimed(graph: GraphIR, targets: Sequence[str], dispatcher: KernelDispatcher) -> None:
    """Replace fused operators that no backend has a kernel for by their bodies."""
    unclaimed = set()
    for node in graph.nodes:
        op = op_view(graph, node)
        if op.body is not None and not any(
            isinstance(dispatcher.select(t, op), Selection) for t in targets
        ):
            unclaimed.add(op.node.op_identifier())
    if unclaimed:
        from onnx_ir.passes.common import InlinePass

        InlinePass(criteria=lambda function: function.identifier() in unclaimed)(graph.model)
        graph.infer_shapes()


def _node_reports(
    part: Partition, backend: Backend, selections: Sequence[Selection]
) -> list[NodeReport]:
    reports = []
    for selection in selections:
        op = selection.op
        cost = selection.spec.cost(op)
        reports.append(
            NodeReport(
                name=op.node.name or "",
                op=op.key + (f".{op.overload}" if op.overload else ""),
                backend=part.backend,
                kernel=backend.kernel_name(selection),
                dtype=op.outputs[0].dtype if op.outputs else "",
                why=selection.why,
                candidates=selection.lost,
                flops=cost.flops,
                bytes=cost.bytes,
                source=op.node.metadata_props.get("zenith.source", ""),
            )
        )
    return reports


def _outputs_of(parts: Sequence[Partition], graph: GraphIR) -> Sequence[ir.Value]:
    return parts[0].outputs if len(parts) == 1 else graph.outputs


def _own_weights(graph: GraphIR, program: Program) -> None:
    """After planning: initializers become views of what the plan owns; the sources are let go.

    Packed weights unpack when somebody reads them, so no weight is held twice.
    """
    packed = getattr(program, "packed", {})
    constants = getattr(program, "constants", {})
    for value in graph.initializers.values():
        tensor = value.const_value
        if tensor is None:
            continue
        if value in constants:
            value.const_value = ir.Tensor(constants[value], dtype=tensor.dtype, name=value.name)
        elif value in packed:
            value.const_value = ir.LazyTensor(
                _unpacker(packed[value], value.name),
                dtype=tensor.dtype,
                shape=ir.Shape(tensor.shape.numpy()),
                name=value.name or "",
            )
        else:
            value.const_value = ir.Tensor(
                np.array(tensor.numpy()), dtype=tensor.dtype, name=value.name
            )


def _unpacker(packed: Any, name: str | None) -> Any:
    return lambda: ir.Tensor(packed.unpack(), name=name)


def _copy_weights(graph: GraphIR) -> None:
    for value in graph.initializers.values():
        tensor = value.const_value
        if tensor is not None:
            value.const_value = ir.Tensor(
                np.array(tensor.numpy()), dtype=tensor.dtype, name=value.name
            )


def _check_tolerance(
    compiled: CompiledModel,
    source: GraphIR,
    samples: Sequence[Sequence[np.ndarray[Any, Any]]],
    tolerance: float,
) -> None:
    """Compare with the imported graph in float64 on the samples; name the worst output's node."""
    from zenith.errors import ConfigurationError
    from zenith.runtime.reference import evaluate_float64

    if not samples:
        raise ConfigurationError(
            "tolerance= is checked on sample_input, and none was given",
            next="pass sample_input=(...)",
        )
    worst, where = 0.0, ""
    for sample in samples:
        feeds = {str(v.name): a for v, a in zip(source.inputs, sample, strict=True)}
        results = compiled.run(dict(zip(compiled.input_names, sample, strict=True)))
        wanted = evaluate_float64(source, feeds)
        for value, (name, result) in zip(source.outputs, results.items(), strict=True):
            error = relative_error(result, wanted[str(value.name)])
            if error > worst or not where:
                producer = value.producer()
                node = f", computed by node '{producer.name}'" if producer is not None else ""
                worst, where = error, f"output '{name}'{node}"
    if not worst <= tolerance:
        raise PrecisionError(
            tolerance, worst, where=where, next="opt_level=1 leaves out approximate kernels"
        )
