"""Folding, identities, CSE, DCE and BatchNorm: against the reference, and where not to fire."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from zenith.errors import CompilationError, ConfigurationError
from zenith.ir import SOURCE_KEY, GraphIR
from zenith.passes import CANONICALIZE, LOWER_CPU, PASSES, PassManager, get_pass, optimize_graph
from zenith.passes.fold_constants import FoldConstants

X = "(float[B,4] x) => (y)"
Check = Any


GONE = [
    "a = Relu(x) b = Identity(a) y = Neg(b)",
    "a = Relu(x) b = Cast<to = 1>(a) y = Neg(b)",
    "a = Relu(x) b = CastLike(a, x) y = Neg(b)",
    "a = Relu(x) b = Transpose<perm = [0, 1]>(a) y = Neg(b)",
    "a = Relu(x) b = Dropout(a) y = Neg(b)",
    "a = Relu(x) b = Add(a, zero) y = Neg(b)",
    "a = Relu(x) b = Add(zero, a) y = Neg(b)",
    "a = Relu(x) b = Mul(one, a) y = Neg(b)",
    "a = Relu(x) b = Div(a, one) y = Neg(b)",
    "a = Relu(x) b = Sub(a, zero) y = Neg(b)",
    "a = Relu(x) b = Pow(a, one) y = Neg(b)",
    "a = Relu(x) b = Clip(a) y = Neg(b)",
    "a = Relu(x) b = Concat<axis = 1>(a) y = Neg(b)",
    "a = Relu(x) b = Concat<axis = 1>(a, none) y = Neg(b)",
    "a = Relu(x) b = Max(a) y = Neg(b)",
    "a = Relu(x) b = Slice(a, i0, i9, i1) y = Neg(b)",
    "a = Relu(x) b = Expand(a, ones) y = Neg(b)",
    "a = Relu(x) b = Tile(a, ones) y = Neg(b)",
    "a = Relu(x) b = Pad(a, zeros) y = Neg(b)",
    "a = Relu(x) b = Reshape(a, keep) y = Neg(b)",
    "a = Relu(x) u = Unsqueeze(a, i1) b = Squeeze(u, i1) y = Neg(b)",
    "a = Relu(x) u = Reshape(a, flat) b = Reshape(u, rows) y = Neg(b)",
    "a = Relu(x) u = Transpose(a) b = Transpose(u) y = Neg(b)",
    "a = Relu(x) b = Where(yes, a, zero) y = Neg(b)",
    "a = Relu(x) b = Where(no, zero, a) y = Neg(b)",
]
CONSTANTS = (
    "<float zero = {0}, float one = {1}, float two = {2}, int64[1] i0 = {0}, int64[1] i1 = {1},"
    "int64[1] i9 = {9}, int64[2] ones = {1,1}, int64[4] zeros = {0,0,0,0},"
    "int64[2] keep = {0,0}, int64[1] flat = {-1}, int64[2] rows = {-1,4}, int64[1] m1 = {-1},"
    "int64[1] far = {-99}, int64[4] crop = {0,1,0,1},"
    "bool yes = {1}, bool no = {0}, float[3,1,4] big = {0,0,0,0,0,0,0,0,0,0,0,0}>"
)
STAYS = [
    "a = Relu(x) b = Cast<to = 7>(a) y = Neg(b)",
    "a = Relu(x) b = Add(a, one) y = Neg(b)",
    "a = Relu(x) b = Mul(a, zero) y = Neg(b)",
    "a = Relu(x) b = Sub(zero, a) y = Neg(b)",
    "a = Sigmoid(x) b = Div(one, a) y = Neg(b)",
    "a = Relu(x) b = Add(a, big) y = Neg(b)",
    "a = Relu(x) b = Slice(a, m1, far, i1, m1) y = Neg(b)",
    "a = Relu(x) b = Pad(a, crop) y = Neg(b)",
    "a = Relu(x) b = Clip(a, zero) y = Neg(b)",
    "a = Relu(x) u = Transpose(a) y = Neg(u)",
    "a = Relu(x) b = Where(yes, zero, a) y = Neg(b)",
]


@pytest.mark.parametrize("body", GONE)
def test_identities_go(check: Check, body: str) -> None:
    signature = "(float[4,4] x) => (y)" if "none" in body else X
    none = {"none": np.zeros((4, 0), np.float32)} if "none" in body else {}
    g = check(["identities", "dce"], signature + CONSTANTS, body, none)
    assert check.ops(g) == ["Relu", "Neg"]


@pytest.mark.parametrize("body", STAYS)
def test_identities_stay(check: Check, body: str) -> None:
    before = check.ops(check.build(X + CONSTANTS, body))
    assert check.ops(check(["identities", "dce"], X + CONSTANTS, body)) == before


def test_what_is_broadcast_anyway(check: Check) -> None:
    sizes = "<int64[3] s = {2,3,4}, int64[3] r = {1,3,1}, bool yes = {1}, float low = {-7}>"
    body = "e = Expand(yes, s) a = And(e, m) w = Where(a, x, low) y = Neg(w)"
    g = check(["identities", "dce"], "(float[2,3,4] x, bool[3,4] m) => (y)" + sizes, body)
    assert check.ops(g) == ["Where", "Neg"]
    body = "e = Expand(m, s) w = Where(e, x, low) y = Neg(w)"
    g = check(["identities", "dce"], "(float[3,4] x, bool[3,4] m) => (y)" + sizes, body)
    assert check.ops(g) == ["Expand", "Where", "Neg"], "the condition gives an axis"
    g = check("identities", "(float[2,1,4] x) => (y)" + sizes, "t = Tile(x, r) y = Neg(t)")
    assert check.ops(g) == ["Expand", "Neg"]
    g = check("identities", "(float[2,3,4] x) => (y)" + sizes, "t = Tile(x, r) y = Neg(t)")
    assert check.ops(g) == ["Tile", "Neg"], "elements are written more than once"


def test_shapes_are_read_of_inputs(check: Check) -> None:
    signature = "(float[B,S,4] x) => (y, z)"
    body = """a = Relu(x) t = Transpose<perm = [2,1,0]>(a) z = Exp(t)
              s = Shape<start = 0, end = 2>(z) y = Cast<to = 1>(s)"""
    g = check(["identities", "dce"], signature, body)
    assert sorted(check.ops(g)) == sorted(["Relu", "Transpose", "Exp", "Shape", "Concat", "Cast"])
    (shape,) = (n for n in g.nodes if n.op_type == "Shape")
    assert shape.inputs[0] is g.inputs[0] and shape.attributes["start"].value == 1
    signature = "(float[B,4] x) => (y)"
    body = "a = NonZero(x) s = Shape(a) y = Cast<to = 1>(s)"
    g = check("identities", signature, body)
    assert check.ops(g) == ["NonZero", "Shape", "Cast"], "no input has that size"


def test_views_merge(check: Check) -> None:
    perm = "a = Transpose<perm = [1,2,0]>(x) b = Transpose<perm = [1,0,2]>(a) y = Relu(b)"
    g = check("identities", "(float[B,3,4] x) => (y)", perm)
    assert check.ops(g) == ["Transpose", "Relu"]
    shapes = "a = Reshape(x, p) b = Reshape(a, q) y = Relu(b)"
    g = check(
        ["identities", "dce"],
        "(float[B,6,4] x) => (y) <int64[2] p = {0,24}, int64[3] q = {-1,3,8}>",
        shapes,
    )
    assert check.ops(g) == ["Reshape", "Relu"]
    zero_copies = shapes
    g = check(
        ["identities", "dce"],
        "(float[B,6,4] x) => (y) <int64[2] p = {-1,12}, int64[3] q = {0,3,4}>",
        zero_copies,
    )
    assert check.ops(g) == ["Reshape", "Reshape", "Relu"], "0 copies a dim of the inner shape"


def test_identity_of_input_as_output_stays(check: Check) -> None:
    assert check.ops(check("identities", X, "y = Identity(x)")) == ["Identity"]
    two = "a = Relu(x) y = Identity(a) z = Identity(a)"
    g = check(["identities", "cse"], "(float[B,4] x) => (y, z)", two)
    assert len(g) == 2
    assert [v.name for v in g.outputs] == ["y", "z"]


def test_fold(check: Check) -> None:
    g = check(
        ["fold_constants", "dce"],
        "(float[B,4] x) => (y) <float[4] a = {1,2,3,4}, int64[1] axis = {0}>",
        "s = Sqrt(a) m = ReduceMean<keepdims = 0>(s, axis) t = Mul(s, m) y = Add(x, t)",
    )
    assert check.ops(g) == ["Add"]
    assert len(g.initializers) == 1


def test_fold_shapes(check: Check) -> None:
    g = check(
        ["fold_constants", "dce"],
        "(float[B,4,6] x) => (y) <int64 two = {2}, int64[1] i0 = {0}>",
        """s = Shape<start = 1>(x) d = Shape(x) h = Gather<axis = 0>(d, two)
           u = Unsqueeze(h, i0) c = Concat<axis = 0>(s, u) y = Cast<to = 1>(c)""",
    )
    assert [n.op_type for n in g.nodes] == ["Cast"], "content is 4, 6, 6 (the output itself stays)"
    g = check("fold_constants", X, "s = Shape(x) y = Neg(s)")
    assert check.ops(g) == ["Shape", "Neg"], "B is not known"


def test_fold_leaves_random_outputs_and_unknown(check: Check) -> None:
    body = "r = RandomNormal<shape = [4]>() a = Bernoulli(p) b = Add(r, a) y = Add(x, b)"
    g = check.build(X + "<float[4] p = {0.5,0.5,0.5,0.5}>", body)
    PassManager(["fold_constants", "cse"], debug=True).run(g)
    assert len(g) == 4
    g = check("fold_constants", "(float[B,4] x) => (y) <float[4] a = {1,2,3,4}>", "y = Neg(a)")
    assert check.ops(g) == ["Neg"], "an output keeps its node"


def test_fold_big_results_only_when_all_users_fold(check: Check) -> None:
    signature = "(float[B,4] x) => (y) <float[4] a = {1,2,3,4}, int64[1] r = {0}>"
    grows = "b = Mul(a, a) y = Add(x, b)"
    ends = "b = Mul(a, a) c = ReduceSum(b, r) y = Add(x, c)"
    for body, left in ((grows, ["Mul", "Add"]), (ends, ["Add"])):
        g = check.build(signature, body)
        PassManager([FoldConstants(limit=8)], debug=True).run(g)
        assert check.ops(g) == left


def test_fold_transpose_is_a_view(check: Check) -> None:
    w = np.arange(12, dtype=np.float32).reshape(3, 4)
    g = check(["fold_constants", "dce"], X, "t = Transpose(w) y = MatMul(x, t)", {"w": w})
    (folded,) = g.initializers.values()
    assert folded.const_value is not None
    assert folded.const_value.numpy().strides == (4, 16)
    assert check.ops(g) == ["MatMul"]


def test_fold_slices_like_the_reference(check: Check) -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((5, 6)).astype(np.float32)
    for _ in range(20):
        start, end = (int(i) for i in rng.integers(-9, 9, 2))
        step = int(rng.choice([1, 2, -1, -2]))
        axis = int(rng.integers(-2, 2))
        consts = {
            k: np.array([v], np.int64)
            for k, v in zip("stde", (start, end, axis, step), strict=True)
        }
        body = "c = Slice(a, s, t, d, e) y = Mul(z, c)"
        check("fold_constants", "(float z) => (y)", body, {"a": a, **consts})


def test_cse(check: Check) -> None:
    g = check(
        ["cse", "dce"],
        X + "<float a = {2}, float b = {2}, float c = {3}>",
        "p = Mul(x, a) q = Mul(x, b) r = Mul(x, c) s = Add(p, q) y = Add(s, r)",
    )
    assert check.ops(g) == ["Mul", "Mul", "Add", "Add"]
    assert sorted(g.initializers) == ["a", "c"]
    g = check("cse", X, 'p = Gelu(x) q = Gelu<approximate = "tanh">(x) y = Add(p, q)')
    assert len(g) == 3, "attributes differ"


def test_cse_of_sizes_that_data_decides(check: Check) -> None:
    """Two searches become one: what was read by the second has sizes of the first's name."""
    body = "p = NonZero(x) q = NonZero(x) r = Abs(p) s = Neg(q) t = Add(r, s) y = ReduceSum(t)"
    g = check(["infer_shapes", "cse"], X, body)
    assert check.ops(g) == ["NonZero", "Abs", "Neg", "Add", "ReduceSum"]
    sizes = {str(v.shape[1]) for node in list(g.nodes)[:4] for v in node.outputs if v.shape}
    assert len(sizes) == 1, sizes


def test_dce(check: Check) -> None:
    g = check("dce", X + "<float a = {2}, float b = {2}>", "p = Mul(x, a) q = Exp(p) y = Neg(x)")
    assert check.ops(g) == ["Neg"]
    assert not g.initializers


BN = """c = Conv<pads = [1,1,1,1]>(x, w%s)
        y%s = BatchNormalization<epsilon = 0.01>(c, s, h, m, v)"""


def bn_weights(bias: bool) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    w = {k: rng.standard_normal(3).astype(np.float32) for k in "shm"}
    w["v"] = (rng.random(3) + 0.1).astype(np.float32)
    w["w"] = rng.standard_normal((3, 2, 3, 3)).astype(np.float32)
    if bias:
        w["b"] = rng.standard_normal(3).astype(np.float32)
    return w


@pytest.mark.parametrize("bias", [False, True])
def test_batch_norm(check: Check, bias: bool) -> None:
    signature = "(float[B,2,5,6] x) => (y)"
    body = BN % (", b" if bias else "", "")
    g = check(["fold_channels", "dce"], signature, body, bn_weights(bias))
    assert check.ops(g) == ["Conv"]
    assert g.nodes[0].attributes["pads"].value == (1, 1, 1, 1)


def test_batch_norm_stays(check: Check) -> None:
    body = BN % ("", "")
    for signature, more in (
        ("(float[B,2,5,6] x) => (y, z)", " z = Relu(c)"),
        ("(float[B,2,5,6] x) => (y, c)", ""),
        ("(float[B,2,5,6] x, float[3] s) => (y)", ""),
    ):
        weights = bn_weights(False)
        if "s)" in signature:
            del weights["s"]
        g = check("fold_channels", signature, body + more, weights)
        assert "BatchNormalization" in check.ops(g)


CHANNELS = "c = Conv<pads = [1, 1, 1, 1]>(x, w%s) "
WRITTEN_OUT = "d = Sub(c, m) e = Mul(k, d) y = Add(e, t)"


def channel_weights(bias: bool) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(4)
    found = {n: rng.standard_normal((1, 3, 1, 1)).astype(np.float32) for n in "mk"}
    found["t"] = rng.standard_normal((3, 1, 1)).astype(np.float32)
    found["w"] = rng.standard_normal((3, 2, 3, 3)).astype(np.float32)
    if bias:
        found["b"] = rng.standard_normal(3).astype(np.float32)
    return found


@pytest.mark.parametrize("bias", [False, True])
def test_channels(check: Check, bias: bool) -> None:
    for chain in (WRITTEN_OUT, "d = Sub(m, c) y = Div(d, k)", "d = Sub(c, m) y = Add(k, d)"):
        body = CHANNELS % (", b" if bias else "") + chain
        weights = channel_weights(bias)
        if "t" not in chain.split("(")[-1]:
            del weights["t"]
        g = check(["fold_channels", "dce"], "(float[B,2,5,6] x) => (y)", body, weights)
        assert check.ops(g) == ["Conv"]


def test_channels_stay(check: Check) -> None:
    weights = channel_weights(False)
    for signature, chain, left in (
        ("(float[B,2,5,6] x) => (y, c)", WRITTEN_OUT, {}),  # the convolution is a result
        ("(float[B,2,5,6] x) => (y)", "d = Div(m, c) e = Mul(d, k) y = Add(e, t)", {}),
        ("(float[B,2,5,6] x) => (y)", WRITTEN_OUT, {"m": np.ones((1, 1, 1, 6), np.float32)}),
    ):
        g = check("fold_channels", signature, CHANNELS % "" + chain, {**weights, **left})
        assert len(check.ops(g)) == 4


def test_sources_merge(check: Check) -> None:
    g = check.build("(float[B,2,5,6] x) => (y)", BN % ("", ""), bn_weights(False))
    g.nodes[0].metadata_props[SOURCE_KEY] = "net.py:3"
    g.nodes[1].metadata_props[SOURCE_KEY] = "net.py:4"
    PassManager(["fold_channels"]).run(g)
    assert g.nodes[0].metadata_props[SOURCE_KEY] == "net.py:3; net.py:4"


def test_pipelines_name_passes() -> None:
    for pipeline in (*CANONICALIZE, *LOWER_CPU):
        for name in pipeline:
            assert get_pass(name).name == name
    assert {get_pass(n).name for n in PASSES} == set(PASSES)
    with pytest.raises(ConfigurationError, match="no pass named 'x'"):
        get_pass("x")


def test_optimize_graph_copies_and_reports(check: Check) -> None:
    g = check.build(X, "a = Identity(x) y = Neg(a)")
    before = g.fingerprint()
    after, report = optimize_graph(g, 2, debug=True)
    assert g.fingerprint() == before
    assert check.ops(after) == ["Neg"]
    assert report.changed("identities") == 1
    assert "identities" in str(report)
    kept, _ = optimize_graph(g, 0)
    assert len(kept) == 2
    with pytest.raises(ConfigurationError):
        optimize_graph(g, 7)


def test_a_pass_that_breaks_the_graph_is_named(check: Check) -> None:
    class Breaks:
        name = "breaks"

        def run(self, graph: GraphIR) -> int:
            graph.nodes[0].outputs[0].type = None
            return 1

    with pytest.raises(CompilationError, match="pass 'breaks' left an invalid graph"):
        PassManager([Breaks()], debug=True).run(check.build(X, "y = Neg(x)"))
