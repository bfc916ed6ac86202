"""TreeEnsemble against onnx's own evaluator: random trees, every test, every way to add up."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import pytest
from onnx.reference import ReferenceEvaluator

import zenith
from zenith.errors import KernelError

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
        ("nodes_featureids", FEATURES, "no feature"),
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
    compiled = zenith.compile(model(np.float32, **attributes), fallback="error")
    with pytest.raises(KernelError, match=message):
        compiled.run({"x": np.zeros((2, FEATURES), np.float32)})


def test_a_tree_with_a_cycle() -> None:
    attributes = forest(5, 1, np.float32)
    count = len(attributes["nodes_featureids"])
    for side in ("true", "false"):
        attributes[f"nodes_{side}nodeids"] = [0] * count
        attributes[f"nodes_{side}leafs"] = [0] * count
    compiled = zenith.compile(model(np.float32, **attributes), fallback="error")
    with pytest.raises(KernelError, match="cycle"):
        compiled.run({"x": np.zeros((2, FEATURES), np.float32)})
