"""ONNX files in the QDQ form: on integer kernels, as onnxruntime and the reference compute them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import pytest
from onnx.reference import ReferenceEvaluator

import zenith

ort = pytest.importorskip("onnxruntime")
Array = np.ndarray[Any, Any]


class File:
    """Builds a model node by node. Activations have type `kind`."""

    def __init__(self, kind: str, shape: list[int]) -> None:
        self.kind, self.shape = kind, shape
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(0)

    def constant(self, array: Array) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(onnx.numpy_helper.from_array(array, name))
        return name

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(oh.make_node(kind, list(inputs), [name], name=f"n_{name}", **attributes))
        return name

    def qdq(self, value: str, scale: float, zero: int = 0) -> str:
        """Through integers and back. zero: as for uint8."""
        point = np.asarray(zero if self.kind == "uint8" else zero - 128, self.kind)
        scales = self.constant(np.asarray(scale, np.float32)), self.constant(point)
        return self.op("DequantizeLinear", self.op("QuantizeLinear", value, *scales), *scales)

    def weight(self, *shape: int, axis: int, per_channel: bool = True) -> str:
        q = self.rng.integers(-127, 128, shape).astype(np.int8)
        scale = self.rng.uniform(0.002, 0.01, shape[axis] if per_channel else ())
        zero = np.zeros_like(scale, np.int8)
        names = (self.constant(q), self.constant(scale.astype(np.float32)), self.constant(zero))
        return self.op("DequantizeLinear", *names, axis=axis)

    def bias(self, n: int) -> str:
        """int32, as quantizers store it."""
        q = self.rng.integers(-2000, 2000, n).astype(np.int32)
        return self.op(
            "DequantizeLinear",
            self.constant(q),
            self.constant(np.full(n, 1e-4, np.float32)),
            axis=0,
        )

    def model(self, result: str) -> onnx.ModelProto:
        value = oh.make_tensor_value_info
        float32 = onnx.TensorProto.FLOAT
        graph = oh.make_graph(
            self.nodes,
            "qdq",
            [value("x", float32, self.shape)],
            [value(result, float32, None)],
            self.constants,
        )
        return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 21)], ir_version=10)


def conv_net(kind: str) -> onnx.ModelProto:
    f = File(kind, [2, 5, 11, 9])
    x = f.qdq("x", 0.02, 128)
    c = f.op("Conv", x, f.weight(16, 5, 3, 3, axis=0), f.bias(16), pads=[1] * 4)
    r = f.qdq(f.op("Relu", c), 0.02)
    p = f.op("MaxPool", r, kernel_shape=[2, 2], strides=[1, 1])
    p = f.qdq(p, 0.02)
    d = f.op("Conv", p, f.weight(16, 1, 3, 3, axis=0), f.bias(16), pads=[1] * 4, group=16)
    d = f.qdq(
        f.op(
            "Clip", d, f.constant(np.float32(0).reshape(())), f.constant(np.float32(6).reshape(()))
        ),
        6 / 255,
    )
    s = f.op("Conv", d, f.weight(16, 16, 1, 1, axis=0, per_channel=False))
    s = f.qdq(f.op("Relu", f.op("Add", s, p)), 0.05)
    g = f.qdq(f.op("GlobalAveragePool", s), 0.02)
    return f.model(f.op("Conv", g, f.weight(7, 16, 1, 1, axis=0), f.bias(7)))


def feed_forward(kind: str) -> onnx.ModelProto:
    f = File(kind, [2, 7, 33])
    x = f.qdq("x", 0.02, 120)
    a = f.op(
        "Add",
        f.op("MatMul", x, f.weight(33, 50, axis=1)),
        f.constant(f.rng.standard_normal(50).astype(np.float32)),
    )
    h = f.qdq(f.op("Tanh", a), 2 / 255, 128)
    m = f.op("MatMul", h, f.weight(50, 33, axis=1))
    return f.model(f.op("Add", m, "x"))


def gemm(kind: str) -> onnx.ModelProto:
    f = File(kind, [5, 33])
    x = f.qdq("x", 0.02, 120)
    return f.model(f.op("Gemm", x, f.weight(20, 33, axis=0), f.bias(20), transB=1))


@pytest.mark.parametrize("kind", ["uint8", "int8"])
@pytest.mark.parametrize(("build", "products"), [(conv_net, 4), (feed_forward, 2), (gemm, 1)])
def test_as_the_others_compute_it(build: Any, products: int, kind: str) -> None:
    proto = build(kind)
    fast = zenith.compile(proto, fallback="error")
    fused = [n for n in fast.explain().nodes if "int8" in n.kernel]
    assert len(fused) == products, "every product is one of integers"
    shape = [d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    got = np.asarray(fast(x))
    (reference,) = ReferenceEvaluator(proto).run(None, {"x": x})
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])
    (other,) = session.run(None, {"x": x})
    # A sum that lies on the edge between two integers may fall to either side.
    for want in (reference, other):
        assert np.max(np.abs(got - want)) <= 0.02 * np.max(np.abs(want))
        assert np.mean(np.abs(got - want)) <= 1e-3 * np.max(np.abs(want))
