"""Operators outside ai.onnx against ONNX Runtime, one node at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

import zenith
from zenith.errors import UnsupportedOperationError, ValidationError

RNG = np.random.default_rng(11)
Case = tuple[str, list[np.ndarray | None], int, dict[str, Any]]


def real(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def byte(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape).astype(np.uint8)


def small(*shape: int) -> np.ndarray:  # ONNX Runtime's sums of bigger ones saturate before VNNI
    return RNG.integers(-60, 61, shape).astype(np.int8)


def f(*values: float) -> np.ndarray:
    return np.array(values[0] if len(values) == 1 else values, np.float32)


def zp(value: int, dtype: type = np.uint8) -> np.ndarray:
    return np.array(value, dtype)


X = real(2, 3, 8)
CASES: list[Case] = [
    ("Gelu", [X], 1, {}),
    ("BiasGelu", [X, real(8)], 1, {}),
    ("FastGelu", [X, real(8)], 1, {}),
    ("FastGelu", [X], 1, {}),
    ("QuickGelu", [X], 1, {"alpha": 1.5}),
    (
        "FusedConv",
        [real(1, 3, 6, 6), real(4, 3, 3, 3), real(4)],
        1,
        {"activation": "Relu", "strides": [2, 2], "pads": [1, 1, 1, 1]},
    ),
    (
        "FusedConv",
        [real(1, 3, 6, 6), real(4, 3, 3, 3), real(4)],
        1,
        {"activation": "LeakyRelu", "activation_params": [0.3]},
    ),
    (
        "FusedConv",
        [real(1, 3, 6, 6), real(4, 3, 3, 3), real(4), real(1, 4, 4, 4)],
        1,
        {"activation": "Clip", "activation_params": [-0.5, 0.5]},
    ),
    ("FusedMatMul", [real(2, 8, 3), real(2, 5, 8)], 1, {"transA": 1, "transB": 1, "alpha": 0.25}),
    ("FusedGemm", [real(3, 8), real(5, 8), real(5)], 1, {"transB": 1, "activation": "Relu"}),
    ("SkipLayerNormalization", [X, real(2, 3, 8), real(8), real(8), real(8)], 4, {"epsilon": 1e-5}),
    ("SkipLayerNormalization", [X, real(2, 3, 8), real(8)], 1, {}),
    ("SkipSimplifiedLayerNormalization", [X, real(2, 3, 8), real(8)], 4, {}),
    (
        "EmbedLayerNormalization",
        [
            RNG.integers(0, 9, (2, 5)).astype(np.int32),
            RNG.integers(0, 2, (2, 5)).astype(np.int32),
            real(9, 8),
            real(6, 8),
            real(2, 8),
            real(8),
            real(8),
            np.array([[1] * 5, [1, 1, 1, 0, 0]], np.int32),
        ],
        2,
        {},
    ),
    ("Attention", [X, real(8, 24), real(24)], 1, {"num_heads": 2}),
    (
        "Attention",
        [X, real(8, 24), real(24), np.array([[1, 1, 1], [1, 1, 0]], np.int32)],
        1,
        {"num_heads": 2},
    ),
    ("Attention", [X, real(8, 24), real(24), np.array([3, 2], np.int32)], 1, {"num_heads": 4}),
    ("Attention", [X, real(8, 24), real(24)], 1, {"num_heads": 2, "unidirectional": 1}),
    ("MultiHeadAttention", [X, real(2, 5, 8), real(2, 5, 8), real(24)], 1, {"num_heads": 2}),
    ("QLinearAdd", [byte(2, 8), f(0.1), zp(100), byte(8), f(0.2), zp(7), f(0.3), zp(90)], 1, {}),
    ("QLinearMul", [byte(2, 8), f(0.1), zp(100), byte(8), f(0.2), zp(7), f(1.5), zp(128)], 1, {}),
    ("QLinearSigmoid", [byte(2, 8), f(0.05), zp(128), f(1 / 256), zp(0)], 1, {}),
    ("QLinearLeakyRelu", [byte(2, 8), f(0.05), zp(128), f(0.05), zp(20)], 1, {"alpha": 0.1}),
    (
        "QLinearSoftmax",
        [byte(2, 8), f(0.05), zp(128), f(1 / 256), zp(0)],
        1,
        {"opset": 13, "axis": -1},
    ),
    ("QLinearGlobalAveragePool", [byte(1, 3, 5, 4), f(0.1), zp(100), f(0.05), zp(90)], 1, {}),
    (
        "QLinearAveragePool",
        [byte(1, 3, 6, 6), f(0.1), zp(100), f(0.1), zp(90)],
        1,
        {"kernel_shape": [2, 2], "strides": [2, 2]},
    ),
    (
        "QLinearConcat",
        [f(0.2), zp(5), byte(2, 3), f(0.1), zp(7), byte(2, 4), f(0.3), zp(9)],
        1,
        {"axis": 1},
    ),
    (
        "QGemm",
        [
            byte(3, 8),
            f(0.1),
            zp(100),
            small(5, 8),
            f(0.02),
            zp(0, np.int8),
            RNG.integers(-500, 500, 5).astype(np.int32),
            f(0.2),
            zp(110),
        ],
        1,
        {"transB": 1},
    ),
    (
        "QGemm",
        [
            byte(3, 8),
            f(0.1),
            zp(100),
            small(8, 5),
            f(*[0.01, 0.02, 0.03, 0.04, 0.05]),
            np.zeros(5, np.int8),
        ],
        1,
        {},
    ),
    ("DynamicQuantizeMatMul", [X, small(8, 5), f(0.02), zp(0, np.int8), real(5)], 1, {}),
    (
        "MatMulIntegerToFloat",
        [byte(3, 8), small(8, 5), f(0.1), f(0.02), zp(100), zp(0, np.int8), real(5)],
        1,
        {},
    ),
    ("QuantizeLinear", [X, f(0.05), zp(128)], 1, {}),
    ("DequantizeLinear", [byte(2, 3), f(0.05), zp(128)], 1, {}),
    (
        "MatMulNBits",
        [real(2, 64), byte(5, 2, 16), real(10), byte(5)],
        1,
        {"K": 64, "N": 5, "bits": 4, "block_size": 32},
    ),
    (
        "MatMulNBits",
        [real(2, 40), byte(5, 2, 16), real(10)],
        1,
        {"K": 40, "N": 5, "bits": 4, "block_size": 32},
    ),
    ("ai.onnx.ml:Scaler", [real(4, 3)], 1, {"offset": [1.0, 2.0, 3.0], "scale": [0.5, 0.25, 2.0]}),
    ("ai.onnx.ml:Scaler", [RNG.integers(0, 9, (4, 3))], 1, {"offset": [1.0], "scale": [0.5]}),
    ("ai.onnx.ml:ArrayFeatureExtractor", [real(4, 6), np.array([[0, 2, 5]])], 1, {}),
    ("ai.onnx.ml:Binarizer", [real(4, 3)], 1, {"threshold": 0.2}),
]


def model_of(case: Case, *, opset: int = 17) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """One node; the first input is given, and those of its first size; the others are weights."""
    name, arrays, outputs, attributes = case
    domain, _, op_type = name.rpartition(":")
    domain = domain or "com.microsoft"
    names = ["" if a is None else f"i{k}" for k, a in enumerate(arrays)]
    node = helper.make_node(
        op_type, names, [f"y{k}" for k in range(outputs)], domain=domain, **attributes
    )
    if op_type.startswith("Skip") and outputs == 4:
        node.output[1] = node.output[2] = ""
    given = {"i0": arrays[0]} if arrays[0].ndim else {"i2": arrays[2]}
    if op_type in ("SkipLayerNormalization", "MultiHeadAttention"):
        given["i1"] = arrays[1]
    infos = [
        helper.make_tensor_value_info(
            n, helper.np_dtype_to_tensor_dtype(a.dtype), ["batch", *a.shape[1:]]
        )
        for n, a in given.items()
    ]
    weights = [
        numpy_helper.from_array(a, n)
        for n, a in zip(names, arrays, strict=True)
        if a is not None and n not in given
    ]
    graph = helper.make_graph(
        [node], "g", infos, [onnx.ValueInfoProto(name=n) for n in node.output if n], weights
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(domain, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8), given


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{len(case[1])}")
def test_against_onnx_runtime(case: Case) -> None:
    model, feeds = model_of(case)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    compiled = zenith.compile(model, fallback="allow")
    for result, wanted in zip(compiled.run(feeds).values(), session.run(None, feeds), strict=True):
        assert result.dtype == wanted.dtype
        assert result.shape == wanted.shape
        if wanted.dtype in (np.uint8, np.int8):  # halves may round to either side
            assert np.abs(result.astype(int) - wanted.astype(int)).max() <= 1
        else:
            np.testing.assert_allclose(result, wanted, rtol=2e-3, atol=2e-3)


def test_several_unknown_ones_are_named_at_once() -> None:
    nodes = [
        helper.make_node("Rfft", ["x"], ["a"], domain="com.microsoft"),
        helper.make_node("Gelu", ["x"], ["b"], domain="com.microsoft"),
        helper.make_node("Sampling", ["x"], ["c"], domain="com.microsoft"),
    ]
    infos = [helper.make_tensor_value_info(n, 1, [2]) for n in "xabc"]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    with pytest.raises(UnsupportedOperationError, match=r"Rfft.*Sampling") as info:
        zenith.compile(model)
    assert "Gelu" not in str(info.value).splitlines()[0]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda node: node.input.append("i0"), ValidationError),
        (lambda node: node.output.append("extra"), ValidationError),
        (lambda node: node.attribute.append(helper.make_attribute("far", 1)), ValidationError),
        (lambda node: node.input.__setitem__(0, "nowhere"), ValidationError),
    ],
)
def test_nodes_that_are_not_well_formed(change: Any, error: type[Exception]) -> None:
    model, _ = model_of(("Gelu", [X, X], 1, {}))
    change(model.graph.node[0])
    with pytest.raises(error):
        zenith.compile(model)


def test_what_cannot_be_said_is_refused() -> None:
    case: Case = ("FusedMatMul", [real(2, 3, 4), real(2, 3, 4)], 1, {"transBatchA": 1})
    with pytest.raises(UnsupportedOperationError, match="transBatch"):
        zenith.compile(model_of(case)[0])
