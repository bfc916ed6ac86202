"""Normalisations as TensorFlow writes them: a factor and an offset of what comes before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

Check = Callable[..., Any]
RNG = np.random.default_rng(17)


def f32(*shape: int) -> np.ndarray:
    return RNG.uniform(0.5, 1.5, shape).astype(np.float32)


CONV = {"w": f32(5, 3, 3, 3), "b": f32(5), "s": f32(1, 5, 1, 1), "t": f32(5, 1, 1)}
IMAGE = "(float[B,3,8,8] x) => (y)"


@pytest.mark.parametrize(
    "body",
    [
        "c = Conv(x, w, b) m = Mul(c, s) y = Add(m, t)",
        "c = Conv(x, w) m = Mul(s, c) y = Sub(m, t)",
        "c = Conv(x, w) a = Add(t, c) y = Mul(a, one)",
        "c = Conv(x, w, b) y = Sub(t, c)",
        "c = Conv(x, w) a = Add(c, t) y = BatchNormalization(a, b, r, r, r)",
        "c = Conv(x, w) a = BatchNormalization(c, r, b, r, b) y = Mul(s, a)",
    ],
)
def test_constants_go_into_conv(check: Check, body: str) -> None:
    g = check(["fold_channels", "dce"], IMAGE, body, {**CONV, "one": f32(1), "r": f32(5)})
    assert check.ops(g) == ["Conv"]


def test_constants_go_into_depthwise_and_transposed_conv(check: Check) -> None:
    weights = {"w": f32(6, 1, 3, 3), "s": f32(1, 6, 1, 1), "t": f32(6, 1, 1)}
    body = "c = Conv<group = 3>(x, w) m = Mul(c, s) y = Add(m, t)"
    assert check.ops(check(["fold_channels", "dce"], IMAGE, body, weights)) == ["Conv"]
    weights["w"] = f32(3, 6, 3, 3)
    weights["r"] = f32(6)
    body = (
        "c = ConvTranspose(x, w) m = Mul(c, s) a = Add(m, t) y = BatchNormalization(a, r, r, r, r)"
    )
    assert check.ops(check(["fold_channels", "dce"], IMAGE, body, weights)) == ["ConvTranspose"]


@pytest.mark.parametrize(
    ("body", "more"),
    [
        ("c = Conv(x, w) y = Mul(c, s) z = Neg(c)", {}),
        ("c = Conv(x, w) y = Mul(c, s) z = Neg(x)", {"s": f32(1, 1, 6, 1)}),
        ("c = Conv(x, w) y = Mul(c, s) z = Neg(x)", {"s": f32(5, 1)}),
        ("c = Conv(x, w) y = Mul(c, s) z = Neg(x)", {"s": f32(2, 1, 5, 1, 1)}),
        ("c = Conv(x, w) y = Mul(c, s) z = Neg(x)", {"s": f32(5, 1, 1), "w": f32(1, 3, 3, 3)}),
        ("c = ConvTranspose<group = 3>(x, w) y = Mul(c, s) z = Neg(x)", {"w": f32(3, 1, 3, 3)}),
    ],
    ids=["second user", "per row", "per row again", "more axes", "widens", "grouped"],
)
def test_conv_stays(check: Check, body: str, more: dict[str, Any]) -> None:
    weights = {**CONV, **more}
    if "group" in body:
        weights["s"] = f32(1, 3, 1, 1)
    if weights["s"].shape == (5, 1):
        weights["w"] = f32(5, 3, 4, 4)
    signature = "(float[B,3,8,8] x) => (y, z)"
    before = check.ops(check.build(signature, body, weights))
    assert check.ops(check("fold_channels", signature, body, weights)) == before


@pytest.mark.parametrize("signature", [IMAGE, "(float[B,3] x) => (y)", "(double[B,3,S] x) => (y)"])
def test_batch_norm_is_a_product_and_a_sum(check: Check, signature: str) -> None:
    kind = np.float64 if "double" in signature else np.float32
    rows = {name: f32(3).astype(kind) for name in "smvb"}
    body = "n = BatchNormalization <epsilon = 0.01> (x, s, b, m, v) y = Relu (n)"
    g = check(["lower_batch_norm", "dce"], signature, body, rows)
    assert check.ops(g) == ["Mul", "Add", "Relu"]
    g = check(["lower_batch_norm", "fuse_pointwise", "dce"], signature, body, rows)
    assert len(check.ops(g)) == (3 if kind == np.float64 else 1)


def test_batch_norm_with_computed_statistics_stays(check: Check) -> None:
    rows = {name: f32(3) for name in "smb"}
    body = "v = Abs (w) y = BatchNormalization (x, s, b, m, v)"
    signature = "(float[B,3,8,8] x, float[3] w) => (y)"
    assert "BatchNormalization" in check.ops(check("lower_batch_norm", signature, body, rows))


NORM = {
    "last": np.array([-1]),
    "eps": np.float32(1e-3),
    "w": f32(1, 1, 6),
    "b": f32(1, 1, 6),
    "two": np.float32(2),
}
HEAD = """m = ReduceMean(x, last) d = Sub(x, m) p = Mul(d, d) v = ReduceMean(p, last)
    e = Add(v, eps) r = Sqrt(e) i = Reciprocal(r) """
FORMS = {
    "full": "k = Mul(i, w) a = Mul(x, k) n = Neg(m) o = Mul(n, k) q = Add(o, b) y = Add(a, q)",
    "from bias": "k = Mul(w, i) a = Mul(k, x) o = Mul(m, k) q = Sub(b, o) y = Add(q, a)",
    "no bias": "k = Mul(i, w) a = Mul(x, k) o = Mul(m, k) y = Sub(a, o)",
    "bare": "a = Mul(x, i) n = Neg(m) o = Mul(n, i) y = Add(a, o)",
}
ROWS, ROWS_Z = "(float[B,S,6] x) => (y)", "(float[B,S,6] x) => (y, z)"


@pytest.mark.parametrize("form", FORMS)
def test_layer_norm_from_factor_and_offset(check: Check, form: str) -> None:
    g = check(["fuse_layer_norm_affine", "dce"], ROWS, HEAD + FORMS[form], NORM)
    assert check.ops(g) == ["LayerNormalization"]


@pytest.mark.parametrize("form", FORMS)
def test_layer_norm_of_channels(check: Check, form: str) -> None:
    """Of images whose channels stand second: turned, normalised, turned back."""
    channels = {**NORM, "last": np.array([1]), "w": f32(1, 6, 1, 1), "b": f32(6, 1, 1)}
    signature = "(float[B,6,S,3] x) => (y)"
    g = check(["fuse_layer_norm_affine", "dce"], signature, HEAD + FORMS[form], channels)
    assert check.ops(g) == ["Transpose", "LayerNormalization", "Transpose"]
    rows = {**channels, "w": f32(3), "b": f32(3)}  # along another axis
    g = check("fuse_layer_norm_affine", signature, HEAD + FORMS[form], rows)
    assert ("LayerNormalization" in check.ops(g)) == (form == "bare")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("n = Neg(m)", "n = Neg(v)"),
        ("d = Sub(x, m)", "d = Sub(m, x)"),
        ("o = Mul(n, k)", "o = Mul(n, i)"),
        ("v = ReduceMean(p, last)", "v = ReduceMean(p, first)"),
        ("y = Add(a, q)", "y = Sub(a, q)"),
        ("z = Neg(x)", "z = Neg(k)"),
        ("z = Neg(x)", "z = Neg(m)"),
    ],
)
def test_layer_norm_stays(check: Check, old: str, new: str) -> None:
    body = (HEAD + FORMS["full"] + " z = Neg(x)").replace(old, new)
    g = check("fuse_layer_norm_affine", ROWS_Z, body, {**NORM, "first": np.array([1])})
    assert "LayerNormalization" not in check.ops(g)


@pytest.mark.parametrize("form", ["Neg", "factor"])
def test_gelu_by_erfc(check: Check, form: str) -> None:
    constants = {"h": np.float32(0.5), "r": np.float32(2**-0.5), "one": np.float32(1)}
    if form == "factor":
        constants["r"] = -constants["r"]
    argument = "n = Neg(x) u = Mul(n, r)" if form == "Neg" else "u = Mul(x, r)"
    body = f"a = Mul(x, h) {argument} e = Erf(u) c = Sub(one, e) y = Mul(a, c)"
    assert check.ops(check(["fuse_gelu", "dce"], ROWS, body, constants)) == ["Gelu"]
    plain = body.replace(argument, "u = Mul(x, q)")  # erfc(x) is no gelu of x
    g = check("fuse_gelu", ROWS, plain, {**constants, "q": np.float32(2**-0.5)})
    assert "Erf" in check.ops(g)


def test_a_product_of_sizes_is_an_expression(check: Check) -> None:
    body = """s = Shape(x) c = Cast<to = 6>(s) g = Gather(c, i) p = ReduceProd<keepdims = 0>(g, i0)
        u = Unsqueeze(p, i0) l = Concat<axis = 0>(u, n) t = Cast<to = 7>(l) y = Reshape(x, t)"""
    weights = {"i": np.array([0, 1]), "i0": np.array([0]), "n": np.array([6], np.int32)}
    g = check.build(ROWS, body, weights)
    assert [str(d) for d in g.outputs[0].shape] == ["B*S", "6"]
