"""TensorFlow operations that tf2onnx does not know, in terms of ONNX.

A handler takes (graph, node, name, args) as tf2onnx gives them and rewrites `node` in place. The
table goes with each conversion as an argument: nothing is registered for other users of tf2onnx.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tf2onnx import utils

__all__ = ["HANDLERS"]

Handler = Callable[..., None]


def _replace(graph: Any, node: Any, build: Callable[..., str]) -> None:
    """Put what `build(op, *inputs)` makes in the place of `node`; `op` makes one ONNX node."""
    shapes, dtypes, outputs = node.output_shapes, node.output_dtypes, node.output
    inputs = list(node.input)
    element = utils.map_onnx_to_numpy_type(graph.get_dtype(inputs[0]))

    def op(kind: str, *operands: Any, **attributes: Any) -> str:
        names = [
            v
            if isinstance(v, str)
            else graph.make_const(utils.make_name("value"), np.asarray(v, element)).output[0]
            for v in operands
        ]
        made: str = graph.make_node(kind, names, attr=attributes, name=utils.make_name(node.name)).output[0]
        return made

    result = build(op, *inputs)
    graph.remove_node(node.name)
    graph.make_node(
        "Identity", [result], name=node.name, outputs=outputs, shapes=shapes, dtypes=dtypes
    )


def _rule(build: Callable[..., str]) -> Handler:
    def handler(graph: Any, node: Any, name: str, args: Any) -> None:
        _replace(graph, node, build)

    return handler


RULES: dict[str, Callable[..., str]] = {
    "Erfc": lambda op, x: op("Sub", 1, op("Erf", x)),
}

HANDLERS: dict[str, tuple[Handler, list[Any]]] = {
    name: (_rule(build), []) for name, build in RULES.items()
}
