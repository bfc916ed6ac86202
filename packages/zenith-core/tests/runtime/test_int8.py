"""precision="int8": what it computes, how near it comes, what it says, what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest

import zenith
from zenith import _native
from zenith.backends.cpu.emit import PAIRS
from zenith.backends.cpu.kernels import attention
from zenith.config import CompileConfig
from zenith.errors import CompilationError, ConfigurationError, PrecisionError
from zenith.runtime.calibration import MinMax
from zenith.runtime.reference import evaluate_float64

Array = np.ndarray[Any, Any]

CONV_NET = """
    a = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(x, w1, b1)
    r = Relu(a)
    p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(r)
    c = Conv<pads = [1, 1, 1, 1]>(p, w2, b2)
    d = Relu(c)
    e = Conv(d, w3)
    s = Add(e, p)
    t = Relu(s)
    g = Conv<pads = [1, 1, 1, 1], group = 16>(t, w4)
    h = Clip(g, zero, six)
    i = Conv<strides = [2, 2]>(h, w5)
    j = Conv<strides = [2, 2]>(t, w6)
    k = Add(i, j)
    l = Relu(k)
    m = Conv(l, w7)
    n = GlobalAveragePool(m)
    o = Flatten(n)
    y = Gemm<transB = 1>(o, w8, b8)
"""


def draw(*shape: int, seed: int = 0) -> Array:
    rng = np.random.default_rng([seed, *shape])
    return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


@pytest.fixture
def conv_net(graph_of: Any) -> Any:
    weights = {
        "w1": draw(16, 3, 3, 3), "b1": draw(16), "w2": draw(16, 16, 3, 3), "b2": draw(16),
        "w3": draw(16, 16, 1, 1), "w4": draw(16, 1, 3, 3), "w5": draw(32, 16, 1, 1),
        "w6": draw(32, 16, 1, 1, seed=1), "w7": draw(24, 32, 1, 1), "w8": draw(10, 24),
        "b8": draw(10), "zero": np.float32(0).reshape(()), "six": np.float32(6).reshape(()),
    }  # fmt: skip
    return graph_of("(float[B,3,32,24] x) => (float[B,10] y)", CONV_NET, weights)


def images(count: int, *, batch: int = 1) -> list[tuple[Array]]:
    return [
        (np.random.default_rng(i).standard_normal((batch, 3, 32, 24)).astype(np.float32),)
        for i in range(count)
    ]


def cosine(a: Array, b: Array) -> float:
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


def test_a_conv_net(conv_net: Any) -> None:
    fast = zenith.compile(conv_net, precision="int8", calibration_data=images(8), fallback="error")
    nodes = fast.explain().nodes
    products = [n for n in nodes if "Quantized" in n.op]
    assert len(products) == 8 and all("int8" in n.kernel for n in products)
    assert sum(n.dtype == "uint8" for n in products) == 6, "integers stay between convolutions"
    pool = next(n for n in nodes if n.op.endswith("MaxPool"))
    assert pool.dtype == "uint8"
    (found,) = fast.explain().accuracy.values()
    assert found.samples == 8 and found.cosine > 0.99 and found.error < 0.2
    assert "accuracy of 'y': cosine" in str(fast.explain())
    (x,) = images(1, batch=3)[0]
    (want,) = evaluate_float64(conv_net, {"x": x}).values()
    assert cosine(fast(x), want) > 0.99
    assert fast.verify(x).worst < 1e-3, "against the quantized graph itself"


def test_a_transformer_block(mlp: Any, array: Any) -> None:
    fast = zenith.compile(
        mlp(), precision="int8", calibration_data=[(array(2, 5, 24, seed=i),) for i in range(4)]
    )
    ops = [n.op for n in fast.explain().nodes]
    assert "zenith:QuantizedLinear.bias.gelu.quantize" in ops
    assert "zenith:QuantizedLinear.bias.add" in ops, "the residual stays float32"
    notes = fast.explain().notes
    assert sum("GELU" in note and "(nodes: 1)" in note for note in notes) == 1
    assert len(notes) == len(set(notes)), "each is said once"
    x = array(3, 5, 24, seed=9)
    (want,) = evaluate_float64(mlp(), {"x": x}).values()
    assert cosine(fast(x), want) > 0.999


def test_what_stays_float32_is_named(mlp: Any, array: Any) -> None:
    fast = zenith.compile(mlp(), precision="int8", calibration_data=[(array(1, 5, 24),)])
    kept = {n.op: n.why for n in fast.explain().nodes if "float32:" in n.why}
    assert kept == {
        "ai.onnx:LayerNormalization": kept["ai.onnx:LayerNormalization"],
    } and kept["ai.onnx:LayerNormalization"].endswith("float32: no kernel over integers")


ATTENTION = """
    q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv)
    qr = Reshape(q, heads) kr = Reshape(k, heads) vr = Reshape(v, heads)
    qt = Transpose<perm = [0, 2, 1, 3]>(qr) kt = Transpose<perm = [0, 2, 1, 3]>(kr)
    vt = Transpose<perm = [0, 2, 1, 3]>(vr)
    a = Attention(qt, kt, vt)
    at = Transpose<perm = [0, 2, 1, 3]>(a) ar = Reshape(at, flat) o = MatMul(ar, wo) y = Add(o, x)
"""
ISA = _native.isas()[0]
PAIRED = pytest.mark.skipif(ISA not in PAIRS, reason="no products of bfloat16")


@pytest.fixture
def make_block(graph_of: Any) -> Any:
    """Attention of 2 heads of 32 on so many rows, with its products."""
    weights = {f"w{name}": draw(64, 64, seed=i) for i, name in enumerate("qkvo")}
    weights["wq"] *= 4  # scores that differ
    weights |= {"heads": np.array([0, 0, 2, 32]), "flat": np.array([0, 0, 64])}
    return lambda rows: graph_of(
        f"(float[B,{rows},64] x) => (float[B,{rows},64] y)", ATTENTION, weights
    )


@pytest.fixture
def block(make_block: Any) -> Any:
    return make_block("S")


def rows_of(count: int) -> list[tuple[Array]]:
    draws = [np.random.default_rng(i).standard_normal((2, 40, 64)) for i in range(count)]
    return [(a.astype(np.float32),) for a in draws]


@PAIRED
def test_attention_between_integers_is_bfloat16_without_conversions(block: Any) -> None:
    fast = zenith.compile(block, precision="int8", calibration_data=rows_of(4), fallback="error")
    nodes = fast.explain().nodes
    (found,) = (n for n in nodes if n.op == "ai.onnx:Attention")
    assert found.kernel == f"attention_bf16_{ISA}" and found.dtype == "bfloat16"
    assert found.why.endswith("bfloat16: between products of integers")
    assert not any("Cast" in n.op or "Pointwise" in n.op for n in nodes)
    products = [(n.op.partition(":")[2], n.dtype) for n in nodes if "Quantized" in n.op]
    assert products == [("QuantizedLinear.bfloat16", "bfloat16")] * 3 + [
        ("QuantizedLinear.add", "float32")
    ]
    before = next(i for i, n in enumerate(nodes) if n.op == "ai.onnx:Attention")
    ends = [n for n in nodes[before:] if n.op == "ai.onnx:QuantizeLinear"]
    assert len(ends) == 1, "it reads what attention gives"
    notes = [note for note in fast.explain().notes if "bfloat16" in note]
    assert len(notes) == 1 and notes[0].startswith("9 nodes between products of integers")


@PAIRED
def test_attention_in_bfloat16_costs_no_accuracy(
    block: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Next to the same model with attention in float32: errors of 8 bits hide those of bfloat16."""
    samples = rows_of(12)

    def errors() -> Array:
        fast = zenith.compile(block, precision="int8", calibration_data=samples[:4])
        wanted = [evaluate_float64(block, {"x": x})["y"] for (x,) in samples]
        pairs = zip(samples, wanted, strict=True)
        return np.array([np.sqrt(np.mean((fast(x) - w) ** 2)) for (x,), w in pairs])

    low = errors()
    rows = [replace(r, beside_int8=lambda op: "not now") for r in attention.SPECS]
    monkeypatch.setattr(attention, "SPECS", rows)
    high = errors()
    assert not np.array_equal(low, high)
    assert np.mean(low) < 1.05 * np.mean(high) and np.all(low < 1.1 * high)


@PAIRED
def test_attention_of_one_query_row_leaves_tiles_alone(make_block: Any) -> None:
    one = [(x[:, :1],) for (x,) in rows_of(2)]
    fast = zenith.compile(make_block("1"), precision="int8", calibration_data=one)
    (found,) = (n for n in fast.explain().nodes if n.op == "ai.onnx:Attention")
    assert found.dtype == ("float32" if ISA == "amx" else "bfloat16")
    assert ("1 query rows fill little of a tile" in found.why) == (ISA == "amx")


FORCED = """
import json, sys
import numpy as np, onnx, zenith
from zenith.ir import GraphIR
data = [(np.random.default_rng(i).standard_normal((2, 8, 64)).astype(np.float32),) for i in (0, 1)]
graph = GraphIR.from_onnx(onnx.load(sys.argv[1])).infer_shapes()
model = zenith.compile(graph, precision="int8", calibration_data=data)
nodes = [n for n in model.explain().nodes if "Attention" in n.op or n.dtype == "bfloat16"]
print(json.dumps([(n.kernel, n.dtype, n.why) for n in nodes]))
"""


def test_without_products_of_pairs_attention_stays_float32_and_says_so(
    block: Any, tmp_path: Any
) -> None:
    onnx.save(block.to_onnx(), tmp_path / "block.onnx")
    isa = _native.complete_isas()[0]
    run = subprocess.run(
        [sys.executable, "-c", FORCED, tmp_path / "block.onnx"],
        env={**os.environ, "ZENITH_ISA": isa}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    ((kernel, dtype, why),) = json.loads(run.stdout)
    assert kernel == f"attention_f32_{isa}" and dtype == "float32"
    assert why.endswith(
        "float32: no kernel over integers; no products of bfloat16 here (AVX512-BF16 or AMX)"
    )


def test_a_product_that_is_not_quantized_says_why(graph_of: Any, array: Any) -> None:
    graph = graph_of(
        "(float[B,4] x) => (float[B,B] y)", "t = Transpose<perm = [1, 0]>(x) y = MatMul(x, t)", {}
    )
    fast = zenith.compile(graph, precision="int8", calibration_data=[(array(2, 4),)])
    why = next(n.why for n in fast.explain().nodes if n.op == "ai.onnx:MatMul")
    assert "float32: its right side is not constant" in why


ROUTED = """
    i = NonZero(chosen) t = Transpose<perm = [1, 0]>(i) r = GatherND(x, t)
    e = MatMul(r, w1) h = MatMul(e, w3) d = MatMul(x, w2)
    y = ScatterND<reduction = "add">(d, t, h)
"""


def test_what_no_sample_reaches_stays_float32(graph_of: Any, array: Any) -> None:
    """An expert that no row of the samples is sent to."""
    weights = {f"w{i}": draw(32, 32, seed=i) for i in (1, 2, 3)}
    graph = graph_of("(float[B,32] x, bool[B] chosen) => (float[B,32] y)", ROUTED, weights)
    x, none = array(6, 32), np.zeros(6, bool)
    fast = zenith.compile(graph, precision="int8", calibration_data=[(x, none)])
    nodes = fast.explain().nodes
    assert sum("no calibration sample has elements there" in n.why for n in nodes) == 2
    assert sum("linear_int8" in n.kernel for n in nodes) == 1, "the product of all rows"
    chosen = np.arange(6) % 2 == 0
    (want,) = evaluate_float64(graph, {"x": x, "chosen": chosen}).values()
    assert np.abs(fast(x, chosen) - want).max() < 0.03 * np.abs(want).max()
    with pytest.raises(CompilationError, match="has no elements in any sample"):
        zenith.compile(graph, precision="int8", calibration_data=[(array(0, 32), none[:0])])


def test_tolerance_is_kept(mlp: Any, array: Any) -> None:
    sample = (array(2, 5, 24),)
    data = [sample, (array(2, 5, 24, seed=1),)]
    zenith.compile(
        mlp(), sample_input=sample, precision="int8", calibration_data=data, tolerance=0.2
    )
    with pytest.raises(PrecisionError):
        zenith.compile(
            mlp(), sample_input=sample, precision="int8", calibration_data=data, tolerance=1e-6
        )


def test_calibration_data_is_read_once_and_may_be_a_generator(mlp: Any, array: Any) -> None:
    read = []

    def data() -> Any:
        for i in range(20):
            read.append(i)
            yield array(1 + i % 3, 5, 24, seed=i)

    fast = zenith.compile(mlp(), precision="int8", calibration_data=data())
    assert read == list(range(20))
    (found,) = fast.explain().accuracy.values()
    assert found.samples == 8, "results of a few samples only are kept"


def test_missing_calibration_data_shows_the_call() -> None:
    with pytest.raises(ConfigurationError, match="calibration_data=\\[\\(x1,\\), \\(x2,\\)"):
        CompileConfig(precision="int8")


def test_empty_calibration_data_is_an_error(mlp: Any) -> None:
    with pytest.raises(ConfigurationError, match="calibration_data is empty"):
        zenith.compile(mlp(), precision="int8", calibration_data=[])


def test_numbers_that_are_none_are_an_error(mlp: Any, array: Any) -> None:
    bad = array(1, 5, 24)
    bad[0, 0, 0] = np.nan
    with pytest.raises(CompilationError, match="calibration: value 'x' has numbers from"):
        zenith.compile(mlp(), precision="int8", calibration_data=[(bad,)])


def test_a_target_without_integers_is_refused(mlp: Any, array: Any) -> None:
    with pytest.raises(ConfigurationError, match="no kernel on target 'reference' can honour it"):
        zenith.compile(
            mlp(), target="reference", precision="int8", calibration_data=[(array(1, 5, 24),)]
        )


def test_min_max_takes_in_one_run_after_the_other() -> None:
    seen = MinMax()
    seen.observe("v", np.array([1.0, 2.0]))
    seen.observe("v", np.array([-1.0, 1.5]))
    seen.observe("v", np.zeros(0))
    assert seen.ranges() == {"v": (-1.0, 2.0)}
    seen.observe("v", np.array([np.nan]))
    assert np.isnan(seen.ranges()["v"][0])


def test_every_level_quantizes(mlp: Any, array: Any) -> None:
    for level in (0, 1, 2, 3):
        fast = zenith.compile(
            mlp(), precision="int8", calibration_data=[(array(1, 5, 24),)], opt_level=level
        )
        kernels = [n.kernel for n in fast.explain().nodes]
        assert sum(k.startswith("linear_int8") for k in kernels) == 2
