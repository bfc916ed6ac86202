"""Bodies of the zenith operators: they mean what the grammar says."""

from __future__ import annotations

from collections.abc import Sequence

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
import pytest
from onnx.reference import ReferenceEvaluator

from zenith import ops
from zenith.errors import ValidationError, ZenithError
from zenith.ir import GraphIR
from zenith.ops import epilogue, pointwise

Array = np.ndarray


def erf(x: Array) -> Array:
    from math import erf as scalar

    return np.vectorize(scalar)(x)


NUMPY = {
    "bias": lambda x, b: x + b,
    "add": lambda x, b: x + b,
    "mul": lambda x, b: x * b,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "gelu": lambda x: 0.5 * x * (1 + erf(x / np.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "float32": lambda x: x.astype(np.float32),
    "bfloat16": lambda x: x.astype(ml_dtypes.bfloat16),
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "hardswish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "hardsigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
}


def evaluate(op: str, overload: str, arrays: Sequence[Array], **attrs: object) -> list[Array]:
    inputs = [
        ir.val(f"x{i}", ir.DataType.from_numpy(a.dtype), ir.Shape(a.shape))
        for i, a in enumerate(arrays)
    ]
    function = ops.OPERATORS[op](overload)
    node = ir.node(
        op, inputs, attrs, domain="zenith", overload=overload, num_outputs=len(function.outputs)
    )
    for i, value in enumerate(node.outputs):
        value.name = f"y{i}"
    graph = ir.Graph(inputs, node.outputs, nodes=[node], opset_imports={"": 28}, name="g")
    model = ir.Model(graph, ir_version=10)
    ops.ensure(model, op, overload)
    g = GraphIR(model).infer_shapes().verify()
    shapes = [tuple(v.shape or ()) for v in g.outputs]
    common.InlinePass()(model)
    run = ReferenceEvaluator(g.to_onnx())
    result = run.run(None, {f"x{i}": a for i, a in enumerate(arrays)})
    assert [r.shape for r in result] == shapes
    return result


CASES = [
    "",
    "bias",
    *(n for n, step in epilogue.STEPS.items() if n != "bias" and step.operands < 2),
]
CASES += ["bias.gelu", "bias.add.relu", "bias.silu.mul", "mul.add", "bias.relu6.add"]


@pytest.mark.parametrize("overload", CASES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_linear(overload: str, dtype: type) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 3, 5)).astype(dtype), rng.standard_normal((5, 4)).astype(dtype)
    want, operands = 3 * x @ w, []
    for step in epilogue.parse(overload):
        more = []
        if step.operands:
            shape = (4,) if step.name == "bias" else want.shape
            more = [rng.standard_normal(shape).astype(dtype)]
        want = NUMPY[step.name](want, *more)
        operands += more
    (got,) = evaluate("Linear", overload, [3 * x, w, *operands])
    if overload in ("float32", "bfloat16"):
        assert got.dtype.name == overload
    rtol = 2**-7 if overload.endswith("bfloat16") else 1e-4
    np.testing.assert_allclose(got.astype(float), want.astype(float), rtol=rtol, atol=1e-5)


@pytest.mark.parametrize("overload", ["", "bias", "bias.relu", "bias.add.relu", "relu", "add"])
def test_conv(overload: str) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 4, 7, 6))
    w = rng.standard_normal((6, 2, 3, 3))
    attrs = {"strides": [2, 1], "pads": [1, 0, 1, 1], "dilations": [1, 1], "group": 2}
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (0, 1)))
    want = np.zeros((2, 6, 4, 5))
    for c in range(6):
        part = padded[:, (c // 3) * 2 : (c // 3) * 2 + 2]
        for i in range(4):
            for j in range(5):
                window = part[:, :, 2 * i : 2 * i + 3, j : j + 3]
                want[:, c, i, j] = (window * w[c]).sum((1, 2, 3))
    operands = []
    for step in epilogue.parse(overload):
        if step.name == "bias":
            operands.append(rng.standard_normal(6))
            want = want + operands[-1][:, None, None]
        elif step.operands:
            operands.append(rng.standard_normal(want.shape))
            want = want + operands[-1]
        else:
            want = np.maximum(want, 0)
    (got,) = evaluate("ConvBiasAct", overload, [x, w, *operands], **attrs)
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


def test_quantized_linear() -> None:
    rng = np.random.default_rng(2)
    x, r = (rng.integers(0, 256, s).astype(np.uint8) for s in ((2, 3, 5), (2, 3, 4)))
    w = rng.integers(-127, 128, (5, 4)).astype(np.int8)
    scales = np.array([0.5, 0.25, 0.125, 1], np.float32)
    bias = rng.standard_normal(4).astype(np.float32)

    def pair(scale: float, zero: int) -> list[np.ndarray]:
        return [np.asarray(scale, np.float32), np.asarray(zero, np.uint8)]

    operands = [bias, r, *pair(0.5, 7), *pair(2.0, 9)]
    inputs = [x, *pair(0.25, 100), w, scales, *operands]
    (got,) = evaluate("QuantizedLinear", "bias.addq.relu.quantize", inputs)
    sums = (x.astype(np.int64) - 100) @ w.astype(np.int64)
    want = np.maximum(sums * 0.25 * scales + bias + (r.astype(np.int64) - 7) * 0.5, 0)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, np.clip(np.rint(want / 2) + 9, 0, 255))


def test_bottleneck() -> None:
    """The body is the three convolutions, one after the other."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 4, 7, 6))
    weights = [rng.standard_normal(s) for s in ((9, 4, 1, 1), (9, 1, 3, 3), (4, 9, 1, 1))]
    b0, b2 = rng.standard_normal(9), rng.standard_normal(4)
    around = {"strides": [1, 1], "pads": [1, 1, 1, 1], "group": 9}
    plain = {"strides": [1, 1], "pads": [0, 0, 0, 0], "dilations": [1, 1], "group": 1}
    (want,) = evaluate("ConvBiasAct", "bias.relu6", [x, weights[0], b0], **plain)
    (want,) = evaluate("ConvBiasAct", "silu", [want, weights[1]], dilations=[1, 1], **around)
    (want,) = evaluate("ConvBiasAct", "bias.add", [want, weights[2], b2, x], **plain)
    overload = "bias.relu6__silu__bias.add"
    (got,) = evaluate("Bottleneck", overload, [x, *weights, b0, b2, x], **around)
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)
    (expanded,) = evaluate("ConvBiasAct", "bias.relu6", [x, weights[0], b0], **plain)
    overload = "silu__bias.add"
    (got,) = evaluate("Bottleneck", overload, [expanded, *weights[1:], b2, x], **around)
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


def test_norms() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.standard_normal((2, 3, 8)), rng.standard_normal((2, 3, 8))
    scale, bias = rng.standard_normal(8), rng.standard_normal(8)
    s = a + b
    layer = (s - s.mean(-1, keepdims=True)) / np.sqrt(s.var(-1, keepdims=True) + 1e-3)
    y, total = evaluate("AddLayerNorm", "", [a, b, scale, bias], epsilon=1e-3)
    np.testing.assert_allclose(y, layer * scale + bias, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(total, s)
    rms = s / np.sqrt((s * s).mean(-1, keepdims=True) + 1e-3)
    y, total = evaluate("AddRMSNorm", "", [a, b, scale], epsilon=1e-3)
    np.testing.assert_allclose(y, rms * scale, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(total, s)


def test_group_norm() -> None:
    rng = np.random.default_rng(5)
    x, scale, bias = rng.standard_normal((2, 6, 5)), rng.standard_normal(6), rng.standard_normal(6)
    grouped = x.reshape(2, 3, -1)
    centred = grouped - grouped.mean(-1, keepdims=True)
    y = (centred / np.sqrt(grouped.var(-1, keepdims=True) + 1e-3)).reshape(x.shape)
    y = y * scale[:, None] + bias[:, None]
    [got] = evaluate("GroupNorm", "silu", [x, scale, bias], num_groups=3, epsilon=1e-3)
    np.testing.assert_allclose(got, NUMPY["silu"](y), rtol=1e-6, atol=1e-6)
    with pytest.raises(ValidationError, match="no operands"):
        ops.OPERATORS["GroupNorm"]("bias.relu")


# Known answers of the authors' own test vectors: key, counter, bits.
THREEFRY = [
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 2, (0x1CB996FC, 0xBB002BE7)),
    ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
]


@pytest.mark.parametrize(("key", "counter", "bits"), THREEFRY)
def test_threefry(key: Sequence[int], counter: Sequence[int], bits: Sequence[int]) -> None:
    halves = [np.uint32(k) for k in key] + [np.array([c], np.uint32) for c in counter]
    got = evaluate("ThreeFry2x32", "", [np.asarray(h) for h in halves])
    assert [int(half[0]) for half in got] == list(bits)


def test_grammar_errors() -> None:
    for bad in ("swish", "bias.", "relu.bias", "bias.bias"):
        with pytest.raises(ValidationError, match="is not an epilogue"):
            epilogue.parse(bad)
    with pytest.raises(ValidationError, match="no overload"):
        ops.OPERATORS["AddRMSNorm"]("x")
    model = GraphIR.from_text('<ir_version: 10, opset_import: ["":28]> g (float[2] x) => (x) {}')
    with pytest.raises(ZenithError, match="Nonsense"):
        ops.ensure(model.model, "Nonsense")


def test_pointwise_overload_is_stable() -> None:
    lines = ["t0 = Add (i0, i1)", "t1 = Relu (t0)"]
    function = pointwise.function(2, lines, ["t1"])
    assert function.overload == pointwise.overload(2, lines, ["t1"])
    assert function.overload != pointwise.overload(2, ["t0 = Sub (i0, i1)", lines[1]], ["t1"])
    assert [n.op_type for n in function] == ["Add", "Relu"]
