"""The command line says what is here."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from zenith import _native, cli

runner = CliRunner()


def output(command: str) -> str:
    result = runner.invoke(cli.app, [command], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.output


def test_plugins_lists_the_built_ins() -> None:
    text = output("plugins")
    assert "backend cpu is ready" in text
    assert "backend reference is ready" in text


def test_doctor_tells_versions_isas_and_threads() -> None:
    text = output("doctor")
    assert "zenith-core 0." in text
    assert f"instruction sets: {', '.join(_native.isas())} usable" in text
    assert f"threads: {_native.available_threads()}" in text


def test_doctor_says_when_there_is_no_avx2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_native, "isas", lambda: ["sse4"])
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert "no AVX2" in output("doctor")


def test_doctor_names_the_other_zenith(monkeypatch: pytest.MonkeyPatch) -> None:
    known = cli._version
    monkeypatch.setattr(cli, "_version", lambda p: "1.0" if p == "pyzenith" else known(p))
    assert "pyzenith is installed" in output("doctor")


def test_passes_lists_every_level() -> None:
    text = output("passes")
    for level in range(4):
        assert f"opt_level={level} canonicalize: infer_shapes" in text
    assert "opt_level=2 lower cpu: " in text


def test_module_and_script_are_the_same_command() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "zenith.cli", "--help"], capture_output=True, text=True, check=True
    )
    for command in ("doctor", "plugins", "passes"):
        assert command in run.stdout
