"""Arithmetic over two values as a polynomial, so that a formula is known in any spelling.

``0.5 * x * (1 + t)``, ``x * (t + 1) / 2`` and ``(0.5 * x) * t + 0.5 * x`` have one polynomial.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import onnx_ir as ir

from zenith.passes.rewrite import is_op, scalar

__all__ = ["Polynomial", "matches", "polynomial"]

Polynomial: TypeAlias = dict[tuple[int, int], float]  # powers of the two values -> coefficient
_MAX_POWER = 4


def polynomial(
    value: ir.Value | None,
    leaves: Mapping[ir.Value, tuple[int, int]],
    inner: dict[ir.Node, None],
    depth: int = 8,
) -> Polynomial | None:
    """`value` as polynomial of `leaves` (value -> monomial), or None; its nodes go to `inner`."""
    if value is None:
        return None
    if value in leaves:
        return {leaves[value]: 1.0}
    constant = scalar(value)
    if constant is not None:
        return {(0, 0): constant}
    node = value.producer()
    if depth == 0 or node is None or not is_op(node, "Add", "Sub", "Mul", "Div", "Pow", "Neg"):
        return None
    parts = [polynomial(v, leaves, inner, depth - 1) for v in node.inputs]
    left = parts[0]
    if left is None or any(p is None for p in parts):
        return None
    result: Polynomial | None = None
    if node.op_type == "Neg":
        result = {k: -c for k, c in left.items()}
    elif (right := parts[1]) is not None:
        result = _combine(node.op_type, left, right)
    if result is None or any(max(k) > _MAX_POWER for k in result):
        return None
    inner[node] = None
    return result


def _combine(kind: str, left: Polynomial, right: Polynomial) -> Polynomial | None:
    if kind in ("Add", "Sub"):
        sign = 1 if kind == "Add" else -1
        keys = {**left, **right}
        return {k: left.get(k, 0.0) + sign * right.get(k, 0.0) for k in keys}
    if kind == "Mul":
        return _product(left, right)
    number = right.get((0, 0)) if set(right) == {(0, 0)} else None
    if number is None:
        return None
    if kind == "Div":
        return {k: c / number for k, c in left.items()} if number else None
    if number not in (2.0, 3.0):
        return None
    square = _product(left, left)
    return square if number == 2 else _product(square, left)


def _product(left: Polynomial, right: Polynomial) -> Polynomial:
    result: Polynomial = {}
    for (i, j), a in left.items():
        for (k, m), b in right.items():
            result[i + k, j + m] = result.get((i + k, j + m), 0.0) + a * b
    return result


def matches(found: Polynomial | None, wanted: Polynomial, dtype: ir.DataType | None) -> bool:
    """Equal up to the rounding of constants in `dtype`."""
    if found is None:
        return False
    close = 2e-6 if dtype in (ir.DataType.FLOAT, ir.DataType.DOUBLE) else 4e-3
    found = {k: c for k, c in found.items() if c}
    return found.keys() == wanted.keys() and all(
        abs(found[k] - c) <= close * abs(c) for k, c in wanted.items()
    )
