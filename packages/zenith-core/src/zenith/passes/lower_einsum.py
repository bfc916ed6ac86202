"""Einsum as products of matrices: Transpose, Reshape, MatMul, Mul and ReduceSum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from zenith.ir import GraphIR
from zenith.passes.rewrite import Rewriter, attr, dims, is_op

_NARROW = {
    ir.DataType.INT8: ir.DataType.INT32,
    ir.DataType.INT16: ir.DataType.INT32,
    ir.DataType.UINT8: ir.DataType.UINT32,
    ir.DataType.UINT16: ir.DataType.UINT32,
}  # no standard operator multiplies or adds these: wider ones wrap around to the same


@dataclass(frozen=True)
class LowerEinsum:
    """Einsum of any number of operands, explicit or implicit, with ellipses and diagonals, becomes
    products of two operands at a time: those with the smallest result first. What two share and
    nobody else needs is the inner dimension of a MatMul; without such a label they are multiplied
    elementwise. A diagonal of a dynamic size stays."""

    name: ClassVar[str] = "lower_einsum"

    def run(self, graph: GraphIR) -> int:
        rewriter = Rewriter(graph)
        changed = sum(_lower(rewriter, node) for node in graph.nodes if is_op(node, "Einsum"))
        if changed:
            graph.infer_shapes()
        return changed


@dataclass(frozen=True)
class _Term:
    """An operand: its value and, per axis, label and size."""

    value: ir.Value
    labels: tuple[str, ...]
    sizes: tuple[int | ir.SymbolicDim, ...]

    def size(self, label: str) -> int | ir.SymbolicDim:
        return self.sizes[self.labels.index(label)]


def _parse(equation: str, ranks: Sequence[int]) -> tuple[list[list[str]], list[str]] | None:
    """Labels of every operand and of the result, or None where the equation does not fit. An
    ellipsis is labels of its own, counted from its last axis: "-1", "-2"."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    parts = left.split(",")
    if len(parts) != len(ranks):
        return None
    operands: list[list[str]] = []
    hidden = 0
    for part, rank in zip(parts, ranks, strict=True):
        before, dots, after = part.partition("...")
        count = rank - len(before) - len(after)
        letters = before + after
        if count < 0 or (count > 0 and not dots) or not (letters.isalpha() or letters == ""):
            return None
        hidden = max(hidden, count)
        operands.append([*before, *_hidden(count), *after])
    if arrow:
        before, dots, after = right.partition("...")
        result = [*before, *(_hidden(hidden) if dots else ()), *after]
    else:
        named = [label for labels in operands for label in labels if label.isalpha()]
        once = sorted(label for label in set(named) if named.count(label) == 1)
        result = [*_hidden(hidden), *once]
    known = {label for labels in operands for label in labels}
    if len(set(result)) != len(result) or not set(result) <= known:
        return None
    return operands, result


def _hidden(count: int) -> list[str]:
    return [str(i) for i in range(-count, 0)]


def _lower(rw: Rewriter, node: ir.Node) -> bool:
    shapes = [dims(value) for value in node.inputs]
    dtype = node.outputs[0].dtype
    if dtype is None or any(shape is None for shape in shapes):
        return False
    known = [shape for shape in shapes if shape is not None]
    parsed = _parse(attr(node, "equation", ""), [len(shape) for shape in known])
    if parsed is None:
        return False
    operands, result = parsed
    for labels, shape in zip(operands, known, strict=True):
        sizes = dict(zip(labels, shape, strict=True))
        for label in set(labels):
            if labels.count(label) > 1 and not isinstance(sizes[label], int):
                return False
    build = _Builder(rw, _NARROW.get(dtype, dtype))
    terms = []
    for value, labels, shape in zip(node.inputs, operands, known, strict=True):
        assert value is not None
        if dtype in _NARROW:
            value = build.cast(value, _NARROW[dtype])
        terms.append(build.diagonals(_Term(value, tuple(labels), tuple(shape))))
    terms = build.without_ones(terms, result)
    while len(terms) > 1:
        i, j = _cheapest(terms, result)
        a, b = terms[i], terms[j]
        rest = [t for k, t in enumerate(terms) if k not in (i, j)]
        needed = set(result).union(*(t.labels for t in rest))
        terms = [*rest, build.product(a, b, needed)]
    last = build.summed(terms[0], set(result))
    value = build.ordered(last, result).value
    if dtype in _NARROW:
        value = build.cast(value, dtype)
    if not build.nodes:
        value = build.op("Identity", [value])
    return rw.replace([node], {node.outputs[0]: value}, build.nodes)


def _cheapest(terms: Sequence[_Term], result: Sequence[str]) -> tuple[int, int]:
    """The two terms whose product is smallest; a dynamic size counts as a large one."""

    def cost(pair: tuple[int, int]) -> float:
        others = [t for k, t in enumerate(terms) if k not in pair]
        needed = set(result).union(*(t.labels for t in others))
        sizes: dict[str, int | ir.SymbolicDim] = {}
        for k in pair:
            sizes |= dict(zip(terms[k].labels, terms[k].sizes, strict=True))
        kept = [n if isinstance(n, int) else 256 for label, n in sizes.items() if label in needed]
        return math.prod(kept)

    return min(combinations(range(len(terms)), 2), key=cost)


class _Builder:
    """New nodes in order. Sizes that are not numbers are read from the values at run time."""

    def __init__(self, rw: Rewriter, dtype: ir.DataType) -> None:
        self.rw = rw
        self.dtype = dtype
        self.nodes: list[ir.Node] = []

    def op(
        self,
        kind: str,
        inputs: Sequence[ir.Value],
        dtype: ir.DataType | None = None,
        **attributes: int | Sequence[int],
    ) -> ir.Value:
        node = self.rw.op(kind, inputs, attributes)
        node.outputs[0].type = ir.TensorType(dtype if dtype is not None else self.dtype)
        self.nodes.append(node)
        return node.outputs[0]

    def ints(self, numbers: Sequence[int]) -> ir.Value:
        return self.rw.constant(np.array(numbers, np.int64), "einsum_sizes")

    def cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        return self.op("Cast", [value], dtype, to=int(dtype))

    def ordered(self, term: _Term, labels: Sequence[str]) -> _Term:
        """The axes in the order of `labels`, which are the term's own."""
        perm = [term.labels.index(label) for label in labels]
        if perm == list(range(len(perm))):
            return term
        value = self.op("Transpose", [term.value], perm=perm)
        return _Term(value, tuple(labels), tuple(term.sizes[p] for p in perm))

    def summed(self, term: _Term, needed: set[str]) -> _Term:
        """Without the labels that nobody needs."""
        axes = [i for i, label in enumerate(term.labels) if label not in needed]
        if not axes:
            return term
        value = self.op("ReduceSum", [term.value, self.ints(axes)], keepdims=0)
        return self._without(term, value, axes)

    def _without(self, term: _Term, value: ir.Value, axes: Sequence[int]) -> _Term:
        kept = [i for i in range(len(term.labels)) if i not in axes]
        return _Term(value, tuple(term.labels[i] for i in kept), tuple(term.sizes[i] for i in kept))

    def diagonals(self, term: _Term) -> _Term:
        """Repeated labels: the two axes as one of n * n elements, of which every n + 1st."""
        for label in dict.fromkeys(term.labels):
            while term.labels.count(label) > 1:
                first = term.labels.index(label)
                second = term.labels.index(label, first + 1)
                rest = [i for i in range(len(term.labels)) if i not in (first, second)]
                n = term.sizes[first]
                assert isinstance(n, int)
                perm = [*rest, first, second]
                value = term.value
                if perm != list(range(len(perm))):
                    value = self.op("Transpose", [value], perm=perm)
                value = self.op("Reshape", [value, self.ints([*[0] * len(rest), n * n])])
                edges = [[0], [n * n], [len(rest)], [n + 1]]
                value = self.op("Slice", [value, *(self.ints(edge) for edge in edges)])
                term = _Term(
                    value,
                    (*(term.labels[i] for i in rest), label),
                    (*(term.sizes[i] for i in rest), n),
                )
        return term

    def without_ones(self, terms: Sequence[_Term], result: Sequence[str]) -> list[_Term]:
        """Axes of size 1 that broadcast to another term's size go; so do those that are summed."""
        wide = {
            label
            for term in terms
            for label, n in zip(term.labels, term.sizes, strict=True)
            if n != 1
        }
        slim = []
        for term in terms:
            axes = [
                i
                for i, label in enumerate(term.labels)
                if term.sizes[i] == 1 and (label in wide or label not in result)
            ]
            if axes:
                value = self.op("Squeeze", [term.value, self.ints(axes)])
                term = self._without(term, value, axes)
            slim.append(term)
        return slim

    def product(self, a: _Term, b: _Term, needed: set[str]) -> _Term:
        """The product of two terms, with the labels that are still needed."""
        a = self.summed(a, needed | set(b.labels))
        b = self.summed(b, needed | set(a.labels))
        shared = [label for label in a.labels if label in b.labels]
        batch = [label for label in shared if label in needed]
        inner = [label for label in shared if label not in needed]
        rows = [label for label in a.labels if label not in shared]
        columns = [label for label in b.labels if label not in shared]
        labels = (*batch, *rows, *columns)
        sizes = (*(a.size(x) for x in (*batch, *rows)), *(b.size(x) for x in columns))
        if not inner:
            a, b = self.ordered(a, [*batch, *rows]), self.ordered(b, [*batch, *columns])
            left = a.value
            if columns:
                axes = range(len(batch) + len(rows), len(labels))
                left = self.op("Unsqueeze", [left, self.ints(list(axes))])
            right = b.value
            if rows and columns:
                axes = range(len(batch), len(batch) + len(rows))
                right = self.op("Unsqueeze", [right, self.ints(list(axes))])
            elif rows:
                axes = range(len(batch), len(labels))
                right = self.op("Unsqueeze", [right, self.ints(list(axes))])
            return _Term(self.op("Mul", [left, right]), labels, sizes)
        left = self._matrix(a, batch, rows, inner)
        right = self._matrix(b, batch, inner, columns)
        value = self.op("MatMul", [left, right])
        if len(rows) != 1 or len(columns) != 1:
            sources = {label: (a, label) for label in (*batch, *rows)}
            sources |= {label: (b, label) for label in columns}
            value = self._reshaped(value, [[sources[label]] for label in labels])
        return _Term(value, labels, sizes)

    def _matrix(
        self, term: _Term, batch: Sequence[str], rows: Sequence[str], columns: Sequence[str]
    ) -> ir.Value:
        """[*batch, rows, columns], rows and columns each as one axis."""
        term = self.ordered(term, [*batch, *rows, *columns])
        if len(rows) == 1 and len(columns) == 1:
            return term.value
        groups = [[label] for label in batch] + [list(rows), list(columns)]
        return self._reshaped(term.value, [[(term, label) for label in g] for g in groups])

    def _reshaped(self, value: ir.Value, axes: Sequence[Sequence[tuple[_Term, str]]]) -> ir.Value:
        """`value` with, for each new axis, the product of sizes of those labels."""
        fixed: list[int | None] = []
        for axis in axes:
            sizes = [term.size(label) for term, label in axis]
            numbers = [n for n in sizes if isinstance(n, int)]
            fixed.append(math.prod(numbers) if len(numbers) == len(sizes) else None)
        if fixed.count(None) <= 1 and 0 not in fixed:
            target = self.ints([-1 if n is None else n for n in fixed])
            return self.op("Reshape", [value, target])
        parts = []
        for axis, number in zip(axes, fixed, strict=True):
            if number is not None:
                parts.append(self.ints([number]))
                continue
            found = [self._size(term, label) for term, label in axis]
            total = found[0]
            for factor in found[1:]:
                total = self.op("Mul", [total, factor], ir.DataType.INT64)
            parts.append(total)
        target = self.op("Concat", parts, ir.DataType.INT64, axis=0)
        return self.op("Reshape", [value, target], allowzero=1)

    def _size(self, term: _Term, label: str) -> ir.Value:
        n = term.size(label)
        if isinstance(n, int):
            return self.ints([n])
        at = term.labels.index(label)
        return self.op("Shape", [term.value], ir.DataType.INT64, start=at, end=at + 1)
