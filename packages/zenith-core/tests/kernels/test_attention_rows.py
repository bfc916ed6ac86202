"""Rows of attention, softmax, normalisation and rotary, from a graph to numbers: every form the
operators have, against the reference evaluator."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx.helper as oh
import onnx.parser
import onnx.reference
import pytest

import zenith
from zenith.ir import GraphIR

Array = np.ndarray[Any, Any]
OPSET = 28
FLOAT = 1
_TEXT = {"float64": "double", "float16": "float16", "bfloat16": "bfloat16"}


def draw(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def check(
    op: str, inputs: list[Array | None], outputs: int = 1, first: str = "", **attributes: Any
) -> None:
    """One node; `first` is an operator put before it on input 0 so that it is a view."""
    names = [f"x{i}" if x is not None else "" for i, x in enumerate(inputs)]
    node = oh.make_node(op, list(names), [f"y{i}" for i in range(outputs)], **attributes)
    nodes = [node]
    if first:
        nodes.insert(0, oh.make_node(first, ["x0"], ["t"], perm=[0, 2, 1, 3]))
        node.input[0] = "t"
    given = {n: x for n, x in zip(names, inputs, strict=True) if x is not None}
    graph = oh.make_graph(
        nodes,
        "g",
        [
            oh.make_tensor_value_info(n, oh.np_dtype_to_tensor_dtype(x.dtype), x.shape)
            for n, x in given.items()
        ],
        [oh.make_tensor_value_info(f"y{i}", FLOAT, None) for i in range(outputs)],
    )
    model = oh.make_model(graph, opset_imports=[oh.make_opsetid("", OPSET)])
    want = onnx.reference.ReferenceEvaluator(model).run(None, given)
    compiled = zenith.compile(GraphIR.from_onnx(model), target="cpu", fallback="error")
    got = compiled.run(given)
    for i in range(outputs):
        np.testing.assert_allclose(got[f"y{i}"], want[i], rtol=1e-5, atol=3e-6)


def qkv(rank: int, rows: int = 9, keys: int = 11) -> list[Array | None]:
    if rank == 4:
        return [draw(1, 2, 6, rows, 8), draw(2, 2, 3, keys, 8), draw(3, 2, 3, keys, 5)]
    return [draw(1, 2, rows, 48), draw(2, 2, keys, 24), draw(3, 2, keys, 15)]


HEADS = {4: {}, 3: {"q_num_heads": 6, "kv_num_heads": 3}}


@pytest.mark.parametrize("rank", [3, 4])
@pytest.mark.parametrize(
    "attributes",
    [{}, {"is_causal": 1}, {"scale": 0.3, "softcap": 2.0}, {"left_window_size": 3}],
)
def test_attention(rank: int, attributes: dict[str, Any]) -> None:
    check("Attention", qkv(rank), **HEADS[rank], **attributes)


@pytest.mark.parametrize("rank", [3, 4])
@pytest.mark.parametrize("shape", [(9, 11), (11,), (2, 1, 1, 11), (6, 9, 11), (9, 7)])
@pytest.mark.parametrize("kind", ["bool", "float"])
def test_attention_masks(rank: int, shape: tuple[int, ...], kind: str) -> None:
    mask = draw(4, *shape)
    check("Attention", [*qkv(rank), mask > -0.5 if kind == "bool" else mask], **HEADS[rank])


@pytest.mark.parametrize("rank", [3, 4])
@pytest.mark.parametrize("present", [False, True])
def test_attention_with_past(rank: int, present: bool) -> None:
    past = [draw(5, 2, 3, 4, 8), draw(6, 2, 3, 4, 5)]
    inputs = [*qkv(rank, keys=9), None, *past]
    check("Attention", inputs, 3 if present else 1, is_causal=1, **HEADS[rank])


@pytest.mark.parametrize("rank", [3, 4])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "attributes", [{}, {"is_causal": 1}, {"is_causal": 1, "left_window_size": 3}, {"softcap": 2.0}]
)
def test_attention_with_lengths(rank: int, masked: bool, attributes: dict[str, Any]) -> None:
    """Keys and values in a buffer of which each batch has filled another part."""
    for rows, keys, lengths in ((1, 11, [11, 3]), (3, 11, [7, 3]), (9, 17, [9, 0]), (4, 9, [2, 9])):
        mask = draw(4, rows, keys) if masked else None
        counts = np.array(lengths)
        check("Attention", [*qkv(rank, rows, keys), mask, None, None, counts],
              **HEADS[rank], **attributes)  # fmt: skip


def test_attention_with_lengths_of_long_buffers() -> None:
    """More keys than one block holds, also where a batch ends inside the first one."""
    for causal in (0, 1):
        counts = np.array([1500, 100])
        check("Attention", [*qkv(4, 70, 1600), None, None, None, counts], is_causal=causal)


def test_attention_of_a_transposed_query() -> None:
    q, k, v = qkv(4)
    assert q is not None
    check("Attention", [q.transpose(0, 2, 1, 3).copy(), k, v], first="Transpose")


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax(op: str, axis: int) -> None:
    check(op, [draw(1, 3, 5, 7)], axis=axis)


@pytest.mark.parametrize("axis", [-1, 1])
def test_layer_and_rms_norm(axis: int) -> None:
    x = draw(1, 3, 5, 7)
    scale, bias = draw(2, *x.shape[axis:]), draw(3, *x.shape[axis:])
    check("LayerNormalization", [x, scale, bias], axis=axis, epsilon=1e-3)
    check("LayerNormalization", [x, scale], axis=axis)
    check("RMSNormalization", [x, scale], axis=axis)


@pytest.mark.parametrize("kind", ["float64", "float16", "bfloat16"])
def test_rms_norm_has_the_type_of_its_scale(kind: str) -> None:
    """An exact scale, so that only the result is rounded: to half a unit of its last digit."""
    x, dtype = draw(1, 64, 512), ml_dtypes.bfloat16 if kind == "bfloat16" else np.dtype(kind)
    scale = np.ones(512, dtype)
    graph = GraphIR.from_onnx(
        onnx.parser.parse_model(
            f'<ir_version: 13, opset_import: ["": {OPSET}]> g '
            f"(float[64,512] x, {_TEXT[kind]}[512] s)"
            f" => ({_TEXT[kind]}[64,512] y) {{ y = RMSNormalization<epsilon = 1e-5>(x, s) }}"
        )
    )
    y = zenith.compile(graph)(x, scale)
    wide = x.astype(np.float64)
    want = wide / np.sqrt((wide * wide).mean(-1, keepdims=True) + np.float32(1e-5))
    assert y.dtype == dtype
    unit = 2.0**-22 if kind == "float64" else float(ml_dtypes.finfo(dtype).eps)
    np.testing.assert_allclose(y.astype(np.float64), want, rtol=unit / 2 * 1.01, atol=1e-7)


def test_group_and_instance_norm() -> None:
    x, scale, bias = draw(1, 2, 6, 4, 5), draw(2, 6), draw(3, 6)
    check("GroupNormalization", [x, scale, bias], num_groups=3)
    check("InstanceNormalization", [x, scale, bias], epsilon=1e-2)


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("dim", [0, 4])
def test_rotary(interleaved: int, dim: int) -> None:
    half = (dim or 8) // 2
    caches = [draw(2, 50, half), draw(3, 50, half)]
    ids = np.arange(10).reshape(2, 5) * 4
    how: dict[str, Any] = {"interleaved": interleaved, "rotary_embedding_dim": dim}
    x = draw(1, 2, 3, 5, 8)
    check("RotaryEmbedding", [x, *caches, ids], **how)
    check("RotaryEmbedding", [x, *(c[ids] for c in caches)], **how)
    flat = draw(1, 2, 5, 24)
    check("RotaryEmbedding", [flat, *caches, ids], num_heads=3, **how)
