"""The table of operators outside ai.onnx, and how a function gets into it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from zenith.errors import UnsupportedOperationError
from zenith_onnx.upgrade._table import Site

__all__ = ["TABLE", "Row", "expands", "refuse"]

_MS = "com.microsoft"
Expand = Callable[[Site], None]


@dataclass(frozen=True)
class Row:
    """Inputs it may have (at least, at most), outputs at most, and its attributes."""

    expand: Expand
    inputs: tuple[int, int]
    outputs: int
    attributes: frozenset[str]


TABLE: dict[tuple[str, str], Row] = {}


def expands(
    *op_types: str, inputs: tuple[int, int], outputs: int = 1, attributes: str = "",
    domain: str = _MS,
) -> Callable[[Expand], Expand]:  # fmt: skip
    """Register what replaces nodes of these operators; counts and names are checked before."""

    def register(expand: Expand) -> Expand:
        row = Row(expand, inputs, outputs, frozenset(attributes.split()))
        TABLE.update({(domain, op_type): row for op_type in op_types})
        return expand

    return register


def refuse(site: Site, what: str) -> UnsupportedOperationError:
    """The error that names a node with something no standard operator says."""
    node = site.node
    place = f"{node.op_type} (node '{node.name}') with {what}"
    return UnsupportedOperationError(
        f"{node.domain}.{node.op_type} with {what}", operations=[(place, "")]
    )
