"""ai.onnx.ml's TreeEnsemble, and TreeEnsembleRegressor, which it replaces: rows go down all trees.

Both are read into one form: `Forest`, columns of nodes and leaves. The kernel takes nodes that ask
whether a feature is at most a number, or equal to it; every other test is one of these with its
children exchanged or another number.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from zenith.backends.cpu.emit import Emit
from zenith.backends.cpu.kernels.views import unbound
from zenith.errors import ValidationError
from zenith.runtime.kernel_registry import Cost, KernelSpec, traffic
from zenith.runtime.op_view import OpView

__all__ = ["SPECS", "features"]

Array: TypeAlias = np.ndarray[Any, Any]

_LEQ, _LT, _GTE, _GT, _EQ, _NEQ, _MEMBER = range(7)  # nodes_modes
_AVERAGE, _SUM, _MIN, _MAX = range(4)  # aggregate_function
_HOW = {_AVERAGE: 0, _SUM: 0, _MIN: 1, _MAX: 2}  # the kernel's
_FLOATS = frozenset({"float32", "float64"})
_KERNELS = {  # by what goes in and comes out
    ("float32", "float32"): "trees_f32",
    ("float64", "float64"): "trees_f64",
    ("float64", "float32"): "trees_f64_f32",
}
_NAMES = {"BRANCH_LEQ": _LEQ, "BRANCH_LT": _LT, "BRANCH_GTE": _GTE, "BRANCH_GT": _GT,
          "BRANCH_EQ": _EQ, "BRANCH_NEQ": _NEQ}  # fmt: skip
_EQUAL, _MISSING = 1 << 31, 1 << 30  # bits of a node's feature (trees.cpp)


@dataclass(frozen=True)
class _Forest:
    """Nodes as columns. `yes` and `no` are the next node, or -1 - leaf, and so are `roots`.

    weights: of each leaf for the target in `target`, or a row for all of them where that is None.
    missing: whether a NaN goes to `yes` whatever the test.
    """

    feature: Array
    split: Array
    mode: Array
    missing: Array
    yes: Array
    no: Array
    roots: Array
    target: Array | None
    weights: Array
    targets: int


def _ints(op: OpView, name: str) -> Array:
    return np.array(op.attr(name, []), np.int64)


def _flags(op: OpView, count: int) -> Array:
    given = _ints(op, "nodes_missing_value_tracks_true") != 0
    return given if given.size else np.zeros(count, bool)


def _within(ids: Array, count: int, what: str) -> None:
    if ids.size and not (ids.min() >= 0 and ids.max() < count):
        raise ValidationError(f"there is no {what} {ids.min()} or {ids.max()}, only {count}")


def _equally_long(columns: tuple[Array, ...], what: str) -> None:
    if len({len(column) for column in columns}) > 1:
        raise ValidationError(f"the columns of {what} differ in length")


def _ensemble(op: OpView) -> _Forest:
    yes, no = _ints(op, "nodes_truenodeids"), _ints(op, "nodes_falsenodeids")
    yes_leaf, no_leaf = _ints(op, "nodes_trueleafs") != 0, _ints(op, "nodes_falseleafs") != 0
    feature, roots, target = (
        _ints(op, name) for name in ("nodes_featureids", "tree_roots", "leaf_targetids")
    )
    split, mode = (op.attr(n).numpy().ravel() for n in ("nodes_splits", "nodes_modes"))
    weights, targets = op.attr("leaf_weights").numpy().ravel(), int(op.attr("n_targets", 1))
    missing = _flags(op, len(feature))
    _equally_long((feature, yes, no, yes_leaf, no_leaf, split, mode, missing), "its nodes")
    _equally_long((target, weights), "its leaves")
    for ids, leaf in ((yes, yes_leaf), (no, no_leaf)):
        _within(ids[leaf], len(weights), "leaf")
        _within(ids[~leaf], len(feature), "node")
    _within(roots, len(feature), "root")
    _within(target, targets, "target")
    yes, no = np.where(yes_leaf, -1 - yes, yes), np.where(no_leaf, -1 - no, no)
    forest = _Forest(feature, split, mode, missing, yes, no, roots, target, weights, targets)
    return _members(forest, op.attr("membership_values"))


def _members(forest: _Forest, values: Any) -> _Forest:
    """A test for membership as a chain of tests for equality."""
    sets = np.flatnonzero(forest.mode == _MEMBER)
    if not sets.size:
        return forest
    flat = np.empty(0) if values is None else values.numpy().ravel()
    groups = np.split(flat, np.flatnonzero(np.isnan(flat)) + 1)
    if len(groups) < len(sets):
        raise ValidationError(f"{len(sets)} nodes test for membership, in {len(groups)} sets")
    names = ("feature", "split", "mode", "missing", "yes", "no")
    columns: dict[str, list[Any]] = {name: getattr(forest, name).tolist() for name in names}
    for at, group in zip(sets.tolist(), groups, strict=False):
        members = group[~np.isnan(group)].tolist() or [np.nan]  # nothing equals that
        chain = [at, *range(len(columns["split"]), len(columns["split"]) + len(members) - 1)]
        after = [*chain[1:], columns["no"][at]]
        for column in columns.values():
            column += [column[at]] * (len(members) - 1)
        for node, member, no in zip(chain, members, after, strict=True):
            columns["split"][node], columns["mode"][node], columns["no"][node] = member, _EQ, no
    made: dict[str, Any] = {
        name: np.array(columns[name], getattr(forest, name).dtype) for name in names
    }
    return replace(forest, **made)


def _regressor(op: OpView) -> _Forest:
    """Nodes have the number of their tree and one in it; any number of weights belong to a leaf."""
    where = {
        pair: k
        for k, pair in enumerate(
            zip(op.attr("nodes_treeids", []), op.attr("nodes_nodeids", []), strict=False)
        )
    }
    tree = _ints(op, "nodes_treeids")
    modes = op.attr("nodes_modes", [])
    leaf = np.array([mode == "LEAF" for mode in modes], bool)
    unknown = {mode for mode in modes if mode != "LEAF"} - set(_NAMES)
    if unknown:
        raise ValidationError(f"a tree has nodes of mode {min(unknown)}")
    split = _floats(op, "nodes_values")
    feature, missing = _ints(op, "nodes_featureids"), _flags(op, len(modes))
    _equally_long((tree, _ints(op, "nodes_nodeids"), leaf, split, feature, missing), "its nodes")
    inner = np.flatnonzero(~leaf)
    number = np.where(leaf, -np.cumsum(leaf), np.cumsum(~leaf) - 1)  # of nodes, or -1 - leaf

    def child(name: str) -> Array:
        ids = op.attr(name, [])
        pairs = [(int(tree[k]), ids[k] if k < len(ids) else -1) for k in inner]
        if any(pair not in where for pair in pairs):
            raise ValidationError(f"{name} of a tree names a node that is not there")
        return number[[where[pair] for pair in pairs]]

    yes, no = child("nodes_truenodeids"), child("nodes_falsenodeids")
    roots = number[np.sort(np.unique(tree, return_index=True)[1])]
    mode = np.array([_NAMES[modes[k]] for k in inner], np.int64)
    targets = int(op.attr("n_targets", 1))
    weights, target = _leaf_weights(op, where, leaf, number, targets)
    return _Forest(
        feature[inner], split[inner], mode, missing[inner], yes, no, roots, target, weights, targets
    )


def _floats(op: OpView, name: str) -> Array:
    tensor = op.attr(f"{name}_as_tensor")
    return np.array(op.attr(name, []), np.float32) if tensor is None else tensor.numpy().ravel()


def _leaf_weights(
    op: OpView, where: dict[Any, int], leaf: Array, number: Array, targets: int
) -> tuple[Array, Array | None]:
    ids, weights = _ints(op, "target_ids"), _floats(op, "target_weights")
    pairs = list(zip(op.attr("target_treeids", []), op.attr("target_nodeids", []), strict=False))
    _equally_long((ids, weights, np.zeros(len(pairs))), "its weights")
    _within(ids, targets, "target")
    if any(pair not in where or not leaf[where[pair]] for pair in pairs):
        raise ValidationError("a weight belongs to a leaf that is not there")
    at = np.array([-1 - number[where[pair]] for pair in pairs], np.int64)
    count = int(leaf.sum())
    if len(at) == count == len(np.unique(at)):
        target, single = np.empty(count, np.int64), np.empty(count, weights.dtype)
        target[at], single[at] = ids, weights
        return single, target
    how = _how(op)
    rows = np.full((count, targets), _neutral(how, weights.dtype), weights.dtype)
    {_MIN: np.minimum, _MAX: np.maximum}.get(how, np.add).at(rows, (at, ids), weights)
    return rows, None


def _neutral(how: int, dtype: np.dtype[Any]) -> float:
    """What a target is without any weight."""
    limits = np.finfo(dtype)
    return float({_MIN: limits.max, _MAX: limits.min}.get(how, 0))


def _with_base(forest: _Forest, base: Array) -> _Forest:
    """`base` as a tree of one leaf more."""
    if not base.any():
        return forest
    if len(base) not in (1, forest.targets):
        raise ValidationError(f"{len(base)} base values for {forest.targets} targets")
    rows = forest.weights
    if forest.target is not None:
        rows = np.zeros((len(forest.weights), forest.targets), forest.weights.dtype)
        rows[np.arange(len(rows)), forest.target] = forest.weights
    more = np.broadcast_to(base, forest.targets).astype(rows.dtype)
    roots = np.append(forest.roots, -1 - len(rows))
    return replace(forest, roots=roots, target=None, weights=np.vstack([rows, more]))


def _forest(op: OpView) -> _Forest:
    """The attributes, checked: the kernel indexes with them."""
    forest = _ensemble(op) if op.type == "TreeEnsemble" else _regressor(op)
    _within(forest.feature, _MISSING, "feature")
    if _how(op) == _AVERAGE:
        share = max(len(forest.roots), 1)
        forest = replace(forest, weights=forest.weights / forest.weights.dtype.type(share))
    return _with_base(forest, _floats(op, "base_values"))


def _nodes(forest: _Forest, dtype: str) -> tuple[Array, bool]:
    """The kernel's nodes, leaves behind them, and whether all of them only ask "at most"."""
    mode, split = forest.mode, forest.split.astype(dtype)
    inner, count = len(mode), len(mode) + len(forest.weights)
    below = np.isin(mode, (_LT, _GTE))  # v < s is v <= the number before s
    before = np.nextafter(split, np.array(-np.inf, split.dtype))
    split = np.where(below, np.where(split == -np.inf, np.nan, before), split)
    exchanged = np.isin(mode, (_GTE, _GT, _NEQ))
    missing = (forest.missing | (mode == _NEQ)) != exchanged
    equal = np.isin(mode, (_EQ, _NEQ))
    children = [np.where(ids < 0, inner - 1 - ids, ids) for ids in (forest.yes, forest.no)]
    kind = np.dtype(
        [("split", dtype), ("feature", np.uint32), ("no", np.int32), ("yes", np.int32)], align=True
    )
    nodes = np.zeros(count, kind)
    nodes["split"][:inner] = split
    nodes["feature"][:inner] = forest.feature | equal * _EQUAL | missing * _MISSING
    nodes["yes"] = nodes["no"] = np.arange(count)
    nodes["yes"][:inner] = np.where(exchanged, children[1], children[0])
    nodes["no"][:inner] = np.where(exchanged, children[0], children[1])
    return nodes, not (equal.any() or missing.any())


def _check_ends(nodes: Array, inner: int, roots: Array) -> None:
    """Raise where a row could go round and round."""
    at = np.unique(roots)
    for _ in range(inner + 1):
        at = at[at < inner]
        if not at.size:
            return
        at = np.unique(np.concatenate([nodes["yes"][at], nodes["no"][at]]))
    raise ValidationError("a tree has a cycle")


def _emit(e: Emit) -> None:
    x, forest = e.dense(0), _forest(e.op)
    inner = len(forest.feature)
    if inner + len(forest.weights) > np.iinfo(np.int32).max:
        raise ValidationError("a forest has more nodes than 32 bits can count")
    nodes, plain = _nodes(forest, x.dtype)
    roots = np.where(forest.roots < 0, inner - 1 - forest.roots, forest.roots)
    _check_ends(nodes, inner, roots)
    target = np.empty(0, np.int64) if forest.target is None else forest.target
    out = e.output(0)
    e.step(
        _KERNELS[x.dtype, out.dtype],
        [
            x,
            e.const(nodes.view(np.uint8).reshape(len(nodes), nodes.itemsize)),
            e.const(roots.astype(np.int32)),
            e.const(target.astype(np.int32)),
            e.const(forest.weights.astype(x.dtype)),
        ],
        [out],
        how=_HOW[_how(e.op)],
        inner=inner,
        plain=int(plain),
    )


def _how(op: OpView) -> int:
    given = op.attr("aggregate_function", _SUM)
    named = {"AVERAGE": _AVERAGE, "SUM": _SUM, "MIN": _MIN, "MAX": _MAX}
    return named[given] if given in named else int(given)


def features(op: OpView) -> int:
    """How many features of a row the nodes look at."""
    if op.type == "TreeEnsemble":
        return int(_ints(op, "nodes_featureids").max(initial=-1)) + 1
    modes = op.attr("nodes_modes", [])
    return max(
        (k + 1 for k, mode in zip(op.attr("nodes_featureids", []), modes, strict=False)
         if mode != "LEAF"),
        default=0,
    )  # fmt: skip


def _supports(op: OpView) -> str | None:
    if op.required(0).rank != 2:
        return "its input is not rows of features"
    if op.attr("post_transform", 0) not in (0, "NONE"):
        return "it has a post_transform"
    if _how(op) not in _HOW:
        return "its aggregate_function is unknown"
    if _how(op) in (_MIN, _MAX) and _floats(op, "base_values").any():
        return "base values are added to a least or most"
    return unbound(op)


def _cost(op: OpView) -> Cost:
    """Rows in and out: how far a row goes down, data decides."""
    return traffic(op, 0)


SPECS = [
    KernelSpec(
        "tree_ensemble",
        "ai.onnx.ml:TreeEnsemble",
        _emit,
        dtypes={0: _FLOATS},
        supports=_supports,
        cost=_cost,
    ),
    KernelSpec(
        "tree_regressor",
        "ai.onnx.ml:TreeEnsembleRegressor",
        _emit,
        dtypes={0: _FLOATS},
        supports=_supports,
        cost=_cost,
    ),
]
