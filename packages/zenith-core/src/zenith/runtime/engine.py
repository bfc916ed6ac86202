"""The engine: canonicalize -> partition -> lower -> select -> plan, in this order.

`ZenithEngine.compile` is the list of stages; each is a short method or a module of its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from zenith.config import CompileConfig
from zenith.errors import ConfigurationError, PrecisionError
from zenith.events import events
from zenith.ir import GraphIR
from zenith.plugins import State, plugin_manager
from zenith.runtime.calibration import Calibration, MinMax, accuracy
from zenith.runtime.compiled_model import CompiledModel
from zenith.runtime.explain import Explanation
from zenith.runtime.kernel_registry import KernelRegistry
from zenith.runtime.numpy_signature import NumpySignature
from zenith.runtime.partition import EXECUTOR
from zenith.runtime.plan import ExecutionPlan
from zenith.runtime.quantizer import Quantizer
from zenith.runtime.reference import relative_error
from zenith.runtime.stages import FallbackWarning, Stages
from zenith.runtime.state import StateSpec

if TYPE_CHECKING:
    from zenith.plugins import PluginManager
    from zenith.runtime.adapter import Signature

__all__ = ["FallbackWarning", "ZenithEngine"]


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
        calibration: Iterable[Sequence[np.ndarray[Any, Any]]] = (),
        state: Mapping[str, np.ndarray[Any, Any]] | None = None,
    ) -> CompiledModel:
        """Compile `graph`; it is left as it was.

        signature: how calls cross the framework's edge (numpy arrays by default).
        samples: inputs in graph order on which `config.tolerance` is checked.
        calibration: inputs in graph order for a precision that needs some; read once.
        state: see `ImportedModel.state`.
        """
        config = config if config is not None else CompileConfig()
        started = time.perf_counter()
        name = graph.model.graph.name or "model"
        targets = self._targets(config)
        self._refuse_precision(config.precision, targets[0])
        events.emit("compile_started", model=name, target=targets)
        try:
            source = graph.clone()
            self._add_bodies(source)
            compiled = self._compile(
                source.clone(), config, signature, targets, state or {}, calibration
            )
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
        state: Mapping[str, np.ndarray[Any, Any]],
        calibration: Iterable[Sequence[np.ndarray[Any, Any]]] = (),
    ) -> CompiledModel:
        graph.verify(types=False)
        stages = Stages(self._plugins, self.registry, config, targets)
        seen = None
        if config.precision == "int8":
            seen = Calibration(calibration, MinMax())
            stages.quantizer = Quantizer(seen, lambda g: self._in_float(g, config, targets))
        unit = stages.assign(graph)
        stages.report_fallbacks()
        plan, graph = stages.plan(unit)
        specs = _state_specs(graph, plan, state)
        explanation = Explanation(
            target=", ".join(
                self._plugins.backend(b).describe()
                for b in dict.fromkeys(r.backend for r in stages.reports)
                if b != EXECUTOR
            )
            or targets[0],
            nodes=stages.reports,
            fallbacks=[r for r in stages.reports if r.backend not in (targets[0], EXECUTOR)],
            copies=stages.copies,
            passes=stages.passes,
            notes=[
                *self._notes(targets, config),
                *(stages.tuner.notes() if stages.tuner is not None else ()),
                *stages.notes,
                *_state_notes(specs),
            ],
        )
        model = CompiledModel(
            graph,
            plan,
            signature if signature is not None else NumpySignature(graph),
            explanation,
            config.threads or 0,
            specs,
        )
        if seen is not None:
            explanation.accuracy.update(accuracy(model, seen.compared))
        return model

    def _in_float(
        self, graph: GraphIR, config: CompileConfig, targets: tuple[str, ...]
    ) -> CompiledModel:
        """The model as it is, to calibrate with."""
        plain = replace(
            config, precision="fp32", mode="default", calibration_data=None, fallback="allow"
        )
        return self._compile(graph, plain, None, targets, {})

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
                and config.precision in self._plugins.backend(name).precisions
            ]
        for name in names:
            self._plugins.backend(name)  # raises PluginError with the stored cause
        last = [n for n in ("cpu", "reference") if n in self._plugins.backends]
        return tuple(dict.fromkeys([*names, *last]))

    def _refuse_precision(self, precision: str, target: str) -> None:
        honoured = self._plugins.backend(target).precisions
        if precision not in honoured:
            known = " or ".join(repr(name) for name in sorted(honoured))
            raise ConfigurationError(
                f"precision={precision!r}: no kernel on target '{target}' can honour it yet",
                next=f"precision={known}; tensors that the model declares in another type keep it",
            )

    def _notes(self, targets: tuple[str, ...], config: CompileConfig) -> list[str]:
        notes = [f"{name}: {why}" for name in targets if (why := self._plugins.status(name).why)]
        if config.mode == "reduce-overhead":
            notes.append('mode="reduce-overhead": a CPU plan is one native call already')
        return notes


def _state_specs(
    graph: GraphIR, plan: ExecutionPlan, initial: Mapping[str, np.ndarray[Any, Any]]
) -> list[StateSpec]:
    """The state buffers of a model, and which of them its plan updates where they lie."""
    inputs = [str(v.name) for v in graph.inputs]
    outputs = [str(v.name) for v in graph.outputs]
    program: Any = plan.partitions[0].program if plan.native else None
    specs = []
    for name, array in initial.items():
        source, target = inputs.index(name), outputs.index(graph.state[name])
        in_place = program is not None and program.updates_in_place(source, target)
        specs.append(StateSpec(name, np.array(array, order="C"), in_place))
    return specs


def _state_notes(specs: Sequence[StateSpec]) -> list[str]:
    if not specs:
        return []
    copied = [spec.name for spec in specs if not spec.in_place]
    written = f"; written anew by every call: {', '.join(copied)}" if copied else ""
    return [f"state: {len(specs)} buffers, {len(specs) - len(copied)} updated in place{written}"]


def _check_tolerance(
    compiled: CompiledModel,
    source: GraphIR,
    samples: Sequence[Sequence[np.ndarray[Any, Any]]],
    tolerance: float,
) -> None:
    """Compare with the imported graph in float64 on the samples; name the worst output's node."""
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
