"""docs/TORCH_OPERATORS.md is what `python -m zenith_torch.coverage` prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from zenith_torch.coverage import WITHOUT, core_operators, markdown, version, written
from zenith_torch.dynamo.backend import decompositions
from zenith_torch.lower import HANDLERS

PAGE = Path(__file__).parents[3] / "docs/TORCH_OPERATORS.md"


def test_the_page_is_up_to_date() -> None:
    if f"PyTorch {version()}." not in PAGE.read_text():
        pytest.skip("the page is about another version of PyTorch")
    stale = "run: python -m zenith_torch.coverage > docs/TORCH_OPERATORS.md"
    assert PAGE.read_text() == markdown(), stale


def test_every_core_operator_is_accounted_for() -> None:
    known = set(HANDLERS) | {str(operator) for operator in decompositions()}
    assert sorted(name for name in core_operators() if name not in known) == sorted(WITHOUT)


def test_what_a_handler_writes_is_read_from_its_code() -> None:
    assert written(HANDLERS["aten.relu.default"]) == ["Relu"]
    assert written(HANDLERS["aten.sigmoid.default"])[0] == "Sigmoid"  # one function for many
    assert "MatMul" in written(HANDLERS["aten.addmm.default"])  # by way of what it calls
    assert "Conv" not in written(HANDLERS["aten.addmm.default"])
