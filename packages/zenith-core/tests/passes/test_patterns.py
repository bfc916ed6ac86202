"""Decomposed forms become one operator: in every spelling that is exact, and in no other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

Check = Any


def weights(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    local = np.random.default_rng(1)
    return {k: local.standard_normal(s).astype(np.float32) for k, s in shapes.items()}


NUMBERS = (
    "<float half = {0.5}, float one = {1}, float two = {2}, float three = {3},"
    "float r2 = {1.4142135}, float ir2 = {0.70710678}, float k = {0.7978845608},"
    "float c = {0.044715}, float ck = {0.0356774081}, float bad = {1.41}, float mh = {-0.5},"
    "float eps = {0.001}, float nought = {0},"
    "int64[1] last = {-1}, int64[1] l2 = {2}, int64[1] l1 = {1}>"
)
X = "(float[B,S,6] x) => (y)" + NUMBERS
XZ = "(float[B,S,6] x) => (y, z)" + NUMBERS

ERF = [
    "a = Div(x, r2) e = Erf(a) s = Add(e, one) m = Mul(x, s) y = Mul(m, half)",
    "a = Mul(x, ir2) e = Erf(a) s = Add(one, e) m = Mul(half, s) y = Mul(x, m)",
    "h = Mul(x, half) a = Mul(ir2, x) e = Erf(a) s = Add(e, one) y = Mul(h, s)",
    "a = Div(x, r2) e = Erf(a) s = Add(e, one) m = Mul(s, x) y = Div(m, two)",
    "n = Mul(x, three) a = Div(n, r2) e = Erf(a) s = Add(e, one) m = Mul(n, s) y = Mul(m, half)",
]
TANH = [
    """p = Pow(x, three) q = Mul(p, c) s = Add(x, q) i = Mul(s, k) t = Tanh(i) u = Add(t, one)
       h = Mul(x, half) y = Mul(h, u)""",
    """p = Mul(x, x) p3 = Mul(p, x) q = Mul(c, p3) s = Add(q, x) i = Mul(k, s) t = Tanh(i)
       u = Add(one, t) h = Mul(half, x) y = Mul(u, h)""",
    """p = Mul(x, x) q = Mul(p, c) s = Add(q, one) w = Mul(x, k) i = Mul(w, s) t = Tanh(i)
       u = Add(one, t) h = Mul(half, u) y = Mul(x, h)""",
    """p = Pow(x, three) q = Mul(p, ck) w = Mul(x, k) i = Add(w, q) t = Tanh(i)
       u = Add(one, t) h = Mul(half, u) y = Mul(x, h)""",
]


@pytest.mark.parametrize("body", ERF)
def test_gelu_erf(check: Check, body: str) -> None:
    g = check("fuse_gelu", X, body)
    assert check.ops(g)[-1] == "Gelu"
    assert "Erf" not in check.ops(g)


@pytest.mark.parametrize("body", TANH)
def test_gelu_tanh(check: Check, body: str) -> None:
    g = check("fuse_gelu", X, body)
    assert check.ops(g) == ["Gelu"]
    assert g.nodes[0].attributes["approximate"].value == "tanh"


@pytest.mark.parametrize(
    "body",
    [
        "a = Div(x, bad) e = Erf(a) s = Add(e, one) m = Mul(x, s) y = Mul(m, half) z = Neg(x)",
        "a = Div(x, r2) e = Erf(a) s = Add(e, two) m = Mul(x, s) y = Mul(m, half) z = Neg(x)",
        "a = Div(x, r2) z = Erf(a) s = Add(z, one) m = Mul(x, s) y = Mul(m, half)",
        "a = Div(x, r2) e = Erf(a) s = Add(e, one) m = Mul(x, s) y = Mul(m, half) z = Neg(s)",
        "a = Div(x, r2) e = Erf(a) s = Add(e, one) z = Neg(x) m = Mul(z, s) y = Mul(m, half)",
        "a = Div(x, r2) e = Erf(a) s = Add(e, one) y = Mul(x, s) z = Neg(x)",
        "a = Div(x, r2) e = Tanh(a) s = Add(e, one) m = Mul(x, s) y = Mul(m, half) z = Neg(x)",
    ],
)
def test_gelu_stays(check: Check, body: str) -> None:
    before = check.ops(check.build(XZ, body))
    assert check.ops(check("fuse_gelu", XZ, body)) == before


def test_silu(check: Check) -> None:
    assert check.ops(check("fuse_silu", X, "s = Sigmoid(x) y = Mul(s, x)")) == ["Swish"]
    hard = "s = HardSigmoid<alpha = 0.16666667>(x) y = Mul(x, s)"
    assert check.ops(check("fuse_silu", X, hard)) == ["HardSwish"]
    for body in (
        "z = Sigmoid(x) y = Mul(z, x)",
        "s = Sigmoid(x) z = Neg(s) y = Mul(s, x)",
        "z = Neg(x) s = Sigmoid(z) y = Mul(s, x)",
        "s = HardSigmoid(x) y = Mul(x, s) z = Neg(x)",
    ):
        assert "Mul" in check.ops(check("fuse_silu", XZ, body))


SOFTMAX = "m = ReduceMax(x, {0}) d = Sub(x, m) e = Exp(d) t = ReduceSum(e, {1}) y = Div(e, t)"


def test_softmax(check: Check) -> None:
    g = check("fuse_softmax", X, SOFTMAX.format("last", "l2"))
    assert check.ops(g) == ["Softmax"]
    g = check("fuse_softmax", X, SOFTMAX.format("l1", "l1"))
    assert g.nodes[0].attributes["axis"].value == 1
    for body in (
        SOFTMAX.format("l1", "last") + " z = Neg(x)",
        SOFTMAX.format("last", "last") + " z = Neg(e)",
        SOFTMAX.format("last", "last").replace("e = Exp", "z = Exp").replace("(e", "(z"),
    ):
        assert "Softmax" not in check.ops(check("fuse_softmax", XZ, body))


RMS = [
    """p = Pow(x, two) m = ReduceMean(p, last) e = Add(m, eps) r = Sqrt(e) n = Div(x, r)
       y = Mul(n, w)""",
    """p = Mul(x, x) m = ReduceMean(p, l2) e = Add(eps, m) r = Sqrt(e) i = Reciprocal(r)
       n = Mul(i, x) y = Mul(w, n)""",
    """p = Mul(x, x) m = ReduceMean(p, l2) e = Add(m, eps) i = Pow(e, mh) n = Mul(x, i)
       y = Mul(w, n)""",
    """p = Mul(x, x) m = ReduceMean(p, l2) e = Add(m, eps) r = Sqrt(e) i = Div(one, r)
       n = Mul(x, i) y = Mul(w, n)""",
    """p = Mul(x, x) m = ReduceMean(p, l2) e = Add(m, eps) r = Sqrt(e) i = Reciprocal(r)
       n = Mul(i, w) y = Mul(x, n)""",
]


@pytest.mark.parametrize("body", RMS)
def test_rms_norm(check: Check, body: str) -> None:
    g = check("fuse_rms_norm", X, body, weights(w=(6,)))
    assert check.ops(g) == ["RMSNormalization"]


def test_rms_norm_spellings(check: Check) -> None:
    bare = "p = Mul(x, x) m = ReduceMean(p, l2) e = Add(m, eps) r = Sqrt(e) y = Div(x, r)"
    assert check.ops(check("fuse_rms_norm", X, bare)) == ["RMSNormalization"]
    gemma = "g = Add(one, w) " + RMS[0].replace(", w)", ", g)")
    g = check(["fold_constants", "dce", "fuse_rms_norm"], X, gemma, weights(w=(6,)))
    assert check.ops(g) == ["RMSNormalization"]
    casts = "h = Cast<to = 1>(x) " + RMS[0].replace("x", "h")
    g = check(
        ["identities", "fuse_rms_norm"],
        X,
        casts.replace("h = Cast<to = 1>(h)", "h = Cast<to = 1>(x)"),
        weights(w=(6,)),
    )
    assert check.ops(g) == ["RMSNormalization"]
    double = X.replace("float", "double")
    g = check("fuse_rms_norm", double, RMS[0], {"w": np.arange(6.0)})
    assert "RMSNormalization" not in check.ops(g), "float32 only"


@pytest.mark.parametrize(
    "body",
    [
        RMS[0].replace("last", "l1") + " z = Neg(x)",
        RMS[0].replace("two", "three") + " z = Neg(x)",
        RMS[0] + " z = Neg(m)",
        RMS[0] + " z = Neg(r)",
        RMS[-1] + " z = Neg(n)",
        RMS[0].replace("Sqrt", "Exp") + " z = Neg(x)",
        "z = Neg(x) " + RMS[0].replace("Pow(x", "Pow(z"),
        RMS[0].replace("ReduceMean(", "ReduceMean<keepdims = 0>(").replace("S,6", "")
        + " z = Neg(x)",
    ],
)
def test_rms_norm_stays(check: Check, body: str) -> None:
    signature = XZ.replace("[B,S,6]", "[6,6,6]") if "keepdims" in body else XZ
    feeds = None
    g = check("fuse_rms_norm", signature, body, weights(w=(6,)), feeds=feeds)
    assert "RMSNormalization" not in check.ops(g)


@pytest.mark.parametrize(
    "body",
    [
        "a = Relu(x) y = Min(a, two)",
        "a = Max(one, x) y = Min(two, a)",
        "a = Max(x, one) y = Min(a, one)",
    ],
)
def test_clip(check: Check, body: str) -> None:
    assert check.ops(check("fuse_clip", X, body, weights())) == ["Clip"]


@pytest.mark.parametrize(
    "body",
    [
        "a = Max(x, two) y = Min(a, one) z = Neg(x)",
        "a = Relu(x) y = Min(a, two) z = Neg(a)",
        "a = Relu(x) y = Min(a, x) z = Neg(x)",
    ],
    ids=["crossed", "read elsewhere", "no number"],
)
def test_clip_stays(check: Check, body: str) -> None:
    assert "Clip" not in check.ops(check("fuse_clip", XZ, body, weights()))


HARD = "<float three = {3}, float six = {6}, float nought = {0}, float sixth = {0.16666667}>"
HARD_X, HARD_XZ = "(float[B,S,6] x) => (y)" + HARD, "(float[B,S,6] x) => (y, z)" + HARD
SWISHES = {
    "a = Add(x, three) c = Clip(a, nought, six) g = Div(c, six) y = Mul(x, g)": ["HardSwish"],
    "a = Add(three, x) c = Clip(a, nought, six) g = Mul(sixth, c) y = Mul(g, x)": ["HardSwish"],
    "a = Add(x, three) c = Clip(a, nought, six) p = Mul(c, x) y = Div(p, six)": ["HardSwish"],
    "a = Add(x, three) c = Clip(a, nought, six) y = Div(c, six)": ["HardSigmoid"],
    "n = Neg(x) a = Add(x, three) c = Clip(a, nought, six) p = Mul(n, c) y = Mul(p, sixth)": [
        "Neg", "HardSigmoid", "Mul",
    ],
}  # fmt: skip


@pytest.mark.parametrize("body", SWISHES)
def test_hard_sigmoid_and_swish(check: Check, body: str) -> None:
    graph = check(["fuse_hard_sigmoid", "fuse_silu"], HARD_X, body, weights())
    assert check.ops(graph) == SWISHES[body]


@pytest.mark.parametrize(
    "body",
    [
        "a = Add(x, six) c = Clip(a, nought, six) y = Div(c, six) z = Neg(x)",
        "a = Add(x, three) c = Clip(a, nought, three) y = Div(c, six) z = Neg(x)",
        "a = Add(x, three) c = Clip(a, nought, six) y = Div(c, three) z = Neg(x)",
        "a = Add(x, three) c = Clip(a, nought, six) y = Div(c, six) z = Neg(c)",
        "a = Add(x, three) c = Clip(a, nought, six) y = Div(six, c) z = Neg(a)",
    ],
)
def test_hard_sigmoid_stays(check: Check, body: str) -> None:
    assert "HardSigmoid" not in check.ops(check("fuse_hard_sigmoid", HARD_XZ, body, weights()))


def test_hard_sigmoid_is_not_for_integers(check: Check) -> None:
    numbers = "<int32 three = {3}, int32 six = {6}, int32 nought = {0}>"
    body = "a = Add(x, three) c = Clip(a, nought, six) y = Div(c, six)"
    feeds = {"x": np.arange(-8, 8, dtype=np.int32)}
    graph = check("fuse_hard_sigmoid", "(int32[B] x) => (y)" + numbers, body, {}, feeds=feeds)
    assert "HardSigmoid" not in check.ops(graph)


LN = """m = ReduceMean(x, last) d = Sub(x, m) p = Pow(d, two) v = ReduceMean(p, last)
        e = Add(v, eps) r = Sqrt(e) n = Div(d, r) q = Mul(n, w) y = Add(q, b)"""


BY_SQUARES = """m = ReduceMean(x, last) q = Mul(x, x) v = ReduceMean(q, last) n = Mul(m, m)
    d = Sub(v, n) {cut} t = Add({e}, eps) r = Sqrt(t) i = Reciprocal(r) g = Sub(x, m) {scale}"""
ON_FACTOR = "f = Mul(i, w) s = Mul(g, f) y = Add(s, b)"


@pytest.mark.parametrize("cut", ["", "e = Relu(d)", "e = Max(nought, d)"])
@pytest.mark.parametrize("scale", [ON_FACTOR, "f = Mul(g, i) s = Mul(f, w) y = Add(b, s)"])
def test_layer_norm_by_squares(check: Check, cut: str, scale: str) -> None:
    body = BY_SQUARES.format(cut=cut, e="e" if cut else "d", scale=scale)
    g = check(["fold_constants", "fuse_layer_norm", "dce"], X, body, weights(w=(6,), b=(6,)))
    assert check.ops(g) == ["LayerNormalization"]
    bare = BY_SQUARES.format(cut=cut, e="e" if cut else "d", scale="y = Mul(i, g)")
    g = check(["fold_constants", "fuse_layer_norm", "dce"], X, bare)
    assert check.ops(g) == ["LayerNormalization"]


def test_layer_norm_by_squares_stays(check: Check) -> None:
    body = BY_SQUARES.format(cut="", e="d", scale=ON_FACTOR)
    row = weights(w=(6,), b=(6,))
    for text, signature in (
        (body.replace("d = ", "z = ").replace("(d, eps", "(z, eps"), XZ),  # variance is a result
        (body.replace("Mul(m, m)", "Mul(m, x)"), X),
        (body.replace("ReduceMean(q, last)", "ReduceMean(q, l1)"), X),
        (body.replace("Sub(v, n)", "Sub(n, v)"), X),
    ):
        g = check("fuse_layer_norm", signature, text, row)
        assert "LayerNormalization" not in check.ops(g)


def test_layer_norm(check: Check) -> None:
    g = check("fuse_layer_norm", X, LN, weights(w=(6,), b=(6,)))
    assert check.ops(g) == ["LayerNormalization"]
    no_bias = LN.replace("q = Mul(n, w) y = Add(q, b)", "y = Mul(n, w)")
    assert check.ops(check("fuse_layer_norm", X, no_bias, weights(w=(6,)))) == [
        "LayerNormalization"
    ]
    bare = LN.replace("n = Div(d, r) q = Mul(n, w) y = Add(q, b)", "y = Div(d, r)")
    assert check.ops(check("fuse_layer_norm", X, bare)) == ["LayerNormalization"]
    g = check(
        "fuse_layer_norm", XZ, LN.replace("q =", "z =").replace("q,", "z,"), weights(w=(6,), b=(6,))
    )
    assert check.ops(g) == ["LayerNormalization", "Add"], "the scaled value is an output"
    for body in (
        LN + " z = Neg(d)",
        LN + " z = Neg(m)",
        LN.replace("(x, last)", "(x, l1)") + " z = Neg(x)",
    ):
        g = check("fuse_layer_norm", XZ, body, weights(w=(6,), b=(6,)))
        assert "LayerNormalization" not in check.ops(g)


ROTARY = """f = Concat<axis = -1>(t, t) c0 = Cos(f) s0 = Sin(f)
    cos = Unsqueeze(c0, i1) sin = Unsqueeze(s0, i1)
    a = Slice(q, i0, i4, m1, i1) b = Slice(q, i4, end, m1, i1) n = Neg(b)
    h = Concat<axis = -1>(n, a) qc = Mul(q, cos) hs = Mul(h, sin) y = Add(qc, hs)"""
ROT = (
    "<int64[1] i0 = {0}, int64[1] i1 = {1}, int64[1] i2 = {2}, int64[1] i4 = {4},"
    "int64[1] m1 = {-1}, int64[1] end = {9223372036854775807}>"
)


@pytest.mark.parametrize("batch", ["1", "B"])
@pytest.mark.parametrize("query", ["B", "2"])
def test_rotary(check: Check, batch: str, query: str) -> None:
    if (batch, query) == ("B", "2"):
        batch = "2"
    signature = f"(float[{query},3,S,8] q, float[{batch},S,4] t) => (y)" + ROT
    g = check(["fuse_rotary", "dce"], signature, ROTARY)
    assert "RotaryEmbedding" in check.ops(g)
    assert "Neg" not in check.ops(g)
    assert ("Expand" in check.ops(g)) == (batch == "1")


def test_rotary_constant_caches_and_split(check: Check) -> None:
    body = """a, b = Split<axis = 3, num_outputs = 2>(q) n = Neg(b) h = Concat<axis = -1>(n, a)
              hs = Mul(sin, h) qc = Mul(cos, q) y = Add(hs, qc)"""
    rng = np.random.default_rng(0)
    half = rng.standard_normal((1, 1, 5, 4)).astype(np.float32)
    cos = np.concatenate([half, half], -1)
    signature = "(float[1,3,5,8] q) => (y)"
    g = check(["fuse_rotary", "dce"], signature, body, {"cos": cos, "sin": cos * cos})
    assert check.ops(g) == ["RotaryEmbedding"]
    g = check(
        "fuse_rotary", signature, body, {"cos": cos, "sin": cos + np.arange(8, dtype=np.float32)}
    )
    assert "RotaryEmbedding" not in check.ops(g)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("f = Concat<axis = -1>(t, t)", "u = Neg(t) f = Concat<axis = -1>(t, u)"),
        ("(n, a)", "(a, n)"),
        ("a = Slice(q, i0, i4, m1, i1)", "a = Slice(q, i2, i4, m1, i1)"),
        ("n = Neg(b)", "n = Abs(b)"),
        ("y = Add", "y = Sub"),
        ("qc = Mul(q, cos)", "q2 = Neg(q) qc = Mul(q2, cos)"),
    ],
)
def test_rotary_stays(check: Check, old: str, new: str) -> None:
    signature = "(float[B,3,S,8] q, float[B,S,4] t) => (y)" + ROT
    body = ROTARY.replace(old, new)
    if "i2, i4" in body:
        body = body.replace("b = Slice(q, i4,", "b = Slice(q, i2,")
    g = check("fuse_rotary", signature, body)
    assert "RotaryEmbedding" not in check.ops(g)


ATT = """kt = Transpose<perm = [0,1,3,2]>(k) s0 = MatMul(q, kt) s = Div(s0, eight) {mask}
         p = Softmax<axis = -1>({name}) y = MatMul(p, v)"""
QKV = "float[B,3,S,8] q, float[B,3,T,8] k, float[B,3,T,5] v"
CONST = "<float eight = {8}, float low = {-3.0e38}, float soft = {-10000.0}, float q4 = {0.25}>"
SIZES = {"B": 2, "S": 4, "T": 6, "G": 4}


@pytest.mark.parametrize(
    ("mask", "more"),
    [
        ("", ""),
        ("a = Add(s, m)", ", float[B,1,S,T] m"),
        ("a = Add(m, s)", ", float[1,1,1,T] m"),
        ("a = Add(m, s)", ", float[S,T] m"),
        ("a = Where(m, s, low)", ", bool[B,1,S,T] m"),
    ],
)
def test_attention(check: Check, mask: str, more: str) -> None:
    body = ATT.format(mask=mask, name="a" if mask else "s")
    passes = ["fuse_attention", "identities", "dce"]
    g = check(passes, f"({QKV}{more}) => (y)" + CONST, body, sizes=SIZES)
    expected = ["Where", "Attention"] if "Where" in mask else ["Attention"]
    assert check.ops(g) == expected
    assert g.nodes[-1].attributes["scale"].value == 0.125


@pytest.mark.parametrize(
    "body",
    [
        """qs = Mul(q, q4) kt = Transpose<perm = [0,1,3,2]>(k) s = MatMul(qs, kt)
           p = Softmax(s) y = MatMul(p, v)""",
        """qs = Mul(q, q4) kt = Transpose<perm = [0,1,3,2]>(k) ks = Mul(q4, kt) s = MatMul(qs, ks)
           p = Softmax<axis = 3>(s) y = MatMul(p, v)""",
        """kt = Transpose<perm = [0,1,3,2]>(k) s = MatMul(q, kt) p = Softmax(s) y = MatMul(p, v)""",
        """h = Transpose<perm = [0,2,1,3]>(q) hs = Div(h, eight)
           qs = Transpose<perm = [0,2,1,3]>(hs) kt = Transpose<perm = [0,1,3,2]>(k)
           s = MatMul(qs, kt) p = Softmax(s) y = MatMul(p, v)""",
    ],
)
def test_attention_scales(check: Check, body: str) -> None:
    g = check(["fuse_attention", "identities", "dce"], f"({QKV}) => (y)" + CONST, body, sizes=SIZES)
    assert check.ops(g) == ["Attention"]


def test_attention_of_three_axes(check: Check) -> None:
    signature = "(float[G,S,8] q, float[G,T,8] k, float[G,T,5] v, float[G,S,T] m) => (y)" + CONST
    body = ATT.format(mask="a = Add(s, m)", name="a").replace("[0,1,3,2]", "[0,2,1]")
    g = check(["fuse_attention", "identities", "dce"], signature, body, sizes=SIZES)
    assert "Attention" in check.ops(g)
    assert "Softmax" not in check.ops(g)


@pytest.mark.parametrize(
    ("body", "more"),
    [
        (ATT.format(mask="z = Neg(s)", name="s"), ""),
        (ATT.format(mask="", name="s").replace("axis = -1", "axis = 2") + "z = Neg(q)", ""),
        (ATT.format(mask="", name="s").replace("p =", "z =").replace("(p,", "(z,"), ""),
        (ATT.format(mask="a = Add(s, m)", name="a") + " z = Neg(q)", ", float[B,1,S,1] m"),
        (ATT.format(mask="a = Where(m, s, soft)", name="a") + " z = Neg(q)", ", bool[B,1,S,T] m"),
        (ATT.format(mask="a = Mul(s, m)", name="a") + " z = Neg(q)", ", float[B,1,S,T] m"),
    ],
)
def test_attention_stays(check: Check, body: str, more: str) -> None:
    g = check("fuse_attention", f"({QKV}{more}) => (y, z)" + CONST, body, sizes=SIZES)
    assert "Attention" not in check.ops(g)


REPEAT = """k1 = Unsqueeze(k, i2) k2 = Expand(k1, many) kr = Reshape(k2, heads)
    v1 = Unsqueeze(v, i2) v2 = Expand(v1, many) vr = Reshape(v2, heads)
    y = Attention(q, kr, vr)"""
GQA = "(float[B,6,S,8] q, float[B,2,T,8] k, float[B,2,T,8] v) => (y)"
GQA_CONST = "<int64[1] i2 = {2}, int64[5] many = {1,1,3,1,1}, int64[4] heads = {0,6,-1,8}>"


def test_repeat_kv(check: Check) -> None:
    g = check(["drop_repeat_kv", "dce"], GQA + GQA_CONST, REPEAT, sizes=SIZES)
    assert check.ops(g) == ["Attention"]


def test_repeat_kv_stays(check: Check) -> None:
    interleaved = REPEAT.replace("i2)", "i1)").replace("many", "front")
    constants = GQA_CONST.replace(">", ", int64[1] i1 = {1}, int64[5] front = {1,3,1,1,1}>")
    g = check("drop_repeat_kv", GQA + constants, interleaved, sizes=SIZES)
    assert len(g) == 7, "heads in another order"


def test_repeat_kv_after_decomposed_attention(check: Check) -> None:
    body = REPEAT.replace(
        "y = Attention(q, kr, vr)",
        "kt = Transpose<perm = [0,1,3,2]>(kr) s = MatMul(q, kt) p = Softmax(s) y = MatMul(p, vr)",
    )
    passes = ["fuse_attention", "identities", "dce", "drop_repeat_kv", "dce"]
    g = check(passes, GQA + GQA_CONST, body, sizes=SIZES)
    assert check.ops(g) == ["Attention"]
