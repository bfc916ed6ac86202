"""The list of hostile models, and what they are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper

Source = ModelProto | bytes
CASES: dict[str, tuple[Callable[[], Source], str, str]] = {}


def case(errors: str, words: str = "") -> Callable[[Callable[[], Source]], Callable[[], Source]]:
    """Register a case: names of the errors it may raise (or "ok"), words of the message."""

    def register(make: Callable[[], Source]) -> Callable[[], Source]:
        CASES[make.__name__] = (make, errors, words)
        return make

    return register


def broken(words: str) -> Callable[[Callable[[ModelProto], Any]], Any]:
    """Register a case that spoils the small valid model; it must be a ValidationError."""

    def register(spoil: Callable[[ModelProto], Any]) -> Any:
        def make() -> Source:
            model = small()
            spoil(model)
            return model

        CASES[spoil.__name__] = (make, "ValidationError", words)
        return spoil

    return register


def weight(name: str, *shape: int, dtype: Any = np.float32) -> TensorProto:
    return onnx.numpy_helper.from_array(np.ones(shape, dtype), name)


def vector(name: str, *items: int) -> TensorProto:
    return onnx.numpy_helper.from_array(np.array(items, np.int64), name)


def model_of(
    nodes: list[NodeProto],
    inputs: dict[str, Any] | None = None,
    outputs: tuple[str, ...] = ("y",),
    weights: tuple[TensorProto, ...] = (),
    functions: tuple[onnx.FunctionProto, ...] = (),
    opset: int = 21,
) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
            for n, s in ({"x": ["N", 4]} if inputs is None else inputs).items()
        ],
        [onnx.ValueInfoProto(name=n) for n in outputs],
        list(weights),
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("f", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=list(functions))


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> NodeProto:
    split = [x.strip() for x in inputs.split(",")] if inputs else []
    return helper.make_node(op, split, outputs.split(), name=f"the_{op}", **attributes)


def small() -> ModelProto:
    return model_of(
        [node("MatMul", "x,w", "m"), node("Add", "m,b", "a"), node("Relu", "a", "y")],
        weights=(weight("w", 4, 3), weight("b", 3)),
    )
