"""Shapes and dtypes of every value: the first pass of every pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from zenith.ir import GraphIR


@dataclass(frozen=True)
class InferShapes:
    """Run shape inference; counts values that had no shape before."""

    name: ClassVar[str] = "infer_shapes"

    def run(self, graph: GraphIR) -> int:
        missing = [v for n in graph for v in n.outputs if v.shape is None or v.type is None]
        graph.infer_shapes()
        return len(missing)
