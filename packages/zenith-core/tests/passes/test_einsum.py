"""lower_einsum against numpy: forms of the equation, random equations, sizes, dtypes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import zenith
from zenith.ir import OPSET, GraphIR
from zenith.passes import PassManager

Array = np.ndarray[Any, Any]


def graph_of(
    equation: str, arrays: list[Array], dynamic: dict[int, list[str | int]] | None = None
) -> GraphIR:
    names = [f"x{i}" for i in range(len(arrays))]
    infos = [
        onnx.helper.make_tensor_value_info(
            name,
            onnx.helper.np_dtype_to_tensor_dtype(a.dtype),
            (dynamic or {}).get(i, list(a.shape)),
        )
        for i, (name, a) in enumerate(zip(names, arrays, strict=True))
    ]
    node = onnx.helper.make_node("Einsum", names, ["y"], equation=equation)
    graph = onnx.helper.make_graph([node], "g", infos, [onnx.ValueInfoProto(name="y")])
    opset = onnx.helper.make_opsetid("", OPSET)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=12)
    return GraphIR.from_onnx(model).infer_shapes()


def lowered(equation: str, arrays: list[Array], **options: Any) -> GraphIR:
    graph = graph_of(equation, arrays, **options)
    assert PassManager(["lower_einsum"], debug=True).run(graph).changed("lower_einsum") == 1
    assert all(node.op_type != "Einsum" for node in graph.nodes)
    return graph


def check(equation: str, arrays: list[Array], **options: Any) -> None:
    compiled = zenith.compile(lowered(equation, arrays, **options), fallback="error")
    got = compiled.run({f"x{i}": a for i, a in enumerate(arrays)})["y"]
    wide = [a.astype(np.float64) if a.dtype.kind == "f" else a for a in arrays]
    wanted = np.einsum(equation, *wide)
    assert got.shape == wanted.shape and got.dtype == arrays[0].dtype
    if arrays[0].dtype.kind == "f":
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    else:
        np.testing.assert_array_equal(got, wanted)


def floats(*shapes: tuple[int, ...], seed: int = 0) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(s).astype(np.float32) for s in shapes]


CASES: list[tuple[str, list[tuple[int, ...]]]] = [
    ("ij,jk->ik", [(3, 4), (4, 5)]),
    ("ij,jk", [(3, 4), (4, 5)]),
    ("ij,jk->ki", [(3, 4), (4, 5)]),
    (" b i d , b j d -> b i j ", [(2, 3, 4), (2, 5, 4)]),
    ("bhqd,bhkd->bhqk", [(2, 3, 4, 5), (2, 3, 6, 5)]),
    ("bqhd,bkhd->bhqk", [(2, 4, 3, 5), (2, 6, 3, 5)]),
    ("abc,dcb->ad", [(2, 3, 4), (5, 4, 3)]),
    ("abc,cde->abde", [(2, 3, 4), (4, 5, 6)]),
    ("i,j->ij", [(3,), (4,)]),
    ("i,i->", [(7,), (7,)]),
    ("i,i->i", [(7,), (7,)]),
    ("ij->", [(3, 4)]),
    ("ij->j", [(3, 4)]),
    ("ij->ji", [(3, 4)]),
    ("ji", [(3, 4)]),
    ("ij->ij", [(3, 4)]),
    ("ii->i", [(4, 4)]),
    ("ii", [(4, 4)]),
    ("iij->ji", [(4, 4, 3)]),
    ("iii->i", [(3, 3, 3)]),
    ("iji,jk->ik", [(3, 4, 3), (4, 5)]),
    ("...ii->...i", [(2, 3, 4, 4)]),
    ("...ij,...jk->...ik", [(2, 6, 3, 4), (2, 6, 4, 5)]),
    ("...ij,...jk", [(1, 6, 3, 4), (2, 6, 4, 5)]),
    ("...ij,jk->...ik", [(2, 6, 3, 4), (4, 5)]),
    ("...,...->...", [(2, 3), (1, 3)]),
    ("...a,b...->ab...", [(2, 3), (4, 2)]),
    ("ab...->b...", [(2, 3, 4)]),
    ("ij,ij->ij", [(1, 4), (3, 4)]),
    ("ij,jk->ik", [(3, 1), (4, 5)]),
    ("bij,bjk->bik", [(1, 3, 4), (2, 4, 5)]),
    ("ij,jk,kl->il", [(3, 4), (4, 5), (5, 2)]),
    ("ij,jk,kl,lm->im", [(9, 2), (2, 9), (9, 2), (2, 9)]),
    ("bi,bj,bk->ijk", [(6, 2), (6, 3), (6, 4)]),
    ("bn,anm,bm->ba", [(2, 3), (4, 3, 5), (2, 5)]),
    ("ij,k->k", [(2, 3), (4,)]),
    ("aB,Bc->ac", [(2, 3), (3, 4)]),
    ("ij,jk->ik", [(0, 4), (4, 5)]),
    ("ij,jk->ik", [(3, 0), (0, 5)]),
    (",i->i", [(), (3,)]),
]


@pytest.mark.parametrize(("equation", "shapes"), CASES)
def test_forms(equation: str, shapes: list[tuple[int, ...]]) -> None:
    check(equation, floats(*shapes))


@pytest.mark.parametrize("seed", range(30))
def test_random_equations(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = dict(zip("abcdef", rng.integers(1, 5, 6), strict=True))
    operands, shapes = [], []
    for _ in range(rng.integers(1, 4)):
        labels = rng.choice(list("abcdef"), rng.integers(1, 4), replace=bool(rng.random() < 0.3))
        operands.append("".join(labels))
        shapes.append(tuple(int(sizes[c]) for c in labels))
    present = sorted({c for o in operands for c in o})
    kept = rng.permutation(present)[: rng.integers(0, len(present) + 1)]
    check(f"{','.join(operands)}->{''.join(kept)}", floats(*shapes, seed=seed))


@pytest.mark.parametrize("dtype", ["float64", "int32", "int64"])
def test_dtypes(dtype: str) -> None:
    a, b = (np.arange(12).reshape(3, 4).astype(dtype), np.arange(20).reshape(4, 5).astype(dtype))
    graph = lowered("ij,jk->ki", [a, b])
    got = zenith.compile(graph, fallback="allow").run({"x0": a, "x1": b})["y"]
    np.testing.assert_array_equal(got, (a @ b).T)


def test_narrow_integers_wrap_around() -> None:
    a = np.arange(-60, 60).reshape(12, 10).astype(np.int8)
    graph = lowered("ij,kj->ik", [a, a])
    got = zenith.compile(graph, fallback="allow").run({"x0": a, "x1": a})["y"]
    np.testing.assert_array_equal(got, (a.astype(np.int64) @ a.T.astype(np.int64)).astype(np.int8))


DYNAMIC: list[tuple[str, list[list[str | int]], list[tuple[int, ...]]]] = [
    ("bqhd,bkhd->bhqk", [["B", "S", 3, 4], ["B", "S", 3, 4]], [(2, 5, 3, 4)] * 2),
    ("abc,cde->abde", [["A", "B", 4], [4, "D", "E"]], [(2, 3, 4), (4, 5, 6)]),
    ("abc,dcb->ad", [["A", "B", "C"], ["D", "C", "B"]], [(2, 3, 4), (5, 4, 3)]),
    ("i,j->ij", [["N"], ["M"]], [(3,), (4,)]),
    ("...ij,...jk->...ik", [["A", "B", 3, 4], ["A", "B", 4, 5]], [(2, 6, 3, 4), (2, 6, 4, 5)]),
    ("i,i->", [["N"], ["N"]], [(7,), (7,)]),
]


@pytest.mark.parametrize(("equation", "names", "shapes"), DYNAMIC)
def test_dynamic_sizes(
    equation: str, names: list[list[str | int]], shapes: list[tuple[int, ...]]
) -> None:
    check(equation, floats(*shapes), dynamic=dict(enumerate(names)))


@pytest.mark.parametrize(
    ("equation", "shapes", "why"),
    [
        ("ij,jk->iz", [(3, 4), (4, 5)], "a label of no operand"),
        ("ij,jk->ii", [(3, 4), (4, 5)], "a label twice in the result"),
        ("ij->ij", [(3, 4), (4, 5)], "too few operands"),
    ],
)
def test_wrong_equations_stay(equation: str, shapes: list[tuple[int, ...]], why: str) -> None:
    arrays = floats(*shapes)
    try:
        graph = graph_of(equation, arrays)
    except zenith.errors.ZenithError:
        return  # inference has said so already
    assert PassManager(["lower_einsum"]).run(graph).changed("lower_einsum") == 0, why


def test_a_diagonal_of_dynamic_size_stays() -> None:
    graph = graph_of("ii->i", floats((4, 4)), {0: ["N", "N"]})
    assert PassManager(["lower_einsum"]).run(graph).changed("lower_einsum") == 0


def test_text() -> None:
    graph = lowered("bqhd,bkhd->bhqk", floats((2, 5, 3, 4), (2, 6, 3, 4)))
    assert [n.op_type for n in graph.nodes] == ["Transpose", "Transpose", "MatMul"]
    assert [list(n.attributes["perm"].value) for n in graph.nodes[:2]] == [
        [0, 2, 1, 3],
        [0, 2, 3, 1],
    ]


def test_the_cheap_product_comes_first() -> None:
    graph = lowered("ij,jk,kl->il", floats((50, 2), (2, 50), (50, 3)))
    first = next(n for n in graph.nodes if n.op_type == "MatMul")
    assert [v.name for v in first.inputs] == ["x1", "x2"]
