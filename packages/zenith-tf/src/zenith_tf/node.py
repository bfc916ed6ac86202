"""What a handler works with: a tf2onnx node, its attributes, and ONNX nodes put in its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from tf2onnx import utils

from zenith_tf.functions import DOMAIN, Facts, Functions, Write

__all__ = ["Node", "Rule"]


class Node:
    """One TensorFlow node while it is converted. Handlers raise ValueError for what they cannot
    express; the user then reads it with the node's name."""

    def __init__(self, graph: Any, node: Any, functions: Functions) -> None:
        self._graph, self._node, self._functions = graph, node, functions
        self.inputs: list[str] = list(node.input)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type of the first input."""
        return self.type_of(0)

    def type_of(self, index: int) -> np.dtype[Any]:
        """Element type of an input."""
        kind = utils.map_onnx_to_numpy_type(self._graph.get_dtype(self.inputs[index]))
        found: np.dtype[Any] = np.dtype(kind)
        return found

    def out_type(self) -> int:
        """ONNX's number of the first result's element type."""
        found: int = self._node.output_dtypes[0]
        return found

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute's value: number, bool, bytes or list of floats."""
        found = self._node.attr.get(name)
        if found is None:
            return default
        kind = {1: "f", 2: "i", 3: "s", 6: "floats", 7: "ints"}[found.type]
        return getattr(found, kind)

    def shape(self, index: int = 0) -> list[int] | None:
        """Sizes of an input, -1 where open; None when not even the rank is known."""
        found: list[int] | None = self._graph.get_shape(self.inputs[index])
        return found

    def rank(self, index: int = 0) -> int:
        shape = self.shape(index)
        if shape is None:
            raise ValueError(f"the rank of input {index} is not known")
        return len(shape)

    def value(self, index: int) -> Any:
        """The content of a constant input."""
        source = self._node.inputs[index]
        if not source.is_const():
            raise ValueError(f"input {index} is not a constant")
        return source.get_tensor_value(as_list=False)

    def const(self, value: Any, dtype: Any = None) -> str:
        """A constant; of the first input's type unless another is given."""
        data = np.asarray(value, dtype or self.dtype)
        name: str = self._graph.make_const(utils.make_name("value"), data).output[0]
        return name

    def ints(self, *values: int) -> str:
        return self.const(list(values), np.int64)

    def op(self, kind: str, *operands: Any, **attributes: Any) -> str:
        """One ONNX node's result. Numbers become constants of the first input's type; "" leaves an
        input out."""
        return self.ops(kind, 1, *operands, **attributes)[0]

    def ops(self, kind: str, count: int, *operands: Any, **attributes: Any) -> list[str]:
        """One ONNX node's `count` results."""
        names = [v if isinstance(v, str) else self.const(v) for v in operands]
        made = self._graph.make_node(
            kind,
            names,
            attr=attributes,
            name=utils.make_name(self._node.name),
            output_count=count,
        )
        return list(made.output)

    def function(self, write: Write, *operands: str) -> list[str]:
        """Results of what `write` says in GraphIR's operators; see Note [Functions]."""
        facts = [self._facts(name) for name in operands]
        name, results = self._functions.add(self._node.type, facts, write)
        made = self._graph.make_node(
            name,
            list(operands),
            domain=DOMAIN,
            name=utils.make_name(self._node.name),
            output_count=len(results),
            shapes=[list(shape) for _, shape in results],
            dtypes=[int(kind) for kind, _ in results],
        )
        return list(made.output)

    def _facts(self, name: str) -> Facts:
        kind, shape = self._graph.get_dtype(name), self._graph.get_shape(name)
        if kind is None or shape is None:
            raise ValueError(f"the number of axes of '{name}' is not known")
        return ir.DataType(kind), shape

    def int64(self, value: str) -> str:
        return self.op("Cast", value, to=7)

    def finish(self, results: str | Sequence[str]) -> None:
        """Give the node's place to its first results, in the types the node had."""
        node = self._node
        found = [results] if isinstance(results, str) else list(results)
        facts = list(zip(found, node.output, node.output_shapes, node.output_dtypes, strict=False))
        self._graph.remove_node(node.name)
        for place, (result, output, shape, dtype) in enumerate(facts):
            self._graph.make_node(
                "Cast",
                [result],
                attr={"to": dtype},
                name=node.name if place == 0 else utils.make_name(node.name),
                outputs=[output],
                shapes=[shape],
                dtypes=[dtype],
            )


Rule: TypeAlias = Callable[[Node], str | list[str]]
"""What stands for a node: the name of its result, or those of its first results."""
