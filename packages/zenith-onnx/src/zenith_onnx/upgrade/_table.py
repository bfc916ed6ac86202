"""The table of steps, and what a step may do to its node."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from zenith.errors import ValidationError

__all__ = ["STEPS", "Site", "Step", "upgrades"]


class Site:
    """One old node: its attributes as Python values, and new nodes in its place."""

    def __init__(self, node: ir.Node) -> None:
        self.node = node
        self._new: list[ir.Node] = []

    def pop(self, name: str, default: Any = None) -> Any:
        """Take an attribute away from the node; lists come as lists, strings as str."""
        attribute = self.node.attributes.pop(name, None)
        if attribute is None:
            return default
        value = attribute.value
        return list(value) if isinstance(value, tuple) else value

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute's value, left in place."""
        attribute = self.node.attributes.get(name)
        return default if attribute is None else attribute.value

    def set(self, name: str, value: int | float | str | Sequence[Any]) -> None:
        """Set an attribute of the node."""
        self.node.attributes.add(ir.convenience.convert_attribute(name, value))

    def input(self, index: int) -> ir.Value:
        """A required input."""
        value = self.optional(index)
        if value is None:
            raise self.error(f"input {index} is missing")
        return value

    def optional(self, index: int) -> ir.Value | None:
        """An input, or None when it is missing."""
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def set_input(self, index: int, value: ir.Value | None) -> None:
        """Set an input, making room for it when the node has fewer."""
        if index >= len(self.node.inputs):
            self.node.resize_inputs(index + 1)
        self.node.replace_input_with(index, value)

    def used(self, index: int) -> bool:
        """Whether the node has this output and somebody reads it."""
        if index >= len(self.node.outputs):
            return False
        value = self.node.outputs[index]
        return bool(value.uses()) or value.is_graph_output()

    def add(self, op_type: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """A new node with one output, before this one."""
        return self.add_many(op_type, inputs, 1, **attributes)[0]

    def add_many(
        self, op_type: str, inputs: Sequence[ir.Value | None], count: int, **attributes: Any
    ) -> Sequence[ir.Value]:
        """A new node with `count` outputs, before this one."""
        given = {k: v for k, v in attributes.items() if v is not None}
        new = ir.Node(
            "",
            op_type,
            inputs,
            ir.convenience.convert_attributes(given),
            num_outputs=count,
            name=f"{self.node.name or self.node.op_type}.{len(self._new)}.{op_type}",
        )
        new.metadata_props.update(self.node.metadata_props)
        self._new.append(new)
        graph = self.node.graph
        assert graph is not None
        graph.insert_before(self.node, new)
        return new.outputs

    def ints(self, values: Sequence[int]) -> ir.Value:
        """A constant int64 vector."""
        return self.const(np.asarray(values, dtype=np.int64).reshape(-1))

    def const(self, array: np.ndarray[Any, Any]) -> ir.Value:
        """A constant."""
        return self.add("Constant", value=ir.tensor(array))

    def scalar_like(self, value: float, like: ir.Value) -> ir.Value:
        """A scalar constant of the element type of `like`."""
        if like.dtype is not None and like.dtype not in (ir.DataType.UNDEFINED,):
            return self.const(np.asarray(value).astype(like.dtype.numpy()))
        return self.add("CastLike", self.const(np.asarray(value, dtype=np.float32)), like)

    def replace(self, *outputs: ir.Value | None) -> None:
        """Let `outputs` take the place of the node's, and remove the node."""
        node, graph = self.node, self.node.graph
        assert graph is not None
        for old, new in zip(node.outputs, outputs, strict=False):
            if new is None:
                continue
            name, kind, shape = old.name, old.type, old.shape
            old.replace_all_uses_with(new, replace_graph_outputs=True)
            old.name = None
            new.name, new.type = name, new.type or kind
            new.shape = new.shape if new.shape is not None else shape
        graph.remove(node, safe=True)

    def rank(self, value: ir.Value) -> int | None:
        """How many axes a value has, where the model tells."""
        return None if value.shape is None else len(value.shape)

    def error(self, message: str) -> ValidationError:
        """An error that names the node."""
        node = self.node
        return ValidationError(f"{message}\n  node '{node.name}' ({node.op_type})")


Step = Callable[[Site, int], None]
STEPS: dict[str, list[tuple[int, Step]]] = defaultdict(list)


def upgrades(*op_types: str, before: int) -> Callable[[Step], Step]:
    """Register a step for nodes of models whose opset is lower than `before`.

    It is called with the node and the model's opset, and either changes the node to today's form
    or replaces it. Steps of one operator run from the oldest to the newest.
    """

    def register(step: Step) -> Step:
        for op_type in op_types:
            STEPS[op_type].append((before, step))
            STEPS[op_type].sort(key=lambda row: row[0])
        return step

    return register
