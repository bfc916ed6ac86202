"""TreeEnsemble and TreeEnsembleRegressor against onnx's own evaluator: random trees, every test,
every way to add up."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator

import zenith
from zenith.errors import ValidationError

FEATURES, TARGETS = 5, 3


def forest(seed: int, trees: int, dtype: Any, modes: int = 6) -> dict[str, Any]:
    """Attributes of random trees; a node is made before its children."""
    rng = np.random.default_rng(seed)
    nodes: list[list[Any]] = []  # feature, split, mode, missing, yes, yes is leaf, no, no is leaf
    leaves: list[tuple[int, float]] = []

    def leaf() -> int:
        leaves.append((int(rng.integers(TARGETS)), float(rng.standard_normal())))
        return len(leaves) - 1

    def node(depth: int) -> int:
        at = len(nodes)
        split = round(float(rng.standard_normal()), 1)
        nodes.append([int(rng.integers(FEATURES)), split, int(rng.integers(modes)),
                      int(rng.integers(2))])  # fmt: skip
        for _ in range(2):
            ends = depth == 0 or rng.random() < 0.2
            nodes[at] += [leaf() if ends else node(depth - 1), int(ends)]
        return at

    roots = [node(int(rng.integers(6))) for _ in range(trees)]
    columns = list(zip(*nodes, strict=True))
    kind = oh.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return {
        "tree_roots": roots,
        "nodes_featureids": columns[0],
        "nodes_splits": oh.make_tensor("s", kind, [len(nodes)], columns[1]),
        "nodes_modes": oh.make_tensor("m", onnx.TensorProto.UINT8, [len(nodes)], columns[2]),
        "nodes_missing_value_tracks_true": columns[3],
        "nodes_truenodeids": columns[4],
        "nodes_trueleafs": columns[5],
        "nodes_falsenodeids": columns[6],
        "nodes_falseleafs": columns[7],
        "leaf_targetids": [t for t, _ in leaves],
        "leaf_weights": oh.make_tensor("w", kind, [len(leaves)], [w for _, w in leaves]),
        "n_targets": TARGETS,
    }


def model(dtype: Any, **attributes: Any) -> onnx.ModelProto:
    kind = oh.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = oh.make_graph(
        [oh.make_node("TreeEnsemble", ["x"], ["y"], domain="ai.onnx.ml", **attributes)],
        "forest",
        [oh.make_tensor_value_info("x", kind, ["n", FEATURES])],
        [oh.make_tensor_value_info("y", kind, ["n", TARGETS])],
    )
    imports = [oh.make_opsetid("", 22), oh.make_opsetid("ai.onnx.ml", 5)]
    return oh.make_model(graph, opset_imports=imports, ir_version=10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("how", [0, 1, 2, 3])
def test_against_the_reference(dtype: Any, how: int) -> None:
    for seed, trees in ((1, 1), (2, 9)):
        proto = model(dtype, **forest(seed, trees, dtype), aggregate_function=how)
        compiled = zenith.compile(proto, fallback="error")
        reference = ReferenceEvaluator(proto)
        for rows in (1, 6):
            x = np.round(np.random.default_rng(rows).standard_normal((rows, FEATURES)), 1)
            x = x.astype(dtype)
            x[0, 1] = np.nan
            (want,) = reference.run(None, {"x": x})
            got = compiled.run({"x": x})["y"]
            assert got.dtype == dtype
            np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def test_no_rows_and_many_rows() -> None:
    proto = model(np.float32, **forest(3, 4, np.float32))
    compiled = zenith.compile(proto, fallback="error")
    assert compiled.run({"x": np.empty((0, FEATURES), np.float32)})["y"].shape == (0, TARGETS)
    x = np.random.default_rng(0).standard_normal((2500, FEATURES)).astype(np.float32)
    whole = compiled.run({"x": x})["y"]
    for at in (0, 1023, 1024, 2499):
        np.testing.assert_array_equal(compiled.run({"x": x[at : at + 1]})["y"][0], whole[at])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("nodes_featureids", FEATURES, "features that trees look at: 6 is more than 5"),
        ("nodes_featureids", -1, "no feature"),
        ("nodes_truenodeids", 1 << 40, "there is no"),
        ("nodes_falsenodeids", -5, "there is no"),
        ("leaf_targetids", TARGETS, "no target"),
        ("tree_roots", 999, "no root"),
    ],
)
def test_numbers_that_point_nowhere(name: str, value: int, message: str) -> None:
    attributes = forest(4, 3, np.float32)
    attributes[name] = [value, *attributes[name][1:]]
    with pytest.raises(ValidationError, match=message):
        zenith.compile(model(np.float32, **attributes), fallback="error")


def test_a_tree_with_a_cycle() -> None:
    attributes = forest(5, 1, np.float32)
    count = len(attributes["nodes_featureids"])
    for side in ("true", "false"):
        attributes[f"nodes_{side}nodeids"] = [0] * count
        attributes[f"nodes_{side}leafs"] = [0] * count
    with pytest.raises(ValidationError, match="cycle"):
        zenith.compile(model(np.float32, **attributes), fallback="error")


def test_membership() -> None:
    """A node that asks for a set: of none, one or more members, and a NaN that goes to `yes`."""
    attributes = forest(6, 12, np.float32)
    modes = np.array(onnx.numpy_helper.to_array(attributes["nodes_modes"]))
    sets = np.flatnonzero(np.arange(len(modes)) % 3 == 0)
    modes[sets] = 6
    attributes["nodes_modes"] = onnx.numpy_helper.from_array(modes, "m")
    rng = np.random.default_rng(6)
    values: list[float] = []
    for k in range(len(sets)):
        values += [*np.round(rng.standard_normal(k % 4), 1), np.nan]
    attributes["membership_values"] = oh.make_tensor("v", 1, [len(values)], values)
    compiled = zenith.compile(model(np.float32, **attributes), fallback="error")
    x = np.round(rng.standard_normal((200, FEATURES)), 1).astype(np.float32)
    x[::7, 2] = np.nan
    want = np.zeros((len(x), TARGETS))
    for row, result in zip(x, want, strict=True):
        for root in attributes["tree_roots"]:
            leaf = walk(attributes, modes, sets.tolist(), values, root, row)
            result[attributes["leaf_targetids"][leaf]] += attributes["leaf_weights"].float_data[
                leaf
            ]
    np.testing.assert_allclose(compiled(x), want, rtol=1e-5, atol=1e-5)


def walk(
    a: dict[str, Any], modes: Any, sets: list[int], values: list[float], at: int, row: Any
) -> int:
    """The leaf a row ends at, by the words of the specification."""
    groups = np.split(np.array(values), np.flatnonzero(np.isnan(values)) + 1)
    while True:
        value, split = row[a["nodes_featureids"][at]], np.float32(a["nodes_splits"].float_data[at])
        holds = {
            0: value <= split, 1: value < split, 2: value >= split, 3: value > split,
            4: value == split, 5: value != split,
        }.get(int(modes[at]))  # fmt: skip
        if holds is None:
            holds = value in groups[sets.index(at)].astype(np.float32)
        holds = holds or (np.isnan(value) and a["nodes_missing_value_tracks_true"][at])
        side = "true" if holds else "false"
        leaf, at = a[f"nodes_{side}leafs"][at], a[f"nodes_{side}nodeids"][at]
        if leaf:
            return int(at)


def regressor(seed: int, trees: int, each: int, **attributes: Any) -> onnx.ModelProto:
    """Trees as the older operator writes them; `each`: weights of a leaf."""
    rng = np.random.default_rng(seed)
    names = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ")
    columns: dict[str, list[Any]] = {
        f"nodes_{k}": []
        for k in ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids",
                  "falsenodeids", "missing_value_tracks_true")
    } | {f"target_{k}": [] for k in ("treeids", "nodeids", "ids", "weights")}  # fmt: skip

    def add(prefix: str, **values: Any) -> int:
        for key, value in values.items():
            columns[f"{prefix}_{key}"].append(value)
        return len(columns[f"{prefix}_treeids"]) - 1

    def node(tree: int, depth: int, numbers: list[int]) -> int:
        number = len(numbers)
        numbers.append(number)
        at = add("nodes", treeids=tree, nodeids=number, featureids=int(rng.integers(FEATURES)),
                 values=round(float(rng.standard_normal()), 1), truenodeids=0, falsenodeids=0,
                 modes=names[rng.integers(6)],
                 missing_value_tracks_true=int(rng.integers(2)))  # fmt: skip
        if depth == 0 or rng.random() < 0.2:
            columns["nodes_modes"][at] = "LEAF"
            for _ in range(each):
                add("target", treeids=tree, nodeids=number, ids=int(rng.integers(TARGETS)),
                    weights=float(rng.standard_normal()))  # fmt: skip
        else:
            columns["nodes_truenodeids"][at] = node(tree, depth - 1, numbers)
            columns["nodes_falsenodeids"][at] = node(tree, depth - 1, numbers)
        return number

    for tree in range(trees):
        node(tree, int(rng.integers(6)), [])
    op = oh.make_node("TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml",
                      n_targets=TARGETS, **columns, **attributes)  # fmt: skip
    graph = oh.make_graph(
        [op], "forest", [oh.make_tensor_value_info("x", 1, ["n", FEATURES])],
        [oh.make_tensor_value_info("y", 1, ["n", TARGETS])],
    )  # fmt: skip
    imports = [oh.make_opsetid("", 18), oh.make_opsetid("ai.onnx.ml", 3)]
    return oh.make_model(graph, opset_imports=imports, ir_version=8)


@pytest.mark.parametrize("how", ["SUM", "AVERAGE", "MIN", "MAX"])
@pytest.mark.parametrize("each", [1, 3])
def test_regressor(how: str, each: int) -> None:
    base = {"base_values": [0.5, -1.0, 2.0]} if how == "SUM" else {}
    proto = regressor(8, 70, each, aggregate_function=how, **base)
    compiled = zenith.compile(proto, fallback="error")
    x = np.round(np.random.default_rng(0).standard_normal((40, FEATURES)), 1).astype(np.float32)
    x[3, 1] = np.nan
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (want,) = session.run(None, {"x": x})
    for rows in (40, 16, 3, 1):
        np.testing.assert_allclose(compiled(x[:rows]), want[:rows], rtol=1e-5, atol=2e-5)


def test_a_forest_of_many_nodes() -> None:
    """More than any other list attribute may hold."""
    proto = model(np.float32, **forest(9, 6500, np.float32))
    assert max(len(a.ints) for a in proto.graph.node[0].attribute) > 1 << 16
    compiled = zenith.compile(proto, fallback="error")
    x = np.random.default_rng(0).standard_normal((2, FEATURES)).astype(np.float32)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (want,) = session.run(None, {"x": x})
    np.testing.assert_allclose(compiled(x), want, rtol=1e-4, atol=1e-3)
