"""What ran where, and why: `CompiledModel.explain()`."""

from __future__ import annotations

import html
import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Accuracy", "Explanation", "NodeReport"]


@dataclass(frozen=True)
class NodeReport:
    """One node of the compiled model.

    why: why this kernel was taken; candidates: (kernel, why it lost) of the others.
    flops, bytes: of one execution, an int or an expression over the dynamic dims.
    time: microseconds, roofline: share of the machine's limit; both only from `profile()`.
    """

    name: str
    op: str
    backend: str
    kernel: str
    dtype: str
    why: str
    candidates: tuple[tuple[str, str], ...]
    flops: Any
    bytes: Any
    source: str = ""
    time: float | None = None
    roofline: float | None = None


@dataclass(frozen=True)
class Accuracy:
    """How near results are to those in float32 on calibration data: the largest
    max |T - F| / (|F| + rms F), and the smallest cosine, of the samples compared."""

    error: float
    cosine: float
    samples: int

    def __str__(self) -> str:
        return f"cosine {self.cosine:.5f}, error {self.error:.3g} ({self.samples} samples)"


@dataclass(frozen=True)
class Explanation:
    """`nodes` in execution order, `fallbacks` (nodes not on the first backend of the target),
    `copies` (layout changes the plan added), `notes` (anything else that should be known),
    `accuracy` (of a precision that calibrates: each output against float32 on that data)."""

    target: str
    nodes: list[NodeReport]
    fallbacks: list[NodeReport] = field(default_factory=list)
    copies: list[str] = field(default_factory=list)
    passes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    accuracy: dict[str, Accuracy] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [self.summary(), ""]
        header = ("node", "op", "kernel", "dtype", "flops", "bytes", "time us", "roofline", "why")
        rows = [header, *(_row(n) for n in self.nodes)]
        widths = [min(44, max(len(r[c]) for r in rows)) for c in range(len(header))]
        for row in rows:
            cells = (_clip(cell, width) for cell, width in zip(row, widths, strict=True))
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)

    def summary(self) -> str:
        """A few lines: kernels with counts, copies, fallbacks, notes."""
        counts = Counter(n.kernel for n in self.nodes)
        lines = [f"{len(self.nodes)} nodes on {self.target}"]
        lines += [f"  {count:4d} x {kernel}" for kernel, count in counts.most_common()]
        lines.append(f"layout copies: {len(self.copies)}")
        lines += [f"  {copy}" for copy in self.copies[:8]]
        lines.append(f"fallbacks: {len(self.fallbacks) or 'none'}")
        lines += [f"  {n.name} ({n.op}) on {n.backend}: {n.why}" for n in self.fallbacks]
        lines += [f"accuracy of '{name}': {found}" for name, found in self.accuracy.items()]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)

    def to_json(self) -> str:
        """The whole explanation as JSON."""
        return json.dumps(asdict(self), default=str, indent=1)

    def to_html(self, path: str | Path) -> None:
        """Write a self-contained HTML page."""
        rows = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in _row(n)) + "</tr>\n"
            for n in self.nodes
        )
        Path(path).write_text(
            "<!doctype html><meta charset='utf-8'><title>Zenith: explain</title>"
            "<style>body{font:14px sans-serif}td{padding:2px 8px;border-bottom:1px solid #ddd}"
            f"</style><pre>{html.escape(self.summary())}</pre><table>{rows}</table>",
            encoding="utf-8",
        )


def _row(n: NodeReport) -> tuple[str, ...]:
    return (
        n.name,
        n.op,
        n.kernel,
        n.dtype,
        str(n.flops),
        str(n.bytes),
        "" if n.time is None else f"{n.time:.1f}",
        "" if n.roofline is None else f"{n.roofline:.0%}",
        n.why,
    )


def _clip(text: str, width: int) -> str:
    return text.ljust(width) if len(text) <= width else text[: width - 1] + "…"
