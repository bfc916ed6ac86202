"""All cases of the official ONNX backend suite, in three modes, by the suite's own runner."""

from __future__ import annotations

from pathlib import Path

import official
import pytest
from suite_exceptions import RANDOM, ROUNDED, WRONG_UPSTREAM


def _parameters() -> list[object]:
    found = []
    for mode in official.MODES:
        for name in official.cases():
            reason = WRONG_UPSTREAM.get(name)
            if mode != "reference":  # which rounds as numpy does
                reason = reason or ROUNDED.get(name)
            strict = name not in RANDOM  # those may pass by luck
            marks = [pytest.mark.xfail(reason=reason, strict=strict)] if reason else []
            found.append(pytest.param(mode, name, id=f"{mode}-{name}", marks=marks))
    return found


@pytest.mark.parametrize(("mode", "name"), _parameters())
def test_case(mode: str, name: str, onnx_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONNX_HOME", str(onnx_home))
    official.run(mode, name)


def test_the_suite_is_whole() -> None:
    """onnx 1.23 has 2,033 cases; fewer would mean that the package came without its data."""
    assert len(official.cases()) >= 2033
    assert {*WRONG_UPSTREAM, *ROUNDED} <= set(official.cases())
