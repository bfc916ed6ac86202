"""`import zenith` stays light: nothing heavy is loaded before it is needed."""

from __future__ import annotations

import subprocess
import sys

import pytest

import zenith

HEAVY = {"torch", "jax", "tensorflow", "numpy", "onnx", "onnx_ir", "onnxscript", "sympy"}
HEAVY |= {"pluggy", "typer", "rich"}


def modules_after(code: str) -> set[str]:
    """Top-level modules a fresh interpreter has after running `code`."""
    script = f"{code}\nimport sys\nprint('\\n'.join({{m.partition('.')[0] for m in sys.modules}}))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import zenith",
        "import zenith; zenith.errors.ZenithError; dir(zenith)",
        "import zenith.events, zenith.config",
    ],
)
def test_import_loads_no_framework(code: str) -> None:
    assert modules_after(code).isdisjoint(HEAVY)


def test_looking_at_the_api_loads_no_framework() -> None:
    heavy = HEAVY - {"pluggy"}
    assert modules_after("import zenith; zenith.compile; zenith.optimize").isdisjoint(heavy)


@pytest.mark.parametrize("name", zenith.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(zenith, name) is not None
    assert name in dir(zenith)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        zenith.no_such_name  # noqa: B018


@pytest.mark.parametrize("first", ["zenith.plugins", "zenith.backends", "zenith"])
def test_plugins_and_backends_are_modules_and_calls(first: str) -> None:
    code = (
        f"import {first}, zenith\n"
        "assert {p.name for p in zenith.plugins()} >= {'cpu', 'reference'}\n"
        "assert isinstance(zenith.backends(), list)\n"
        "import zenith.plugins, zenith.backends\n"
        "assert zenith.plugins.State.READY == 'ready' and zenith.plugins()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_version_is_that_of_the_distribution() -> None:
    from importlib import metadata

    assert zenith.__version__ == metadata.version("zenith-core")
