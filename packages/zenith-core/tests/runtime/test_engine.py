"""Compiling: what it computes, what it refuses, what it leaves alone, what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import zenith
from zenith.config import CompileConfig
from zenith.errors import PrecisionError
from zenith.hookspecs import hookimpl
from zenith.plugins import DEFAULT_PLUGINS, PluginManager, State
from zenith.runtime.backend import CallableBackend
from zenith.runtime.engine import ZenithEngine


@pytest.mark.parametrize("opt_level", [0, 1, 2, 3])
def test_every_opt_level_agrees_with_the_reference(
    opt_level: int, mlp: Any, array: Any, error_of: Any
) -> None:
    graph = mlp()
    compiled = zenith.compile(graph, opt_level=opt_level, fallback="error")
    for batch in (1, 3, 0):
        assert error_of(graph, compiled, array(batch, 5, 24)) < 5e-6
    kernels = len(compiled.explain().nodes)
    assert kernels == 7 if opt_level == 0 else kernels < 5


def test_a_tolerance_that_is_too_tight_is_an_error(mlp: Any, array: Any) -> None:
    sample = (array(2, 5, 24),)
    zenith.compile(mlp(), sample_input=sample, tolerance=1e-4)
    with pytest.raises(PrecisionError, match="output 'y'"):
        zenith.compile(mlp(), sample_input=sample, tolerance=1e-12)


def test_the_source_is_left_alone(mlp: Any, array: Any) -> None:
    graph = mlp()
    before, digest = graph.to_text(), graph.fingerprint()
    zenith.compile(graph)
    assert graph.to_text() == before and graph.fingerprint() == digest


def test_the_model_owns_its_weights(graph_of: Any, array: Any) -> None:
    weights = {"w": array(3, 4), "b": array(3), "s": array(4)}
    graph = graph_of(
        "(float[B,3] x) => (float[B,4] y, float[B,3] z, float[4] s)",
        "y = MatMul(x, w) a = Relu(x) h = Hardmax(a) z = Add(h, b)",
        weights,
    )
    originals = {k: v.copy() for k, v in weights.items()}
    compiled = zenith.compile(graph, fallback="allow")
    x = array(2, 3, seed=1)
    before = compiled(x)
    for weight in weights.values():
        weight[...] = 1e9
    for a, b in zip(compiled(x), before, strict=True):
        np.testing.assert_array_equal(a, b)
    for name, weight in originals.items():
        held = compiled.graph.initializers[name].const_value
        assert held is not None
        np.testing.assert_array_equal(held.numpy(), weight)


EDGES = {
    "input": ("(float[B,3] x) => (float[B,3] x)", ""),
    "identity": ("(float[B,3] x) => (float[B,3] y)", "y = Identity(x)"),
    "constant": ("(float[B,3] x) => (float[3,4] w)", ""),
    "folded": ("(float[B,3] x) => (float[3,4] y)", "y = Relu(w)"),
    "twice": ("(float[B,3] x) => (float[B,3] y, float[B,3] y)", "y = Relu(x)"),
    "two_names": (
        "(float[B,3] x) => (float[B,3] y, float[B,3] z)",
        "y = Relu(x) z = Identity(y)",
    ),
    "view_of_input": ("(float[B,3] x) => (float[3,B] y)", "y = Transpose(x)"),
    "view_and_source": (
        "(float[B,3] x) => (float[B,3] y, float[3,B] z)",
        "y = Relu(x) z = Transpose(y)",
    ),
    "shape": ("(float[B,3] x) => (int64[2] y)", "y = Shape(x)"),
    "used_and_output": (
        "(float[B,3] x) => (float[B,4] y, float[B,4] z)",
        "y = MatMul(x, w) z = Relu(y)",
    ),
}


@pytest.mark.parametrize("opt_level", [0, 2])
@pytest.mark.parametrize("name", EDGES)
def test_outputs_of_every_kind(
    name: str, opt_level: int, graph_of: Any, array: Any, error_of: Any
) -> None:
    graph = graph_of(*EDGES[name], {"w": array(3, 4)})
    compiled = zenith.compile(graph, opt_level=opt_level, fallback="error")
    for batch in (2, 1, 0):
        assert error_of(graph, compiled, array(batch, 3)) < 1e-6


def test_scalars(graph_of: Any, error_of: Any) -> None:
    graph = graph_of("(float x, float z) => (float y)", "a = Add(x, z) y = Mul(a, a)")
    compiled = zenith.compile(graph, fallback="error")
    assert error_of(graph, compiled, np.float32(1.5), np.float32(2)) == 0
    assert compiled(1.5, 2.0) == np.float32(12.25)


def test_no_inputs(graph_of: Any, array: Any) -> None:
    compiled = zenith.compile(graph_of("() => (float[3] y)", "y = Neg(w)", {"w": array(3)}))
    np.testing.assert_array_equal(compiled(), -array(3))


def test_explain_is_complete(mlp: Any, tmp_path: Path) -> None:
    explained = zenith.compile(mlp(), opt_level=1).explain()
    for node in explained.nodes:
        assert node.name and node.op and node.kernel and node.why
        assert node.dtype == "float32" and node.backend == "cpu"
        assert str(node.flops) != "0" and "B" in str(node.bytes)
    linear = next(n for n in explained.nodes if "Linear" in n.op)
    assert linear.flops.subs({s: 2 for s in linear.flops.free_symbols}) >= 2 * 2 * 5 * 24 * 40
    assert explained.passes and explained.target.startswith("cpu(")
    data = json.loads(explained.to_json())
    assert [n["kernel"] for n in data["nodes"]] == [n.kernel for n in explained.nodes]
    explained.to_html(tmp_path / "explain.html")
    page = (tmp_path / "explain.html").read_text(encoding="utf-8")
    assert all(n.kernel in page for n in explained.nodes)
    assert linear.kernel in str(explained)


def test_explain_says_why_others_lost(graph_of: Any) -> None:
    graph = graph_of("(float[B,3] x) => (float[B,3] y)", "y = Hardmax(x)")
    engine = ZenithEngine()
    engine.registry.add("reference", *_refusing("ai.onnx:Hardmax", "only on Sundays"))
    compiled = engine.compile(graph, CompileConfig(fallback="allow"))
    (node,) = compiled.explain().nodes
    assert ("refuses", "only on Sundays") in node.candidates


def _refusing(op: str, reason: str) -> list[Any]:
    from zenith.runtime.kernel_registry import KernelSpec

    return [KernelSpec("refuses", op, lambda *_: [], supports=lambda _: reason)]


# A plugin in memory: an operator with a body, a pass that looks for it, a backend that asks for it.


class Twice:
    """test.ops:Twice(x) = x + x."""

    name = "test.ops:Twice"

    def function(self, overload: str) -> ir.Function:
        import onnx

        text = '<domain: "test.ops", opset_import: ["": 28]> Twice (x) => (y) { y = Add(x, x) }'
        proto = onnx.parser.parse_function(text)
        proto.overload = overload
        return ir.serde.deserialize_function(proto)


class DropRelus:
    """Relu(Relu(x)) -> Relu(x)."""

    name = "test_drop_relus"
    runs = 0

    def run(self, graph: Any) -> int:
        type(self).runs += 1
        changed = 0
        for node in graph.nodes:
            producer = node.inputs[0].producer() if node.op_type == "Relu" else None
            if producer is not None and producer.op_type == "Relu":
                node.replace_input_with(0, producer.inputs[0])
                changed += 1
        return changed


class ToyBackend(CallableBackend):
    name = "toy"

    def pipeline(self, opt_level: int) -> tuple[str, ...]:
        return ("test_drop_relus", "dce")


class ToyPlugin:
    ZENITH_API_VERSION = 1

    @hookimpl
    def zenith_register_backends(self) -> list[Any]:
        return [ToyBackend()]

    @hookimpl
    def zenith_register_passes(self) -> list[Any]:
        return [DropRelus()]

    @hookimpl
    def zenith_register_operators(self) -> list[Any]:
        return [Twice()]

    @hookimpl
    def zenith_register_kernels(self, registry: Any) -> None:
        from zenith.runtime.kernel_registry import KernelSpec

        relu = KernelSpec("relu_any", "ai.onnx:Relu", lambda op, i: [np.maximum(i[0], 0)])
        twice = KernelSpec("twice_any", "test.ops:Twice", lambda op, i: [i[0] * 2])
        registry.add("toy", relu, twice)


class InMemory:
    """Stands in for an entry point."""

    name, value, group, dist = "toy", "in_memory", "zenith", None

    def __init__(self, plugin: Any) -> None:
        self.plugin = plugin

    def load(self) -> Any:
        return self.plugin


def manager(plugin: Any) -> PluginManager:
    return PluginManager([InMemory(plugin)], builtins=DEFAULT_PLUGINS)  # type: ignore[list-item]


@pytest.mark.parametrize("target", ["toy", "cpu"])
def test_passes_and_operators_of_a_plugin(target: str, graph_of: Any, array: Any) -> None:
    body = "a = Relu(x) b = Relu(a) y = test.ops.Twice(b)"
    graph = graph_of("(float[B,3] x) => (float[B,3] y)", body, infer=False)
    config = CompileConfig(target=target, fallback="error", tolerance=1e-6, opt_level=1)
    for _ in range(2):  # nothing is left behind that a second engine would trip over
        runs = DropRelus.runs
        engine = ZenithEngine(plugins=manager(ToyPlugin()))
        x = array(2, 3)
        compiled = engine.compile(graph, config, samples=[[x]])
        np.testing.assert_array_equal(compiled(x), 2 * np.maximum(x, 0))
        kernels = [n.kernel for n in compiled.explain().nodes]
        if target == "toy":
            assert kernels == ["relu_any", "twice_any"] and DropRelus.runs == runs + 1
            assert any("test_drop_relus" in p for p in compiled.explain().passes)
        else:
            assert not any("twice" in k for k in kernels)


def test_a_plugin_may_not_take_the_name_of_a_pass(graph_of: Any) -> None:
    class Impostor(ToyPlugin):
        @hookimpl
        def zenith_register_passes(self) -> list[Any]:
            impostor = DropRelus()
            impostor.name = "dce"
            return [impostor]

    (row,) = [p for p in manager(Impostor()).plugins if p.name == "toy"]
    assert row.state is State.BROKEN and "'dce'" in row.why
