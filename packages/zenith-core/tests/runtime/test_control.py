"""Control flow: bodies are planned, run natively, and give what a plain Python loop gives."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

import zenith
from zenith.errors import KernelError, NoKernelFoundError, ValidationError
from zenith.ir import GraphIR

GROW = """
    one = Constant<value = float[1,3] {1.0, 2.0, 3.0}>()
    y, z = Loop(m, c, x) <body = step (int64 i, bool going, float[k,3] v) => (next, w, s) {
        next = Identity(going)
        w = Concat<axis = 0>(v, one)
        s = ReduceSum<keepdims = 0>(w)
    }>
"""
GROW_SIGNATURE = "(float[n,3] x, int64 m, bool c) => (y, z)"


def kernels(compiled: Any) -> list[str]:
    return [n.kernel for n in compiled.explain().nodes]


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("case", [(2, 3, True), (4, 0, True), (5, 2, False), (1, 7, True)])
def test_loop_state_may_grow(
    level: int, case: tuple[int, int, bool], graph_of: Any, array: Any
) -> None:
    rows, trips, going = case
    compiled = zenith.compile(graph_of(GROW_SIGNATURE, GROW), fallback="error", opt_level=level)
    x = array(rows, 3)
    y, z = compiled(x, np.array(trips), np.array(going))
    state, sums = x, []
    for _ in range(trips if going else 0):
        state = np.concatenate([state, np.array([[1, 2, 3]], np.float32)])
        sums.append(state.sum(dtype=np.float64))
    np.testing.assert_array_equal(y, state)
    np.testing.assert_allclose(z, np.array(sums, np.float32), rtol=1e-5)
    assert z.shape == (len(sums),)
    assert any(k.startswith("concat_copy") for k in kernels(compiled))


def test_a_loop_ends_when_its_condition_says_so(graph_of: Any) -> None:
    body = """
        y = Loop(m, c, x) <body = step (int64 i, bool going, float v) => (next, w) {
            w = Add(v, v)
            next = Less(w, bound)
        }>
    """
    graph = graph_of("(float x, int64 m, bool c, float bound) => (y)", body)
    compiled = zenith.compile(graph, fallback="error")
    y = compiled(np.float32(1), np.array(50), np.array(True), np.array(100, np.float32))
    assert float(y) == 128.0


def test_a_graph_of_one_node_names_its_results_in_another_order(graph_of: Any) -> None:
    body = """
        a, b = If(c) <
            then_branch = yes () => (p, q) { p = Neg(x) q = Concat<axis = 0>(x, x) },
            else_branch = no () => (r, s) { r = Abs(x) s = Concat<axis = 0>(x, x) }
        >
    """
    graph = graph_of("(float[2] x, bool c) => (b, a)", body)
    compiled = zenith.compile(graph, fallback="error")
    twice, negative = compiled(np.array([1, 2], np.float32), np.array(True))
    np.testing.assert_array_equal(twice, [1, 2, 1, 2])
    np.testing.assert_array_equal(negative, [-1, -2])


@pytest.mark.parametrize("taken", [True, False])
def test_branches_of_other_sizes_and_captured_values(
    taken: bool, graph_of: Any, array: Any
) -> None:
    body = """
        a = Relu(x)
        b = Concat<axis = 0>(x, a)
        w = If(c) <
            then_branch = yes () => (p) { p = Mul(b, b) },
            else_branch = no () => (q) { q = Identity(a) }
        >
        y = Add(w, w)
    """
    graph = graph_of("(float[n,3] x, bool c) => (y)", body)
    compiled = zenith.compile(graph, fallback="error")
    for rows in (1, 4):
        x = array(rows, 3, seed=rows)
        a = np.maximum(x, 0)
        want = np.concatenate([x, a]) ** 2 if taken else a
        np.testing.assert_allclose(compiled(x, np.array(taken)), want * 2, rtol=1e-6)


def test_scan_axes_and_directions(graph_of: Any, array: Any) -> None:
    body = """
        h, ys = Scan <num_scan_inputs = 1, scan_input_axes = [1], scan_input_directions = [1],
                      scan_output_axes = [1], scan_output_directions = [1],
            body = step (float[n,2] s, float[n,2] v) => (t, o) {
                t = Add(s, v)
                o = Mul(t, v)
            }>(x0, x)
    """
    graph = graph_of("(float[n,2] x0, float[n,t,2] x) => (h, ys)", body)
    compiled = zenith.compile(graph, fallback="error")
    x0, x = array(3, 2), array(3, 5, 2, seed=1)
    h, ys = compiled(x0, x)
    state, outs = x0, []
    for t in reversed(range(5)):
        state = state + x[:, t]
        outs.append(state * x[:, t])
    np.testing.assert_allclose(h, state, rtol=1e-6)
    np.testing.assert_allclose(ys, np.stack(outs[::-1], 1), rtol=1e-6)


def test_a_state_that_starts_as_a_repeated_constant(graph_of: Any, array: Any) -> None:
    body = """
        start = Constant<value = float[4] {0.0, 1.0, 2.0, 3.0}>()
        sizes = Constant<value = int64[2] {2, 1}>()
        first = Expand(start, sizes)
        h = Scan <num_scan_inputs = 1,
            body = step (float[2,4] s, float[2,4] v) => (t) {
                t = Add(s, v)
            }>(first, x)
    """
    x = array(3, 2, 4)
    compiled = zenith.compile(graph_of("(float[3,2,4] x) => (h)", body), fallback="error")
    np.testing.assert_allclose(compiled(x), np.arange(4) + x.sum(0), rtol=1e-6)


def test_nested_loops_with_weights(graph_of: Any, array: Any) -> None:
    body = """
        t = Constant<value = bool {1}>()
        y = Loop(m, t, x) <body = outer (int64 i, bool g, float[n,4] v) => (go, w) {
            w = Loop(m, t, v) <body = inner (int64 j, bool gg, float[n,4] a) => (goo, b) {
                p = MatMul(a, weight)
                b = Tanh(p)
                goo = Identity(gg)
            }>
            go = Identity(g)
        }>
    """
    weight = array(4, 4, seed=3) / 4
    graph = graph_of("(float[n,4] x, int64 m) => (y)", body, {"weight": weight})
    compiled = zenith.compile(graph, fallback="error")
    x = array(2, 4)
    want = x.astype(np.float64)
    for _ in range(9):
        want = np.tanh(want @ weight)
    np.testing.assert_allclose(compiled(x, np.array(3)), want, atol=1e-6)
    assert any(k.startswith("matmul_packed") or "linear" in k for k in kernels(compiled))


def test_results_never_alias_inputs_or_each_other(graph_of: Any, array: Any) -> None:
    body = """
        y, z = If(c) <
            then_branch = yes () => (p, q) { p = Identity(x) q = Identity(x) },
            else_branch = no () => (r, s) { r = Neg(x) s = Identity(r) }
        >
    """
    compiled = zenith.compile(graph_of("(float[n] x, bool c) => (y, z)", body), fallback="error")
    x = array(4)
    for taken in (True, False):
        y, z = compiled(x, np.array(taken))
        assert not np.shares_memory(y, x) and not np.shares_memory(z, x)
        assert not np.shares_memory(y, z)


def test_a_constant_condition_leaves_no_branch(graph_of: Any, array: Any) -> None:
    body = """
        s = Shape(x)
        r = Size(s)
        two = Constant<value_int = 2>()
        c = Equal(r, two)
        y = If(c) <
            then_branch = yes () => (p) {
                k = Constant<value = float[3] {1.0, 2.0, 3.0}>()
                p = Add(x, k)
            },
            else_branch = no () => (q) { q = Neg(x) }
        >
    """
    compiled = zenith.compile(graph_of("(float[n,3] x) => (y)", body), fallback="error")
    x = array(2, 3)
    np.testing.assert_array_equal(compiled(x), x + np.array([1, 2, 3], np.float32))
    assert len(kernels(compiled)) == 1


def test_fallbacks_inside_a_body_are_reported(graph_of: Any) -> None:
    body = """
        y = If(c) <
            then_branch = yes () => (p) { p = Det(x) },
            else_branch = no () => (q) { q = ReduceSum<keepdims = 0>(x) }
        >
    """
    graph = graph_of("(float[n,n] x, bool c) => (y)", body)
    compiled = zenith.compile(graph, fallback="allow")
    if not compiled.explain().fallbacks:
        pytest.skip("Det runs natively")
    with pytest.raises(NoKernelFoundError, match="Det"):
        zenith.compile(graph, fallback="error")


def test_wrong_conditions_and_lengths_are_named(graph_of: Any, array: Any) -> None:
    graph = graph_of(
        "(float[n] x, bool[k] c) => (y)",
        """y = If(c) <then_branch = a () => (p) { p = Relu(x) },
                     else_branch = b () => (q) { q = Neg(x) }>""",
    )
    with pytest.raises(KernelError, match="has 2 elements, not 1"):
        zenith.compile(graph)(array(3), np.array([True, False]))
    graph = graph_of(
        "(float[a] x, float[b] z) => (y)",
        """y = Scan <num_scan_inputs = 2,
                     body = s (float u, float v) => (w) { w = Add(u, v) }>(x, z)""",
    )
    with pytest.raises(ValidationError, match="different lengths"):
        zenith.compile(graph)(array(3), array(4))


def test_a_compiled_loop_outlives_its_source(graph_of: Any, array: Any) -> None:
    graph = graph_of(GROW_SIGNATURE, GROW)
    compiled = zenith.compile(graph, fallback="error")
    before = compiled(array(2, 3), np.array(2), np.array(True))
    del graph
    gc.collect()
    for a, b in zip(before, compiled(array(2, 3), np.array(2), np.array(True)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert isinstance(compiled.graph, GraphIR) and "loop 'node" in str(compiled.plan)
