"""Between canonicalize and partition, for precision="int8": the graph becomes its QDQ form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import onnx_ir as ir

from zenith.errors import CompilationError
from zenith.passes.quantize import (
    Form,
    QuantizationPlan,
    Range,
    plan,
    quantize,
    source,
)
from zenith.passes.rewrite import FLOAT_KEY
from zenith.runtime.calibration import Calibration, with_results
from zenith.runtime.partition import op_view

if TYPE_CHECKING:
    from zenith.ir import GraphIR
    from zenith.runtime.compiled_model import CompiledModel
    from zenith.runtime.kernel_registry import KernelRegistry

__all__ = ["Quantizer"]


class Quantizer:
    """Plans, calibrates and writes.

    in_float: compiles a graph as it is.
    """

    def __init__(
        self, calibration: Calibration, in_float: Callable[[GraphIR], CompiledModel]
    ) -> None:
        self._calibration = calibration
        self._in_float = in_float

    def run(self, graph: GraphIR, registry: KernelRegistry, backend: str) -> int:
        """Quantize what `backend` has kernels for; how many nodes."""

        def form(node: ir.Node) -> Form | str:
            return registry.quantized_form(backend, op_view(graph, node))

        todo = plan(graph, form)
        names = [str(value.name) for value in todo.observed]
        results = [str(value.name) for value in graph.outputs]
        self._calibration.run(self._in_float(with_results(graph, names)), results, names)
        ranges = self._calibration.ranges()
        if names and not any(name in ranges for name in names):
            raise CompilationError(
                f"calibration: value '{names[0]}' has no elements in any sample, nor has any other",
                next="give calibration_data with elements for every input",
            )
        todo = self._without_unseen(graph, todo, form, ranges)
        found = {value: ranges[str(value.name)] for value in todo.observed}
        changed = quantize(graph, todo, found)
        graph.infer_shapes()
        return changed

    @staticmethod
    def _without_unseen(
        graph: GraphIR,
        todo: QuantizationPlan,
        form: Callable[[ir.Node], Form | str],
        ranges: Mapping[str, Range],
    ) -> QuantizationPlan:
        """The plan without what no sample had elements for: an expert that none was sent to."""
        unseen = {value for value in todo.observed if str(value.name) not in ranges}
        if not unseen:
            return todo

        def seen(node: ir.Node) -> Form | str:
            answer = form(node)
            if isinstance(answer, str):
                return answer
            value = node.inputs[answer.activation]
            nothing = value is not None and source(value) in unseen
            return "no calibration sample has elements there" if nothing else answer

        todo = plan(graph, seen)
        todo.values = {v: nodes for v, nodes in todo.values.items() if source(v) not in unseen}
        return todo

    @staticmethod
    def keep(graph: GraphIR, why: str) -> None:
        """Say of every node of a graph that is not quantized why it is not."""
        for node in graph.nodes:
            if any(v.dtype == ir.DataType.FLOAT for v in node.outputs):
                node.metadata_props[FLOAT_KEY] = why
