"""Shared by the runtime tests: graphs from ONNX text and what they mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from zenith.ir import OPSET, GraphIR
from zenith.runtime.reference import evaluate_float64, relative_error

Array = np.ndarray[Any, Any]
HEAD = f'<ir_version: 10, opset_import: ["" : {OPSET}, "zenith" : 1, "test.ops" : 1]>\n'
MLP = """
    m = MatMul(x, w1)
    h = Add(m, b1)
    g = Gelu(h)
    n = MatMul(g, w2)
    o = Add(n, b2)
    r = Add(o, x)
    y = LayerNormalization<axis = -1, epsilon = 1e-5>(r, scale, bias)
"""


@pytest.fixture(autouse=True)
def _no_native_hardmax(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator that only the reference runs, whatever rows there are."""
    from zenith.backends.cpu.kernels import composed

    rows = [row for row in composed.SPECS if row.op != "ai.onnx:Hardmax"]
    monkeypatch.setattr(composed, "SPECS", rows)


def make_graph(
    signature: str, body: str, weights: Mapping[str, Array] | None = None, *, infer: bool = True
) -> GraphIR:
    """The graph ``g <signature> { body }`` with more initializers by name."""
    proto = onnx.parser.parse_model(f"{HEAD}g {signature} {{ {body} }}")
    for name, data in (weights or {}).items():
        proto.graph.initializer.append(ir.to_proto(ir.Tensor(data, name=name)))
    graph = GraphIR.from_onnx(proto)
    return graph.infer_shapes().verify() if infer else graph


def make_mlp(batch: str = "B") -> GraphIR:
    """MatMul, Add, Gelu, LayerNormalization with a residual, 24 -> 40 -> 24."""
    rng = np.random.default_rng(7)
    shapes = {"w1": (24, 40), "b1": (40,), "w2": (40, 24), "b2": (24,)}
    shapes |= {"scale": (24,), "bias": (24,)}
    weights = {k: rng.standard_normal(s).astype(np.float32) for k, s in shapes.items()}
    return make_graph(f"(float[{batch},5,24] x) => (float[{batch},5,24] y)", MLP, weights)


def random_array(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def worst_error(graph: GraphIR, compiled: Any, *inputs: Array) -> float:
    """The largest error of a call against `graph` in float64; dtypes and shapes are equal."""
    feeds = {str(v.name): a for v, a in zip(graph.inputs, inputs, strict=True)}
    by_name = evaluate_float64(graph, feeds)
    wanted = [by_name[str(v.name)] for v in graph.outputs]
    results = compiled(*inputs)
    results = results if isinstance(results, tuple) else (results,)
    assert [r.shape for r in results] == [w.shape for w in wanted]
    return max(relative_error(r, w) for r, w in zip(results, wanted, strict=True))


@pytest.fixture
def graph_of() -> Callable[..., GraphIR]:
    return make_graph


@pytest.fixture
def mlp() -> Callable[..., GraphIR]:
    return make_mlp


@pytest.fixture
def array() -> Callable[..., Array]:
    return random_array


@pytest.fixture
def error_of() -> Callable[..., float]:
    return worst_error
