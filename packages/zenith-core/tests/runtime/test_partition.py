"""Nodes the first backend cannot run go to the next one: right numbers, and it is said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import zenith
from zenith.errors import NoKernelFoundError
from zenith.runtime.engine import FallbackWarning

MIXED = "a = MatMul(x, w) h = Hardmax(a) b = Hardmax<axis = 0>(h) y = Relu(b)"
SIGNATURE = "(float[B,3] x) => (float[B,4] y)"


@pytest.fixture
def mixed(graph_of: Any, array: Any) -> Any:
    return graph_of(SIGNATURE, MIXED, {"w": array(3, 4)})


def test_fallback_in_the_middle_is_right_and_listed(mixed: Any, array: Any, error_of: Any) -> None:
    compiled = zenith.compile(mixed, fallback="allow")
    assert [p.backend for p in compiled.plan.partitions] == ["cpu", "reference", "cpu"]
    for batch in (1, 2, 5):
        x = array(batch, 3, seed=batch)
        assert error_of(mixed, compiled, x) < 1e-5
        assert compiled.verify(x).worst < 1e-5
    explained = compiled.explain()
    assert [(n.op, n.backend) for n in explained.fallbacks] == [
        ("ai.onnx:Hardmax", "reference"),
        ("ai.onnx:Hardmax", "reference"),
    ]
    assert "fallbacks: 2" in explained.summary()


def test_fallback_error_lists_all_nodes_at_once(mixed: Any) -> None:
    with pytest.raises(NoKernelFoundError, match=r"2 node\(s\) do not run on cpu") as caught:
        zenith.compile(mixed, fallback="error")
    assert str(caught.value).count("ai.onnx:Hardmax(") == 2


def test_fallback_warn_warns_once(mixed: Any) -> None:
    with pytest.warns(FallbackWarning, match=r"2 node\(s\) do not run on cpu") as caught:
        zenith.compile(mixed)
    assert len(caught) == 1 and caught[0].filename == __file__


def test_no_fallback_no_warning(mlp: Any) -> None:
    compiled = zenith.compile(mlp(), fallback="error")
    assert compiled.explain().fallbacks == []


def test_a_partition_learns_sizes_its_inputs_do_not_show(
    graph_of: Any, array: Any, error_of: Any
) -> None:
    body = """
        a = Concat<axis = 0>(x, x)
        r = Relu(a)
        h = Hardmax(r)
        c = Concat<axis = 0>(h, h)
        y = Relu(c)
    """
    graph = graph_of("(float[B,3] x) => (float[M,3] y)", body)
    compiled = zenith.compile(graph, fallback="allow")
    assert len(compiled.plan.partitions) == 3
    assert str(compiled.plan.outputs[0]) == "float32[4*B, 3]"
    for batch in (2, 3):
        assert error_of(graph, compiled, array(batch, 3)) == 0


@pytest.mark.parametrize("target", ["auto", "cpu", "reference"])
def test_shape_arithmetic_crosses_partitions(
    target: str, graph_of: Any, array: Any, error_of: Any
) -> None:
    body = """
        s = Shape<start = 0, end = 1>(x)
        m = Constant<value_ints = [12]>()
        t = Concat<axis = 0>(s, m)
        h = Hardmax(x)
        y = Reshape(h, t)
        z = Shape(y)
    """
    graph = graph_of("(float[B,3,4] x) => (float[B,12] y, int64[2] z)", body)
    compiled = zenith.compile(graph, target=target, fallback="allow")
    for batch in (2, 3):
        assert error_of(graph, compiled, array(batch, 3, 4)) == 0


def test_sizes_from_data_run(graph_of: Any, array: Any, error_of: Any) -> None:
    body = """
        i = NonZero(x)
        g = Transpose(i)
        v = GatherND(x, g)
        w = Relu(v)
        y = ScatterND(x, g, w)
    """
    graph = graph_of("(float[B,3] x) => (float[B,3] y)", body)
    compiled = zenith.compile(graph, fallback="allow")
    x = array(4, 3)
    x[1] = 0
    assert error_of(graph, compiled, x) == 0


@pytest.mark.parametrize("target", ["cpu", "reference"])
@pytest.mark.parametrize("body", ["a = Relu(x) y = Hardmax(a)", "a = Relu(x) y = Softmax(a)"])
def test_every_result_is_memory_of_its_own(
    target: str, body: str, graph_of: Any, array: Any, error_of: Any
) -> None:
    """Results that are inputs, weights, equal or views of each other; one or more partitions."""
    graph = graph_of(
        "(float[B,3] x) => (float[B,3] x, float[3,4] w, float[B,3] y, float[B,3] y, float[3,B] t, "
        "float[B,3] i, int64[2] s)",
        body + " t = Transpose(y) i = Identity(x) s = Shape(x)",
        {"w": array(3, 4)},
    )
    compiled = zenith.compile(graph, target=target, fallback="allow")
    x = array(2, 3)
    kept = x.copy()
    first = compiled(x)
    saved = [r.copy() for r in first]
    for result in first:
        result[...] = 77
    np.testing.assert_array_equal(x, kept)
    for a, b in zip(compiled(x), saved, strict=True):
        np.testing.assert_array_equal(a, b)
    assert error_of(graph, compiled, x) < 1e-6


def test_an_input_without_a_rank_that_nobody_reads(graph_of: Any, array: Any) -> None:
    """Found by fuzzing: it is no input of the plan."""
    graph = graph_of("(float[n] x, float like) => (y)", "y = Relu(x)")
    graph.inputs[1].shape = None
    compiled = zenith.compile(graph, fallback="error")
    x = array(3)
    np.testing.assert_array_equal(compiled(x, array(2, 2)), np.maximum(x, 0))
