"""A broken plugin hurts nobody else, and zenith says which one it was and why."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from zenith.testing.cases import Case, make, random
from zenith.testing.checks import Result
from zenith.testing.pool import Pool

HEADER = """
import json, sys, warnings
import numpy as np
import zenith
import zenith.plugins
from zenith.ir import GraphIR

zenith.plugins.PROBE_SECONDS = 1.0
warnings.simplefilter("error")
TEXT = '<ir_version: 10, opset_import: ["": 28]> g (float[2,N] a, float[2,N] b) => (float[2,N] c)'
GRAPH = GraphIR.from_text(TEXT + "{ c = Add(a, b) }").infer_shapes()
A = np.arange(6, dtype=np.float32).reshape(2, 3)

def attempt(target):
    try:
        compiled = zenith.compile(GRAPH, target=target, fallback="error")
        return compiled(A, A).tolist()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
"""


def host(script: str, folder: Path) -> Any:
    """What `script` prints as JSON, in a process where the plugins of `folder` are installed."""
    environ = {**os.environ, "PYTHONPATH": str(folder)}
    environ.pop("ZENITH_DISABLE_PLUGINS", None)
    done = subprocess.run(
        [sys.executable, "-c", HEADER + script],
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# Plugin -> its state, and what its reason says.
STATES = {
    "import_error": ("broken", "ModuleNotFoundError: No module named 'there_is_no_such_library'"),
    "wrong_api": ("incompatible", "ZENITH_API_VERSION = 99"),
    "no_api": ("incompatible", "no ZENITH_API_VERSION"),
    "twins": ("broken", "by acme-twins 1.5 and by other-twins 1.5"),
    "wrong_signature": ("broken", "zenith_register_backends"),
    "hook_raises": ("broken", "RuntimeError: half of the driver is missing"),
    "probe_raises": ("broken", "OSError: /dev/fragile is gone"),
    "probe_hangs": ("broken", "did not answer within 1 s"),
    "same_kernel_twice": ("broken", "registers kernel 'add' twice"),
}


@pytest.fixture(scope="module")
def seen(broken: Path) -> Any:
    script = f"""
result = {{name: attempt(name) for name in {list(STATES)}}}
result["cpu"] = attempt("cpu")
result["plugins"] = [[p.name, p.state, p.why, p.owner] for p in zenith.plugins()]
print(json.dumps(result))
"""
    return host(script, broken)


@pytest.mark.parametrize("name", STATES)
def test_the_state_says_what_is_wrong_and_with_whom(name: str, seen: Any) -> None:
    state, reason = STATES[name]
    rows = [row for row in seen["plugins"] if row[0] == name]
    assert len(rows) == (2 if name == "twins" else 1)
    for _, found, why, owner in rows:
        assert found == state and reason in why
        assert owner.endswith(" 1.5")


@pytest.mark.parametrize("name", STATES)
def test_asking_for_the_target_raises_with_the_cause(name: str, seen: Any) -> None:
    assert seen[name].startswith("PluginError: ")
    assert STATES[name][1] in seen[name]
    assert f"acme-{name.replace('_', '-')} 1.5" in seen[name]


def test_other_targets_work(seen: Any) -> None:
    assert seen["cpu"] == [[0, 2, 4], [6, 8, 10]]
    rows = {row[0]: row[1] for row in seen["plugins"]}
    assert rows["cpu"] == rows["reference"] == "ready"


# Kernels in normal use: fault -> what the error says beside kernel, backend, owner and node.
ERRORS = {
    "throws": "no luck today",
    "wrong_shape": "returned float32[2, 1] for 'c', which is float32[2, N]",
    "wrong_rank": "returned float32[1, 2, 3] for 'c'",
    "wrong_dtype": "returned float64[2, 3] for 'c'",
    "no_list": "returned NoneType, not a list",
    "none_in_list": "returned None for 'c'",
    "too_few": "returned 0 result(s), and the node has 1",
}


@pytest.fixture(scope="module")
def called(broken: Path) -> Any:
    script = f"""
result = {{name: attempt("rogue_" + name) for name in {[*ERRORS, "bad_supports"]}}}
result["cpu"] = attempt("cpu")
print(json.dumps(result))
"""
    return host(script, broken)


@pytest.mark.parametrize("fault", ERRORS)
def test_a_bad_kernel_is_an_error_that_names_it(fault: str, called: Any) -> None:
    error = called[fault]
    assert error.startswith("KernelError: ")
    assert f"kernel '{fault}_add' of backend 'rogue_{fault}' of acme-rogue 1.5" in error
    assert "(ai.onnx:Add)" in error
    assert ERRORS[fault] in error
    assert called["cpu"] == [[0, 2, 4], [6, 8, 10]]


def test_a_predicate_that_raises_declines(called: Any) -> None:
    error = called["bad_supports"]
    assert error.startswith("NoKernelFoundError: ")
    assert "picky_add: its supports() raised KeyError: 'no such device'" in error


# Kernels under the kit: fault -> outcome, and what the reason says.
OUTCOMES = {
    "throws": ("fail", "no luck today"),
    "exits": ("crash", "ended with status 3 in kernel exits_add"),
    "segfaults": ("crash", "killed by SIGSEGV in kernel segfaults_add"),
    "killed": ("crash", "killed by SIGSEGV in kernel killed_add"),
    "hangs": ("hang", "no end after 3 s in kernel hangs_add"),
    "wrong_shape": ("fail", "returned float32[3, 7, 1]"),
    "wrong_dtype": ("fail", "returned float64"),
    "none_in_list": ("fail", "returned None"),
    "too_few": ("fail", "returned 0 result(s)"),
    "wrong_values": ("fail", "is off by"),
    "writes_after_end": ("fail", "4 byte(s) written after the end"),
    "writes_far_after_end": ("crash", "killed by SIGSEGV in kernel writes_far_after_end_add"),
    "reads_after_end": ("crash", "accesses memory out of bounds of an array"),
    "writes_before_start": ("fail", "8 byte(s) written before the start"),
    "modifies_input": ("fail", "input 0 was modified"),
    "same_memory_again": ("fail", "shares memory with the result of an earlier call"),
    "forgets": ("fail", "other bits the second time"),
    "not_for_threads": ("fail", "when 8 threads call"),
    "bad_supports": ("fail", "its supports() raised KeyError"),
}
STACKS = {
    "segfaults": "in segfaults",
    "hangs": "in hangs",
    "writes_far_after_end": "in writes_far_after_end",
}


def conformance(fault: str, case: Case, check: str = "case") -> Result:
    pool = Pool(f"rogue_{fault}", timeout=3, size=1)
    try:
        payload = case if check == "case" else [case]
        return pool.submit(check, payload).result()
    finally:
        pool.close()


@pytest.fixture
def at(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(broken))  # a worker starts with this process's path
    monkeypatch.setenv("ZENITH_PLUGINS", "rogue")
    monkeypatch.delenv("ZENITH_DISABLE_PLUGINS", raising=False)


@pytest.mark.usefixtures("at")
@pytest.mark.parametrize("fault", OUTCOMES)
def test_the_kit_tells_every_fault(fault: str) -> None:
    case = make("Add", "same", [random((3, 7, 1), seed=1), random((3, 7, 5))])
    result = conformance(fault, case)
    outcome, reason = OUTCOMES[fault]
    assert result.outcome == outcome, result.reason
    assert reason in result.reason
    assert STACKS.get(fault, "") in result.reason


@pytest.mark.usefixtures("at")
def test_the_kit_tells_a_leak() -> None:
    case = make("Add", "large", [random((64, 64)), random((64, 64), seed=1)])
    result = conformance("leaks", case, "leaks")
    assert result.outcome == "fail"
    assert "behind" in result.reason
    assert conformance("wrong_values", case, "leaks").outcome == "pass"
