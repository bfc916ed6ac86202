"""The QDQ form: where quantization writes it, and how the CPU's passes take it up again."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from zenith.ir import GraphIR
from zenith.passes import PassManager
from zenith.passes.quantize import Form, parameters, plan, quantize, symmetric
from zenith.passes.rewrite import FLOAT_KEY, array, is_op

Check = Any
AXES = {"MatMul": 1, "Gemm": 1, "Conv": 0}


def form(node: ir.Node) -> Form | str:
    if is_op(node, *AXES) and array(node.inputs[1]) is not None:
        return Form(0, 1, AXES[node.op_type])
    return "none"


def normal(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def quantized(graph: GraphIR, span: tuple[float, float] = (-16.0, 16.0)) -> GraphIR:
    copy = graph.clone()
    todo = plan(copy, form)
    quantize(copy, todo, {value: span for value in todo.observed})
    return copy.infer_shapes().verify()


def text(graph: GraphIR) -> list[str]:
    """Operators with their inputs; Q and DQ stand for QuantizeLinear and DequantizeLinear."""
    names: dict[ir.Value, str] = {}
    lines = []
    for node in graph.nodes:
        kind = {"QuantizeLinear": "Q", "DequantizeLinear": "DQ"}.get(node.op_type, node.op_type)
        given = node.inputs[:1] if kind in ("Q", "DQ") else node.inputs
        operands = ", ".join(
            names.get(v, re.sub(r"_\d+$", "", str(v.name))) for v in given if v is not None
        )
        names[node.outputs[0]] = f"{kind}({operands})"
        if any(v.is_graph_output() for v in node.outputs):
            lines.append(names[node.outputs[0]])
    return lines


def test_two_products_in_a_row(check: Check) -> None:
    g = check.build(
        "(float[2,5,6] x) => (y)",
        "m = MatMul(x, w) a = Add(m, b) g = Gelu(a) y = MatMul(g, v)",
        {"w": normal(6, 8), "b": normal(8), "v": normal(8, 4)},
    )
    assert text(quantized(g)) == [
        "MatMul(DQ(Q(Gelu(Add(MatMul(DQ(Q(x)), DQ(w_int8)), b)))), DQ(v_int8))"
    ]
    fused = quantized(g)
    PassManager(["fuse_quantized", "dce"], debug=True).run(fused)
    assert check.ops(fused) == [
        "QuantizeLinear",
        "zenith.QuantizedLinear:bias.gelu.quantize",
        "zenith.QuantizedLinear:",
    ]
    feeds = {"x": normal(2, 5, 6, seed=2)}
    (want,), (got,) = check.evaluate(quantized(g), feeds), check.evaluate(fused, feeds)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    (exact,) = check.evaluate(g, feeds)
    assert np.max(np.abs(got - exact)) < 0.05 * np.max(np.abs(exact))


CONVS = "(float[1,4,6,6] x) => (y)"
WEIGHTS = {"w": normal(4, 4, 1, 1), "v": normal(4, 4, 1, 1, seed=2), "u": normal(4, 4, 1, 1)}


def lowered(graph: GraphIR, check: Check) -> list[str]:
    PassManager(["lower_quantized_moves", "fuse_quantized", "dce"], debug=True).run(graph)
    return [op for op in check.ops(graph) if op != "QuantizeLinear"]


def test_a_residual_stays_integers(check: Check) -> None:
    g = check.build(
        CONVS,
        "a = Conv(x, w) r = Relu(a) c = Conv(r, v) s = Add(c, r) t = Relu(s) y = Conv(t, u)",
        WEIGHTS,
    )
    assert lowered(quantized(g), check) == [
        "zenith.QuantizedConv:relu.quantize",
        "zenith.QuantizedConv:addq.relu.quantize",
        "zenith.QuantizedConv:",
    ]


def test_one_of_two_added_products_becomes_integers(check: Check) -> None:
    g = check.build(
        CONVS, "a = Conv(x, w) b = Conv(x, v) s = Add(a, b) t = Relu(s) y = Conv(t, u)", WEIGHTS
    )
    assert sorted(lowered(quantized(g), check)) == [
        "zenith.QuantizedConv:",
        "zenith.QuantizedConv:addq.relu.quantize",
        "zenith.QuantizedConv:quantize",
    ]


def test_pooling_works_on_integers(check: Check) -> None:
    g = check.build(
        CONVS,
        "a = Conv(x, w) r = Relu(a) p = MaxPool<kernel_shape = [2, 2]>(r) y = Conv(p, v)",
        WEIGHTS,
    )
    after = quantized(g)
    assert lowered(after, check) == [
        "zenith.QuantizedConv:relu.quantize",
        "MaxPool",
        "zenith.QuantizedConv:",
    ]
    assert [n.outputs[0].dtype for n in after.nodes if n.op_type == "MaxPool"] == [
        ir.DataType.UINT8
    ]


def test_a_residual_of_normalised_numbers_stays_float32(check: Check) -> None:
    g = check.build(
        "(float[2,8] x) => (y)",
        "n = LayerNormalization(x, s) m = MatMul(n, w) y = Add(m, n)",
        {"s": normal(8), "w": normal(8, 8)},
    )
    assert text(quantized(g)) == [
        "Add(MatMul(DQ(Q(LayerNormalization(x, s))), DQ(w_int8)), LayerNormalization(x, s))"
    ]


def test_what_stays_float32_says_why(check: Check) -> None:
    g = check.build("(float[2,8] x) => (y)", "m = MatMul(x, w) y = Softmax(m)", {"w": normal(8, 8)})
    after = quantized(g)
    said = {n.op_type: n.metadata_props.get(FLOAT_KEY) for n in after.nodes}
    assert said["Softmax"] == "none" and said["MatMul"] is None


def test_one_value_is_quantized_once(check: Check) -> None:
    g = check.build(
        "(float[2,8] x) => (y, z)",
        "n = Tanh(x) y = MatMul(n, w) z = MatMul(n, v)",
        {"w": normal(8, 8), "v": normal(8, 3)},
    )
    kinds = [n.op_type for n in quantized(g).nodes]
    assert kinds.count("QuantizeLinear") == 1


def test_shared_weights_are_quantized_once(check: Check) -> None:
    g = check.build(
        "(float[2,8] x) => (y)", "n = MatMul(x, w) y = MatMul(n, w)", {"w": normal(8, 8)}
    )
    after = quantized(g)
    assert sum(v.dtype == ir.DataType.INT8 for v in after.initializers.values()) == 1


NOT_FUSED = [
    ("another type", "q = QuantizeLinear(x, s, z16) d = DequantizeLinear(q, s, z16)"),
    ("a scale per channel", "q = QuantizeLinear(x, s6, z6) d = DequantizeLinear(q, s6, z6)"),
    ("a computed scale", "q, t, o = DynamicQuantizeLinear(x) d = DequantizeLinear(q, t, o)"),
]


@pytest.mark.parametrize(("why", "body"), NOT_FUSED)
def test_does_not_fuse(check: Check, why: str, body: str) -> None:
    weights = {
        "w": np.ones((6, 4), np.int8), "ws": np.ones(4, np.float32), "s": np.float32(1).reshape(()),
        "z16": np.int16(0).reshape(()), "s6": np.ones(6, np.float32), "z6": np.zeros(6, np.uint8),
    }  # fmt: skip
    g = check.build(
        "(float[3,6] x) => (y)",
        f"{body} e = DequantizeLinear<axis = 1>(w, ws) y = MatMul(d, e)",
        weights,
    )
    PassManager(["fold_constants", "fuse_quantized"], debug=True).run(g)
    assert "MatMul" in check.ops(g), why
    PassManager(["fold_dequantized"], debug=True).run(g)
    assert check.ops(g)[-2:] == ["DequantizeLinear", "MatMul"], "the weights are folded"


BODY = """q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)
          e = DequantizeLinear<axis = {axis}>(w, ws{wz}) {product}"""


@pytest.mark.parametrize(
    ("why", "axis", "wz", "product"),
    [
        ("scales along the depth", 0, "", "y = MatMul(d, e)"),
        ("weights with zero points", 1, ", wz", "y = MatMul(d, e)"),
        ("weights on the left", 1, "", "y = MatMul(e, d)"),
        ("it transposes", 1, "", "y = Gemm<transA = 1>(d, e)"),
    ],
)
def test_does_not_fuse_other_weights(
    check: Check, why: str, axis: int, wz: str, product: str
) -> None:
    weights = {
        "w": np.ones((6, 6), np.int8), "ws": np.ones(6, np.float32), "wz": np.ones(6, np.int8),
        "s": np.float32(1).reshape(()), "z": np.uint8(3).reshape(()),
    }  # fmt: skip
    body = BODY.format(axis=axis, wz=wz, product=product)
    g = check.build("(float[6,6] x) => (y)", body, weights)
    PassManager(["fuse_quantized"], debug=True).run(g)
    assert not any("Quantized" in op for op in check.ops(g)), why


def test_intermediates_with_other_users_stay(check: Check) -> None:
    weights = {
        "w": np.ones((6, 6), np.int8), "ws": np.ones(6, np.float32),
        "s": np.float32(0.1).reshape(()), "z": np.uint8(3).reshape(()),
    }  # fmt: skip
    g = check(
        ["fuse_quantized", "dce"],
        "(float[2,6] x) => (y, r)",
        BODY.format(
            axis=1, wz="", product="m = MatMul(d, e) r = Relu(m) y = QuantizeLinear(r, s, z)"
        ),
        weights,
    )
    assert check.ops(g) == ["QuantizeLinear", "zenith.QuantizedLinear:relu", "QuantizeLinear"]


def test_moves_keep_floats_between_other_scales(check: Check) -> None:
    weights = {
        "s": np.float32(0.1).reshape(()), "t": np.float32(0.2).reshape(()),
        "z": np.uint8(3).reshape(()),
    }  # fmt: skip
    body = """q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)
              p = Transpose<perm = [1, 0]>(d) y = QuantizeLinear(p, {scale}, z)"""
    same = check(
        ["lower_quantized_moves", "dce"], "(float[2,6] x) => (y)", body.format(scale="s"), weights
    )
    assert check.ops(same) == ["QuantizeLinear", "Transpose"]
    other = check(
        ["lower_quantized_moves", "dce"], "(float[2,6] x) => (y)", body.format(scale="t"), weights
    )
    assert check.ops(other) == ["QuantizeLinear", "DequantizeLinear", "Transpose", "QuantizeLinear"]


@pytest.mark.parametrize(
    ("low", "high", "scale", "zero"),
    [(-1.0, 1.55, 0.01, 100), (0.5, 2.55, 0.01, 0), (-2.55, -1.0, 0.01, 255), (0, 0, 1, 0)],
)
def test_parameters(low: float, high: float, scale: float, zero: int) -> None:
    s, z = parameters(low, high, "v")
    assert s == pytest.approx(scale, rel=1e-6) and int(z) == zero and z.dtype == np.uint8
    assert s.shape == z.shape == ()


def test_weights_are_within_half_a_step() -> None:
    w = normal(7, 5, 3)
    w[:, 2] = 0
    q, scale = symmetric(w, 1)
    assert q.dtype == np.int8 and q.min() >= -127 and scale.shape == (5,) and scale[2] == 1
    error = np.abs(q * scale.reshape(1, -1, 1) - w)
    assert np.all(error <= scale.reshape(1, -1, 1) / 2 + 1e-6)
