"""The conformance kit as a third party runs it: on our backends, on the demo, on a broken one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# Cases that fail by a fault of the host, which the kit found; each leaves with its repair.
KNOWN = {
    "ReduceSumSquare/int32/last",  # onnx.reference gives int64
    "LRN/float32/3",  # onnx.reference is 0.8 off; ours agrees with torch to 2e-7
    "LpNormalization/float32/l1",  # onnx.reference sums without absolute values
    # Where of a dtype mix that only exists at opt_level=0 runs on the reference
    "Attention/float32/onnx:attention_local_window_gqa_rank4_mask",
}


def run_kit(folder: Path, environ: dict[str, str], backend: str, *options: str) -> Any:
    """The one line of the documentation; (exit status, report, what it printed)."""
    report = folder / "report.json"
    command = [sys.executable, "-m", "pytest", "--pyargs", "zenith.testing"]
    command += [f"--zenith-backend={backend}", f"--zenith-report={report}", "--zenith-jobs=2"]
    done = subprocess.run(
        [*command, "-q", "-p", "no:cacheprovider", *options],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=900,
    )
    text = done.stdout + done.stderr
    return done.returncode, json.loads(report.read_text()) if report.exists() else None, text


def bad(report: Any) -> dict[str, str]:
    """Cases that neither pass nor are declined, without those that are known."""
    good = ("pass", "skipped-as-declared")
    return {
        case["name"]: case["reason"]
        for case in report["cases"]
        if case["outcome"] not in good and case["name"] not in KNOWN
    }


def test_cpu(tmp_path: Path) -> None:
    _, report, text = run_kit(tmp_path, dict(os.environ), "cpu", "--zenith-timeout=120")
    assert report is not None, text
    assert bad(report) == {}
    assert report["counts"]["pass"] > 1500
    assert report["counts"]["crash"] == report["counts"]["hang"] == 0


def test_reference(tmp_path: Path) -> None:
    """A part: the whole takes minutes, in Python, and is the nox session `conformance`."""
    environ = dict(os.environ)
    _, report, text = run_kit(tmp_path, environ, "reference", "--zenith-cases=R*/*")
    assert report is not None, text
    assert bad(report) == {}
    assert report["counts"]["pass"] > 100


def test_the_demo_backend_conforms(tmp_path: Path, with_demo: dict[str, str]) -> None:
    _, report, text = run_kit(tmp_path, with_demo, "demo")
    assert report is not None, text
    assert bad(report) == {}
    assert report["backend"] == "demo" and report["owner"].startswith("zenith-demo-plugin ")
    assert set(report["ops"]) == {
        f"ai.onnx:{op}" for op in ("Add", "Mul", "Relu", "Tanh", "MatMul", "Softmax", "Transpose")
    }
    assert report["untested_kernels"] == []
    assert report["counts"]["pass"] > 100 and report["counts"]["skipped-as-declared"] > 10
    declined = {c["reason"] for c in report["cases"] if c["outcome"] == "skipped-as-declared"}
    assert "matmul: a vector has no kernel, only matrices" in declined
    checks = {case["check"]: case["outcome"] for case in report["cases"]}
    assert checks["leaks"] == checks["fallback"] == checks["errors"] == "pass"
    assert {"python", "numpy", "onnx", "zenith-core"} <= set(report["environment"])
    assert all(case["seconds"] > 0 for case in report["cases"])


def test_the_demo_backend_is_short() -> None:
    source = Path(__file__).parents[1] / "demo_plugin" / "src" / "zenith_demo.py"
    lines = [line for line in source.read_text().splitlines() if line.strip()]
    assert len(lines) < 60


@pytest.mark.parametrize("isolated", [True, False])
def test_a_wrong_backend_is_reported(isolated: bool, broken: Path, tmp_path: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": str(broken), "ZENITH_PLUGINS": "rogue"}
    environ.pop("ZENITH_DISABLE_PLUGINS", None)
    options = ["--zenith-cases=Add/float32/*"] + ([] if isolated else ["--no-zenith-isolate"])
    status, report, text = run_kit(tmp_path, environ, "rogue_wrong_values", *options)
    assert status == 1, text
    assert report["counts"]["fail"] > 3
    assert "fail: output 'y0' is off by" in text
    assert "backend 'rogue_wrong_values' of acme-rogue 1.5, kernel wrong_values_add" in text


def test_a_crash_and_the_cases_after_it(broken: Path, tmp_path: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": str(broken), "ZENITH_PLUGINS": "rogue"}
    environ.pop("ZENITH_DISABLE_PLUGINS", None)
    glob = "--zenith-cases=Add/float32/[rs]*"
    status, report, text = run_kit(tmp_path, environ, "rogue_killed", glob)
    assert status == 1, text
    assert report["counts"]["crash"] == len(report["cases"]) > 2
    assert all("killed by SIGSEGV" in case["reason"] for case in report["cases"])


def test_a_backend_that_is_not_there(tmp_path: Path) -> None:
    status, report, text = run_kit(tmp_path, dict(os.environ), "no_such_backend")
    assert status != 0 and report is None
    assert "there is no backend 'no_such_backend'; installed: " in text


def test_without_a_backend_nothing_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "--pyargs", "zenith.testing", "-q", "-rs"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
    assert "1 skipped" in done.stdout
