"""The JAX adapter: traces a function and gives the engine a graph and a signature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zenith.ir import GraphIR
from zenith.runtime.adapter import ImportedModel
from zenith_jax.capture import capture
from zenith_jax.dims import largest, sizes
from zenith_jax.importer import import_jaxpr
from zenith_jax.signature import JaxSignature

__all__ = ["import_model"]


def import_model(
    model: Any, sample_input: Any, dynamic: Mapping[str | int, Any] | None = None
) -> ImportedModel:
    """GraphIR and call signature of a function, `(function, params)` or module."""
    captured = capture(model, sample_input, dynamic)
    graph = import_jaxpr(
        captured.closed, captured.input_names, captured.output_names, captured.names
    )
    captured.output_names = [str(v.name) for v in graph.graph.outputs]
    ranges: dict[str, tuple[int, int | None]] = {}
    for aval in captured.closed.in_avals:
        for dim, size in zip(aval.shape, sizes(aval.shape), strict=True):
            if not isinstance(size, int):
                alone = size.is_Symbol
                for symbol in size.free_symbols:
                    ranges.setdefault(str(symbol), (1, largest(dim) if alone else None))
    return ImportedModel(graph=GraphIR(graph), signature=JaxSignature(captured), ranges=ranges)
