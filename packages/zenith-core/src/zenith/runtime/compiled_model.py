"""What `zenith.compile` returns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zenith.errors import ValidationError
from zenith.ir import GraphIR
from zenith.runtime.adapter import Signature
from zenith.runtime.context import ExecutionContext
from zenith.runtime.executor import GraphExecutor
from zenith.runtime.explain import Explanation
from zenith.runtime.memory_manager import MemoryManager
from zenith.runtime.numpy_signature import open_constant
from zenith.runtime.plan import ExecutionPlan
from zenith.runtime.reference import evaluate_float64, relative_error
from zenith.runtime.state import ModelState, StateSpec

__all__ = ["BenchmarkResult", "CompiledModel", "Verification"]


@dataclass(frozen=True)
class Verification:
    """`errors`: output name -> max |T - F| / (|F| + rms F) against the reference in float64."""

    errors: dict[str, float]

    @property
    def worst(self) -> float:
        """The largest error of all outputs."""
        return max(self.errors.values(), default=0.0)


@dataclass(frozen=True)
class BenchmarkResult:
    """Milliseconds per call: median, least, and how many calls were timed."""

    median_ms: float
    min_ms: float
    runs: int


class CompiledModel:
    """A compiled model: call it like the source. Safe to call from many threads at once.

    It owns all its weights; nothing of the source model is kept.
    """

    def __init__(
        self,
        graph: GraphIR,
        plan: ExecutionPlan,
        signature: Signature,
        explanation: Explanation,
        threads: int,
        state: Sequence[StateSpec] = (),
    ) -> None:
        self._graph = graph
        self._plan = plan
        self._signature = signature
        self._explanation = explanation
        self._threads = threads
        self._executor = GraphExecutor()
        program: Any = plan.partitions[0].program if plan.native else None
        self._program = program
        self._call: Callable[..., list[Any]] | None = (
            program.caller(signature.maker, threads) if plan.native else None
        )
        self._state = tuple(state)
        self._staged: Any = _needs_state if state else getattr(signature, "staged", None)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Results in the framework's own types and the model's own structure."""
        if self._staged is not None:
            traced = self._staged(self, args, kwargs)
            if traced is not NotImplemented:
                return traced
        signature = self._signature
        tensors = signature.flatten(args, kwargs)
        results = self._in_arrays(tensors) if self._call is None else self._call(tensors)
        return signature.unflatten(results)

    def _in_arrays(self, tensors: list[Any]) -> list[Any]:
        """The way of models that are not one native program."""
        signature = self._signature
        arrays = self._run_arrays([signature.to_numpy(t) for t in tensors])
        return [signature.from_numpy(a) for a in arrays]

    def new_state(self) -> ModelState:
        """A new sequence of calls that remembers, for a model that keeps state between them.

        Call the result like the model. States are independent and cost their buffers only.
        """
        return ModelState(self, self._state)

    def step(
        self,
        now: list[NDArray[Any]],
        after: list[NDArray[Any]],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Any:
        """One call that reads its state from `now` and leaves it in `after`: for `ModelState`."""
        signature = self._signature
        tensors = signature.flatten(args, kwargs)
        if self._call is not None:
            return signature.unflatten(self._call([*tensors, *now], after))
        arrays = self._run_arrays([*map(signature.to_numpy, tensors), *now])
        own = len(arrays) - len(after)
        for target, array in zip(after, arrays[own:], strict=True):
            target[...] = array
        return signature.unflatten([signature.from_numpy(a) for a in arrays[:own]])

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run on numpy arrays by input name; results by output name."""
        names = [spec.name for spec in self._plan.inputs]
        if set(inputs) != set(names):
            raise ValidationError(
                f"the model takes {', '.join(names) or 'no inputs'}; given: "
                f"{', '.join(inputs) or 'nothing'}",
                next=open_constant(getattr(self._signature, "constants", ()), inputs),
            )
        results = self._run_arrays([_plain(inputs[name]) for name in names])
        return {s.name: r for s, r in zip(self._plan.outputs, results, strict=True)}

    def _inputs(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[NDArray[Any]]:
        """All inputs of the plan for one call, with the state as it is at first."""
        signature = self._signature
        given = map(signature.to_numpy, signature.flatten(args, kwargs))
        return [*given, *[spec.initial for spec in self._state]]

    def _run_arrays(self, arrays: list[NDArray[Any]]) -> list[NDArray[Any]]:
        return self._executor.run(self._plan, ExecutionContext(threads=self._threads), arrays)

    def explain(self) -> Explanation:
        """Which kernel runs each node and why, what fell back, what was copied, and how many plans
        are bound to sizes by now."""
        programs = list(bound_programs(self._plan))
        if not programs:
            return self._explanation
        caches = [program.memory for program in programs]
        binds, dropped = sum(m.binds for m in caches), sum(m.evictions for m in caches)
        note = f"plans bound to sizes: {binds}, dropped: {dropped}, kept: at most "
        note += f"{max(m.capacity for m in caches)} of each of {len(caches)}"
        again = sum(program.runner.rebinds for program in programs)
        note += f"; for sizes that change within loops: {again}" if again else ""
        return replace(self._explanation, notes=[*self._explanation.notes, note])

    def profile(self, *args: Any, repeat: int = 5, **kwargs: Any) -> Explanation:
        """`explain()` with the time of each node in microseconds: medians over `repeat` calls.

        `roofline` is the share of the speed this machine allows for the node's operations and
        bytes, from a short measurement of both limits.
        """
        from zenith.runtime.roofline import machine_limits

        if self._program is None:
            raise ValidationError("profile() needs a model that runs on one native backend")
        arrays = self._inputs(args, kwargs)
        totals: list[list[int]] = []
        for _ in range(repeat + 1):
            context = ExecutionContext(threads=self._threads, profile=True)
            self._executor.run(self._plan, context, arrays)
            totals.append(self._program.node_times(context.times[0]))
        medians = [statistics.median(column) for column in zip(*totals[1:], strict=True)]
        limits = machine_limits()
        dims = self._program.dims_of(arrays)
        nodes = []
        for node, nanoseconds in zip(self._explanation.nodes, medians, strict=True):
            floor = limits.seconds(_number(node.flops, dims), _number(node.bytes, dims))
            share = floor / (nanoseconds * 1e-9) if nanoseconds > 0 else None
            nodes.append(replace(node, time=nanoseconds / 1000, roofline=share))
        return replace(self._explanation, nodes=nodes)

    def verify(self, *args: Any, **kwargs: Any) -> Verification:
        """Compare with the reference evaluation of `graph` in float64 on these inputs."""
        arrays = self._inputs(args, kwargs)
        results = self._run_arrays(arrays)
        feeds = {s.name: a for s, a in zip(self._plan.inputs, arrays, strict=True)}
        wanted = evaluate_float64(self._graph, feeds)
        return Verification(
            {
                spec.name: relative_error(result, wanted[spec.name])
                for spec, result in zip(self._plan.outputs, results, strict=True)
            }
        )

    def benchmark(self, *args: Any, runs: int = 20, **kwargs: Any) -> BenchmarkResult:
        """Time whole calls after three that are not counted."""
        call = self.new_state() if self._state else self
        for _ in range(3):
            call(*args, **kwargs)
        times = []
        for _ in range(runs):
            start = time.perf_counter()
            call(*args, **kwargs)
            times.append((time.perf_counter() - start) * 1e3)
        return BenchmarkResult(statistics.median(times), min(times), runs)

    @property
    def graph(self) -> GraphIR:
        """The graph that runs, after all passes; weights are views of the packed ones."""
        return self._graph

    @property
    def graph_ir(self) -> GraphIR:
        """Alias of `graph`."""
        return self._graph

    @property
    def plan(self) -> ExecutionPlan:
        """The frozen list of steps; `str(plan)` prints it."""
        return self._plan

    @property
    def input_names(self) -> list[str]:
        """Names of the graph's inputs, as `run` takes them."""
        return [spec.name for spec in self._plan.inputs]

    def __repr__(self) -> str:
        ins = ", ".join(f"{s.name}: {s}" for s in self._plan.inputs)
        return f"CompiledModel({ins}; {self._explanation.target})"


def _needs_state(model: CompiledModel, args: Any, kwargs: Any) -> Any:
    names = ", ".join(spec.name for spec in model._state[:3])
    more = ", ..." if len(model._state) > 3 else ""
    raise ValidationError(
        f"this model keeps state between calls ({names}{more}), and the caller owns it",
        next="state = compiled.new_state(), then state(...) instead of compiled(...)",
    )


def bound_programs(plan: ExecutionPlan) -> Iterator[Any]:
    """The native programs, which keep bound plans, those of loop bodies included."""
    for partition in plan.partitions:
        program: Any = partition.program
        if isinstance(getattr(program, "memory", None), MemoryManager):
            yield program
        for body in getattr(program, "bodies", {}).values():
            yield from bound_programs(body.plan)


def _plain(value: Any) -> Any:
    """An array; lists of them are sequences, None is an optional without a value."""
    if value is None:
        return None
    return [_plain(v) for v in value] if isinstance(value, list) else np.asarray(value)


def _number(cost: Any, dims: Mapping[Any, int]) -> float:
    return float(cost if isinstance(cost, int | float) else cost.subs(dims))
