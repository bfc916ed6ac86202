"""CPU fusions: Linear, ConvBiasAct, QKV merge, Add + norm, Pointwise; and where not to fire."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from zenith.ir import DOMAIN, GraphIR
from zenith.passes import PassManager
from zenith.passes.fuse_pointwise import FusePointwise

Check = Any
rng = np.random.default_rng(0)


def weights(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    local = np.random.default_rng(1)
    return {k: local.standard_normal(s).astype(np.float32) for k, s in shapes.items()}


X = "(float[B,S,6] x) => (y)"
LINEAR = [
    ("y = MatMul(x, w)", ""),
    ("m = MatMul(x, w) y = Add(m, b)", "bias"),
    ("m = MatMul(x, w) y = Add(b, m)", "bias"),
    ("m = MatMul(x, w) a = Add(m, b) y = Gelu(a)", "bias.gelu"),
    ('m = MatMul(x, w) a = Add(m, b) y = Gelu<approximate = "tanh">(a)', "bias.gelu_tanh"),
    ("m = MatMul(x, w) a = Add(m, b) y = Relu(a)", "bias.relu"),
    ("m = MatMul(x, w) y = Swish(m)", "silu"),
    ("m = MatMul(x, w) a = Add(m, b) y = Clip(a, zero, six)", "bias.relu6"),
    ("m = MatMul(x, w) a = Add(m, b) r = Neg(x) y = Add(r, a)", "bias.add"),
    ("r = Neg(x) m = MatMul(x, w) g = Swish(m) y = Mul(g, r)", "silu.mul"),
    ("r = Neg(x) m = MatMul(x, w) g = Tanh(m) t = Mul(g, r) y = Add(t, x)", "tanh.mul.add"),
    ("m = MatMul(x, w) y = Add(m, x)", "add"),
]


@pytest.mark.parametrize(("body", "overload"), LINEAR)
def test_linear(check: Check, body: str, overload: str) -> None:
    g = check(
        "fuse_linear", X + "<float zero = {0}, float six = {6}>", body, weights(w=(6, 6), b=(6,))
    )
    assert f"zenith.Linear:{overload}" in check.ops(g)
    assert "MatMul" not in check.ops(g)
    assert g.nodes[-1].overload == overload, "the whole chain"


LINEAR_PART = [
    ("m = MatMul(x, w) y = Add(m, b) z = Neg(m)", "", "a second user"),
    ("z = MatMul(x, w) y = Add(z, b)", "", "a graph output"),
    ("m = MatMul(x, w) z = Add(m, b) y = Relu(z)", "bias", "a graph output later"),
    ("m = MatMul(x, w) y = Add(m, one) z = Neg(x)", "", "not one per column"),
    ("m = MatMul(x, w) y = Add(m, row) z = Neg(x)", "", "a residual that broadcasts"),
    ("m = MatMul(x, w) y = Mul(m, m) z = Neg(x)", "", "both sides"),
    ("m = MatMul(x, w) y = Clip(m, one, six) z = Neg(x)", "", "other bounds"),
    ("m = MatMul(x, w) y = Swish<alpha = 1.5>(m) z = Neg(x)", "", "another alpha"),
    ("m = MatMul(x, w) a = Relu(m) y = Tanh(a) z = Neg(x)", "relu", "one activation"),
]


@pytest.mark.parametrize(("body", "overload", "why"), LINEAR_PART)
def test_linear_stops(check: Check, body: str, overload: str, why: str) -> None:
    signature = "(float[B,S,6] x) => (y, z) <float[1] one = {1}, float zero = {0}, float six = {6}>"
    g = check("fuse_linear", signature, body, weights(w=(6, 6), b=(6,), row=(1, 1, 6)))
    assert f"zenith.Linear:{overload}" in check.ops(g), why


@pytest.mark.parametrize(
    ("signature", "body"),
    [
        ("(float[B,6] x, float[6,5] w) => (y)", "y = MatMul(x, w)"),
        ("(float[6] x) => (y)", "y = MatMul(x, w)"),
        ("(float[3,B,6] x) => (y)", "y = MatMul(x, w3)"),
        ("(float[6,B] x) => (y)", "y = Gemm<transA = 1>(x, w)"),
        ("(float[B,6] x) => (y)", "y = Gemm<alpha = 2.0>(x, w)"),
        ("(float[B,6] x) => (y)", "y = Gemm<beta = 2.0>(x, w, b)"),
        ("(float[B,6] x, float[5] c) => (y)", "y = Gemm(x, w, c)"),
    ],
)
def test_linear_leaves(check: Check, signature: str, body: str) -> None:
    data = weights(w=(6, 5), b=(5,), w3=(3, 6, 5))
    data = {
        k: v
        for k, v in data.items()
        if k in body.replace("(", " ").replace(")", " ").replace(",", " ").split()
        and f"] {k})" not in signature
    }
    g = check("fuse_linear", signature, body, data)
    assert DOMAIN not in {n.domain for n in g.nodes}


@pytest.mark.parametrize("trans", [0, 1])
@pytest.mark.parametrize("bias", ["", ", b"])
def test_gemm(check: Check, trans: int, bias: str) -> None:
    body = f"m = Gemm<transB = {trans}>(x, w{bias}) y = Relu(m)"
    data = weights(w=(5, 6) if trans else (6, 5), **({"b": (5,)} if bias else {}))
    g = check("fuse_linear", "(float[B,6] x) => (y)", body, data)
    assert check.ops(g) == [f"zenith.Linear:{'bias.' if bias else ''}relu"]


UNFLATTEN = """f = Reshape(x, flat) m = MatMul(f, w) a = Add(b, m) r = Reshape(a, back)
               y = Add(r, x)"""
FLAT = "<int64[2] flat = {-1,6}, int64[3] back = {0,-1,6}>"


def test_unflatten(check: Check) -> None:
    signature = "(float[2,S,6] x) => (y) <int64[2] flat = {-1,6}, int64[3] back = {2,-1,6}>"
    g = check(["unflatten_linear", "fuse_linear"], signature, UNFLATTEN, weights(w=(6, 6), b=(6,)))
    assert check.ops(g) == ["zenith.Linear:bias.add"]
    body = "f = Reshape(x, flat) m = Gemm<transB = 1>(f, w, b) y = Reshape(m, back)"
    signature = "(float[2,S,6] x) => (y) <int64[2] flat = {-1,6}, int64[3] back = {2,-1,5}>"
    g = check("unflatten_linear", signature, body, weights(w=(5, 6), b=(5,)))
    assert check.ops(g) == ["MatMul", "Add"]


@pytest.mark.parametrize(
    "body",
    [
        "f = Reshape(x, flat) m = MatMul(f, w) a = Add(b, m) y = Reshape(a, other)",
        "f = Reshape(x, flat) m = MatMul(f, w) a = Add(b, m) z = Neg(a) y = Reshape(a, back)",
    ],
)
def test_unflatten_stays(check: Check, body: str) -> None:
    signature = (
        "(float[2,3,6] x) => (y, z) <int64[2] flat = {-1,6}, int64[3] back = {2,3,6},"
        "int64[3] other = {3,2,6}>"
    )
    if "z =" not in body:
        signature = signature.replace("(y, z)", "(y)")
    g = check("unflatten_linear", signature, body, weights(w=(6, 6), b=(6,)))
    assert "Reshape" in check.ops(g)


CONV = [
    ("y = Conv<pads = [1,1,1,1]>(x, w)", ""),
    ("y = Conv<pads = [1,1,1,1]>(x, w, b)", "bias"),
    ("c = Conv<pads = [1,1,1,1]>(x, w, b) y = Relu(c)", "bias.relu"),
    ("c = Conv<pads = [1,1,1,1]>(x, w, b) s = Add(c, x) y = Relu(s)", "bias.add.relu"),
    ("c = Conv<pads = [1,1,1,1]>(x, w, b) s = Relu(c) y = Add(x, s)", "bias.relu.add"),
    ("c = Conv<pads = [1,1,1,1]>(x, w, b) y = Clip(c, zero, six)", "bias.relu6"),
    ("c = Conv<pads = [1,1,1,1]>(x, w, b) y = HardSwish(c)", "bias.hardswish"),
    ("c = Conv<pads = [1,1,1,1]>(x, w) y = HardSigmoid<alpha = 0.16666667>(c)", "hardsigmoid"),
]


@pytest.mark.parametrize(("body", "overload"), CONV)
def test_conv(check: Check, body: str, overload: str) -> None:
    signature = "(float[B,3,5,6] x) => (y) <float zero = {0}, float six = {6}>"
    g = check("fuse_conv", signature, body, weights(w=(3, 3, 3, 3), b=(3,)))
    assert check.ops(g) == [f"zenith.ConvBiasAct:{overload}"]
    node = g.nodes[0]
    assert node.attributes["strides"].value == (1, 1)
    assert node.attributes["pads"].value == (1, 1, 1, 1)


@pytest.mark.parametrize(
    ("body", "ops"),
    [
        ('y = Conv<auto_pad = "SAME_UPPER">(x, w)', ["Conv"]),
        ("c = Conv<pads = [1,1,1,1]>(x, w) y = Mul(c, x)", ["zenith.ConvBiasAct:", "Mul"]),
        ("c = Conv<pads = [1,1,1,1]>(x, w) y = Add(c, one)", ["zenith.ConvBiasAct:", "Add"]),
        (
            "c = Conv<pads = [1,1,1,1]>(x, w) r = Relu(c) y = Add(c, r)",
            ["zenith.ConvBiasAct:", "Relu", "Add"],
        ),
    ],
)
def test_conv_stops(check: Check, body: str, ops: list[str]) -> None:
    signature = "(float[B,3,5,6] x) => (y) <float one = {1}>"
    assert check.ops(check("fuse_conv", signature, body, weights(w=(3, 3, 3, 3)))) == ops


def _block(
    residual: str = "y = Add(p, x)",
    expand: str = "",
    between: str = "Clip(e, zero, six)",
    depthwise: str = "pads = [1,1,1,1]",
    more: str = "",
) -> str:
    return f"""e = Conv{expand}(x, we, be) f = {between} {more}
               d = Conv<group = 9, {depthwise}>(f, wd, bd) g = Clip(d, zero, six)
               p = Conv(g, wp, bp) {residual}"""


@pytest.mark.parametrize(
    ("body", "overload"),
    [
        (_block(), "bias.relu6__bias.relu6__bias.add"),
        (_block("y = Relu(p)"), "bias.relu6__bias.relu6__bias.relu"),
        # What is expanded remains where it is not the block's alone.
        (_block(between="Identity(e)"), "bias.relu6__bias.add"),
        (_block(between="Add(e, o)"), "bias.relu6__bias.add"),
        (_block(more="z = Neg(f)"), "bias.relu6__bias.add"),  # a second user
        (_block("y = Relu(p)", expand="<pads = [1,1,1,1]>"), "bias.relu6__bias.relu"),
        (_block("y = Relu(p)", depthwise="dilations = [2,2]"), None),
        (_block("y = Relu(p)", depthwise="pads = [1,1,1,1], strides = [2,1]"), None),  # few rows
    ],
)
def test_bottleneck(check: Check, body: str, overload: str | None) -> None:
    results = "(y, z)" if "z = " in body else "(y)"
    signature = f"(float[B,4,16,15] x, float[B,9,16,15] o) => {results}"
    signature += " <float zero = {0}, float six = {6}>"
    shapes = {"we": (9, 4, 1, 1), "be": (9,), "wd": (9, 1, 3, 3), "bd": (9,)}
    w = weights(**shapes, wp=(4, 9, 1, 1), bp=(4,))
    found = check.ops(check(["fuse_conv", "fuse_bottleneck"], signature, body, w))
    if overload is None:
        assert not any("Bottleneck" in op for op in found)
    else:
        assert [op for op in found if "Bottleneck" in op] == [f"zenith.Bottleneck:{overload}"]
        assert (
            sum(1 + op.count("__") for op in found if op.startswith("zenith.")) == 3
        )  # convolutions


@pytest.mark.parametrize(
    ("m", "ops"),
    [
        (1024, ["zenith.Bottleneck:__"]),
        (1025, ["zenith.ConvBiasAct:", "zenith.ConvBiasAct:"]),  # too many weights for every strip
    ],
)
def test_depthwise_and_projection(check: Check, m: int, ops: list[str]) -> None:
    body = "d = Conv<group = 64, pads = [1,1,1,1]>(x, wd) y = Conv(d, wp)"
    w = weights(wd=(64, 1, 3, 3), wp=(m, 64, 1, 1))
    found = check(["fuse_conv", "fuse_bottleneck"], "(float[B,64,16,15] x) => (y)", body, w)
    assert check.ops(found) == ops


def test_a_whole_block_comes_first(check: Check) -> None:
    body = """s = Conv<group = 4, pads = [1,1,1,1]>(x, ws) e = Conv(s, we)
              d = Conv<group = 9, pads = [1,1,1,1]>(e, wd) y = Conv(d, wp)"""
    w = weights(ws=(4, 1, 3, 3), we=(9, 4, 1, 1), wd=(9, 1, 3, 3), wp=(4, 9, 1, 1))
    g = check(["fuse_conv", "fuse_bottleneck"], "(float[B,4,16,15] x) => (y)", body, w)
    assert check.ops(g) == ["zenith.ConvBiasAct:", "zenith.Bottleneck:____"]


@pytest.mark.parametrize("bias", [True, False])
def test_merge_qkv(check: Check, bias: bool) -> None:
    body = """q0 = MatMul(x, wq) k0 = MatMul(x, wk) v0 = MatMul(x, wv)
              q = Add(q0, bq) k = Add(k0, bk) v = Add(v0, bv)"""
    if not bias:
        body = "q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv)"
    data = weights(wq=(6, 8), wk=(6, 4), wv=(6, 4))
    if bias:
        data |= weights(bq=(8,), bk=(4,), bv=(4,))
    g = check(["fuse_linear", "merge_qkv", "dce"], "(float[B,S,6] x) => (q, k, v)", body, data)
    assert check.ops(g) == [f"zenith.Linear:{'bias' if bias else ''}", "Split"]
    assert len(g.initializers) == 2 + bias


def test_merge_qkv_leaves_gates_and_other_inputs(check: Check) -> None:
    body = """g = MatMul(x, wq) a = Swish(g) u = MatMul(x, wk) y = Mul(a, u)
              n = Neg(x) z = MatMul(n, wk)"""
    g = check(
        ["fuse_linear", "merge_qkv"],
        "(float[B,S,6] x) => (y, z)",
        body,
        weights(wq=(6, 4), wk=(6, 4)),
    )
    assert sorted(check.ops(g)) == [
        "Neg",
        "zenith.Linear:",
        "zenith.Linear:",
        "zenith.Linear:silu.mul",
    ]


def test_add_norm(check: Check) -> None:
    signature = "(float[B,S,6] x, float[B,S,6] r) => (y, z)"
    body = "s = Add(x, r) n = LayerNormalization<epsilon = 0.01>(s, w, b) y = Neg(n) z = Abs(s)"
    g = check("fuse_add_norm", signature, body, weights(w=(6,), b=(6,)))
    assert check.ops(g) == ["zenith.AddLayerNorm:", "Neg", "Abs"]
    body = "z = Add(x, r) y = RMSNormalization<epsilon = 0.01>(z, w)"
    g = check("fuse_add_norm", signature, body, weights(w=(6,)))
    assert check.ops(g) == ["zenith.AddRMSNorm:"]
    body = "z = Add(x, r) y = LayerNormalization(z, w)"
    g = check("fuse_add_norm", signature, body, weights(w=(6,)))
    assert check.ops(g) == ["zenith.AddLayerNorm:"]


@pytest.mark.parametrize(
    "body",
    [
        "s = Add(x, one) y = LayerNormalization(s, w)",
        "s = Add(x, row) y = LayerNormalization(s, w)",
        "s = Add(x, x) y = LayerNormalization<axis = 1>(s, w2)",
        "s = Sub(x, x) y = LayerNormalization(s, w)",
    ],
)
def test_add_norm_leaves(check: Check, body: str) -> None:
    data = weights(w=(6,), w2=(5, 6), row=(6,))
    data = {k: v for k, v in data.items() if k in body.replace(")", " ").replace(",", " ").split()}
    g = check("fuse_add_norm", "(float[B,5,6] x) => (y) <float one = {1}>", body, data)
    assert DOMAIN not in {n.domain for n in g.nodes}


GROUP_NORM = "n = GroupNormalization<num_groups = 2, epsilon = 0.01>(x, w, b)"


@pytest.mark.parametrize(
    ("body", "fused"),
    [
        (f"{GROUP_NORM} y = Swish(n)", "silu"),
        (f"{GROUP_NORM} y = Gelu(n)", "gelu"),
        (f"{GROUP_NORM} a = Relu(n) y = Add(a, x)", "relu"),
        ("n = InstanceNormalization(x, w, b) y = Relu(n)", "relu"),
    ],
)
def test_group_norm(check: Check, body: str, fused: str) -> None:
    g = check("fuse_group_norm", "(float[B,6,4,5] x) => (y)", body, weights(w=(6,), b=(6,)))
    assert check.ops(g)[0] == f"zenith.GroupNorm:{fused}"
    assert "Normalization" not in " ".join(check.ops(g))


@pytest.mark.parametrize(
    ("signature", "body"),
    [
        ("(float[B,6,4,5] x) => (y, z)", f"{GROUP_NORM} y = Relu(n) z = Neg(n)"),
        ("(float[B,6,4,5] x) => (y, n)", f"{GROUP_NORM} y = Relu(n)"),
        ("(float[B,6,4,5] x) => (y)", f"{GROUP_NORM} y = Neg(n)"),
        ("(float[B,6,4,5] x) => (y)", f"{GROUP_NORM} y = Swish<alpha = 1.5>(n)"),
        (
            "(float[3,B,4,5] x, float[B] w, float[B] b) => (y)",
            "n = InstanceNormalization(x, w, b) y = Relu(n)",
        ),
    ],
)
def test_group_norm_leaves(check: Check, signature: str, body: str) -> None:
    data = {} if "] w" in signature else weights(w=(6,), b=(6,))
    g = check("fuse_group_norm", signature, body, data)
    assert DOMAIN not in {n.domain for n in g.nodes}


def test_pointwise(check: Check) -> None:
    signature = "(float[B,S] x, float[S] r, bool[B,S] m) => (y) <float two = {2}>"
    body = """a = Mul(x, two) b = Add(a, r) c = Sigmoid(b) d = Mul(b, c)
              e = Where(m, d, two) y = LeakyRelu<alpha = 0.3>(e)"""
    g = check("fuse_pointwise", signature, body)
    assert [n.op_type for n in g.nodes] == ["Pointwise"]
    assert [v.name for v in g.nodes[0].inputs if v] == ["x", "two", "r", "m"]
    (function,) = g.model.functions.values()
    assert [n.op_type for n in function] == ["Mul", "Add", "Sigmoid", "Mul", "Where", "LeakyRelu"]


def test_pointwise_equal_chains_share_a_function(check: Check) -> None:
    body = "a = Neg(x) y = Exp(a) b = Neg(x) z = Exp(b)"
    g = check("fuse_pointwise", "(float[B,S] x) => (y, z)", body)
    assert [n.op_type for n in g.nodes] == ["Pointwise", "Pointwise"]
    assert len(g.model.functions) == 1


@pytest.mark.parametrize(
    ("body", "ops"),
    [
        ("a = Neg(x) z = Exp(a) y = Tanh(a)", ["Neg", "Exp", "Tanh"]),
        ("z = Neg(x) y = Exp(z)", ["Neg", "Exp"]),
        ("a = Neg(r) z = Exp(x) y = Add(x, a)", ["Neg", "Exp", "Add"]),
        ("a = Softmax(x) y = Exp(a) z = Neg(x)", ["Softmax", "Exp", "Neg"]),
        ("a = Cast<to = 10>(x) y = Neg(a) z = Neg(x)", ["Cast", "Neg", "Neg"]),
    ],
)
def test_pointwise_leaves(check: Check, body: str, ops: list[str]) -> None:
    signature = "(float[B,S] x, float[S] r) => (y, z)"
    g = check.build(signature, body)
    PassManager(["fuse_pointwise"], debug=True).run(g)
    assert check.ops(g) == ops


def test_pointwise_leaves_shape_computations(check: Check) -> None:
    body = "s = Shape(x) t = Mul(s, two) u = Add(t, two) y = Expand(r, u) "
    g = check("fuse_pointwise", "(float[B,S] x, float r) => (y) <int64 two = {2}>", body)
    assert check.ops(g) == ["Shape", "Mul", "Add", "Expand"]


def test_pointwise_limits(check: Check) -> None:
    body = "a0 = Neg(x) " + " ".join(f"a{i + 1} = Neg(a{i})" for i in range(9)) + " y = Exp(a9)"
    g = check([FusePointwise(nodes=4)], "(float[B,S] x) => (y)", body)
    assert [n.op_type for n in g.nodes] == ["Pointwise"] * 2 + ["Pointwise"]
    inputs = ", ".join(f"float[B,S] x{i}" for i in range(6))
    body = "a0 = Add(x0, x1) " + " ".join(f"a{i} = Add(a{i - 1}, x{i + 1})" for i in range(1, 5))
    g = check([FusePointwise(inputs=4)], f"({inputs}) => (a4)", body)
    assert len(g) == 2
    assert all(len(n.inputs) <= 4 for n in g.nodes)


GOLDEN_IN = """<ir_version: 10, opset_import: ["" : 28]>
g (float[B,2] x) => (float[B,2] y)
<float[2,2] w = {1,2,3,4}, float[2] b = {5,6}, float[2] s = {1,1}, float[2] t = {0,0}> {
  m = MatMul(x, w)
  a = Add(m, b)
  g = Gelu(a)
  h = MatMul(g, w)
  i = Add(h, b)
  r = Add(i, x)
  y = LayerNormalization(r, s, t)
}"""
GOLDEN_OUT = """{
   g = zenith.Linear:bias__gelu (x, w, b)
   r = zenith.Linear:bias__add (g, w, b, x)
   y = LayerNormalization (r, s, t)
}
"""


def test_golden_text() -> None:
    from zenith.passes import LOWER_CPU

    graph = GraphIR.from_text(GOLDEN_IN).infer_shapes()
    PassManager(LOWER_CPU[2], debug=True).run(graph)
    text = graph.to_text()
    assert GOLDEN_OUT in text
    assert GraphIR.from_text(text).fingerprint() == graph.fingerprint()


FLAT_ATTENTION = """a = Attention(q, q, q) t = Transpose<perm = [0,2,1,3]>(a) r = Reshape(t, join)
    f = Reshape(r, flat) m = MatMul(f, w) c = Add(b, m) u = Reshape(c, back) y = Add(u, x)"""


def test_pipeline_keeps_the_reshape_that_unflatten_needs(check: Check) -> None:
    from zenith.passes import LOWER_CPU, optimize_graph

    signature = (
        "(float[B,3,S,2] q, float[B,S,6] x) => (y) <int64[3] join = {0,0,6},int64[2] flat = {-1,6}>"
    )
    body = "s = Shape(x) " + FLAT_ATTENTION.replace("back)", "s)")
    graph = check.build(signature, body, weights(w=(6, 6), b=(6,)))
    after, _ = optimize_graph(graph, 2, debug=True)
    PassManager(LOWER_CPU[2], debug=True).run(after)
    assert check.ops(after)[-1] == "zenith.Linear:bias.add"


def test_nodes_with_subgraphs_keep_what_they_use(check: Check) -> None:
    signature = "(float[B,S,6] x, bool c) => (y, z)"
    body = """m = MatMul(x, w) a = Add(m, b) z = Relu(a)
        y = If(c) <then_branch = g1 () => (float[B,S,6] t) { t = Neg(m) },
                   else_branch = g2 () => (float[B,S,6] e) { e = Exp(m) }>"""
    g = check(["fuse_linear", "fuse_pointwise", "dce"], signature, body, weights(w=(6, 6), b=(6,)))
    assert check.ops(g) == ["zenith.Linear:", "zenith.Pointwise:" + g.nodes[1].overload, "If"]
