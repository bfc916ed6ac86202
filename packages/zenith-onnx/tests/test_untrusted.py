"""A model file is untrusted input: every attack ends in an error of Zenith, soon and in bounds.

The attacks are in `hostile.py`. They run in processes of their own with a memory limit, many to a
process; one that kills its process is named, and the rest go on in another.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import hostile
import pytest

SCRIPT = Path(__file__).with_name("hostile.py")


@pytest.fixture(scope="module")
def outcomes() -> dict[str, dict[str, Any]]:
    """What happened, by case."""
    found: dict[str, dict[str, Any]] = {}
    left = list(hostile.CASES)
    while left:
        run = subprocess.run(
            [sys.executable, str(SCRIPT), *left], capture_output=True, text=True, check=False
        )
        started = ""
        for line in run.stdout.splitlines():
            report = json.loads(line)
            started = report.get("start", started)
            if "case" in report:
                found[report["case"]] = report
        if started not in found:
            how = f"died with {run.returncode}: {run.stderr[-600:]}"
            found[started] = {"kind": how, "message": "", "seconds": 0.0}
        left = [name for name in left if name not in found]
    return found


@pytest.mark.parametrize("name", hostile.CASES)
def test_attack(name: str, outcomes: dict[str, dict[str, Any]]) -> None:
    _, allowed, words = hostile.CASES[name]
    found = outcomes[name]
    assert found["kind"] in allowed.split(), f"{found['kind']}\n{found['message']}"
    if words:
        assert re.search(words, found["message"]), found["message"]
    assert found["seconds"] < 25
