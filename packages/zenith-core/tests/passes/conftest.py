"""Shared by the pass tests: build a graph from text, run passes, compare with the reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
import pytest
from onnx.reference import ReferenceEvaluator

from zenith.ir import GraphIR
from zenith.passes import PassManager

Array = np.ndarray
HEAD = '<ir_version: 10, opset_import: ["" : 28, "zenith" : 1]>\n'


def build(signature: str, body: str, weights: Mapping[str, Array] | None = None) -> GraphIR:
    """The graph ``g <signature> { body }`` with more initializers by name."""
    import onnx

    proto = onnx.parser.parse_model(f"{HEAD}g {signature} {{ {body} }}")
    for name, data in (weights or {}).items():
        proto.graph.initializer.append(ir.to_proto(ir.Tensor(data, name=name)))
    return GraphIR.from_onnx(proto).infer_shapes().verify()


def evaluate(graph: GraphIR, feeds: Mapping[str, Array]) -> list[Array]:
    copy = graph.clone()
    common.InlinePass()(copy.model)
    copy.infer_shapes()
    proto = copy.to_onnx()
    return [np.asarray(x) for x in ReferenceEvaluator(proto).run(None, dict(feeds))]


def random_feeds(graph: GraphIR, sizes: Mapping[str, int], seed: int) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    feeds = {}
    for value in graph.inputs:
        shape = [d if isinstance(d, int) else sizes[str(d.value)] for d in value.shape or ()]
        assert value.dtype is not None
        dtype = value.dtype.numpy()
        if dtype == np.bool_:
            feeds[value.name or ""] = rng.random(shape) < 0.7
        elif dtype.kind == "i":
            feeds[value.name or ""] = rng.integers(0, 4, shape).astype(dtype)
        else:
            feeds[value.name or ""] = rng.standard_normal(shape).astype(dtype)
    return feeds


def ops_of(graph: GraphIR) -> list[str]:
    """Operators in order; zenith ones with their overload."""
    return [f"{n.domain}.{n.op_type}:{n.overload}" if n.domain else n.op_type for n in graph.nodes]


def types_of(graph: GraphIR) -> list[str]:
    return [f"{v.dtype} {v.shape}" for v in graph.outputs]


class Checker:
    """Runs passes on a graph and checks that it computes the same before and after."""

    build = staticmethod(build)
    ops = staticmethod(ops_of)
    evaluate = staticmethod(evaluate)

    def __call__(
        self,
        passes: str | Sequence[str],
        signature: str,
        body: str,
        weights: Mapping[str, Array] | None = None,
        *,
        sizes: Mapping[str, int] | None = None,
        tolerance: float = 1e-5,
        feeds: Mapping[str, Array] | None = None,
    ) -> GraphIR:
        graph = build(signature, body, weights)
        names = [v.name for v in graph.outputs]
        types = [
            (v.dtype, [str(getattr(d, "value", d)) for d in v.shape or ()]) for v in graph.outputs
        ]
        after = graph.clone()
        steps = [passes] if isinstance(passes, str) else list(passes)
        PassManager(steps, debug=True).run(after)
        assert [v.name for v in after.outputs] == names
        again = [
            (v.dtype, [str(getattr(d, "value", d)) for d in v.shape or ()]) for v in after.outputs
        ]
        assert again == types
        for seed in range(2):
            data = dict(feeds or random_feeds(graph, sizes or {"B": 2 + seed, "S": 5}, seed))
            for a, b in zip(evaluate(graph, data), evaluate(after, data), strict=True):
                assert a.dtype == b.dtype and a.shape == b.shape
                np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
        return after


@pytest.fixture
def check() -> Checker:
    return Checker()


Check = Callable[..., Any]
