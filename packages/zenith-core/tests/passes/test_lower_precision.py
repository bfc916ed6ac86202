"""lower_precision: where casts go, what stays float32."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from zenith.passes import PassManager
from zenith.passes.lower_precision import GAINS, LowerPrecision

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
