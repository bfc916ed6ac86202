"""Rotary position embedding written out: x * cos + rotate_half(x) * sin -> RotaryEmbedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from zenith.ir import GraphIR
from zenith.passes.rewrite import (
    Rewriter,
    array,
    attr,
    commuted,
    dims,
    ints,
    is_op,
    produced_by,
    same_dim,
    sole_user,
)

# Operators that keep "both halves of the last axis are equal" true, if their other inputs do not
# vary along that axis.
_ELEMENTWISE = ("Cos", "Sin", "Cast", "Identity", "Neg", "Mul", "Div", "Add", "Sub")


@dataclass(frozen=True)
class FuseRotary:
    """x [B,H,S,D], D even; cos and sin [1 or B,1,S,D] whose halves are provably equal.

    The caches of RotaryEmbedding are their first halves. A batch of 1 is expanded to x's.
    """

    name: ClassVar[str] = "fuse_rotary"

    def run(self, graph: GraphIR) -> int:
        fuser = _Fuser(graph)
        return sum(fuser.fuse(n) for n in graph.nodes if is_op(n, "Add"))


class _Fuser:
    def __init__(self, graph: GraphIR) -> None:
        self.rw = Rewriter(graph)
        self.graph = graph
        self.caches: dict[tuple[ir.Value, object], ir.Value] = {}

    def fuse(self, add: ir.Node) -> bool:
        for straight, turned in commuted(add):
            direct, rotated = produced_by(straight, "Mul"), produced_by(turned, "Mul")
            if direct is None or rotated is None or direct is rotated:
                continue
            for half, sin in commuted(rotated):
                found = _rotate_half(half)
                if found is None:
                    continue
                x, inner = found
                for same, cos in commuted(direct):
                    if same is x and self._replace(add, direct, rotated, x, cos, sin, inner):
                        return True
        return False

    def _replace(
        self,
        add: ir.Node,
        direct: ir.Node,
        rotated: ir.Node,
        x: ir.Value,
        cos: ir.Value | None,
        sin: ir.Value | None,
        inner: list[ir.Node],
    ) -> bool:
        shape = dims(x)
        if shape is None or len(shape) != 4 or dims(add.outputs[0]) != shape:
            return False
        for node, user in ((direct, add), (rotated, add), (inner[-1], rotated)):
            if sole_user(node.outputs[0]) is not user:
                return False
        if cos is None or sin is None:
            return False
        caches = []
        for value in (cos, sin):
            size = dims(value)
            if size is None or len(size) != 4 or size[1] != 1:
                return False
            if not same_dim(size[2], shape[2]) or not same_dim(size[3], shape[3]):
                return False
            if not (size[0] == 1 or same_dim(size[0], shape[0])) or not _halves_equal(value):
                return False
            if size[0] == 1 and not same_dim(size[0], shape[0]) and self._batch(x) is None:
                return False
            caches.append(value)
        inputs = [x, *(self._cache(value, x) for value in caches)]
        new = self.rw.op("RotaryEmbedding", inputs)
        nodes = [*inner, direct, rotated, add]
        return self.rw.replace(nodes, {add.outputs[0]: new.outputs[0]}, [new])

    def _cache(self, value: ir.Value, x: ir.Value) -> ir.Value:
        """The first half of `value` as [batch of x, S, D/2]; made once for all users."""
        shape, size = dims(x), dims(value)
        assert shape is not None and size is not None and isinstance(shape[3], int)
        key = (value, str(shape[0]))
        if key in self.caches:
            return self.caches[key]
        half = shape[3] // 2
        nodes: list[ir.Node] = []
        data = array(value)
        if data is not None:
            cache = self.rw.constant(data[:, 0, :, :half], f"{value.name}_half")
        else:

            def number(n: int) -> ir.Value:
                return self.rw.constant(np.array([n], np.int64), "rotary_index")

            squeezed = self.rw.op(
                "Squeeze",
                [value, number(1)],
                dtype=value.dtype,
                shape=[size[0], size[2], size[3]],
            )
            sliced = self.rw.op(
                "Slice",
                [squeezed.outputs[0], number(0), number(half), number(2)],
                dtype=value.dtype,
                shape=[size[0], size[2], half],
            )
            nodes += [squeezed, sliced]
            cache = sliced.outputs[0]
        if not same_dim(size[0], shape[0]):
            target, more = self._target(x)
            expand = self.rw.op(
                "Expand", [cache, target], dtype=value.dtype, shape=[shape[0], size[2], half]
            )
            nodes += [*more, expand]
            cache = expand.outputs[0]
        self._insert(nodes, value)
        self.caches[key] = cache
        return cache

    def _insert(self, nodes: list[ir.Node], value: ir.Value) -> None:
        """Right after the computation of `value`, or first of all for a constant."""
        graph = self.graph.model.graph
        if not nodes:
            return
        producer = value.producer()
        if producer is None:
            graph.insert_before(graph[0], nodes)
        else:
            graph.insert_after(producer, nodes)

    def _batch(self, x: ir.Value) -> int | tuple[ir.Value, int] | None:
        """Batch size of x, or the graph input and axis that has it."""
        shape = dims(x)
        if shape is None or isinstance(shape[0], int):
            return shape[0] if shape is not None and isinstance(shape[0], int) else None
        for value in self.graph.inputs:
            for axis, dim in enumerate(dims(value) or ()):
                if same_dim(dim, shape[0]):
                    return value, axis
        return None

    def _target(self, x: ir.Value) -> tuple[ir.Value, list[ir.Node]]:
        """The shape [batch of x, 1, 1] and the nodes that compute it."""
        batch = self._batch(x)
        if isinstance(batch, int):
            return self.rw.constant(np.array([batch, 1, 1], np.int64), "rotary_shape"), []
        assert batch is not None
        value, axis = batch
        int64 = ir.DataType.INT64
        size = self.rw.op(
            "Shape", [value], {"start": axis, "end": axis + 1}, dtype=int64, shape=[1]
        )
        ones = self.rw.constant(np.array([1, 1], np.int64), "rotary_ones")
        parts = [size.outputs[0], ones]
        shape = self.rw.op("Concat", parts, {"axis": 0}, dtype=int64, shape=[3])
        return shape.outputs[0], [size, shape]


def _rotate_half(value: ir.Value | None) -> tuple[ir.Value, list[ir.Node]] | None:
    """(x, nodes) where `value` is Concat(-x[..., D/2:], x[..., :D/2])."""
    concat = produced_by(value, "Concat")
    shape = dims(value)
    if concat is None or shape is None or len(concat.inputs) != 2:
        return None
    size = shape[-1]
    if attr(concat, "axis", 0) not in (-1, len(shape) - 1) or not isinstance(size, int) or size % 2:
        return None
    neg = produced_by(concat.inputs[0], "Neg")
    if neg is None or sole_user(neg.outputs[0]) is not concat:
        return None
    second = _part(neg.inputs[0], size // 2, size)
    first = _part(concat.inputs[1], 0, size // 2)
    if first is None or second is None or first[0] is not second[0]:
        return None
    nodes = dict.fromkeys([first[1], second[1], neg, concat])
    return first[0], list(nodes)


def _part(value: ir.Value | None, start: int, end: int) -> tuple[ir.Value, ir.Node] | None:
    """(x, node) where `value` is x[..., start:end] of the last axis, by Slice or Split."""
    node = produced_by(value, "Slice", "Split")
    if node is None or value is None or node.inputs[0] is None:
        return None
    x, shape = node.inputs[0], dims(node.inputs[0])
    if shape is None or not isinstance(shape[-1], int):
        return None
    size, last = shape[-1], len(shape) - 1
    if node.op_type == "Split":
        if attr(node, "axis", 0) not in (-1, last) or len(node.outputs) != 2:
            return None
        cut = dims(node.outputs[0])
        low = 0 if value is node.outputs[0] else (cut[-1] if cut is not None else -1)
        part = dims(value)
        if part is None or not isinstance(low, int) or not isinstance(part[-1], int):
            return None
        return (
            (x, node)
            if (low, low + part[-1]) == (start, end) and size == 2 * (end - start)
            else None
        )
    starts, ends = ints(node.inputs[1]), ints(node.inputs[2])
    axes = ints(node.inputs[3]) if len(node.inputs) > 3 else None
    steps = ints(node.inputs[4]) if len(node.inputs) > 4 else [1]
    if starts is None or ends is None or axes is None or len(axes) != 1 or steps != [1]:
        return None
    if axes[0] not in (-1, last) or size != 2 * (end - start):
        return None
    found = slice(starts[0], ends[0]).indices(size)[:2]
    return (x, node) if found == (start, end) else None


def _halves_equal(value: ir.Value | None, depth: int = 8) -> bool:
    """Is value[..., :D/2] provably value[..., D/2:]?"""
    shape = dims(value)
    if value is None or shape is None or not shape or depth == 0:
        return False
    data = array(value)
    if data is not None:
        half = data.shape[-1] // 2
        return data.shape[-1] % 2 == 0 and np.array_equal(data[..., :half], data[..., half:])
    node = value.producer()
    if node is None or node.domain:
        return False
    if is_op(node, "Concat"):
        axis = attr(node, "axis", 0) % len(shape)
        if axis == len(shape) - 1:
            return len(node.inputs) == 2 and node.inputs[0] is node.inputs[1]
        return all(_halves_equal(v, depth - 1) for v in node.inputs)
    if is_op(node, "Unsqueeze", "Squeeze", "Reshape", "Expand"):
        before = dims(node.inputs[0])
        if before is None or not before or not same_dim(before[-1], shape[-1]):
            return False
        if is_op(node, "Reshape") and not isinstance(shape[-1], int):
            return False
        return _halves_equal(node.inputs[0], depth - 1)
    if is_op(node, *_ELEMENTWISE):
        for v in node.inputs:
            size = dims(v)
            if size is None:
                return False
            constant_along = not size or size[-1] == 1
            if not constant_along and not _halves_equal(v, depth - 1):
                return False
        return True
    return False
