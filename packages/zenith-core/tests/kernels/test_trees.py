"""Forests on every instruction set: nodes with every bit, few and many rows and trees, no rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from zenith import _native

ISAS = _native.isas()
EQUAL, MISSING = 1 << 31, 1 << 30
FEATURES = 3


def forest(trees: int, depth: int, dtype: Any, plain: bool) -> tuple[Any, Any, int]:
    """Nodes (leaves last), roots and the number of inner nodes of full trees."""
    rng = np.random.default_rng(trees)
    per_tree, leaves = (1 << depth) - 1, 1 << depth
    inner = trees * per_tree
    kind = np.dtype([("split", dtype), ("feature", "u4"), ("child", "i4", (2,))], align=True)
    nodes = np.zeros(inner + trees * leaves, kind)
    nodes["child"] = np.arange(len(nodes))[:, np.newaxis]
    nodes["split"][:inner] = np.round(rng.standard_normal(inner), 1)
    nodes["feature"][:inner] = rng.integers(FEATURES, size=inner)
    if not plain:
        nodes["feature"][:inner] |= rng.choice(
            np.array([0, EQUAL, MISSING, EQUAL | MISSING], np.uint32), inner
        )
    for tree in range(trees):
        for k in range(per_tree):
            below = np.array([2 * k + 1, 2 * k + 2])
            at = np.where(below < per_tree, tree * per_tree + below,
                          inner + tree * leaves + below - per_tree)  # fmt: skip
            nodes["child"][tree * per_tree + k] = at
    return nodes, np.arange(trees, dtype=np.int32) * per_tree, inner


def walk(nodes: Any, at: int, row: Any) -> int:
    while nodes["child"][at][0] != at:
        bits = int(nodes["feature"][at])
        value, split = row[bits & (MISSING - 1)], nodes["split"][at]
        holds = value == split if bits & EQUAL else value <= split
        holds = holds or (bool(bits & MISSING) and np.isnan(value))
        at = nodes["child"][at][int(holds)]
    return int(at)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("dtype", "to"), [("f4", "f4"), ("f8", "f8"), ("f8", "f4")])
@pytest.mark.parametrize(("trees", "rows"), [(1, 1), (70, 3), (5, 33), (2, 130), (3, 0), (0, 4)])
@pytest.mark.parametrize("how", [0, 1, 2])
def test_against_walking_by_hand(
    isa: str, dtype: str, to: str, trees: int, rows: int, how: int
) -> None:
    kernel = {"f4f4": "trees_f32", "f8f8": "trees_f64", "f8f4": "trees_f64_f32"}[dtype + to]
    rng = np.random.default_rng(rows)
    x = np.round(rng.standard_normal((rows, FEATURES)), 1).astype(dtype)
    x[::5, 1] = np.nan
    for plain, dense in ((True, False), (False, True)):
        nodes, roots, inner = forest(trees, 3, dtype, plain)
        leaves = len(nodes) - inner
        target = np.array([], np.int32) if dense else rng.integers(2, size=leaves).astype(np.int32)
        weights = rng.standard_normal((leaves, 2) if dense else leaves).astype(dtype)
        got = np.full((rows, 2), 7, to)
        _native.call(
            isa,
            kernel,
            [x, nodes.view(np.uint8).reshape(len(nodes), nodes.itemsize), roots, target, weights],
            [got],
            {"how": how, "inner": inner, "plain": int(plain)},
        )
        limits = np.finfo(to)
        want = np.full((rows, 2), (0, limits.max, limits.min)[how], dtype)
        combine = (np.add, np.minimum, np.maximum)[how]
        for result, row in zip(want, x, strict=True):
            for root in roots:
                leaf = walk(nodes, int(root), row) - inner
                places = [0, 1] if dense else [int(target[leaf])]
                result[places] = combine(result[places], weights[leaf])
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
