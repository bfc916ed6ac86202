"""What a session found: per case, per operator, in total; as JSON and as a few lines."""

from __future__ import annotations

import json
import platform
import sys
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from zenith.testing.checks import Result

__all__ = ["OUTCOMES", "Report"]

OUTCOMES = ("pass", "fail", "crash", "hang", "skipped-as-declared")
_VERSIONS = ("zenith-core", "numpy", "onnx", "onnx-ir", "pytest")


@dataclass
class Report:
    """Results in the order they came."""

    backend: str
    owner: str = ""
    kernels: Mapping[str, str] = field(default_factory=dict)  # name -> operator
    entries: list[dict[str, Any]] = field(default_factory=list)
    complete: bool = True  # False where --zenith-cases left some out

    def add(self, name: str, check: str, op: str, dtype: str, result: Result) -> None:
        self.entries.append(
            {
                "name": name,
                "check": check,
                "op": op,
                "dtype": dtype,
                "outcome": result.outcome,
                "reason": result.reason,
                "kernels": result.kernels,
                "seconds": round(result.seconds, 4),
            }
        )

    def counts(self) -> dict[str, int]:
        found = Counter(entry["outcome"] for entry in self.entries)
        return {outcome: found[outcome] for outcome in OUTCOMES}

    def untested(self) -> list[str]:
        """Kernel rows that no case ran."""
        run = [kernel for entry in self.entries for kernel in entry["kernels"]]
        return [row for row in self.kernels if not _named(row, run)]

    def to_dict(self) -> dict[str, Any]:
        ops: dict[str, Counter[str]] = {}
        for entry in self.entries:
            if entry["op"]:
                ops.setdefault(entry["op"], Counter())[entry["outcome"]] += 1
        return {
            "backend": self.backend,
            "owner": self.owner,
            "environment": _environment(),
            "counts": self.counts(),
            "seconds": round(sum(entry["seconds"] for entry in self.entries), 2),
            "ops": {op: dict(counts) for op, counts in sorted(ops.items())},
            "untested_kernels": self.untested(),
            "cases": self.entries,
        }

    def write(self, path: str | Path) -> None:
        Path(path).write_text(json.dumps(self.to_dict(), indent=1), encoding="utf-8")

    def lines(self) -> list[str]:
        counts = ", ".join(f"{n} {outcome}" for outcome, n in self.counts().items())
        ops = len({entry["op"] for entry in self.entries if entry["op"]})
        lines = [f"backend '{self.backend}' of {self.owner}: {ops} operators: {counts}"]
        if self.complete and self.untested():
            lines.append(f"kernels that no case ran: {', '.join(self.untested())}")
        return lines


def _named(row: str, run: Collection[str]) -> bool:
    """A backend may show a kernel under a longer name: with its instruction set, for one."""
    return any(kernel == row or kernel.startswith(f"{row}_") for kernel in run)


def _environment() -> dict[str, str]:
    found = {"python": sys.version.split()[0], "platform": platform.platform()}
    for name in _VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
