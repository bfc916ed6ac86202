"""Operands whose sizes do not fit each other: an error, never memory that is not theirs.

What the types say is wrong fails when it is compiled, what only the call shows when it is called.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import zenith
from zenith.errors import ValidationError

Shape = tuple[int, ...]
# name: (inputs as declared, node, sizes of the call)
CASES: dict[str, tuple[str, str, list[Shape]]] = {
    "product": ("float[2,K] x, float[5,4] w", "MatMul(x, w)", [(2, 3), (5, 4)]),
    "open product": ("float[2,K] x, float[L,4] w", "MatMul(x, w)", [(2, 3), (5, 4)]),
    "product of a vector": ("float[2,K] x, float[L] w", "MatMul(x, w)", [(2, 3), (5,)]),
    "Gemm": ("float[2,K] x, float[L,4] w", "Gemm(x, w)", [(2, 3), (5, 4)]),
    "C of Gemm": (
        "float[2,3] x, float[3,4] w, float[M] c",
        "Gemm(x, w, c)",
        [(2, 3), (3, 4), (3,)],
    ),
    "channels": ("float[1,3,8,8] x, float[4,5,3,3] w", "Conv(x, w)", [(1, 3, 8, 8), (4, 5, 3, 3)]),
    "open channels": (
        "float[1,C,8,8] x, float[4,5,3,3] w",
        "Conv(x, w)",
        [(1, 3, 8, 8), (4, 5, 3, 3)],
    ),
    "no groups": (
        "float[1,4,8,8] x, float[3,4,3,3] w",
        "Conv<group = 0>(x, w)",
        [(1, 4, 8, 8), (3, 4, 3, 3)],
    ),
    "groups": (
        "float[1,4,8,8] x, float[3,2,3,3] w",
        "Conv<group = 2>(x, w)",
        [(1, 4, 8, 8), (3, 2, 3, 3)],
    ),
    "bias": (
        "float[1,5,8,8] x, float[4,5,3,3] w, float[B] b",
        "Conv(x, w, b)",
        [(1, 5, 8, 8), (4, 5, 3, 3), (2,)],
    ),
    "transposed channels": (
        "float[1,C,8,8] x, float[4,5,3,3] w",
        "ConvTranspose(x, w)",
        [(1, 3, 8, 8), (4, 5, 3, 3)],
    ),
    "transposed bias": (
        "float[1,4,8,8] x, float[4,5,3,3] w, float[B] b",
        "ConvTranspose(x, w, b)",
        [(1, 4, 8, 8), (4, 5, 3, 3), (2,)],
    ),
    "deformed": (
        "float[1,C,5,5] x, float[2,3,2,2] w, float[1,8,4,4] o",
        "DeformConv(x, w, o)",
        [(1, 1, 5, 5), (2, 3, 2, 2), (1, 8, 4, 4)],
    ),
    "batch norm": (
        "float[1,C,8,8] x, float[3] s",
        "BatchNormalization(x, s, s, s, s)",
        [(1, 5, 8, 8), (3,)],
    ),
    "Concat": ("float[N,4] x, float[M,4] w", "Concat<axis = 1>(x, w)", [(2, 4), (5, 4)]),
    "batch of Attention": (
        "float[B,2,3,8] q, float[D,2,5,8] k",
        "Attention(q, k, k)",
        [(2, 2, 3, 8), (1, 2, 5, 8)],
    ),
    "values of Attention": (
        "float[1,2,3,8] q, float[1,2,T,8] k, float[1,2,U,8] v",
        "Attention(q, k, v)",
        [(1, 2, 3, 8), (1, 2, 5, 8), (1, 2, 2, 8)],
    ),
    "past values of Attention": (
        "float[1,2,3,8] q, float[1,2,T,8] k, float[1,2,P,8] p, float[1,2,P,S] w",
        "Attention(q, k, k, , p, w)",
        [(1, 2, 3, 8), (1, 2, 5, 8), (1, 2, 4, 8), (1, 2, 4, 10)],
    ),
    "heads of Attention's past": (
        "float[1,2,3,8] q, float[1,2,T,8] k, float[1,H,P,8] p",
        "Attention(q, k, k, , p, p)",
        [(1, 2, 3, 8), (1, 2, 5, 8), (1, 1, 4, 8)],
    ),
    "length of Attention's past": (
        "float[1,2,3,8] q, float[1,2,T,8] k, float[1,2,P,8] p, float[1,2,R,8] w",
        "Attention(q, k, k, , p, w)",
        [(1, 2, 3, 8), (1, 2, 5, 8), (1, 2, 4, 8), (1, 2, 9, 8)],
    ),
    "past of Attention in rows": (
        "float[1,3,16] q, float[1,T,16] k, float[1,2,P,S] p",
        "Attention<q_num_heads = 2, kv_num_heads = 2>(q, k, k, , p, p)",
        [(1, 3, 16), (1, 5, 16), (1, 2, 4, 9)],
    ),
    "GridSample": (
        "float[N,1,4,4] x, float[M,2,2,2] g",
        "GridSample(x, g)",
        [(1, 1, 4, 4), (3, 2, 2, 2)],
    ),
    "einsum": (
        "float[A,B] x, float[C,D] w",
        'Einsum<equation = "ij,jk->ik">(x, w)',
        [(2, 6), (3, 2)],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_sizes_that_do_not_fit(name: str) -> None:
    inputs, node, shapes = CASES[name]
    text = f'<ir_version: 10, opset_import: ["" : 23]> g ({inputs}) => (y) {{ y = {node} }}'
    arrays = [np.ones(shape, np.float32) for shape in shapes]
    with pytest.raises(ValidationError):
        zenith.compile(onnx.parser.parse_model(text))(*arrays)


INDEXED: dict[str, tuple[str, str, list[Any]]] = {
    "gather": ("float[N,4] x, int64[A,B] i", "GatherElements(x, i)", [(3, 4), (2, 9)]),
    "scatter": (
        "float[N,4] x, int64[A,B] i, float[C,D] u",
        "ScatterElements(x, i, u)",
        [(3, 4), (3, 4), (1, 1)],
    ),
    "scatter slices": (
        "float[N,4] x, int64[A,1] i, float[C,D] u",
        "ScatterND(x, i, u)",
        [(3, 4), (3, 1), (1, 1)],
    ),
}


@pytest.mark.parametrize("name", INDEXED)
def test_indices_that_do_not_fit(name: str) -> None:
    inputs, node, shapes = INDEXED[name]
    text = f'<ir_version: 10, opset_import: ["" : 23]> g ({inputs}) => (y) {{ y = {node} }}'
    arrays = [np.zeros(s, np.int64 if k == 1 else np.float32) for k, s in enumerate(shapes)]
    with pytest.raises(ValidationError):
        zenith.compile(onnx.parser.parse_model(text))(*arrays)


def test_open_sizes_that_fit_run() -> None:
    text = """<ir_version: 10, opset_import: ["" : 23]>
        g (float[N,C,8,8] x, float[4,5,3,3] w) => (y) { y = Conv(x, w) }"""
    compiled = zenith.compile(onnx.parser.parse_model(text), fallback="error")
    y = compiled(np.ones((2, 5, 8, 8), np.float32), np.ones((4, 5, 3, 3), np.float32))
    np.testing.assert_array_equal(y, np.full((2, 4, 6, 6), 45.0, np.float32))


@pytest.mark.parametrize("expansion", ["Conv(x, we)", "Identity(x)"])
def test_channels_of_a_fused_block(expansion: str) -> None:
    text = f"""<ir_version: 10, opset_import: ["" : 23]> g (float[1,C,16,15] x) => (y) {{
        e = {expansion} d = Conv<group = 9, pads = [1,1,1,1]>(e, wd) y = Conv(d, wp) }}"""
    model = onnx.parser.parse_model(text)
    for name, shape in {"we": (9, 9, 1, 1), "wd": (9, 1, 3, 3), "wp": (4, 9, 1, 1)}.items():
        array = np.ones(shape, np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    compiled = zenith.compile(model)
    assert any("Bottleneck" in n.op for n in compiled.explain().nodes)
    assert compiled(np.ones((1, 9, 16, 15), np.float32)).shape == (1, 4, 16, 15)
    with pytest.raises(ValidationError, match="input channels"):
        compiled(np.ones((1, 8, 16, 15), np.float32))


def test_more_axes_than_a_plan_has() -> None:
    """Found by fuzzing: the reference takes what a native tensor cannot hold."""
    text = """<ir_version: 10, opset_import: ["" : 23]>
        g (float[2,1,1,1,2] x, int64[1,1,1,1,2] i) => (y) { y = Gather(x, i) }"""
    compiled = zenith.compile(onnx.parser.parse_model(text), fallback="allow")
    x, i = np.arange(4.0, dtype=np.float32).reshape(2, 1, 1, 1, 2), np.array([[[[[1, 0]]]]])
    np.testing.assert_array_equal(compiled(x, i), np.take(x, i, 0))


def test_a_cost_that_nobody_knows() -> None:
    """Found by fuzzing: a condition picks from a tensor whose rank only data tells."""
    text = """<ir_version: 10, opset_import: ["" : 23]> g (float[n] x, int64[r] s, bool[k] c) => (y)
        { t = Reshape(x, s) y = Compress(t, c) }"""
    compiled = zenith.compile(onnx.parser.parse_model(text), fallback="allow")
    x = np.arange(4.0, dtype=np.float32)
    got = compiled(x, np.array([2, 2]), np.array([True, False, True]))
    np.testing.assert_array_equal(got, x[[0, 2]])
