"""widen_half and expand_functions: what they rewrite, what they leave, and that numbers stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

import zenith
from zenith.ir import OPSET, GraphIR
from zenith.passes import PassManager
from zenith.passes.expand_functions import expand_functions
from zenith.passes.widen_half import widen_half, would_widen
from zenith.plugins import plugin_manager
from zenith.runtime.dispatcher import KernelDispatcher, Selection
from zenith.runtime.kernel_registry import KernelRegistry
from zenith.runtime.partition import op_view

Array = np.ndarray[Any, Any]
HEAD = f'<ir_version: 10, opset_import: ["" : {OPSET}]>\n'


def graph_of(signature: str, body: str, weights: dict[str, Array] | None = None) -> GraphIR:
    proto = onnx.parser.parse_model(f"{HEAD}g {signature} {{ {body} }}")
    for name, data in (weights or {}).items():
        tensor = ir.Tensor(data, name=name, dtype=ir.DataType.from_numpy(data.dtype))
        proto.graph.initializer.append(ir.to_proto(tensor))
    graph = GraphIR.from_onnx(proto)
    PassManager(["infer_shapes", "lift_constants", "infer_shapes"]).run(graph)
    return graph.verify()


def cpu_claims(graph: GraphIR) -> Callable[[ir.Node], bool]:
    registry = KernelRegistry()
    plugin_manager().register_kernels(registry)
    dispatcher = KernelDispatcher(registry)
    return lambda node: isinstance(dispatcher.select("cpu", op_view(graph, node)), Selection)


def widen(graph: GraphIR) -> int:
    count = widen_half(graph, cpu_claims(graph))
    graph.verify()
    return count


def kinds(graph: GraphIR) -> list[str]:
    return [node.op_type for node in graph.nodes]


def run(graph: GraphIR, target: str, *inputs: Array) -> list[Array]:
    fallback = "error" if target == "cpu" else "allow"
    compiled = zenith.compile(graph, target=target, fallback=fallback)
    names = compiled.input_names
    return list(compiled.run(dict(zip(names, inputs, strict=True))).values())


HALVES = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


@pytest.mark.parametrize("half", HALVES)
def test_each_operator_rounds_once(half: str) -> None:
    graph = graph_of(f"({half}[B,9] x) => ({half}[B,9] y)", "a = Exp(x) b = Mul(a, x) y = Tanh(b)")
    assert widen(graph) == 3
    x = np.random.default_rng(0).normal(size=(5, 9)).astype(HALVES[half])
    (y,) = run(graph, "cpu", x)
    wide, kind = x.astype(np.float64), HALVES[half]
    a = np.exp(wide).astype(kind).astype(np.float64)
    b = (a * wide).astype(kind).astype(np.float64)
    expected = np.tanh(b).astype(kind)
    assert y.dtype == kind
    ulps = np.abs(y.view(np.int16).astype(int) - expected.view(np.int16).astype(int))
    assert ulps.max() <= 1 and (ulps == 0).mean() > 0.9


def test_weights_are_widened_at_compile_time() -> None:
    w = np.random.default_rng(1).normal(size=(70, 80)).astype(np.float16)
    b = np.arange(80, dtype=np.float16)
    graph = graph_of("(float16[B,70] x) => (float16[B,80] y)", "m = MatMul(x, w) y = Add(m, b)",
                     {"w": w, "b": b})  # fmt: skip
    assert widen(graph) == 2
    casts = [n for n in graph.nodes if n.op_type == "Cast"]
    assert len(casts) == 4  # of x, of the product both ways, of the result
    assert all(v.const_value is None for n in casts for v in n.inputs)
    assert {n.name for n in casts} >= {"widen(x)", "round(y)"}
    x = np.random.default_rng(2).normal(size=(3, 70)).astype(np.float16)
    product = (x.astype(np.float64) @ w.astype(np.float64)).astype(np.float16)
    (y,) = run(graph, "cpu", x)
    expected = (product.astype(np.float64) + b).astype(np.float16)
    np.testing.assert_allclose(y.astype(float), expected.astype(float), rtol=2e-3, atol=2e-3)


def test_one_cast_serves_all_readers() -> None:
    graph = graph_of("(float16[4] x) => (float16[4] y, float16[4] z)", "y = Exp(x) z = Sqrt(x)")
    assert widen(graph) == 2
    assert kinds(graph).count("Cast") == 3


def test_moving_data_stays_in_half() -> None:
    graph = graph_of(
        "(float16[4,6] x, bool[4,6] c) => (float16[6,4] y)",
        "s = Concat<axis = 0>(x, x) i = Slice(s, zero, four) w = Where(c, i, x) y = Transpose(w)",
        {"zero": np.array([0]), "four": np.array([4])},
    )
    assert widen(graph) == 0
    assert "Cast" not in kinds(graph)


def test_what_nobody_runs_is_left() -> None:
    graph = graph_of("(float16[4] x) => (float16[4] y)", "y = Exp(x)")
    before = graph.to_text()
    assert widen_half(graph, lambda node: False) == 0
    assert graph.to_text() == before
    assert all(use.node.graph is not None for use in graph.inputs[0].uses())


def test_other_dtypes_are_left() -> None:
    graph = graph_of("(double[4] x) => (double[4] y)", "y = Exp(x)")
    assert widen_half(graph, lambda node: False) == 0


def test_results_of_other_types_keep_them() -> None:
    graph = graph_of("(float16[3,5] x) => (int64[3,1] i, bool[3,5] c)",
                     "i = ArgMax<axis = 1>(x) c = Less(x, x)")  # fmt: skip
    assert widen(graph) == 2
    assert kinds(graph).count("Cast") == 1
    x = np.random.default_rng(3).normal(size=(3, 5)).astype(np.float16)
    i, c = run(graph, "cpu", x)
    np.testing.assert_array_equal(i, x.argmax(1, keepdims=True))
    assert not c.any()


def test_a_function_becomes_its_body() -> None:
    weights = {"s": np.ones(4), "t": np.zeros(4)}
    graph = graph_of("(double[2,4,3] x, int64[2,3] t) => (double l)",
                     "l = SoftmaxCrossEntropyLoss(x, t)", weights={"s": weights["s"]})  # fmt: skip
    claims = cpu_claims(graph)
    assert not claims(graph.nodes[0])
    assert expand_functions(graph, claims) == 1
    graph.infer_shapes().verify()
    assert all(claims(node) for node in graph.nodes)
    x = np.random.default_rng(4).normal(size=(2, 4, 3))
    t = np.array([[0, 1, 2], [3, 2, 1]])
    (loss,) = run(graph, "cpu", x, t)
    p = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    picked = np.take_along_axis(p, t[:, None], 1)
    np.testing.assert_allclose(loss, -np.log(picked).mean(), rtol=1e-13)


def test_a_body_that_does_not_run_is_not_taken() -> None:
    graph = graph_of("(float[3,4] x, int64[3] t) => (float l)", "l = SoftmaxCrossEntropyLoss(x, t)")
    before = graph.to_text()
    assert expand_functions(graph, lambda node: node.op_type == "Reshape") == 0
    assert graph.to_text() == before


def test_a_half_function_is_widened_not_expanded() -> None:
    graph = graph_of("(float16[2,4] x) => (float16[2,4] y)", "y = Gelu(x)")
    claims = cpu_claims(graph)
    assert expand_functions(graph, claims) == 0
    assert widen_half(graph, claims) == 1
    assert kinds(graph) == ["Cast", "Gelu", "Cast"]


def test_a_trial_leaves_no_constants_behind() -> None:
    graph = graph_of("(float16[2,4] x) => (float16[2,4] y)", "y = Mul(x, w)",
                     {"w": np.ones((2, 4), np.float16)})  # fmt: skip
    claims = cpu_claims(graph)
    before = graph.to_text()
    assert widen_half(graph, lambda node: False) == 0
    assert would_widen(graph, graph.nodes[0], claims)
    assert graph.to_text() == before


def test_the_engine_widens_and_says_so() -> None:
    graph = graph_of("(float16[B,4] x) => (float16[B,4] y)", "y = Softmax(x)")
    compiled = zenith.compile(graph, fallback="error")
    explanation = compiled.explain()
    assert not explanation.fallbacks
    assert {"float32", "float16"} == {node.dtype for node in explanation.nodes}
    assert any("widen_half: 1" in line for line in explanation.passes)
