"""Dimensions: a Python int, or a sympy integer expression over named symbols (``s*2+1``)."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any, TypeAlias

import onnx_ir as ir
import sympy

__all__ = [
    "Dim",
    "UnknownSizeError",
    "broadcast",
    "ceil_div",
    "dim_names",
    "exactly",
    "floor_div",
    "never_negative",
    "parse_dim",
    "product",
    "symbol",
]


class UnknownSizeError(ValueError):
    """A size cannot be told at compile time, not even as an expression."""


Dim: TypeAlias = Any  # int | sympy.Expr: sympy has no types to check against


def symbol(name: str) -> sympy.Symbol:
    """The symbol of a dimension name: always a non-negative integer."""
    return sympy.Symbol(name, integer=True, nonnegative=True)


def parse_dim(dim: int | str | ir.SymbolicDim | sympy.Expr | None) -> Dim:
    """A dim of any source as int or expression; names mean the same symbol everywhere."""
    if isinstance(dim, int):
        return dim
    if isinstance(dim, str):
        if dim.lstrip("-").isdigit():
            return int(dim)
        dim = ir.SymbolicDim(dim)
    if isinstance(dim, ir.SymbolicDim):
        if dim.value is None:
            raise UnknownSizeError("a dimension depends on data")
        expr = dim._expr  # public accessors give only text; parsing again would lose something
        if expr is None:
            raise UnknownSizeError("a dimension depends on data")
        return _renamed(expr)
    if dim is None:
        raise UnknownSizeError("a dimension depends on data")
    return _renamed(dim)


@functools.lru_cache(maxsize=4096)
def _renamed(expr: sympy.Expr) -> Dim:
    """Cached: a model has few different expressions on many dims, and renaming is slow."""
    return exactly(expr.xreplace({s: symbol(s.name) for s in expr.free_symbols}))


def dim_names(dim: int | ir.SymbolicDim) -> set[str]:
    """Names of the symbols in a dim."""
    if isinstance(dim, int) or dim.value is None:
        return set()
    if dim.value.isidentifier():
        return {dim.value}
    return {s.name for s in sympy.sympify(parse_dim(dim)).free_symbols}


def exactly(expr: Dim) -> Dim:
    """A Python int when the expression is a number, else the expression."""
    if isinstance(expr, int):
        return expr
    expr = sympy.sympify(expr)
    return int(expr) if expr.is_Integer else expr


def product(dims: Iterable[Dim]) -> Dim:
    """Product of dims; 1 for none."""
    total: Dim = 1
    for dim in dims:
        total = total * dim
    return exactly(total)


def floor_div(a: Dim, b: Dim) -> Dim:
    """floor(a / b) for b > 0."""
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    a = sympy.sympify(a)
    for most in a.atoms(sympy.Max, sympy.Min):
        share = sympy.expand(a).coeff(most)
        if most.is_even and share.is_number and share != 0:
            # sympy takes an even number over 6 for an integer. Rounding down keeps the order, so
            # the most of quotients is the quotient of the most.
            parts = [floor_div(a - share * most + share * x, b) for x in most.args]
            return exactly((most.func if share > 0 else _OTHER[most.func])(*parts))
    return exactly(sympy.floor(a / b))


_OTHER = {sympy.Max: sympy.Min, sympy.Min: sympy.Max}


def never_negative(expr: Dim) -> bool:
    """Whether an expression is surely at least 0; sympy does not see it of what is rounded up."""
    expr = sympy.sympify(expr)
    rounded = {
        up: sympy.Dummy(integer=True, nonnegative=True)
        for up in expr.atoms(sympy.ceiling)
        if never_negative(up.args[0])
    }
    return bool(expr.xreplace(rounded).is_nonnegative)


def ceil_div(a: Dim, b: Dim) -> Dim:
    """ceil(a / b) for b > 0."""
    return floor_div(a + b - 1, b)


def broadcast(*shapes: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """numpy broadcasting over dims; two symbols that differ are taken to be equal."""
    rank = max(len(shape) for shape in shapes)
    result: list[Dim] = []
    for axis in range(-rank, 0):
        sizes = [shape[axis] for shape in shapes if -axis <= len(shape) and shape[axis] != 1]
        fixed = [size for size in sizes if isinstance(size, int)]
        result.append(fixed[0] if fixed else sizes[0] if sizes else 1)
    return tuple(result)
