"""hoist_bias, sink_transpose, share_concat, lower_global_pool: what they take and leave, and the
same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import zenith
from zenith.ir import GraphIR
from zenith.passes import PassManager

HEAD = '<ir_version: 12, opset_import: ["" : 28]>\n'


def graph_of(body: str, **arrays: np.ndarray[Any, Any]) -> GraphIR:
    model = onnx.parser.parse_model(f"{HEAD} g (float[N, 5, 6] x) => (y) {{ {body} }}")
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in arrays.items())
    return GraphIR.from_onnx(model).infer_shapes()


def draw(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


HEADS = "m = MatMul (x, w) h = Reshape (m, shape) y = Add (h, b)"


@pytest.mark.parametrize("bias", [(4, 3), (4, 1), (3,), (1,), (), (1, 1, 4, 3)])
def test_a_bias_of_heads_is_added_before_them(bias: tuple[int, ...]) -> None:
    w, b, shape = draw(6, 12), draw(*bias, seed=1), np.array([0, 5, 4, 3])
    graph = graph_of(HEADS, w=w, b=b, shape=shape)
    assert PassManager(["hoist_bias"], debug=True).run(graph).changed("hoist_bias") == 1
    assert [n.op_type for n in graph.nodes] == ["MatMul", "Add", "Reshape"]
    x = draw(2, 5, 6, seed=2)
    got = zenith.compile(graph, fallback="error").run({"x": x})["y"]
    np.testing.assert_allclose(got, (x @ w).reshape(2, 5, 4, 3) + b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "bias", "why"),
    [
        ((0, 5, 4, 3), (5, 4, 3), "the bias differs along an axis before the heads"),
        ((0, 4, 5, 3), (4, 5, 3), "the reshape does more than split the last axis"),
        ((0, 60), (60,), "the reshape merges axes"),
        ((0, 5, 4, 3), (2, 1, 1, 1), "the sum is larger than the product"),
    ],
)
def test_what_stays(shape: tuple[int, ...], bias: tuple[int, ...], why: str) -> None:
    graph = graph_of(HEADS, w=draw(6, 12), b=draw(*bias), shape=np.array(shape))
    assert PassManager(["hoist_bias"]).run(graph).changed("hoist_bias") == 0, why


def test_a_product_with_another_user_stays() -> None:
    body = "m = MatMul (x, w) h = Reshape (m, shape) s = Add (h, b) r = Relu (h) y = Add (s, r)"
    graph = graph_of(body, w=draw(6, 12), b=draw(4, 3), shape=np.array([0, 5, 4, 3]))
    assert PassManager(["hoist_bias"]).run(graph).changed("hoist_bias") == 0


@pytest.mark.parametrize(("op", "function"), [("Average", np.mean), ("Max", np.max)])
def test_global_pools_are_reductions(op: str, function: Any) -> None:
    graph = graph_of(f"y = Global{op}Pool (x)")
    PassManager(["lower_global_pool"], debug=True).run(graph)
    assert [n.op_type for n in graph.nodes] == [f"Reduce{ {'Average': 'Mean'}.get(op, op) }"]
    x = draw(3, 5, 6)
    got = zenith.compile(graph, fallback="error").run({"x": x})["y"]
    np.testing.assert_allclose(got, function(x, axis=2, keepdims=True), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("second", "shared"),
    [
        ("Concat <axis = 1> (x, a, b)", True),
        ("Concat <axis = 1> (x, b, a)", False),
        ("Concat <axis = 2> (x, a, b)", False),
        ("Concat <axis = 1> (a, b, x)", False),
    ],
)
def test_a_concat_begins_as_an_earlier_one(second: str, shared: bool) -> None:
    body = f"a = Sin (x) b = Cos (x) c = Concat <axis = 1> (x, a) d = {second} e = Relu (c) "
    graph = graph_of(body + "f = Concat <axis = 1> (x, a, b, b) y = Concat <axis = 0> (d, d)")
    before = zenith.compile(graph, fallback="error")
    changed = PassManager(["share_concat"], debug=True).run(graph).changed("share_concat")
    assert changed == 1 + shared
    longest = next(n for n in graph.nodes if n.name and "f" in [v.name for v in n.outputs])
    assert len(longest.inputs) == (2 if shared else 3)
    x = {"x": draw(3, 5, 6)}
    got, want = zenith.compile(graph, fallback="error").run(x), before.run(x)
    assert np.array_equal(got["y"], want["y"])


# A block as of ConvNeXt: channels last inside, [N, C, S] outside.
BLOCK = """
    r = Sin (x) t = Transpose <perm = [0, 2, 1]> (r)
    m = MatMul (t, w) a = Add (m, b) p = Transpose <perm = [0, 2, 1]> (a)
    y = Add (r, p)
"""


@pytest.mark.parametrize("order", ["Add (r, p)", "Add (p, r)"])
def test_a_sum_behind_a_transposed_product_comes_first(order: str) -> None:
    w, b = draw(5, 5), draw(5, seed=1)
    graph = graph_of(BLOCK.replace("Add (r, p)", order), w=w, b=b)
    assert PassManager(["sink_transpose"], debug=True).run(graph).changed("sink_transpose") == 1
    x = draw(3, 5, 6, seed=2)
    compiled = zenith.compile(graph, fallback="error")
    wanted = np.sin(x) + (np.sin(x).transpose(0, 2, 1) @ w + b).transpose(0, 2, 1)
    np.testing.assert_allclose(compiled.run({"x": x})["y"], wanted, rtol=1e-5, atol=1e-5)
    assert any(n.op == "zenith:Linear.bias.add" for n in compiled.explain().nodes)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (BLOCK.replace("Add (r, p)", "Mul (r, p)"), "it is no sum"),
        (BLOCK.replace("MatMul (t, w)", "MatMul (t, q)"), "the weights are computed"),
        (BLOCK.replace("y = Add (r, p)", "z = Add (r, p) y = Mul (z, p)"), "p has another user"),
        (BLOCK.replace("Add (r, p)", "Add (c, p)"), "a constant is no residual"),
        (BLOCK.replace("MatMul (t, w)", "Tanh (t)"), "there is no product"),
        (BLOCK.replace("Add (r, p)", "Add (s, p)"), "the other term is smaller"),
    ],
)
def test_other_sums_stay(body: str, why: str) -> None:
    others = "s = ReduceMax <keepdims = 1> (x) q = Sin (w) "
    graph = graph_of(others + body, w=draw(5, 5), b=draw(5), c=draw(1, 5, 6))
    assert PassManager(["sink_transpose"]).run(graph).changed("sink_transpose") == 0, why
