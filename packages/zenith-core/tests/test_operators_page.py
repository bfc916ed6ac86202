"""docs/OPERATORS.md is what `zenith operators --markdown` prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from zenith.backends.coverage import Coverage, coverage, markdown

PAGE = Path(__file__).parents[3] / "docs/OPERATORS.md"


@pytest.fixture(scope="module")
def rows() -> list[Coverage]:
    return coverage()


def test_the_page_is_up_to_date(rows: list[Coverage]) -> None:
    stale = "run: zenith operators --markdown > docs/OPERATORS.md"
    assert PAGE.read_text() == markdown(rows), stale


def test_what_it_says(rows: list[Coverage]) -> None:
    by_name = {row.op_type: row.cells for row in rows}
    add = by_name["Add"]
    assert [add[c] for c in ("float", "double", "float16", "int8")] == ["N", "N", "W", "N"]
    assert "string" not in by_name["Add"]
    assert by_name["StringConcat"] == {"string": "r"}
    assert by_name["Loop"] and set(by_name["Loop"].values()) == {"X"}
    assert by_name["Where"]["float16"] == "N"
    assert len(rows) > 190
