"""Classifiers and transformed scores in standard operators, behind a forest that only adds up.

The trees themselves stay a TreeEnsembleRegressor or TreeEnsemble. ONNX says little of what a
classifier does; where its evaluator and ONNX Runtime differ, files were made for the latter, and it
is followed wherever its results mean anything.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from zenith_onnx.contrib_table import expands
from zenith_onnx.upgrade._table import Site

__all__: list[str] = []

_ML = "ai.onnx.ml"
_TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")  # TreeEnsemble's numbers
_WINITZKI = 0.147  # of the approximation of the inverse error function that all of them use
_SMALL = 1e-7  # what SOFTMAX_ZERO takes for 0
_LEAVES = ("treeids", "nodeids", "ids", "weights", "weights_as_tensor")


@expands("TreeEnsemble", "TreeEnsembleRegressor", inputs=(1, 1), domain=_ML)
def _regression(site: Site) -> None:
    """Base values and the transform become nodes of their own where the forest cannot have them."""
    transform, x = _transform(site), _features(site)
    added = site.get("aggregate_function") in ("MIN", "MAX") and _floats(site, "base_values").any()
    if transform == "NONE" and not added and x is site.input(0):
        return
    given = dict(site.node.attributes.items())
    given.pop("post_transform", None)
    base = _floats(site, "base_values")
    if added:
        for name in ("base_values", "base_values_as_tensor"):
            given.pop(name, None)
    scores = _forest(site, site.node.op_type, x, list(given.values()))
    if added:
        scores = site.add("Add", scores, site.const(base.astype(np.float32)))
    one = site.get("n_targets", 1) == 1
    # As ONNX Runtime: the score of a single target is only ever made a quantile.
    site.replace(scores if one and transform != "PROBIT" else _transformed(site, scores, transform))


@expands("TreeEnsembleClassifier", inputs=(1, 1), outputs=2, domain=_ML)
def _classification(site: Site) -> None:
    transform, labels = _transform(site), _labels(site)
    ids, weights = [int(k) for k in site.get("class_ids", ())], _floats(site, "class_weights")
    positive = not weights.size or bool(weights.min() >= 0)
    single = len(labels) == 1 or (len(labels) == 2 and set(ids) == {0})
    sums = _sums(site, 1 if single else len(labels))
    if len(labels) == 1:
        above = site.add("Greater", sums, _f32(site, 0))
        scores = _transformed(site, sums, transform) if transform == "PROBIT" else sums
        # A number is no label here: it is 1, or 0 for "not it". The word is, whatever the score.
        labels = np.repeat(labels, 2) if labels.dtype == object else np.arange(2)
        winner = site.add("Cast", above, to=int(ir.DataType.INT64))
    elif len(labels) == 2 and len(set(ids)) == 1:
        last = sums if single else site.add("Slice", sums, *(site.ints([k]) for k in (1, 2, 1)))
        above = site.add("Greater", last, _f32(site, 0.5 if positive else 0))
        if single:
            scores = _two_scores(site, sums, transform, positive)
        else:
            scores = _transformed(site, sums, transform)
        winner = site.add("Cast", above, to=int(ir.DataType.INT64))
    else:
        scores = _transformed(site, sums, transform)
        seen = _seen(site, sums, ids, weights, len(labels))
        winner = site.add("ArgMax", seen, axis=1)
    winner = site.add("Squeeze", winner, site.ints([1]))
    if labels.dtype == object:
        words = [word.encode() for word in labels]
        known = site.add("Constant", value=ir.StringTensor(words, shape=ir.Shape([len(words)])))
    else:
        known = site.const(labels)
    site.replace(site.add("Gather", known, winner), scores)


def _transform(site: Site) -> str:
    given = site.get("post_transform", "NONE")
    name = given if isinstance(given, str) else dict(enumerate(_TRANSFORMS)).get(given, "")
    if name not in _TRANSFORMS:
        raise site.error(f"post_transform is {given!r}, not one of {', '.join(_TRANSFORMS)}")
    return name


def _labels(site: Site) -> np.ndarray[Any, Any]:
    numbers, words = (site.get(f"classlabels_{kind}", ()) for kind in ("int64s", "strings"))
    if bool(numbers) == bool(words):
        raise site.error("it needs labels of its classes: either numbers or words")
    return np.array(numbers, np.int64) if numbers else np.array(words, object)


def _floats(site: Site, name: str) -> np.ndarray[Any, Any]:
    tensor = site.get(f"{name}_as_tensor")
    return np.array(site.get(name, ()), np.float32) if tensor is None else tensor.numpy().ravel()


def _f32(site: Site, value: float) -> ir.Value:
    return site.const(np.array(value, np.float32))


def _features(site: Site) -> ir.Value:
    """The rows; whole numbers are compared as float32."""
    x = site.input(0)
    whole = x.dtype in (ir.DataType.INT32, ir.DataType.INT64)
    return site.add("Cast", x, to=int(ir.DataType.FLOAT)) if whole else x


def _forest(site: Site, op_type: str, x: ir.Value, attributes: Sequence[ir.Attr]) -> ir.Value:
    """A forest before the node, of its trees."""
    node = ir.Node(_ML, op_type, [x], attributes, name=f"{site.node.name or op_type}.forest")
    graph = site.node.graph
    assert graph is not None
    graph.insert_before(site.node, node)
    return node.outputs[0]


def _sums(site: Site, targets: int, *, count: bool = False) -> ir.Value:
    """What the leaves say for each class; `count`: how many of them say something."""
    given = {k: v for k, v in site.node.attributes.items() if k.startswith("nodes_")}
    for name in _LEAVES:
        attribute = site.node.attributes.get(f"class_{name}")
        if attribute is not None:
            given[name] = ir.Attr(f"target_{name}", attribute.type, attribute.value)
    base = _floats(site, "base_values").astype(np.float32)
    if count:
        given.pop("weights_as_tensor", None)
        ones = np.ones(len(site.get("class_ids", ())), np.float32)
        given["weights"] = ir.AttrFloat32s("target_weights", ones.tolist())
    elif base.size:
        each = base[:1] if targets == 1 else base
        if len(each) not in (1, targets):
            raise site.error(f"{len(base)} base values for {targets} classes")
        wide = np.broadcast_to(each, targets).tolist()
        given["base"] = ir.AttrFloat32s("base_values", wide)
    given["targets"] = ir.AttrInt64("n_targets", targets)
    return _forest(site, "TreeEnsembleRegressor", _features(site), list(given.values()))


def _two_scores(site: Site, sums: ir.Value, transform: str, positive: bool) -> ir.Value:
    """The scores of two classes of which the trees only weigh one."""
    if transform == "LOGISTIC":
        both = site.add("Concat", site.add("Neg", sums), sums, axis=1)
        return site.add("Sigmoid", both)
    if transform == "PROBIT" or positive:
        other = site.add("Sub", _f32(site, 1), sums)
    else:
        other = site.add("Neg", sums)
    both = site.add("Concat", other, sums, axis=1)
    return _transformed(site, both, transform) if transform == "PROBIT" else both


def _seen(
    site: Site, sums: ir.Value, ids: list[int], weights: np.ndarray[Any, Any], classes: int
) -> ir.Value:
    """The sums, those of classes that no leaf of a row has spoken of below all others."""
    if _floats(site, "base_values").size or (weights.size and weights.min() > 0):
        return sums  # what nobody spoke of is 0, and below the others anyway
    trees, names = site.get("class_treeids", ()), site.get("class_nodeids", ())
    leaves: dict[int, set[int]] = defaultdict(set)
    nodes = (site.get(f"nodes_{k}", ()) for k in ("treeids", "nodeids", "modes"))
    for tree, name, mode in zip(*nodes, strict=False):
        if mode == "LEAF":
            leaves[tree].add(name)
    spoken: dict[tuple[int, int], set[int]] = defaultdict(set)  # leaves, of a class and tree
    for tree, name, k in zip(trees, names, ids, strict=False):
        spoken[k, tree].add(name)
    if len({k for (k, tree), of in spoken.items() if of >= leaves[tree]}) == classes:
        return sums  # every row meets a leaf for each class
    some = site.add("Greater", _sums(site, classes, count=True), _f32(site, 0))
    return site.add("Where", some, sums, _f32(site, -math.inf))


def _transformed(site: Site, x: ir.Value, transform: str) -> ir.Value:
    """Scores of rows."""
    if transform == "NONE":
        return x
    if transform == "LOGISTIC":
        return site.add("Sigmoid", x)
    if transform == "SOFTMAX":
        return site.add("Softmax", x, axis=-1)
    return _quantile(site, x) if transform == "PROBIT" else _softmax_zero(site, x)


def _softmax_zero(site: Site, x: ir.Value) -> ir.Value:
    """Softmax in which a score of 0 stays 0; halves where nothing is left."""
    last = site.ints([-1])
    most = site.add("ReduceMax", x, last)
    weights = site.add("Exp", site.add("Sub", x, most))
    zeros = site.add("Mul", x, site.add("Exp", site.add("Neg", most)))
    far = site.add("Greater", site.add("Abs", x), _f32(site, _SMALL))
    raised = site.add("Where", far, weights, zeros)
    total = site.add("ReduceSum", raised, last)
    nothing = site.add("Equal", total, _f32(site, 0))
    return site.add("Where", nothing, _f32(site, 0.5), site.add("Div", raised, total))


def _quantile(site: Site, p: ir.Value) -> ir.Value:
    """Of the normal distribution, by Winitzki's approximation; NaN where p is no probability.

    In float64: near the middle almost all of it cancels.
    """
    x = site.add("Cast", p, to=int(ir.DataType.DOUBLE))
    one, two = (site.const(np.array(k, np.float64)) for k in (1, 2))
    x = site.add("Sub", site.add("Mul", x, two), one)
    log = site.add("Log", site.add("Mul", site.add("Sub", one, x), site.add("Add", one, x)))
    half = site.add("Div", log, two)
    shifted = site.add("Add", half, site.const(np.array(2 / (math.pi * _WINITZKI))))
    square = site.add("Mul", shifted, shifted)
    slope = site.const(np.array(_WINITZKI))
    root = site.add("Sqrt", site.add("Sub", square, site.add("Div", log, slope)))
    size = site.add("Sqrt", site.add("Mul", site.add("Sub", root, shifted), two))
    return site.add("Cast", site.add("Mul", site.add("Sign", x), size), to=int(ir.DataType.FLOAT))
