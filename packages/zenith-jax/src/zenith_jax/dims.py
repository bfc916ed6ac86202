"""Sizes: JAX's symbolic dimensions as plain sympy expressions in the same names."""

from __future__ import annotations

import ast
import bisect
import functools
import operator
from collections.abc import Callable, Iterable
from typing import Any

import jax
import sympy

from zenith.ir.dims import Dim, exactly, floor_div, symbol

__all__ = ["largest", "size", "sizes"]

_NO_LIMIT = 2**40


def size(dim: Any) -> Dim:
    """An int, or an expression over named non-negative integers.

    JAX's text of a dimension is the grammar of `jax.export.symbolic_shape`, which is public; the
    object behind it is not.
    """
    try:
        return operator.index(dim)
    except Exception:  # noqa: BLE001 - jax has an error of its own for "not a constant"
        return _parse(str(dim))


def sizes(shape: Iterable[Any]) -> tuple[Dim, ...]:
    return tuple(size(dim) for dim in shape)


def largest(dim: Any) -> int | None:
    """The largest value JAX knows a symbolic dimension to have; it tells only by comparing."""

    def at_most(limit: int) -> bool:
        try:
            return bool(dim <= limit)
        except jax.errors.InconclusiveDimensionOperation:
            return False

    if not at_most(_NO_LIMIT):
        return None
    return bisect.bisect_left(range(_NO_LIMIT), True, key=at_most)


@functools.lru_cache(maxsize=4096)
def _parse(text: str) -> Dim:
    return exactly(_read(ast.parse(text.replace("^", "**"), mode="eval").body))


def _read(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return sympy.Integer(node.value)
    if isinstance(node, ast.Name):
        return symbol(node.id)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_read(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        return _BINARY[type(node.op)](_read(node.left), _read(node.right))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _CALLS:
        return _CALLS[node.func.id](*(_read(arg) for arg in node.args))
    raise ValueError(f"a size of unknown form: {ast.unparse(node)}")


def _quotient(a: Any, b: Any) -> Any:
    """floor(a / b); of what cannot be positive as JAX writes it, by what is not negative."""
    if sympy.sympify(b).is_Integer and (-a).is_nonnegative:
        return -floor_div(b - 1 - a, b)
    return floor_div(a, b)


_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Pow: operator.pow,
}
_CALLS: dict[str, Callable[..., Any]] = {
    "floordiv": _quotient,
    "mod": sympy.Mod,
    "max": sympy.Max,
    "min": sympy.Min,
    "non_negative": lambda value: sympy.Max(value, 0),
}
