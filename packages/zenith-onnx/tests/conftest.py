"""Lets test modules import what lies beside them; reports what ran on which backend."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import official

REPORT = Path(__file__).parents[3] / "build" / "onnx_conformance.json"


@pytest.fixture(scope="session")
def onnx_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the official runner keeps the inputs it makes for its models."""
    return tmp_path_factory.mktemp("onnx_home")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With pytest-xdist a worker hands what it counted to the process that reports."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["official"] = official.counts()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A worker of pytest-xdist is done."""
    official.add(getattr(node, "workeroutput", {}).get("official", {}))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Cases and nodes of the official suite by backend; as JSON in build/onnx_conformance.json."""
    counts = official.counts()
    if not counts:
        return
    terminalreporter.section("official ONNX suite")
    for line in official.table(counts):
        terminalreporter.write_line(line)
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(counts, indent=1))
