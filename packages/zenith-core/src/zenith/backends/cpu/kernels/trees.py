"""ai.onnx.ml:TreeEnsemble: all rows go down all trees at once, a level at a time, in numpy."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from zenith.runtime.kernel_registry import KernelSpec
from zenith.runtime.op_view import OpView

__all__ = ["SPECS"]

Array: TypeAlias = np.ndarray[Any, Any]

_ROWS = 1024  # that go down together
_COMPARE: dict[int, Callable[[Array, Array], Array]] = {  # nodes_modes; 6 is membership
    0: np.less_equal,
    1: np.less,
    2: np.greater_equal,
    3: np.greater,
    4: np.equal,
    5: np.not_equal,
}
_AVERAGE, _SUM, _MIN, _MAX = range(4)
_FLOATS = frozenset({"float32", "float64"})


@dataclass(frozen=True)
class _Trees:
    """Nodes as columns. `yes` and `no` are the next node, or -1 - leaf."""

    feature: Array
    split: Array
    mode: Array
    missing: Array  # whether a NaN goes to `yes`
    yes: Array
    no: Array
    roots: Array
    target: Array
    weight: Array
    targets: int

    def leaves(self, x: Array) -> Array:
        """[rows, trees]: the leaf every row ends at."""
        at = np.tile(self.roots, len(x))
        for _ in range(len(self.feature) + 1):
            (going,) = np.nonzero(at >= 0)
            if not going.size:
                return (-1 - at).reshape(len(x), -1)
            node = at[going]
            value, split = x[going // len(self.roots), self.feature[node]], self.split[node]
            mode, holds = self.mode[node], np.zeros(len(node), bool)
            for number in np.unique(mode):
                mine = mode == number
                holds[mine] = _COMPARE[int(number)](value[mine], split[mine])
            holds |= self.missing[node] & np.isnan(value)
            at[going] = np.where(holds, self.yes[node], self.no[node])
        raise ValueError("a tree has a cycle")


_read: weakref.WeakKeyDictionary[OpView, _Trees] = weakref.WeakKeyDictionary()


def _ints(op: OpView, name: str) -> Array:
    return np.array(op.attr(name, []), np.int64)


def _trees(op: OpView) -> _Trees:
    """The attributes, checked: kernels index with them."""
    found = _read.get(op)
    if found is not None:
        return found
    yes, no = _ints(op, "nodes_truenodeids"), _ints(op, "nodes_falsenodeids")
    yes_leaf, no_leaf = _ints(op, "nodes_trueleafs") != 0, _ints(op, "nodes_falseleafs") != 0
    feature, roots, target = (
        _ints(op, name) for name in ("nodes_featureids", "tree_roots", "leaf_targetids")
    )
    split, mode = (op.attr(n).numpy().ravel() for n in ("nodes_splits", "nodes_modes"))
    weight, targets = op.attr("leaf_weights").numpy().ravel(), int(op.attr("n_targets", 1))
    missing = _ints(op, "nodes_missing_value_tracks_true") != 0
    if not missing.size:
        missing = np.zeros(len(feature), bool)
    columns = (yes, no, yes_leaf, no_leaf, split, mode, missing)
    if any(len(column) != len(feature) for column in columns) or len(target) != len(weight):
        raise ValueError("the columns of its nodes or leaves differ in length")
    for ids, leaf in ((yes, yes_leaf), (no, no_leaf)):
        _within(ids[leaf], len(weight), "leaf")
        _within(ids[~leaf], len(feature), "node")
    _within(roots, len(feature), "root")
    _within(target, targets, "target")
    _read[op] = _Trees(
        feature,
        split,
        mode,
        missing,
        np.where(yes_leaf, -1 - yes, yes),
        np.where(no_leaf, -1 - no, no),
        roots,
        target,
        weight,
        targets,
    )
    return _read[op]


def _within(ids: Array, count: int, what: str) -> None:
    if ids.size and not (ids.min() >= 0 and ids.max() < count):
        raise ValueError(f"there is no {what} {ids.min()} or {ids.max()}, only {count}")


def _run(op: OpView, inputs: Sequence[Array | None]) -> list[Array]:
    x, trees = inputs[0], _trees(op)
    assert x is not None
    _within(trees.feature, x.shape[1], "feature")
    how = op.attr("aggregate_function", _SUM)
    limits = np.finfo(x.dtype)
    start = {_MIN: limits.max, _MAX: limits.min}.get(how, 0)
    result = np.full((len(x), trees.targets), start, x.dtype)
    weight = trees.weight / len(trees.roots) if how == _AVERAGE else trees.weight
    combine = {_MIN: np.minimum, _MAX: np.maximum}.get(how, np.add)
    for first in range(0, len(x), _ROWS):
        rows = x[first : first + _ROWS]
        leaves = trees.leaves(rows)
        places = (first + np.arange(len(rows))[:, np.newaxis], trees.target[leaves])
        combine.at(result, places, weight[leaves])
    return [result]


def _supports(op: OpView) -> str | None:
    if op.required(0).rank != 2:
        return "its input is not rows of features"
    if op.attr("post_transform", 0):
        return "it has a post_transform"
    if op.attr("aggregate_function", _SUM) not in (_AVERAGE, _SUM, _MIN, _MAX):
        return "its aggregate_function is unknown"
    modes = op.attr("nodes_modes").numpy()
    return None if np.isin(modes, list(_COMPARE)).all() else "a node tests for membership"


SPECS = [
    KernelSpec(
        "tree_ensemble",
        "ai.onnx.ml:TreeEnsemble",
        _run,
        dtypes={0: _FLOATS},
        supports=_supports,
        call=True,
    )
]
