"""Select stage with ``mode="max-autotune"``: the kernels that could run a node are timed.

A node is timed by itself, on random data of its own shapes, with every row of its backend that
takes it; what the plan adds to change layouts does not count. Times are remembered on disk, so a
node of the same shapes is timed once per machine, thread count and version. Nothing is timed at run
time.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from zenith import _native
from zenith.config import CompileConfig
from zenith.ir import GraphIR
from zenith.runtime.context import ExecutionContext
from zenith.runtime.dispatcher import Selection
from zenith.runtime.kernel_registry import KernelSpec
from zenith.runtime.numpy_signature import numpy_dtype
from zenith.runtime.op_view import OpView, ValueView

if TYPE_CHECKING:
    from zenith.runtime.backend import Backend, Program

__all__ = ["Autotuner", "TuningRecords"]

BUDGET_SECONDS = 60.0
_ROUNDS = 5

Times = dict[str, float]  # microseconds by kernel name


class TuningRecords:
    """Measured times on disk, one JSON file per machine's user: readable, and safe to delete.

    path: None keeps them for this process only.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._times: dict[str, Times] = self._read()

    @classmethod
    def default(cls) -> TuningRecords:
        """``$XDG_CACHE_HOME/zenith/tuning.json``, or below ``~/.cache``."""
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return cls(Path(home) / "zenith" / "tuning.json")

    def get(self, key: str) -> Times | None:
        """Times of an earlier measurement."""
        return self._times.get(key)

    def put(self, key: str, times: Times) -> None:
        self._times[key] = times

    def save(self) -> None:
        """Write what is new, beside what others wrote meanwhile; all or nothing."""
        if self._path is None:
            return
        merged = {**self._read(), **self._times}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=self._path.parent, delete=False) as file:
            json.dump(merged, file, indent=1, sort_keys=True)
        os.replace(file.name, self._path)

    def _read(self) -> dict[str, Times]:
        if self._path is None or not self._path.exists():
            return {}
        try:
            found: dict[str, Times] = json.loads(self._path.read_text())
        except ValueError as error:
            warnings.warn(
                f"the tuning records {self._path} cannot be read and are made anew: {error}",
                stacklevel=2,
            )
            return {}
        return found


class Autotuner:
    """Times the candidates of nodes until the budget is spent; the rest keeps the rule's choice."""

    def __init__(
        self,
        config: CompileConfig,
        records: TuningRecords | None = None,
        budget: float | None = None,
    ) -> None:
        if records is None:
            records = TuningRecords.default() if config.cache else TuningRecords(None)
        self._config = config
        self._records = records
        self._budget = BUDGET_SECONDS if budget is None else budget
        self._spent = 0.0
        self._counts = {"timed": 0, "recorded": 0, "changed": 0, "dynamic": 0, "late": 0}

    def choose(
        self, backend: Backend, graph: GraphIR, selections: Sequence[Selection], rows: Any
    ) -> list[Selection]:
        """The selections with the fastest kernel of each node.

        rows: (backend name, node) -> every row that takes the node, the rule's choice first.
        """
        open_choices = []
        for index, selection in enumerate(selections):
            candidates: list[KernelSpec] = rows(backend.name, selection.op)
            if len(candidates) > 1:
                open_choices.append((index, candidates))
        chosen = list(selections)
        with _progress(len(open_choices)) as advance:
            for index, candidates in open_choices:
                chosen[index] = self._fastest(backend, graph, selections[index], candidates)
                advance()
        if self._counts["timed"]:
            self._records.save()
        return chosen

    def notes(self) -> list[str]:
        """What was timed, for explain()."""
        c = self._counts
        text = f"max-autotune: {c['timed']} kernels chosen by timing, {c['recorded']} from records"
        text += f"; {c['changed']} differ from the rule's choice; {self._spent:.1f} s"
        if c["dynamic"]:
            text += f"; {c['dynamic']} nodes of dynamic sizes keep the rule's choice"
        if c["late"]:
            text += f"; the budget of {self._budget:g} s was spent before {c['late']} nodes"
        return [text]

    def _fastest(
        self, backend: Backend, graph: GraphIR, selection: Selection, rows: list[KernelSpec]
    ) -> Selection:
        op = selection.op
        if not _is_static(op):
            self._counts["dynamic"] += 1
            return selection
        key = self._key(backend, op, rows)
        times = self._records.get(key)
        if times is not None:
            self._counts["recorded"] += 1
        elif self._spent >= self._budget:
            self._counts["late"] += 1
            return selection
        else:
            started = time.perf_counter()
            times = self._measure(backend, graph, op, rows)
            self._spent += time.perf_counter() - started
            self._records.put(key, times)
            self._counts["timed"] += 1
        best = min(rows, key=lambda row: times[row.name])
        self._counts["changed"] += best is not selection.spec
        lost = [(n, r) for n, r in selection.lost if n not in times]
        lost += [(r.name, f"{times[r.name]:.1f} us") for r in rows if r is not best]
        return Selection(op, best, f"fastest of {len(rows)}: {times[best.name]:.1f} us", (*lost,))

    def _key(self, backend: Backend, op: OpView, rows: list[KernelSpec]) -> str:
        from zenith import __version__

        values = [
            "-" if v is None else f"{v.dtype}{list(v.shape)}{'c' if v.const is not None else ''}"
            for v in (*op.inputs, *op.outputs)
        ]
        attributes = sorted(f"{a.name}={a.value}" for a in op.node.attributes.values())
        parts = [f"{op.key}.{op.overload}", *attributes, *values, *(row.name for row in rows)]
        threads = str(self._config.threads or _native.available_threads())
        return " ".join([*parts, backend.describe(), _cpu_model(), threads, __version__])

    def _measure(
        self, backend: Backend, graph: GraphIR, op: OpView, rows: list[KernelSpec]
    ) -> Times:
        programs: list[Program] = []
        for row in rows:
            alone = _alone(graph, op.node)
            (node,) = alone.nodes
            view = OpView(node, body=op.body)
            programs.append(backend.build(alone, [Selection(view, row, "")], self._config))
        inputs = _random_inputs(op)
        seconds: list[list[float]] = [[] for _ in rows]
        for turn in range(_ROUNDS + 1):  # in turns: what disturbs one disturbs all
            for program, taken in zip(programs, seconds, strict=True):
                spent = self._once(program, inputs)
                if turn > 0:
                    taken.append(spent)
        return {
            row.name: round(statistics.median(taken) * 1e6, 2)
            for row, taken in zip(rows, seconds, strict=True)
        }

    def _once(self, program: Program, inputs: list[np.ndarray[Any, Any]]) -> float:
        """Seconds of one run, without the plan's own changes of layout where it tells them."""
        threads = self._config.threads or 0
        own = getattr(program, "kernel_seconds", None)
        if own is not None:
            return float(own(inputs, threads))
        start = time.perf_counter()
        program.run_arrays(inputs, ExecutionContext(threads=threads))
        return time.perf_counter() - start


def _is_static(op: OpView) -> bool:
    values = [v for v in (*op.inputs, *op.outputs) if v is not None]
    return all(
        isinstance(v.value.type, ir.TensorType | None)
        and v.value.shape is not None
        and all(isinstance(n, int) for n in v.shape)
        for v in values
    )


def _alone(graph: GraphIR, node: ir.Node) -> GraphIR:
    """A graph of this node only: its constants, and an input for every value computed elsewhere."""
    copies: dict[ir.Value, ir.Value] = {}
    inputs: list[ir.Value] = []
    initializers: list[ir.Value] = []
    for value in node.inputs:
        if value is None or value in copies:
            continue
        copy = ir.Value(
            name=value.name, type=value.type, shape=value.shape, const_value=value.const_value
        )
        copy.metadata_props.update(value.metadata_props)
        copies[value] = copy
        (inputs if value.const_value is None else initializers).append(copy)
    twin = ir.Node(
        node.domain,
        node.op_type,
        [None if v is None else copies[v] for v in node.inputs],
        list(node.attributes.values()),
        overload=node.overload,
        num_outputs=len(node.outputs),
        name=node.name,
    )
    for old, new in zip(node.outputs, twin.outputs, strict=True):
        new.name, new.type, new.shape = old.name, old.type, old.shape
    outputs = [v for v in twin.outputs if v.name]
    opsets = graph.model.opset_imports
    body = ir.Graph(
        inputs, outputs, nodes=[twin], initializers=initializers, opset_imports=opsets, name="node"
    )
    functions = list(graph.model.functions.values())
    return GraphIR(ir.Model(body, ir_version=graph.model.ir_version, functions=functions))


def _random_inputs(op: OpView) -> list[np.ndarray[Any, Any]]:
    """Data for the values that are computed elsewhere; indices and flags are zeros."""
    generator = np.random.default_rng(0)
    seen: dict[ir.Value, ValueView] = {}
    for view in op.inputs:
        if view is not None and view.const is None:
            seen.setdefault(view.value, view)
    arrays = []
    for view in seen.values():
        shape = tuple(int(n) for n in view.shape)
        dtype = numpy_dtype(view.dtype)
        floating = view.dtype in ("float32", "float64", "float16", "bfloat16")
        data = generator.standard_normal(shape, np.float32) if floating else np.zeros(shape)
        arrays.append(data.astype(dtype))
    return arrays


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


@contextmanager
def _progress(total: int) -> Iterator[Any]:
    """A bar on a terminal, nothing elsewhere."""
    if total == 0 or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("timing kernels", total=total)
        yield lambda: bar.advance(task)
