"""Execute stage: If, Loop, Scan and SequenceMap over plans of their bodies.

A body is planned once, like a model: its inputs are the subgraph's own and then the values it
captures. A call runs the body's plan per iteration; sizes that change only bind it anew.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from zenith.errors import KernelError, ValidationError
from zenith.runtime.backend import Program, own_results
from zenith.runtime.context import ExecutionContext
from zenith.runtime.executor import GraphExecutor
from zenith.runtime.numpy_signature import numpy_dtype
from zenith.runtime.plan import ExecutionPlan

__all__ = ["Body", "ControlProgram"]

_NO_LIMIT = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Body:
    """A planned subgraph. captured: positions, in the node's partition, of the values it reads
    from outside."""

    plan: ExecutionPlan
    captured: tuple[int, ...]

    @functools.cached_property
    def alone(self) -> tuple[Program, Sequence[int]] | None:
        """The program and the order of its results, where the plan is nothing but that."""
        plan = self.plan
        if len(plan.partitions) != 1 or plan.constants:
            return None
        only = plan.partitions[0]
        if only.inputs != tuple(range(len(plan.inputs))) or len({*only.outputs}) < len(
            only.outputs
        ):
            return None
        where = {slot: k for k, slot in enumerate(only.outputs)}
        if any(slot not in where for slot in plan.output_slots):
            return None
        return only.program, [where[slot] for slot in plan.output_slots]


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
        self._fixed = [None if v is None else constants.get(v) for v in node.inputs]
        self._wanted = [list(node.outputs).index(v) for v in outputs]
        self._run = getattr(self, f"_{node.op_type.lower()}")
        self._executor = GraphExecutor()

    def run_arrays(self, inputs: Sequence[Any], context: ExecutionContext) -> list[Any]:
        values = [
            fixed if where is None else inputs[where]
            for where, fixed in zip(self._where, self._fixed, strict=True)
        ]
        results = self._run(values, inputs, context)
        return own_results([results[i] for i in self._wanted], inputs)

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
            return [results[i] for i in order]
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
        stacked: list[list[Any]] = [[] for _ in range(len(self.node.outputs) - len(state))]
        step = 0
        while going and step < limit:
            formal = [np.array(step, np.int64), np.array(going), *state]
            results = self._call("body", formal, inputs, context)
            going = self._truth(results[0])
            state = results[1 : len(state) + 1]
            for items, item in zip(stacked, results[len(state) + 1 :], strict=True):
                items.append(item)
            step += 1
        body = self.node.attributes["body"].as_graph()
        scanned = body.outputs[len(state) + 1 :]
        return [*state, *(self._stack(i, v, 0) for i, v in zip(stacked, scanned, strict=True))]

    def _scan(
        self, values: list[Any], inputs: Sequence[Any], context: ExecutionContext
    ) -> list[Any]:
        count = self.node.attributes["num_scan_inputs"].as_int()
        state, scanned = values[: len(values) - count], values[len(values) - count :]
        axes, back = (
            self._ints("scan_input_axes", count),
            self._ints("scan_input_directions", count),
        )
        lengths = {x.shape[axis] for x, axis in zip(scanned, axes, strict=True)}
        if len(lengths) != 1:
            raise ValidationError(
                f"scan inputs of node '{self.node.name}' have different lengths: {sorted(lengths)}"
            )
        sources = [
            np.flip(x, axis) if reverse else x
            for x, axis, reverse in zip(scanned, axes, back, strict=True)
        ]
        outputs = len(self.node.outputs) - len(state)
        stacked: list[list[Any]] = [[] for _ in range(outputs)]
        for step in range(lengths.pop()):
            slices = [x.take(step, axis) for x, axis in zip(sources, axes, strict=True)]
            results = self._call("body", [*state, *slices], inputs, context)
            state = results[: len(state)]
            for items, item in zip(stacked, results[len(state) :], strict=True):
                items.append(item)
        body = self.node.attributes["body"].as_graph()
        found = list(state)
        for items, value, axis, reverse in zip(
            stacked,
            body.outputs[len(state) :],
            self._ints("scan_output_axes", outputs),
            self._ints("scan_output_directions", outputs),
            strict=True,
        ):
            found.append(self._stack(items[::-1] if reverse else items, value, axis))
        return found

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

    def _stack(self, items: list[Any], value: ir.Value, axis: int) -> np.ndarray:
        """Results of all iterations along a new axis; without any, sizes not known are 0."""
        if not items:
            shape = [d if isinstance(d, int) else 0 for d in value.shape or ()]
            shape.insert(axis % (len(shape) + 1), 0)
            dtype = "float32" if value.dtype is None else value.dtype.numpy().name
            return np.empty(shape, object if dtype == "object" else numpy_dtype(dtype))
        first = items[0].shape
        if any(item.shape != first for item in items):
            raise KernelError(
                f"iterations of node '{self.node.name}' gave different shapes for "
                f"'{value.name}': {first} and {next(i.shape for i in items if i.shape != first)}"
            )
        return np.stack(items, axis)
