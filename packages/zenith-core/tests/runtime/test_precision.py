"""precision="bf16" from the call to the result: what computes in it, how far off, what refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import zenith
from zenith import _native
from zenith.backends.cpu.emit import PAIRS
from zenith.errors import ConfigurationError, PrecisionError

LAYER = """
    q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv)
    a = Attention<q_num_heads = 4, kv_num_heads = 4>(q, k, v)
    o = MatMul(a, wo) o1 = Add(o, bo) r = Add(o1, x)
    n = LayerNormalization<axis = -1>(r, g, b)
    u = MatMul(n, w1) u1 = Add(u, b1) h = Gelu(u1) d = MatMul(h, w2) d1 = Add(d, b2)
    s = Add(d1, n) y = LayerNormalization<axis = -1>(s, g, b)
"""


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(11)
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("wq", "wk", "wv", "wo"), (64, 64))
    shapes |= {"w1": (64, 150), "w2": (150, 64), "b1": (150,)}
    shapes |= dict.fromkeys(("bo", "b2", "b"), (64,))
    arrays = {n: rng.standard_normal(s).astype(np.float32) / 8 for n, s in shapes.items()}
    return {**arrays, "g": 1 + rng.standard_normal(64).astype(np.float32) / 8}


@pytest.fixture
def layer(graph_of: Any) -> Any:
    return graph_of("(float[B,S,64] x) => (float[B,S,64] y)", LAYER, weights())


@pytest.mark.parametrize("opt_level", [0, 1, 2, 3])
def test_a_layer_is_off_by_roundings(layer: Any, array: Any, error_of: Any, opt_level: int) -> None:
    compiled = zenith.compile(layer, precision="bf16", opt_level=opt_level)
    for batch, rows in ((1, 7), (2, 40)):
        # A dozen roundings of 2^-8 each on values of size 1, most of which the norms average out.
        assert 1e-4 < error_of(layer, compiled, array(batch, rows, 64)) < 3e-2
    assert not compiled.explain().fallbacks


def test_explain_says_where_it_is_used(layer: Any) -> None:
    explanation = zenith.compile(layer, precision="bf16").explain()
    products = [n for n in explanation.nodes if n.op.startswith("zenith:Linear")]
    assert len(products) == 4 and all(n.kernel.startswith("linear_bf16_") for n in products)
    assert [n.dtype for n in products] == ["bfloat16"] * 3 + ["float32"]  # the last norm's input
    assert any(n.kernel.startswith("attention_bf16_") for n in explanation.nodes)
    assert any("precision='bf16': 7 of 9 nodes" in note for note in explanation.notes)
    plain = zenith.compile(layer).explain()
    assert not any("bf16" in n.kernel for n in plain.nodes) and not any(
        "bf16" in n for n in plain.notes
    )


CONV_NET = """
    a = Conv<pads = [3,3,3,3], strides = [2,2]>(x, w0, b0) ar = Relu(a)
    p = MaxPool<kernel_shape = [3,3], strides = [2,2], pads = [1,1,1,1]>(ar)
    e = Conv(p, w1, b1) e6 = Clip(e, zero, six)
    d = Conv<pads = [1,1,1,1], group = 96>(e6, w2, b1) d6 = HardSwish(d)
    c = Conv(d6, w3) r = Add(c, p) g = Conv<pads = [1,1,1,1], group = 2>(r, w4, b0)
    j = Concat<axis = 1>(g, r) s = Conv<strides = [2,2]>(j, w5) t = Sigmoid(s) u = Mul(s, t)
    m = GlobalAveragePool(u) f = Flatten(m) y = MatMul(f, v)
"""


@pytest.fixture
def conv_net(graph_of: Any) -> Any:
    rng = np.random.default_rng(12)
    shapes: dict[str, tuple[int, ...]] = {
        "w0": (32, 3, 7, 7), "w1": (96, 32, 1, 1), "w2": (96, 1, 3, 3), "w3": (32, 96, 1, 1),
        "w4": (32, 16, 3, 3), "w5": (80, 64, 1, 1), "v": (80, 10),
    }  # fmt: skip
    arrays: dict[str, np.ndarray] = {
        n: (rng.standard_normal(s) / np.sqrt(np.prod(s[1:]))).astype(np.float32)
        for n, s in shapes.items()
    }
    arrays |= {n: rng.standard_normal(s).astype(np.float32) for n, s in (("b0", 32), ("b1", 96))}
    arrays |= {"zero": np.array(0, np.float32), "six": np.array(6, np.float32)}
    return graph_of("(float[B,3,H,W] x) => (float[B,10] y)", CONV_NET, arrays)


def test_a_conv_net_stays_in_bfloat16(conv_net: Any, array: Any, error_of: Any) -> None:
    compiled = zenith.compile(conv_net, precision="bf16", fallback="error")
    for batch, height, width in ((1, 45, 46), (3, 64, 33)):
        assert 1e-4 < error_of(conv_net, compiled, array(batch, 3, height, width)) < 3e-2
    nodes = compiled.explain().nodes
    fast = any("conv_bf16" in n.kernel or "direct_bf16" in n.kernel for n in nodes)
    if not fast:  # no instructions for it
        assert all(n.dtype == "float32" for n in nodes if "Conv" in n.op)
        return
    convs = [n for n in nodes if "Conv" in n.op]
    assert len(convs) == 6 and all("_bf16_" in n.kernel for n in convs), "grouped, depthwise, all"
    others = {n.op: n.dtype for n in nodes if n not in convs}
    assert others["ai.onnx:MaxPool"] == others["ai.onnx:Concat"] == "bfloat16"
    assert others["ai.onnx:ReduceMean"] == "bfloat16", "the global pool"
    casts = [n for n in nodes if n.op == "ai.onnx:Cast"]
    assert len(casts) == 1, "of the input: between convolutions nothing is converted"


def test_tolerance_is_checked_against_the_model_in_float64(layer: Any, array: Any) -> None:
    sample = (array(1, 5, 64),)
    zenith.compile(layer, sample_input=sample, precision="bf16", tolerance=0.05)
    with pytest.raises(PrecisionError):
        zenith.compile(layer, sample_input=sample, precision="bf16", tolerance=1e-4)


def test_weights_are_held_once_and_can_be_read(layer: Any) -> None:
    compiled = zenith.compile(layer, precision="bf16")
    constants = compiled.plan.partitions[0].program.constant_bytes  # type: ignore[attr-defined]
    source = sum(a.nbytes for a in weights().values())
    assert constants < 0.8 * source  # half of it, and the padding of panels
    read = [v.const_value.numpy() for v in compiled.graph.initializers.values()]
    assert {a.dtype.name for a in read} >= {"bfloat16"}


def test_inputs_and_outputs_keep_their_types(layer: Any, array: Any) -> None:
    compiled = zenith.compile(layer, precision="bf16")
    assert compiled(array(1, 3, 64)).dtype == np.float32
    with pytest.raises(zenith.errors.ValidationError):
        compiled(array(1, 3, 64).astype(np.float64))


@pytest.mark.parametrize("precision", ["fp16", "int4-weight", "auto"])
def test_what_no_kernel_honours_is_refused(layer: Any, precision: str) -> None:
    with pytest.raises(ConfigurationError, match="no kernel on target 'cpu' can honour it yet"):
        zenith.compile(layer, precision=precision)


def test_a_backend_refuses_what_it_does_not_name(layer: Any) -> None:
    with pytest.raises(ConfigurationError, match="'reference' can honour"):
        zenith.compile(layer, target="reference", precision="bf16")


GROUP_NET = """
    a = Conv<pads = [1,1,1,1]>(x, w0, b0) an = GroupNormalization<num_groups = 4>(a, s, t)
    ag = Sigmoid(an) as = Mul(an, ag) c = Conv<pads = [1,1,1,1]>(as, w1)
    cn = InstanceNormalization(c, s, t) cr = Relu(cn) y = Conv(cr, w2)
"""


def test_a_group_norm_and_its_activation_are_one_node(
    graph_of: Any, array: Any, error_of: Any
) -> None:
    rng = np.random.default_rng(13)
    shapes = {"w0": (32, 8, 3, 3), "w1": (32, 32, 3, 3), "w2": (8, 32, 1, 1), "b0": (32,)}
    weights = {
        n: (rng.standard_normal(s) / np.sqrt(np.prod(s[1:]))).astype(np.float32)
        for n, s in (shapes | {"s": (32,), "t": (32,)}).items()
    }
    graph = graph_of("(float[B,8,H,20] x) => (float[B,8,H,20] y)", GROUP_NET, weights)
    cases = [("fp32", "f32", 1e-5)]
    if _native.isas()[0] in PAIRS:  # else nothing is bfloat16 between convolutions of float32
        cases.append(("bf16", "bf16", 3e-2))
    for precision, kind, limit in cases:
        compiled = zenith.compile(graph, precision=precision)
        assert error_of(graph, compiled, array(2, 8, 12, 20)) < limit
        nodes = compiled.explain().nodes
        assert [n.op for n in nodes if "Norm" in n.op] == [
            "zenith:GroupNorm.silu",
            "zenith:GroupNorm.relu",
        ]
        assert all(n.kernel.startswith(f"group_norm_act_{kind}") for n in nodes if "Norm" in n.op)
        inner = [n.op for n in nodes[1:-1]]  # the input and the output are float32
        assert not any("Pointwise" in op or "Cast" in op for op in inner), inner
