"""The documentation is true: links and named files exist, the examples of the guide run."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CORE = ROOT / "packages" / "zenith-core" / "src" / "zenith"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
RUN = [ROOT / "README.md", *sorted((ROOT / "docs" / "USER_GUIDE").glob("*.md"))]
SOURCES = r"(?:packages|docs|tests|benchmarks|examples|cpp|passes|runtime|backends|ops|ir)/"


def label(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    """The page without its code blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", prose(page)):
        assert (page.parent / target).exists(), f"{label(page)} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_named_files_exist(page: Path) -> None:
    """Paths in code style, from the repository's root or from the source of zenith-core."""
    for name in re.findall(rf"`({SOURCES}[\w./-]*\.\w+)`", prose(page)):
        homes = (ROOT, CORE, CORE.parents[1])
        assert any((home / name).exists() for home in homes), f"{label(page)} names {name}"


@pytest.mark.parametrize("page", RUN, ids=label)
def test_examples_run(page: Path) -> None:
    """All Python blocks of a page, in order, in one namespace."""
    blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    assert blocks
    if any("import keras" in block for block in blocks):
        pytest.skip("needs TensorFlow: the tests of zenith-tf run this page")
    namespace: dict[str, Any] = {"__name__": "example"}
    for block in blocks:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            exec(compile(block, label(page), "exec"), namespace)


def test_every_hook_and_variable_is_documented() -> None:
    text = (ROOT / "docs" / "DEVELOPER_GUIDE" / "plugins.md").read_text()
    hooks = re.findall(r"^def (zenith_\w+)", (CORE / "hookspecs.py").read_text(), re.MULTILINE)
    variables = re.findall(
        r"ZENITH_[A-Z]+_?PLUGINS|ZENITH_PLUGINS", (CORE / "plugins.py").read_text()
    )
    assert len(hooks) == 6
    assert variables
    for name in (*hooks, *set(variables)):
        assert name in text, f"{name} is not in plugins.md"


def test_the_readme_has_the_two_commands_and_ci_runs_the_second() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "pip install nox && nox -s demo\n" in readme
    assert "pip install nox && nox -s tests\n" in readme
    assert "pip install nox && nox -s tests\n" in (ROOT / ".ci" / "run").read_text()
