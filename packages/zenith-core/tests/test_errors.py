"""Errors are products: stable codes, a next step, a docs anchor, exact text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from zenith import errors
from zenith._api import _only_our_errors
from zenith.errors import (
    CompilationError,
    DeviceOutOfMemoryError,
    PluginError,
    PrecisionError,
    UnsupportedOperationError,
    ValidationError,
    ZenithError,
)

CLASSES = [getattr(errors, name) for name in errors.__all__]
PAGE = Path(__file__).parents[3] / "docs" / "errors.md"


def test_plain_error() -> None:
    assert str(ValidationError("input 0 has rank 3", next="give it rank 2")) == (
        "[Z201] input 0 has rank 3\n  next   give it rank 2\n  docs   errors#Z201"
    )


def test_a_module_that_is_missing_is_named() -> None:
    """An adapter whose framework is not there, or a model that imports what is not."""
    match = "needs the module 'no_such.part'"
    with pytest.raises(CompilationError, match=match) as caught, _only_our_errors():
        raise ModuleNotFoundError("No module named 'no_such.part'", name="no_such.part")
    assert "pip install no_such\n" in str(caught.value)


def test_unsupported_operations_lists_all_with_places() -> None:
    error = UnsupportedOperationError(
        "aten.foo, aten.bar",
        ["use torch.relu"],
        operations=[("aten.foo", "model.py:3"), ("aten.bar", "")],
        next="rewrite these lines",
    )
    assert str(error) == (
        "[Z101] the model uses operators Zenith does not support: aten.foo, aten.bar\n"
        "  aten.foo    # model.py:3\n"
        "  aten.bar\n"
        "  hint   use torch.relu\n"
        "  next   rewrite these lines\n"
        "  docs   errors#Z101"
    )
    assert error.op_type == "aten.foo, aten.bar"
    assert error.suggestions == ["use torch.relu"]


def test_precision_error_keeps_numbers() -> None:
    error = PrecisionError(1e-4, 0.25, where="node 'fc' (MatMul)")
    assert str(error) == (
        "[Z401] error 0.25 is above the tolerance 0.0001 at node 'fc' (MatMul)\n"
        "  docs   errors#Z401"
    )
    assert (error.expected_tolerance, error.actual_error) == (1e-4, 0.25)


def test_plugin_error_keeps_details() -> None:
    assert PluginError("broken", traceback="...").details == {"traceback": "..."}


def test_python_bases() -> None:
    assert issubclass(DeviceOutOfMemoryError, MemoryError)
    assert issubclass(ValidationError, ValueError)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_is_a_zenith_error_with_its_own_code(kind: type[ZenithError]) -> None:
    assert issubclass(kind, ZenithError)
    assert re.fullmatch(r"Z\d{3}", kind.code)
    assert [other for other in CLASSES if other.code == kind.code] == [kind]


@pytest.mark.skipif(not PAGE.exists(), reason="the documentation is not part of this checkout")
@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_has_its_place_in_the_docs(kind: type[ZenithError]) -> None:
    section = re.search(
        rf'<a id="{kind.code}"></a>\n## {kind.code} {kind.__name__}\n(.*?)(?=\n<a id=|\Z)',
        PAGE.read_text(),
        re.DOTALL,
    )
    assert section, f"docs/errors.md has no section for {kind.code}"
    for part in ("**Cause.**", "**Example.**", "**Cure.**"):
        assert part in section[1], f"{kind.code}: {part} is missing"
