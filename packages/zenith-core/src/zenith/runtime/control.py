"""Execute stage: If, Loop, Scan and SequenceMap over plans of their bodies.

A body is planned once, like a model: its inputs are the subgraph's own and then the values it
captures. Iterations run natively (`_native.Walk.repeat`), and so does If: between the partitions of
a body, and from one iteration to the next, runs no Python unless a partition is Python itself.
Sizes that change only bind a plan anew.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from zenith import _native
from zenith.errors import KernelError, ValidationError
from zenith.runtime.context import ExecutionContext
from zenith.runtime.numpy_signature import numpy_dtype
from zenith.runtime.plan import ExecutionPlan

__all__ = ["Body", "ControlProgram"]

_MOST = 4096  # iterations of one native call: between two, signals are handled


@dataclass(frozen=True)
class Body:
    """A planned subgraph. captured: positions, in the node's partition, of the values it reads
    from outside."""

    plan: ExecutionPlan
    captured: tuple[int, ...]


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
        native = {"If": self._branch, "Loop": self._loop}.get(node.op_type)
        self.runner = None if native is None else native()

    def run_arrays(self, inputs: Sequence[Any], context: ExecutionContext) -> list[Any]:
        if self.runner is not None:
            return self.runner.run(self, inputs, context)
        values = [
            fixed if where is None else inputs[where]
            for where, fixed in zip(self._where, self._fixed, strict=True)
        ]
        run = getattr(self, f"_{self.node.op_type.lower()}")
        results = run(values, inputs, context)
        return [results[i] for i in self._wanted]

    def to_text(self) -> str:
        lines = [f"{self.node.op_type.lower()} '{self.node.name}'"]
        for name, body in self.bodies.items():
            lines.append(f"  {name}:")
            lines += ["    " + line for line in body.plan.to_text().splitlines()]
        return "\n".join(lines)

    def truth(self, condition: Any) -> bool:
        """Whether a condition holds."""
        return bool(self._only(condition, "condition"))

    def _only(self, array: Any, what: str) -> Any:
        if array.size != 1:
            raise KernelError(
                f"the {what} of node '{self.node.name}' has {array.size} elements, not 1"
            )
        return array.item()

    def count(self, limit: Any) -> int:
        """How often a loop may run."""
        return int(self._only(limit, "limit"))

    def stacked(self, blocks: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
        """Of a loop, the rows of each result to be stacked."""
        states = len(self.node.inputs) - 2
        free = [0] * len(blocks)
        rows = _Rows(self.node, states, free, free, skipped=1)
        rows.add(blocks)
        return rows.stacked()

    def _source(self, index: int) -> Any:
        """Where the node's input comes from: a position, or the constant."""
        where = self._where[index]
        return self._fixed[index] if where is None else where

    def _body(self, name: str) -> tuple[_native.Walk, tuple[int, ...]]:
        body = self.bodies[name]
        return body.plan.walk, body.captured

    def _branch(self) -> _native.Runner:
        yes, no = self._body("then_branch"), self._body("else_branch")
        return _native.Branch(self._source(0), yes, no, self._wanted)

    def _loop(self) -> _native.Runner:
        sources = [self._source(k) for k in range(len(self._where))]
        sources += [None] * (2 - len(sources))
        wiring = self._wiring(range(1), range(2, len(sources)), condition=0)
        return _native.Loop(sources, self._body("body"), wiring, self._wanted)

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
        captured = [inputs[i] for i in self.bodies["body"].captured]
        walk = self.bodies["body"].plan.walk
        step = 0
        while step < length:
            count = min(length - step, _MOST)
            given = [*state, *(x[step : step + count] for x in sources)]
            arguments = [*given, *captured]
            done, state, blocks = walk.repeat(self, arguments, self._scan_wiring, count, context)
            step += done
            rows.add(blocks)
        return [*state, *rows.stacked()]

    def _sequencemap(
        self, values: list[Any], inputs: Sequence[Any], context: ExecutionContext
    ) -> list[Any]:
        count = len(self.node.attributes["body"].as_graph().inputs)
        body = self.bodies["body"]
        captured = [inputs[i] for i in body.captured]
        results: list[list[Any]] = [[] for _ in self.node.outputs]
        if not isinstance(values[0], list):
            raise ValidationError(f"node '{self.node.name}' goes over a sequence, not a tensor")
        for step, first in enumerate(values[0]):
            others = [v[step] if isinstance(v, list) else v for v in values[1:]]
            given = [*[first, *others][:count], *captured]
            called = body.plan.walk.run(given, context)
            for items, item in zip(results, called, strict=True):
                items.append(item)
        return results

    # Details.

    def _ints(self, name: str, count: int) -> list[int]:
        found = self.node.attributes.get(name)
        return [0] * count if found is None else list(found.as_ints())

    @functools.cached_property
    def _scan_wiring(self) -> _native.Wiring:
        inputs = len(self.node.inputs)
        states = inputs - self.node.attributes["num_scan_inputs"].as_int()
        return self._wiring(range(states, inputs), range(states), condition=-1)

    def _wiring(self, sliced: range, states: range, condition: int) -> _native.Wiring:
        """How iterations hang together: which inputs of the body take another row each time, which
        result is fed back to which input, which result is the condition (-1: none)."""
        plan = self.bodies["body"].plan
        inputs, first = range(len(plan.inputs)), condition + 1
        return _native.Wiring(
            [k in sliced for k in inputs],
            [first + k - states.start if k in states else -1 for k in inputs],
            list(range(first + len(states), len(plan.outputs))),
            condition,
        )


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

    def add(self, blocks: Sequence[Sequence[np.ndarray]]) -> None:
        """More blocks for each."""
        for mine, more in zip(self._blocks, blocks, strict=True):
            mine.extend(more)

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
