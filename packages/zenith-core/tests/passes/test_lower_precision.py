"""lower_precision: where casts go, what stays float32."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from zenith.ir import GraphIR
from zenith.passes import PassManager
from zenith.passes.lower_precision import GAINS, LowerPrecision
from zenith.passes.rewrite import FLOAT_KEY

NORM = "LayerNormalization"


def lowered(check, signature: str, body: str, weights=None, able=(), fuse=("fuse_linear",)):
    """The graph after the pass, for a backend with bfloat16 rows for MatMul, Linear and `able`."""
    gains = {"MatMul", "Linear", "Attention"}

    def ask(node: ir.Node) -> frozenset[str] | None:
        low = any(v is not None and v.dtype == ir.DataType.BFLOAT16 for v in node.inputs)
        if not low:
            return frozenset()
        if node.op_type in gains:
            return frozenset({GAINS})
        return frozenset() if node.op_type in able else None

    graph = check.build(signature, body, weights)
    PassManager([*fuse, LowerPrecision(ask), "infer_shapes", "dce"], debug=True).run(graph)
    return graph


def weights(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {name: rng.standard_normal(s).astype(np.float32) for name, s in shapes.items()}


def text(graph) -> list[str]:
    """Each node with the types of its operands and results."""

    def short(v: ir.Value | None) -> str:
        return "" if v is None or v.dtype is None else str(v.dtype).lower()

    return [
        f"{n.op_type}{':' + n.overload if n.overload else ''}({', '.join(map(short, n.inputs))})"
        f" -> {', '.join(map(short, n.outputs))}"
        for n in graph.nodes
    ]


def test_without_a_backend_to_ask_nothing_changes(check) -> None:
    graph = check.build("(float[B,4] x) => (float[B,3] y)", "y = MatMul(x, w)", weights(w=(4, 3)))
    assert PassManager(["lower_precision"]).run(graph).changed("lower_precision") == 0


def test_two_products_meet_in_bfloat16_and_end_in_float32(check) -> None:
    graph = lowered(
        check,
        "(float[B,4] x) => (float[B,3] y)",
        "a = MatMul(x, w) b = Add(a, c) h = Relu(b) y = MatMul(h, v)",
        weights(w=(4, 5), c=(5,), v=(5, 3)),
    )
    assert text(graph) == [
        "Cast(float) -> bfloat16",
        "Linear:bias.relu(bfloat16, bfloat16, bfloat16) -> bfloat16",
        "Linear:float32(bfloat16, bfloat16) -> float",
    ]
    assert [v.dtype for v in graph.outputs] == [ir.DataType.FLOAT]
    constants = {str(v.name): v.dtype for v in graph.initializers.values()}
    assert set(constants.values()) == {ir.DataType.BFLOAT16}


def test_constants_are_rounded_to_nearest(check) -> None:
    data = {"w": np.array([[1 + 2**-8], [1 + 3 * 2**-8]], np.float32)}
    graph = lowered(check, "(float[B,2] x) => (float[B,1] y)", "y = MatMul(x, w)", data)
    (w,) = (v for v in graph.initializers.values() if v.dtype == ir.DataType.BFLOAT16)
    assert w.const_value is not None
    assert w.const_value.numpy().astype(float).ravel().tolist() == [1.0, 1 + 2**-6]


def test_elementwise_softmax_and_logits_stay_float32(check) -> None:
    graph = lowered(
        check,
        "(float[B,4] x) => (float[B,3] y)",
        "a = MatMul(x, w) e = Exp(a) b = MatMul(e, v) y = Softmax<axis = -1>(b)",
        weights(w=(4, 5), v=(5, 3)),
        fuse=(),
    )
    assert text(graph) == [
        "Cast(float) -> bfloat16",
        "MatMul(bfloat16, bfloat16) -> bfloat16",
        "Cast(bfloat16) -> float",
        "Exp(float) -> float",
        "Cast(float) -> bfloat16",
        "MatMul(bfloat16, bfloat16) -> bfloat16",
        "Cast(bfloat16) -> float",
        "Softmax(float) -> float",
    ]


def test_what_lies_between_products_joins_them(check) -> None:
    graph = lowered(
        check,
        "(float[B,4] x) => (float[3,B] y)",
        "a = MatMul(x, w) n = LayerNormalization(a, s, t) r = Transpose<perm = [1, 0]>(n) "
        "q = Transpose<perm = [1, 0]>(r) b = MatMul(q, v) y = Transpose<perm = [1, 0]>(b)",
        weights(w=(4, 5), s=(5,), t=(5,), v=(5, 3)),
        able=("Transpose", NORM),
    )
    assert text(graph)[1:] == [
        "Linear(bfloat16, bfloat16) -> bfloat16",
        "LayerNormalization(bfloat16, bfloat16, bfloat16) -> bfloat16",
        "Transpose(bfloat16) -> bfloat16",
        "Transpose(bfloat16) -> bfloat16",
        "Linear:float32(bfloat16, bfloat16) -> float",
        "Transpose(float) -> float",  # nobody behind it gains
    ]


def test_one_conversion_serves_all_readers(check) -> None:
    graph = lowered(
        check,
        "(float[B,4] x) => (float[B,3] y, float[B,3] z)",
        "y = MatMul(x, w) z = MatMul(x, v)",
        weights(w=(4, 3), v=(4, 3)),
    )
    assert [n.op_type for n in graph.nodes].count("Cast") == 1


def test_a_mask_keeps_its_type(check) -> None:
    graph = lowered(
        check,
        "(float[1,2,S,8] q, float[1,2,S,8] k, float[1,2,S,8] v, float[S,S] m)=> (float[1,2,S,8] y)",
        "y = Attention(q, k, v, m)",
    )
    assert "Attention(bfloat16, bfloat16, bfloat16, float) -> bfloat16" in text(graph)


@pytest.mark.parametrize(
    "signature, body",
    [
        ("(float[B,4] x) => (float[B,4] y)", "y = LayerNormalization(x, s, s)"),
        ("(double[B,4] x, double[4,3] d) => (double[B,3] y)", "y = MatMul(x, d)"),
        ("(int32[B,4] x, int32[4,3] d) => (int32[B,3] y)", "y = MatMul(x, d)"),
        ("(float[B,4] x) => (float[4,B] y)", "y = Transpose<perm = [1, 0]>(x)"),
    ],
)
def test_it_does_not_fire_without_a_product_of_floats(check, signature: str, body: str) -> None:
    graph = lowered(check, signature, body, weights(s=(4,)), able=("Transpose", NORM))
    assert not any("bfloat16" in line for line in text(graph))


def test_a_used_mean_keeps_the_norm_in_float32(check) -> None:
    graph = lowered(
        check,
        "(float[B,4] x) => (float[B,3] y, float[B,1] m)",
        "n, m = LayerNormalization(x, s, s) y = MatMul(n, w)",
        weights(s=(4,), w=(4, 3)),
        able=(NORM,),
    )
    assert text(graph)[0].startswith("LayerNormalization(float")


def test_data_follow_the_scale_of_an_rms_norm(check) -> None:
    """The result has the type of the scale, the data may have another: no kernel mixes the two."""
    graph = lowered(
        check,
        "(float[B,4] x) => (float[B,3] y)",
        "n = RMSNormalization(x, s) y = MatMul(n, w)",
        weights(s=(4,), w=(4, 3)),
        able=("RMSNormalization",),
    )
    assert "RMSNormalization(bfloat16, bfloat16) -> bfloat16" in text(graph)


PRODUCTS = """
    w = DequantizeLinear<axis = 1>(wi, ws) xf = DequantizeLinear(x, xs, xz)
    q = MatMul(xf, w) k = MatMul(xf, w) v = MatMul(xf, w)
"""
HEADS = """
    qr = Reshape(q, heads) kr = Reshape(k, heads) vr = Reshape(v, heads)
    qt = Transpose<perm = [0, 2, 1, 3]>(qr) kt = Transpose<perm = [0, 2, 1, 3]>(kr)
    vt = Transpose<perm = [0, 2, 1, 3]>(vr)
"""
END = """
    at = Transpose<perm = [0, 2, 1, 3]>(a) ar = Reshape(at, flat)
    y = QuantizeLinear(ar, xs, xz)
"""
VIEWS = ("Reshape", "Transpose")


def integers() -> dict[str, np.ndarray]:
    return {
        "wi": np.ones((8, 8), np.int8), "ws": np.ones(8, np.float32),
        "xs": np.float32(0.1).reshape(()), "xz": np.uint8(3).reshape(()),
        "heads": np.array([0, 0, 2, 4]), "flat": np.array([0, 0, 8]),
    }  # fmt: skip


def beside(
    check, signature: str, body: str, able=VIEWS, against: str | None = None
) -> tuple[GraphIR, list[str]]:
    """The graph after the pass beside products of integers, and why nodes stay float32."""

    def ask(node: ir.Node) -> frozenset[str] | None:
        low = any(v is not None and v.dtype == ir.DataType.BFLOAT16 for v in node.inputs)
        if node.op_type == "QuantizedLinear":
            return None if low else frozenset()
        if not low or node.op_type in (*able, "QuantizeLinear"):
            return frozenset()
        return frozenset({GAINS}) if node.op_type == "Attention" else None

    graph = check.build(signature, body, integers())
    steps = ["fuse_quantized", LowerPrecision(ask, lambda node: against), "infer_shapes", "dce"]
    PassManager(steps, debug=True).run(graph)
    said = [n.metadata_props[FLOAT_KEY] for n in graph.nodes if FLOAT_KEY in n.metadata_props]
    return graph, said


def test_attention_between_products_of_integers_needs_no_conversion(check) -> None:
    graph, said = beside(
        check,
        "(uint8[B,S,8] x) => (uint8[B,S,8] y)",
        f"{PRODUCTS} {HEADS} a = Attention(qt, kt, vt) {END}",
    )
    lines = text(graph)
    written = "QuantizedLinear:bfloat16(uint8, float, uint8, int8, float) -> bfloat16"
    assert lines.count(written) == 3
    assert lines[-4:] == [
        "Attention(bfloat16, bfloat16, bfloat16) -> bfloat16",
        "Transpose(bfloat16) -> bfloat16",
        "Reshape(bfloat16, int64) -> bfloat16",
        "QuantizeLinear(bfloat16, float, uint8) -> uint8",
    ]
    assert not any(line.startswith("Cast") for line in lines) and not said


@pytest.mark.parametrize(
    "signature, body, why",
    [
        # a cache of keys
        (
            "(uint8[B,S,8] x, float[B,2,S,4] kt) => (uint8[B,S,8] y)",
            f"{PRODUCTS} {HEADS.replace('kt =', 'unused =')} a = Attention(qt, kt, vt) {END}",
            "bfloat16 would have to be made of 'kt'",
        ),
        # keys that are a result, too
        (
            "(uint8[B,S,8] x) => (uint8[B,S,8] y, float[B,2,S,4] kt)",
            f"{PRODUCTS} {HEADS} a = Attention(qt, kt, vt) {END}",
            "bfloat16 would have to be made of 'kt'",
        ),
        # values that somebody reads in float32
        (
            "(uint8[B,S,8] x) => (uint8[B,S,8] y, float[B,S,8] e)",
            f"{PRODUCTS} {HEADS} a = Attention(qt, kt, vt) e = Exp(v) {END}",
            "bfloat16 would have to be made of 'vt'",
        ),
    ],
)
def test_attention_stays_float32_where_operands_are(check, signature, body, why) -> None:
    graph, said = beside(check, signature, body)
    assert "Attention(float, float, float) -> float" in text(graph) and said == [why]
    assert not any("bfloat16" in line for line in text(graph))


def test_attention_stays_float32_where_it_does_not_gain(check) -> None:
    graph, said = beside(
        check,
        "(uint8[B,S,8] x) => (uint8[B,S,8] y)",
        f"{PRODUCTS} {HEADS} a = Attention(qt, kt, vt) {END}",
        against="no tiles here",
    )
    assert not any("bfloat16" in line for line in text(graph)) and said == ["no tiles here"]


def test_angles_are_converted_once(check) -> None:
    turned = "qo = RotaryEmbedding(qt, c, s) ko = RotaryEmbedding(kt, c, s)"
    graph, said = beside(
        check,
        "(uint8[B,S,8] x, float[B,S,2] c, float[B,S,2] s) => (uint8[B,S,8] y)",
        f"{PRODUCTS} {HEADS} {turned} a = Attention(qo, ko, vt) {END}",
        able=(*VIEWS, "RotaryEmbedding"),
    )
    lines = text(graph)
    assert lines.count("RotaryEmbedding(bfloat16, bfloat16, bfloat16) -> bfloat16") == 2
    assert lines.count("Cast(float) -> bfloat16") == 2, "the angles, not what is turned"
    assert "Cast(bfloat16) -> float" not in lines and not said


def test_what_is_read_in_float32_behind_attention_is_converted_back(check) -> None:
    graph, _ = beside(
        check,
        "(uint8[B,S,8] x) => (float[B,S,8] y)",
        f"{PRODUCTS} {HEADS} a = Attention(qt, kt, vt) {END.replace('y = Quant', 'z = Quant')} "
        "y = Exp(ar)",
    )
    assert text(graph)[-5:] == [
        "Attention(bfloat16, bfloat16, bfloat16) -> bfloat16",
        "Cast(bfloat16) -> float",
        "Transpose(float) -> float",
        "Reshape(float, int64) -> float",
        "Exp(float) -> float",
    ]
