"""What a pass is, and what is said about its run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from zenith.ir import GraphIR

__all__ = ["Pass", "PassRecord", "Report"]


class Pass(Protocol):
    """A graph rewrite: valid IR in, valid IR of the same meaning out. A frozen dataclass; its
    fields are its options."""

    name: ClassVar[str]

    def run(self, graph: GraphIR) -> int:
        """Rewrite `graph` in place; the number of changes."""


@dataclass(frozen=True)
class PassRecord:
    """One pass run: how much it changed, how long it took, nodes before and after."""

    name: str
    changed: int
    seconds: float
    nodes_before: int
    nodes_after: int

    def __str__(self) -> str:
        nodes = f"{self.nodes_before:5} -> {self.nodes_after:<5}"
        return f"{self.name:24} {self.changed:7} {nodes} {self.seconds * 1e3:6.1f}"


@dataclass
class Report:
    """What a pipeline did, in order."""

    records: list[PassRecord] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return sum(r.seconds for r in self.records)

    def changed(self, name: str) -> int:
        """Changes made by all runs of the pass `name`."""
        return sum(r.changed for r in self.records if r.name == name)

    def __str__(self) -> str:
        lines = [f"{'pass':24} changed   nodes         ms"]
        lines += [str(r) for r in self.records]
        return "\n".join(lines)
