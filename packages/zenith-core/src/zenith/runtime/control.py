"""Execute stage: If, Loop, Scan and SequenceMap over plans of their bodies.

A body is planned once, like a model: its inputs are the subgraph's own and then the values it
captures. Where the plan is one native program and no size changes, the iterations are one native
call (`Program.repeat`); else the body's plan runs per iteration, and sizes that change only bind it
anew.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from zenith.errors import KernelError, ValidationError
from zenith.runtime.backend import Program, Repeated, Wiring
from zenith.runtime.context import ExecutionContext
from zenith.runtime.executor import GraphExecutor
from zenith.runtime.numpy_signature import numpy_dtype
from zenith.runtime.plan import ExecutionPlan

__all__ = ["Body", "ControlProgram"]

_NO_LIMIT = np.iinfo(np.int64).max
_TRUE = np.array(True)
_MOST = 4096  # iterations of one native call: between two, signals are handled


@dataclass(frozen=True)
class Body:
    """A planned subgraph. captured: positions, in the node's partition, of the values it reads
    from outside."""

    plan: ExecutionPlan
    captured: tuple[int, ...]

    @functools.cached_property
    def alone(self) -> tuple[Program, list[int | np.ndarray]] | None:
        """The program and where each result comes from, an output or a constant, where the plan is
        nothing but that."""
        plan = self.plan
        if len(plan.partitions) != 1:
            return None
        only = plan.partitions[0]
        if only.inputs != tuple(range(len(plan.inputs))) or len({*only.outputs}) < len(
            only.outputs
        ):
            return None
        where: dict[int, int | np.ndarray] = {**plan.constants}
        where |= {slot: k for k, slot in enumerate(only.outputs)}
        if any(slot not in where for slot in plan.output_slots):
            return None
        return only.program, [where[slot] for slot in plan.output_slots]

    def wiring(self, sliced: range, states: range, conditional: bool) -> Wiring | None:
        """How iterations hang together, where a program can do many at once: the inputs that take
        another row each time, those that are fed back, whether the first result is a condition."""
        if self.alone is None or not hasattr(self.alone[0], "repeat"):
            return None
        results = self.alone[1]
        condition = -1
        if conditional:
            first, *results = results
            if isinstance(first, int):
                condition = first
            elif not first.all():
                return None
        outputs = [k for k in results if isinstance(k, int)]
        if len(outputs) < len(results):
            return None
        inputs = range(len(self.plan.inputs))
        fed_back = dict(zip(states, outputs, strict=False))
        return Wiring(
            tuple(k in sliced for k in inputs),
            tuple(fed_back.get(k, -1) for k in inputs),
            tuple(outputs[len(states) :]),
            condition,
        )


class ControlProgram:
    """One control-flow node. Its inputs: the node's own (present ones), then captured values."""

    def __init__(
        self, node: ir.Node, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value],
        bodies: Mapping[str, Body], constants: Mapping[ir.Value, np.ndarray],
    ) -> None:  # fmt: skip
        position = {value: index for index, value in enumerate(inputs)}
        self.node = node
        self.bodies = bodies
        self._where = [None if v is None else position.get(v) for v in node.inputs]
        self._fixed = [
            constants[v].view() if v is not None and v in constants else None for v in node.inputs
        ]
        self._wanted = [list(node.outputs).index(v) for v in outputs]
        self._run = getattr(self, f"_{node.op_type.lower()}")
        self._executor = GraphExecutor()

    def run_arrays(self, inputs: Sequence[Any], context: ExecutionContext) -> list[Any]:
        values = [
            fixed if where is None else inputs[where]
            for where, fixed in zip(self._where, self._fixed, strict=True)
        ]
        results = self._run(values, inputs, context)
        return [results[i] for i in self._wanted]

    def to_text(self) -> str:
        lines = [f"{self.node.op_type.lower()} '{self.node.name}'"]
        for name, body in self.bodies.items():
            lines.append(f"  {name}:")
            lines += ["    " + line for line in body.plan.to_text().splitlines()]
        return "\n".join(lines)

    def _call(
        self, name: str, formal: list[Any], inputs: Sequence[Any], context: ExecutionContext
    ) -> list[Any]:
        body = self.bodies[name]
        arguments = [*formal, *[inputs[i] for i in body.captured]]
        if body.alone is not None:
            program, order = body.alone
            results = program.run_arrays(arguments, context)
            return [results[i] if isinstance(i, int) else i for i in order]
        return self._executor.run(body.plan, context, arguments, own=False)

    def _if(self, values: list[Any], inputs: Sequence[Any], context: ExecutionContext) -> list[Any]:
        branch = "then_branch" if self._truth(values[0]) else "else_branch"
        return self._call(branch, [], inputs, context)

    def _loop(
        self, values: list[Any], inputs: Sequence[Any], context: ExecutionContext
    ) -> list[Any]:
        limit = _NO_LIMIT if values[0] is None else int(np.asarray(values[0]).reshape(-1)[0])
        going = len(values) < 2 or values[1] is None or self._truth(values[1])
        state = values[2:]
        free = [0] * (len(self.node.outputs) - len(state))
        rows = _Rows(self.node, len(state), free, free, skipped=1)
        wiring = self._loop_wiring
        step, steady = 0, True
        while going and step < limit:
            if steady and wiring is not None:
                steps = np.arange(step, min(step + _MOST, limit))
                done = self._repeat(wiring, [steps, _TRUE, *state], len(steps), inputs, context)
                if done is not None:
                    state, going, step = done.states, done.going, step + done.steps
                    rows.add_blocks(done.stacked)
                    continue
            results = self._call("body", [np.array(step), _TRUE, *state], inputs, context)
            going = self._truth(results[0])
            before, state = state, results[1 : len(state) + 1]
            steady = wiring is not None and _same_sizes(before, state)
            rows.add(results[len(state) + 1 :])
            step += 1
        return [*state, *rows.stacked()]

    def _scan(
        self, values: list[Any], inputs: Sequence[Any], context: ExecutionContext
    ) -> list[Any]:
        count = self.node.attributes["num_scan_inputs"].as_int()
        state, scanned = values[: len(values) - count], values[len(values) - count :]
        axes = self._ints("scan_input_axes", count)
        back = self._ints("scan_input_directions", count)
        lengths = {x.shape[axis] for x, axis in zip(scanned, axes, strict=True)}
        if len(lengths) != 1:
            raise ValidationError(
                f"scan inputs of node '{self.node.name}' have different lengths: {sorted(lengths)}"
            )
        length = lengths.pop()
        sources = [
            np.ascontiguousarray(np.moveaxis(np.flip(x, axis) if reverse else x, axis, 0))
            for x, axis, reverse in zip(scanned, axes, back, strict=True)
        ]
        outputs = len(self.node.outputs) - len(state)
        rows = _Rows(
            self.node,
            len(state),
            self._ints("scan_output_axes", outputs),
            self._ints("scan_output_directions", outputs),
        )
        wiring = self._scan_wiring
        step, steady = 0, True
        while step < length:
            if steady and wiring is not None:
                rest = [x[step:] for x in sources]
                done = self._repeat(wiring, [*state, *rest], length - step, inputs, context)
                if done is not None:
                    state, step = done.states, step + done.steps
                    rows.add_blocks(done.stacked)
                    continue
            results = self._call("body", [*state, *(x[step] for x in sources)], inputs, context)
            before, state = state, results[: len(state)]
            steady = wiring is not None and _same_sizes(before, state)
            rows.add(results[len(state) :])
            step += 1
        return [*state, *rows.stacked()]

    def _sequencemap(
        self, values: list[Any], inputs: Sequence[Any], context: ExecutionContext
    ) -> list[Any]:
        body = self.node.attributes["body"].as_graph()
        results: list[list[Any]] = [[] for _ in self.node.outputs]
        for step, first in enumerate(values[0]):
            others = [v[step] if isinstance(v, list) else v for v in values[1:]]
            called = self._call("body", [first, *others][: len(body.inputs)], inputs, context)
            for items, item in zip(results, called, strict=True):
                items.append(item)
        return results

    # Details.

    def _truth(self, condition: Any) -> bool:
        if condition.size != 1:
            raise KernelError(
                f"the condition of node '{self.node.name}' has {condition.size} elements, not 1"
            )
        return bool(condition.item())

    def _ints(self, name: str, count: int) -> list[int]:
        found = self.node.attributes.get(name)
        return [0] * count if found is None else list(found.as_ints())

    @functools.cached_property
    def _loop_wiring(self) -> Wiring | None:
        states = len(self.node.inputs) - 2
        return self.bodies["body"].wiring(range(1), range(2, 2 + states), conditional=True)

    @functools.cached_property
    def _scan_wiring(self) -> Wiring | None:
        inputs = len(self.node.inputs)
        states = inputs - self.node.attributes["num_scan_inputs"].as_int()
        return self.bodies["body"].wiring(range(states, inputs), range(states), conditional=False)

    def _repeat(
        self, wiring: Wiring, formal: list[Any], count: int, inputs: Sequence[Any],
        context: ExecutionContext,
    ) -> Repeated | None:  # fmt: skip
        """Many iterations of the body at once; None where its program cannot for these sizes."""
        body = self.bodies["body"]
        assert body.alone is not None
        program: Any = body.alone[0]
        arguments = [*formal, *[inputs[i] for i in body.captured]]
        done: Repeated | None = program.repeat(arguments, wiring, min(count, _MOST), context)
        return done


def _same_sizes(before: Sequence[Any], after: Sequence[Any]) -> bool:
    return all(a.shape == b.shape for a, b in zip(before, after, strict=True))


class _Rows:
    """What iterations give to be stacked: blocks of rows, an axis in front.

    first: index of the first such output of the node, and of the body behind `skipped` more.
    """

    def __init__(
        self, node: ir.Node, first: int, axes: Sequence[int], back: Sequence[int], skipped: int = 0
    ) -> None:
        self._node = node
        self._values = node.attributes["body"].as_graph().outputs[first + skipped :]
        self._axes, self._back = axes, back
        self._blocks: list[list[np.ndarray]] = [[] for _ in axes]

    def add(self, items: Sequence[Any]) -> None:
        """One row for each."""
        self.add_blocks([item[np.newaxis] for item in items])

    def add_blocks(self, blocks: Sequence[np.ndarray]) -> None:
        """A block of rows for each."""
        for mine, block in zip(self._blocks, blocks, strict=True):
            mine.append(block)

    def stacked(self) -> list[np.ndarray]:
        """All rows of each along its axis."""
        return [
            self._stack(blocks, value, axis, bool(reverse))
            for blocks, value, axis, reverse in zip(
                self._blocks, self._values, self._axes, self._back, strict=True
            )
        ]

    def _stack(
        self, blocks: list[np.ndarray], value: ir.Value, axis: int, reverse: bool
    ) -> np.ndarray:
        """Rows along `axis`; without any, sizes not known are 0."""
        if not blocks:
            shape = [d if isinstance(d, int) else 0 for d in value.shape or ()]
            shape.insert(axis % (len(shape) + 1), 0)
            dtype = "float32" if value.dtype is None else value.dtype.numpy().name
            return np.empty(shape, object if dtype == "object" else numpy_dtype(dtype))
        first = blocks[0].shape[1:]
        other = next((b.shape[1:] for b in blocks if b.shape[1:] != first), None)
        if other is not None:
            raise KernelError(
                f"iterations of node '{self._node.name}' gave different shapes for "
                f"'{value.name}': {first} and {other}"
            )
        rows = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
        return np.moveaxis(rows[::-1] if reverse else rows, 0, axis)
