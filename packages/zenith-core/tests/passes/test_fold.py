"""Folding into weights and pads: fold_pad, fold_scale."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

Check = Callable[..., Any]

RNG = np.random.default_rng(3)
KERNEL = {"w": RNG.standard_normal((3, 2, 3, 3)).astype(np.float32)}
CONV = "y = Conv<strides=[2,2], pads=[1,0,0,1]>(p, w)"


def pads(*amounts: int) -> dict[str, np.ndarray]:
    return {**KERNEL, "n": np.array(amounts, np.int64)}


@pytest.mark.parametrize("value", [None, 0.0])
def test_pad_goes_into_conv(check: Check, value: float | None) -> None:
    weights = pads(0, 0, 0, 1, 0, 0, 2, 1)
    if value is not None:
        weights["v"] = np.array(value, np.float32)
    body = f"p = Pad(x, n{', v' if value is not None else ''}) {CONV}"
    g = check(["fold_pad", "dce"], "(float[B,2,6,7] x) => (y)", body, weights)
    assert check.ops(g) == ["Conv"]
    assert tuple(g.nodes[0].attributes["pads"].value) == (1, 1, 2, 2)


def test_pad_of_named_axes(check: Check) -> None:
    weights = {**pads(3, 1), "a": np.array([-1], np.int64)}
    body = f"p = Pad(x, n, , a) {CONV}"
    g = check(["fold_pad", "dce"], "(float[B,2,6,7] x) => (y)", body, weights)
    assert tuple(g.nodes[0].attributes["pads"].value) == (1, 3, 0, 2)


@pytest.mark.parametrize(
    ("body", "weights", "outputs"),
    [
        (f"p = Pad(x, n, v) {CONV}", {"v": np.array(1, np.float32)}, "(y)"),
        (f'p = Pad<mode="reflect">(x, n) {CONV}', {}, "(y)"),
        (f"p = Pad(x, n) {CONV}", {}, "(y, p)"),
        (f"p = Pad(x, n) {CONV} z = Relu(p)", {}, "(y, z)"),
        (f"p = Pad(x, n) {CONV}", {"n": np.array([1, 0, 0, 1, 0, 0, 2, 1], np.int64)}, "(y)"),
    ],
    ids=["value", "mode", "graph output", "second user", "batch axis"],
)
def test_pad_stays(check: Check, body: str, weights: dict[str, Any], outputs: str) -> None:
    merged = {**pads(0, 0, 0, 1, 0, 0, 2, 1), **weights}
    g = check("fold_pad", f"(float[B,2,6,7] x) => {outputs}", body, merged)
    assert "Pad" in check.ops(g)


LINEAR = {
    "w": RNG.standard_normal((4, 5)).astype(np.float32),
    "b": RNG.standard_normal(5).astype(np.float32),
    "s": RNG.standard_normal(5).astype(np.float32),
}


@pytest.mark.parametrize(
    "body",
    ["m = MatMul(x, w) a = Add(m, b) y = Mul(a, s)", "m = MatMul(x, w) y = Mul(s, m)"],
    ids=["bias", "plain"],
)
def test_scale_goes_into_weights(check: Check, body: str) -> None:
    g = check(["fold_scale", "dce"], "(float[B,S,4] x) => (y)", body, LINEAR)
    assert "Mul" not in check.ops(g)


@pytest.mark.parametrize(
    ("body", "signature", "weights"),
    [
        ("m = MatMul(x, w) y = Mul(m, s)", "(float[B,S,4] x) => (y, m)", {}),
        (
            "m = MatMul(x, w) a = Add(m, b) y = Mul(a, s) z = Neg(m)",
            "(float[B,S,4] x) => (y, z)",
            {},
        ),
        ("m = MatMul(x, w) y = Mul(m, s)", "(float[B,5,4] x) => (y)", {"s": np.ones((5, 1), "f4")}),
        ("m = MatMul(x, w) y = Mul(m, t)", "(float[B,S,4] x, float[5] t) => (y)", {}),
    ],
    ids=["graph output", "second user", "per row", "not constant"],
)
def test_scale_stays(check: Check, body: str, signature: str, weights: dict[str, Any]) -> None:
    g = check("fold_scale", signature, body, {**LINEAR, **weights})
    assert "Mul" in check.ops(g)
