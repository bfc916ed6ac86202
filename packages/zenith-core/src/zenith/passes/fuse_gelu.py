"""GELU written out, by erf or by tanh -> Gelu."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from zenith.ir import GraphIR
from zenith.passes.polynomial import Polynomial, matches, polynomial
from zenith.passes.rewrite import Rewriter, is_op, same_shape, scalar, sole_user

_OUTER: Polynomial = {(1, 0): 0.5, (1, 1): 0.5}  # 0.5 x (1 + t)
_OUTER_ODD: Polynomial = {(1, 0): 0.5, (1, 1): -0.5}  # 0.5 x (1 - t) with t of -x
_TANH = math.sqrt(2 / math.pi)
_INNER: dict[str, tuple[str, Polynomial]] = {
    "Erf": ("none", {(1, 0): math.sqrt(0.5)}),
    "Tanh": ("tanh", {(1, 0): _TANH, (3, 0): _TANH * 0.044715}),
}


@dataclass(frozen=True)
class FuseGelu:
    """x * (1 + erf(x / sqrt 2)) / 2 = x * erfc(-x / sqrt 2) / 2, and the tanh form, in any order of
    factors. No inner value may have a user outside."""

    name: ClassVar[str] = "fuse_gelu"

    def run(self, graph: GraphIR) -> int:
        rewriter = Rewriter(graph)
        position = {node: i for i, node in enumerate(graph.nodes)}
        return sum(
            _fuse(rewriter, node, position)
            for node in graph.nodes
            if is_op(node, *_INNER) and node.graph is not None
        )


def _fuse(rw: Rewriter, core: ir.Node, position: dict[ir.Node, int]) -> bool:
    form, wanted = _INNER[core.op_type]
    t = core.outputs[0]
    for x in _leaves(core.inputs[0]):
        inner: dict[ir.Node, None] = {core: None}
        argument = polynomial(core.inputs[0], {x: (1, 0)}, inner)
        outer_form = _OUTER
        if not matches(argument, wanted, x.dtype):
            if not matches(argument, {k: -c for k, c in wanted.items()}, x.dtype):
                continue
            outer_form = _OUTER_ODD
        root: ir.Value | None = t
        for _ in range(3):
            user = sole_user(root) if root is not None else None
            if user is None or not is_op(user, "Add", "Sub", "Mul", "Div"):
                break
            root = user.outputs[0]
            outer = dict(inner)
            found = polynomial(root, {x: (1, 0), t: (0, 1)}, outer)
            if not matches(found, outer_form, x.dtype) or not same_shape(x, root):
                continue
            nodes = sorted(outer, key=lambda n: position.get(n, 0))
            if nodes[-1] is user and _closed(nodes):
                new = rw.op("Gelu", [x], {"approximate": form})
                return rw.replace(nodes, {root: new.outputs[0]}, [new])
    return False


def _leaves(value: ir.Value | None, depth: int = 6) -> list[ir.Value]:
    """Computed values the formula may be about, nearest first."""
    found: dict[ir.Value, None] = {}
    level = [value]
    for _ in range(depth):
        following: list[ir.Value | None] = []
        for v in level:
            if v is None or scalar(v) is not None or v in found:
                continue
            found[v] = None
            node = v.producer()
            if node is not None and is_op(node, "Add", "Mul", "Div", "Pow", "Neg"):
                following += node.inputs
        level = following
    return list(found)


def _closed(nodes: list[ir.Node]) -> bool:
    """Is every value but the last used inside only?"""
    members = set(nodes)
    return all(
        not v.is_graph_output() and all(use.node in members for use in v.uses())
        for node in nodes[:-1]
        for v in node.outputs
    )
