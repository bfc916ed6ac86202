"""The official ONNX backend tests by their own runner, with a record of what ran where."""

from __future__ import annotations

import functools
import unittest
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

import onnx
from onnx.backend.test import BackendTest

from zenith_onnx.backend import ZenithBackend, ZenithRep

MODES: dict[str, dict[str, Any]] = {
    "normal": {},
    "opt_level=0": {"opt_level": 0},
    "reference": {"target": "reference"},
}

_records: dict[str, dict[str, Counter[str]]] = {}


class Recorder(ZenithBackend):
    """The package's backend in one of the modes; remembers the backends of the last model."""

    mode: ClassVar[str] = "normal"
    ran: ClassVar[Counter[str]] = Counter()

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        return True  # a case that is not supported is a failure here, not a skip

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> ZenithRep:
        cls.ran = Counter()
        prepared = super().prepare(model, device, **{**kwargs, **MODES[cls.mode]})
        cls.ran.update(row.backend for row in prepared.compiled.explain().nodes)
        return prepared


@functools.cache
def cases() -> dict[str, Callable[..., Any]]:
    """Name -> test function of every case; models of a file are read when the case runs."""
    with warnings.catch_warnings():  # the suite's own generators divide by zero on purpose
        warnings.simplefilter("ignore")
        classes = BackendTest(Recorder, __name__).test_cases
    found = {}
    for group in classes.values():
        for name in unittest.defaultTestLoader.getTestCaseNames(group):
            if name.endswith("_cpu"):
                found[f"{group.__name__}.{name}"] = getattr(group, name)
    return found


def run(mode: str, name: str) -> None:
    """Run one case and record the outcome."""
    Recorder.mode = mode
    counts = _of(mode)
    counts["cases"]["run"] += 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # overflow that a case is about
        cases()[name](None)
    counts["cases"]["passed"] += 1
    backends = set(Recorder.ran) or {"cpu"}  # no node left: constants only
    counts["cases"]["all native" if backends == {"cpu"} else "with reference nodes"] += 1
    counts["nodes"].update(Recorder.ran)


def add(found: dict[str, dict[str, dict[str, int]]]) -> None:
    """Count what another process has run too."""
    for mode, rows in found.items():
        for what, numbers in rows.items():
            _of(mode)[what].update(numbers)


def _of(mode: str) -> dict[str, Counter[str]]:
    return _records.setdefault(mode, {"cases": Counter(), "nodes": Counter()})


def counts() -> dict[str, dict[str, dict[str, int]]]:
    """Mode -> what -> number, of the cases run so far."""
    return {mode: {k: dict(c) for k, c in rows.items()} for mode, rows in _records.items()}


def table(counts: dict[str, dict[str, dict[str, int]]]) -> list[str]:
    """The counts as a Markdown table."""
    lines = [
        "| mode | cases | passed | all nodes native | with reference nodes | native nodes "
        "| reference nodes |",
        "|---|---|---|---|---|---|---|",
    ]
    for mode, rows in counts.items():
        case, node = rows["cases"], rows["nodes"]
        cells = [case.get(k, 0) for k in ("run", "passed", "all native", "with reference nodes")]
        cells += [node.get(k, 0) for k in ("cpu", "reference")]
        lines.append(f"| {mode} | " + " | ".join(str(c) for c in cells) + " |")
    return lines
