"""What a user does with a compiled model."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import zenith
from zenith.errors import ValidationError


def test_verify_compares_with_the_source(mlp: Any, array: Any) -> None:
    found = zenith.compile(mlp()).verify(array(3, 5, 24))
    assert set(found.errors) == {"y"} and 0 < found.worst < 5e-6


def test_profile_fills_times_and_roofline(mlp: Any, array: Any) -> None:
    compiled = zenith.compile(mlp())
    profiled = compiled.profile(array(8, 5, 24), repeat=3)
    assert len(profiled.nodes) == len(compiled.explain().nodes) > 0
    for node in profiled.nodes:
        assert node.time is not None and node.time > 0
        assert node.roofline is not None and node.roofline > 0
    assert all(n.time is None for n in compiled.explain().nodes)


def test_profile_of_a_mixed_model_says_why_not(graph_of: Any, array: Any) -> None:
    compiled = zenith.compile(
        graph_of("(float[B,3] x) => (float[B,3] y)", "y = Hardmax(x)"), fallback="allow"
    )
    with pytest.raises(ValidationError, match="one native backend"):
        compiled.profile(array(2, 3))


def test_benchmark(mlp: Any, array: Any) -> None:
    result = zenith.compile(mlp()).benchmark(array(1, 5, 24), runs=5)
    assert result.runs == 5 and 0 < result.min_ms <= result.median_ms


def test_run_by_name(graph_of: Any, array: Any) -> None:
    graph = graph_of("(float[B,3] p, float[B,3] q) => (float[B,3] d, float[B,3] e)",
                     "d = Sub(p, q) e = Mul(p, q)")  # fmt: skip
    compiled = zenith.compile(graph)
    p, q = array(2, 3), array(2, 3, seed=1)
    assert compiled.input_names == ["p", "q"]
    results = compiled.run({"q": q, "p": p})
    assert list(results) == ["d", "e"]
    np.testing.assert_array_equal(results["d"], p - q)
    np.testing.assert_array_equal(results["e"], p * q)
    for wrong in ({}, {"p": p}, {"p": p, "q": q, "r": q}, {"p": p, "Q": q}):
        with pytest.raises(ValidationError, match="the model takes p, q"):
            compiled.run(wrong)
    np.testing.assert_array_equal(compiled(p, q=q)[0], p - q)
    for args, kwargs in (((), {}), ((p,), {}), ((p, q, q), {}), ((p, q), {"q": q})):
        with pytest.raises(ValidationError, match="the model takes p, q"):
            compiled(*args, **kwargs)


def test_run_takes_strided_arrays(graph_of: Any, array: Any) -> None:
    compiled = zenith.compile(graph_of("(float[B,3] x) => (float[B,3] y)", "y = Relu(x)"))
    x = array(3, 8).T[::2]
    assert not x.flags.c_contiguous
    np.testing.assert_array_equal(compiled.run({"x": x})["y"], np.maximum(x, 0))
    np.testing.assert_array_equal(compiled(x), np.maximum(x, 0))


def test_wrong_shapes_and_dtypes(mlp: Any, array: Any) -> None:
    compiled = zenith.compile(mlp())
    with pytest.raises(ValidationError, match="compiled for float32\\[B, 5, 24\\]"):
        compiled(array(2, 6, 24))
    with pytest.raises(ValidationError, match="float64"):
        compiled(array(2, 5, 24).astype(np.float64))
    with pytest.raises(ValidationError, match="has shape"):
        compiled(array(5, 24))


def test_many_threads_give_the_same_bits(mlp: Any, array: Any) -> None:
    compiled = zenith.compile(mlp())
    inputs = [array(1 + i % 3, 5, 24, seed=i) for i in range(16)]
    wanted = [compiled(x) for x in inputs]

    def work(worker: int) -> None:
        for _ in range(10):
            for x, y in zip(inputs[worker:] + inputs[:worker], wanted[worker:] + wanted[:worker]):
                np.testing.assert_array_equal(compiled(x), y)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


@pytest.mark.parametrize("threads", [1, 2])
def test_thread_counts_agree(threads: int, mlp: Any, array: Any) -> None:
    x = array(4, 5, 24)
    one = zenith.compile(mlp(), threads=1)(x)
    np.testing.assert_allclose(zenith.compile(mlp(), threads=threads)(x), one, rtol=1e-5, atol=1e-6)


def test_weights_of_the_graph_equal_the_originals(mlp: Any) -> None:
    source = mlp()
    originals = {n: v.const_value.numpy().copy() for n, v in source.initializers.items()}
    compiled = zenith.compile(source)
    held = compiled.graph.initializers
    assert compiled.graph_ir is compiled.graph
    for name, original in originals.items():
        tensor = held[name].const_value
        assert tensor is not None
        np.testing.assert_array_equal(tensor.numpy(), original)
    program: Any = compiled.plan.partitions[0].program
    assert {str(v.name) for v in program.packed} == {"w1", "w2"}


def test_repr_names_inputs_and_target(mlp: Any) -> None:
    assert repr(zenith.compile(mlp())).startswith("CompiledModel(x: float32[B, 5, 24]; cpu(")
