"""Classifiers and transformed scores against ONNX Runtime; against onnx's evaluator where ONNX
Runtime's results are no labels, or do not exist."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator

import zenith
from zenith.errors import ValidationError

FEATURES = 4
POSTS = ("NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO", "PROBIT")


def trees(prefix: str, ids: list[int], count: int, *, low: float = -1, seed: int = 0) -> Any:
    """Attributes of `count` full trees of two levels; each leaf weighs for all `ids`."""
    rng = np.random.default_rng(seed)
    columns: dict[str, list[Any]] = {
        f"nodes_{k}": []
        for k in ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids",
                  "falsenodeids", "missing_value_tracks_true")
    } | {f"{prefix}_{k}": [] for k in ("treeids", "nodeids", "ids", "weights")}  # fmt: skip

    def add(where: str, *values: Any) -> None:
        names = [k for k in columns if k.startswith(where)]
        for name, value in zip(names, values, strict=True):
            columns[name].append(value)

    for tree in range(count):
        for node in range(7):
            feature, split = int(rng.integers(FEATURES)), round(float(rng.standard_normal()), 1)
            if node < 3:
                mode = "BRANCH_LEQ" if node else "BRANCH_LT"
                add("nodes", tree, node, feature, split, mode, 2 * node + 1, 2 * node + 2, node % 2)
                continue
            add("nodes", tree, node, 0, 0.0, "LEAF", 0, 0, 0)
            for k in ids:
                add(prefix, tree, node, k, float(rng.uniform(low, 1)) / count)
    return columns


def model(op_type: str, kind: int, word: bool = False, **attributes: Any) -> onnx.ModelProto:
    names = ["label", "scores"] if op_type == "TreeEnsembleClassifier" else ["scores"]
    node = oh.make_node(op_type, ["x"], names, domain="ai.onnx.ml", **attributes)
    outputs = [oh.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, ["n", None])]
    if len(names) == 2:
        label = onnx.TensorProto.STRING if word else onnx.TensorProto.INT64
        outputs.insert(0, oh.make_tensor_value_info("label", label, ["n"]))
    x = oh.make_tensor_value_info("x", kind, ["n", FEATURES])
    imports = [oh.make_opsetid("", 17), oh.make_opsetid("ai.onnx.ml", 3)]
    graph = oh.make_graph([node], "forest", [x], outputs)
    return oh.make_model(graph, opset_imports=imports, ir_version=8)


def rows(count: int = 60, dtype: Any = np.float32) -> np.ndarray:
    x = np.round(np.random.default_rng(1).standard_normal((count, FEATURES)) * 2, 1)
    if np.dtype(dtype).kind == "f":
        x[::7, 1] = np.nan
    return x.astype(dtype)


def runtime(proto: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})


def agree(proto: onnx.ModelProto, x: np.ndarray, want: list[np.ndarray], **options: Any) -> None:
    got = zenith.compile(proto, fallback="error", **options).run({"x": x})
    *label, scores = want
    if label:
        assert got["label"].tolist() == label[0].tolist()
        assert len(set(label[0].tolist())) > 1 or len(x) < 2
    assert got["scores"].dtype == np.float32
    near = 1e-6 if "PROBIT" not in str(proto) else 2e-4  # theirs cancels in float32
    np.testing.assert_allclose(got["scores"], scores, rtol=1e-5, atol=near)


# Classes and of which of them the leaves speak; all weights positive; base values.
AS_RUNTIME = [
    (1, [0], False, None),
    (1, [0], False, [0.125]),
    (2, [0], False, None),
    (2, [0], True, None),
    (2, [0], False, [0.25]),
    (2, [1], False, None),
    (2, [1], True, None),
    (3, [0, 1, 2], False, None),
    (3, [0, 1, 2], True, [0.25, -0.5, 0.125]),
    (4, [1, 3], False, None),
    (4, [2], False, [0.25, -0.5, 0.125, 0.0]),
]


@pytest.mark.parametrize("post", POSTS)
@pytest.mark.parametrize(("classes", "ids", "positive", "base"), AS_RUNTIME)
def test_as_onnx_runtime(
    post: str, classes: int, ids: list[int], positive: bool, base: list[float] | None
) -> None:
    if post == "PROBIT" and classes == 2 and ids == [0]:
        pytest.skip("ONNX Runtime leaves the second score unwritten; see test_as_the_evaluator")
    attributes = trees("class", ids, 20, low=0 if positive else -1)
    if base is not None:
        attributes["base_values"] = base
    attributes["classlabels_int64s"] = [11, 5, 8, 40][:classes]
    proto = model("TreeEnsembleClassifier", 1, post_transform=post, **attributes)
    agree(proto, rows(), runtime(proto, rows()))


@pytest.mark.parametrize(("post", "classes", "ids", "base"), [
    *((post, 2, [0, 1], None) for post in POSTS),
    ("SOFTMAX", 2, [0, 1], [0.25, -0.125]),
    ("LOGISTIC", 2, [0], [0.125, 7.0]),  # only that of the class which the leaves speak of counts
    ("SOFTMAX", 3, [0, 1, 2], [0.125]),
])  # fmt: skip
def test_as_the_evaluator(post: str, classes: int, ids: list[int], base: Any) -> None:
    attributes = trees("class", ids, 20, low=0.1 if post == "PROBIT" else -1)
    attributes["classlabels_int64s"] = [11, 5, 8][:classes]
    if base is not None:
        attributes["base_values"] = base
    proto = model("TreeEnsembleClassifier", 1, post_transform=post, **attributes)
    agree(proto, rows(), ReferenceEvaluator(proto).run(None, {"x": rows()}))


def test_the_quantiles_of_two_classes() -> None:
    """Of which the leaves weigh one."""
    attributes = trees("class", [0], 20, low=0.1)
    proto = model("TreeEnsembleClassifier", 1, post_transform="PROBIT",
                  classlabels_int64s=[11, 5], **attributes)  # fmt: skip
    label, scores = ReferenceEvaluator(proto).run(None, {"x": rows()})
    agree(proto, rows(), [label, scores])


@pytest.mark.parametrize("level", [0, 2])
@pytest.mark.parametrize(("classes", "ids"), [(2, [0]), (3, [0, 1, 2])])
def test_words_as_labels(classes: int, ids: list[int], level: int) -> None:
    attributes = trees("class", ids, 5)
    attributes["classlabels_strings"] = ["no", "yes", "über"][:classes]
    proto = model("TreeEnsembleClassifier", 1, word=True, post_transform="LOGISTIC", **attributes)
    for count in (60, 1, 0):
        agree(proto, rows(count), runtime(proto, rows(count)), opt_level=level)


def test_one_word() -> None:
    attributes = trees("class", [0], 5) | {"classlabels_strings": ["it"]}
    proto = model("TreeEnsembleClassifier", 1, word=True, **attributes)
    got = zenith.compile(proto, fallback="error").run({"x": rows(3)})
    assert got["label"].tolist() == ["it"] * 3


def test_classes_that_some_rows_never_meet() -> None:
    """Their score is 0, and they win no row, though all others are less."""
    attributes = trees("class", [0, 1, 2], 1, low=-1)
    leaves = [(leaf + k) % 3 != 0 for leaf in range(4) for k in range(3)]
    for name in ("treeids", "nodeids", "ids", "weights"):
        column = attributes[f"class_{name}"]
        attributes[f"class_{name}"] = [v for v, kept in zip(column, leaves, strict=True) if kept]
    attributes["class_weights"] = [-abs(w) for w in attributes["class_weights"]]
    attributes["classlabels_int64s"] = [11, 5, 8]
    proto = model("TreeEnsembleClassifier", 1, post_transform="SOFTMAX", **attributes)
    agree(proto, rows(), runtime(proto, rows()))


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.int32])
@pytest.mark.parametrize("op_type", ["TreeEnsembleClassifier", "TreeEnsembleRegressor"])
def test_other_features(op_type: str, dtype: Any) -> None:
    """float64 is compared as it is: 0.1 is less than float32's 0.1. Numbers are as float32."""
    kind = oh.np_dtype_to_tensor_dtype(np.dtype(dtype))
    if op_type == "TreeEnsembleClassifier":
        attributes = trees("class", [0, 1, 2], 70) | {"classlabels_int64s": [1, 2, 3]}
    else:
        attributes = trees("target", [0, 1], 70) | {"n_targets": 2}
    proto = model(op_type, kind, post_transform="SOFTMAX", **attributes)
    x = rows(dtype=dtype)
    if kind == onnx.TensorProto.DOUBLE:
        want = runtime(proto, x)
    else:
        want = runtime(model(op_type, 1, post_transform="SOFTMAX", **attributes), x.astype("f4"))
    agree(proto, x, want)


@pytest.mark.parametrize("how", ["SUM", "AVERAGE", "MIN", "MAX"])
@pytest.mark.parametrize("targets", [1, 3])
@pytest.mark.parametrize("post", POSTS)
def test_regressor(post: str, targets: int, how: str) -> None:
    attributes = trees("target", list(range(targets)), 6, low=0) | {"n_targets": targets}
    base = [0.25, 0.125, 0.0625][:targets]
    for more in ({}, {"base_values": base}):
        proto = model("TreeEnsembleRegressor", 1, post_transform=post, aggregate_function=how,
                      **attributes, **more)  # fmt: skip
        agree(proto, rows(), runtime(proto, rows()))


def test_the_numbers_of_transforms() -> None:
    """TreeEnsemble's, as its specification counts them; ONNX Runtime exchanges 1 and 2."""
    x = np.array([[-1.0, 0, 0, 0], [1, 0, 0, 0]], np.float32)
    raw = np.array([[0.25, -0.5], [0.5, 0.0]])
    raised = np.exp(raw)
    want = {
        0: raw,
        1: raised / raised.sum(1, keepdims=True),
        2: 1 / (1 + np.exp(-raw)),
        3: np.array([raised[0] / raised[0].sum(), [1, 0]]),
    }
    for number, scores in want.items():
        proto = model(
            "TreeEnsemble", 1, tree_roots=[0, 1], nodes_featureids=[0, 0], n_targets=2,
            nodes_splits=oh.make_tensor("s", 1, [2], [0.0, 0.0]),
            nodes_modes=oh.make_tensor("m", onnx.TensorProto.UINT8, [2], [0, 0]),
            nodes_truenodeids=[0, 2], nodes_trueleafs=[1, 1], nodes_falsenodeids=[1, 3],
            nodes_falseleafs=[1, 1], leaf_targetids=[0, 0, 1, 1],
            leaf_weights=oh.make_tensor("w", 1, [4], [0.25, 0.5, -0.5, 0.0]),
            post_transform=number,
        )  # fmt: skip
        proto.opset_import[1].version = 5
        got = zenith.compile(proto, fallback="error")(x)
        np.testing.assert_allclose(got, scores, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("change", "message"), [
    ({"post_transform": "SOFTMIN"}, "post_transform is 'SOFTMIN'"),
    ({"classlabels_strings": ["a", "b"]}, "labels of its classes"),
    ({"class_ids": [7] * 4}, "no target"),
    ({"class_nodeids": [0] * 4}, "leaf that is not there"),
    ({"class_weights": [1.0]}, "differ in length"),
    ({"base_values": [1.0, 2.0, 3.0]}, "3 base values for 2 classes"),
])  # fmt: skip
def test_what_makes_no_sense(change: dict[str, Any], message: str) -> None:
    attributes = trees("class", [1], 1) | {"classlabels_int64s": [4, 5]}
    with pytest.raises(ValidationError, match=message):
        zenith.compile(model("TreeEnsembleClassifier", 1, **(attributes | change)))
