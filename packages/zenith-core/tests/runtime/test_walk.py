"""Iterations and branches run natively: as much Python for many as for few, right numbers."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import zenith
from zenith.errors import KernelError, ValidationError

SIGNATURE = "(float[n,3] x, int64 m) => (y)"
LOOP = "t = Constant<value = bool {1}>() y = Loop(m, t, x) <body = "
HEAD = "step (int64 i, bool going, float[k,3] v) => (next, w) {"
ODD = """
    two = Constant<value_int = 2>() zero = Constant<value_int = 0>()
    r = Mod(i, two) even = Equal(r, zero)
"""
ROW = "one = Constant<value = float[1,3] {1.0, 2.0, 3.0}>()"
TAIL = "next = Identity(going) }>"


def branch(yes: str, no: str) -> str:
    return f"""w = If(even) <then_branch = a () => (p) {{ p = {yes} }},
                             else_branch = b () => (q) {{ q = {no} }}>"""


INNER = """w = Loop(m, going, v) <body = inner (int64 j, bool g, float[l,3] a) => (h, b) {
    b = Add(a, half) h = Identity(g) }>"""
BODIES = {
    "branches": f"{HEAD} {ODD} {ROW} {branch('Add(v, one)', 'Mul(v, one)')} {TAIL}",
    "grows": f"{HEAD} {ROW} w = Concat<axis = 0>(v, one) {TAIL}",
    "grows in a branch": f"{HEAD} {ODD} {ROW} "
    f"{branch('Concat<axis = 0>(v, one)', 'Neg(v)')} {TAIL}",
    "a loop inside": f"{HEAD} half = Constant<value_float = 0.5>() {INNER} {TAIL}",
}


def want(name: str, x: np.ndarray[Any, Any], trips: int) -> np.ndarray[Any, Any]:
    one = np.array([[1, 2, 3]], np.float32)
    for i in range(trips):
        if name == "branches":
            x = x * one if i % 2 else x + one
        elif name == "a loop inside":
            x = x + np.float32(0.5 * trips)
        elif name == "grows" or i % 2 == 0:
            x = np.concatenate([x, one])
        else:
            x = -x
    return x


def python_calls(run: Callable[[], Any]) -> int:
    """Calls of Python functions, and of C functions by Python, while `run` runs."""
    seen = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal seen
        seen += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        run()
    finally:
        sys.setprofile(None)
    return seen


@pytest.mark.parametrize("level", [0, 2])
@pytest.mark.parametrize("name", BODIES)
def test_no_python_between_iterations(name: str, level: int, graph_of: Any, array: Any) -> None:
    graph = graph_of(SIGNATURE, LOOP + BODIES[name])
    compiled = zenith.compile(graph, fallback="error", opt_level=level)
    x, calls = array(2, 3), []
    for trips in (3, 3, 12, 24):
        feeds = {"x": x, "m": np.array(trips)}
        calls.append(python_calls(lambda feeds=feeds: compiled.run(feeds)))
        np.testing.assert_allclose(compiled.run(feeds)["y"], want(name, x, trips), rtol=1e-5)
    assert calls[2] == calls[3] <= calls[0]


def test_a_loop_binds_on_its_own_and_says_so(graph_of: Any, array: Any) -> None:
    compiled = zenith.compile(graph_of(SIGNATURE, LOOP + BODIES["grows"]), fallback="error")
    for _ in range(2):
        compiled(array(1, 3), np.array(50))
    body = compiled.plan.partitions[-1].program.bodies["body"].plan  # type: ignore[attr-defined]
    program = body.partitions[0].program
    assert program.memory.binds <= 2
    assert program.runner.rebinds >= 2 * 48
    assert any("change within loops: " in note for note in compiled.explain().notes)


def test_the_condition_costs_no_step(graph_of: Any) -> None:
    """A body runs, so its condition holds: Identity of it is a constant."""
    compiled = zenith.compile(graph_of(SIGNATURE, LOOP + BODIES["grows"]), fallback="error")
    assert "bool" not in str(compiled.plan)


def test_calls_at_once_do_not_share_what_they_bind(graph_of: Any, array: Any) -> None:
    graph = graph_of(SIGNATURE, LOOP + BODIES["grows in a branch"])
    compiled = zenith.compile(graph, fallback="error", threads=1)
    wrong: list[str] = []

    def work(seed: int) -> None:
        for trips in range(1, 30):
            x = array(1 + seed, 3, seed=seed)
            got = compiled(x, np.array(trips))
            if not np.array_equal(got, want("grows in a branch", x, trips)):
                wrong.append(f"{seed}: {trips}")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_rows_of_different_sizes_are_an_error(graph_of: Any, array: Any) -> None:
    body = """
        t = Constant<value = bool {1}>()
        y, z = Loop(m, t, x) <body = step (int64 i, bool g, float[k,3] v) => (next, w, s) {
            w = Concat<axis = 0>(v, v) s = Neg(v) next = Identity(g) }>
    """
    compiled = zenith.compile(graph_of("(float[n,3] x, int64 m) => (y, z)", body))
    with pytest.raises(KernelError, match="gave different shapes"):
        compiled(array(1, 3), np.array(2))


def test_what_is_not_row_major_is_copied(graph_of: Any, array: Any) -> None:
    body = """y = If(c) <then_branch = a () => (p) { p = Neg(x) },
                         else_branch = b () => (q) { q = Abs(x) }>"""
    compiled = zenith.compile(graph_of("(float[n,3] x, bool c) => (y)", body), fallback="error")
    x = array(3, 6).T
    np.testing.assert_array_equal(compiled.run({"x": x, "c": np.array(True)})["y"], -x)
    with pytest.raises(ValidationError, match="the model takes"):
        compiled.run({"x": x.astype(np.float64), "c": np.array(True)})


def test_more_iterations_than_one_native_call(graph_of: Any) -> None:
    body = """
        t = Constant<value = bool {1}>()
        y, z = Loop(m, t, x) <body = step (int64 i, bool g, int64 v) => (next, w, s) {
            w = Add(v, i) s = Identity(w) next = Less(w, limit) }>
    """
    graph = graph_of("(int64 x, int64 m, int64 limit) => (y, z)", body)
    compiled = zenith.compile(graph, fallback="error")
    sums = np.cumsum(np.arange(10_000))
    y, z = compiled(np.array(0), np.array(10_000), np.array(1 << 60))
    assert int(y) == sums[-1]
    np.testing.assert_array_equal(z, sums)
    y, z = compiled(np.array(0), np.array(10_000), np.array(sums[5000]))
    assert int(y) == sums[5000] and len(z) == 5001
