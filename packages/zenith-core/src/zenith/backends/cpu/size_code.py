"""Symbolic sizes as the postfix programs `_native.Plan` evaluates at bind time."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TypeAlias

import sympy

from zenith.errors import CompilationError, ValidationError
from zenith.ir.dims import Dim, exactly

__all__ = ["size_code"]

# The opcodes of cpp/include/zenith/plan.h, in order.
_CONST, _SYMBOL, _ADD, _MUL, _FLOOR_DIV, _MOD, _MIN, _MAX = range(8)


Symbols: TypeAlias = tuple[sympy.Symbol, ...]
Code: TypeAlias = tuple[int, ...]


def size_code(dim: Dim, symbols: Sequence[sympy.Symbol]) -> int | list[int]:
    """An int for a static size, else its postfix program; unknown forms are a CompilationError."""
    dim = exactly(dim)
    if isinstance(dim, int):
        return _counted(dim)
    return list(_code(dim, tuple(symbols)))


def _counted(size: int) -> int:
    """The size, if 64 bits can count it."""
    if not -(1 << 63) <= size < 1 << 63:
        raise ValidationError(
            f"a size in the model is about 2^{size.bit_length()}: more than 64 bits can count",
            next="check the sizes that its constants ask for (Expand, Tile, Range, Pad, Resize)",
        )
    return size


def _chain(args: Sequence[sympy.Expr], op: int, symbols: Symbols) -> Code:
    code = _code(args[0], symbols)
    for arg in args[1:]:
        code = (*code, *_code(arg, symbols), op)
    return code


def _ratio(expr: sympy.Expr) -> tuple[sympy.Expr, sympy.Expr]:
    """Numerator and denominator. Most sizes divide nothing, and `together` is slow to see it."""
    pending = [expr]
    while pending:
        part = pending.pop()
        if (part.is_Rational and not part.is_Integer) or (part.is_Pow and part.exp.is_negative):
            return sympy.fraction(sympy.together(expr))  # type: ignore[no-any-return]
        if part.is_Add or part.is_Mul:
            pending += part.args
    return expr, sympy.Integer(1)


@functools.lru_cache(maxsize=4096)
def _code(expr: sympy.Expr, symbols: Symbols) -> Code:
    """Cached: the sizes of a model are a few expressions over and over."""
    if expr.is_Integer:
        return (_CONST, _counted(int(expr)))
    if expr.is_Symbol:
        if expr not in symbols:
            raise CompilationError(
                f"the size '{expr}' depends on data, not only on the shapes of the inputs",
                next="give the model inputs that fix this size",
            )
        return (_SYMBOL, symbols.index(expr))
    if isinstance(expr, sympy.floor):
        numerator, denominator = _ratio(expr.args[0])
        return (*_code(numerator, symbols), *_code(denominator, symbols), _FLOOR_DIV)
    if isinstance(expr, sympy.ceiling):
        numerator, denominator = _ratio(expr.args[0])
        return _code(-sympy.floor(-numerator / denominator), symbols)
    if isinstance(expr, sympy.Mod):
        return _chain(expr.args, _MOD, symbols)
    if isinstance(expr, sympy.Min | sympy.Max):
        return _chain(expr.args, _MIN if isinstance(expr, sympy.Min) else _MAX, symbols)
    numerator, denominator = _ratio(expr)
    if denominator != 1:  # integer valued as a whole, for example s*(s + 1)/2
        return (*_code(numerator, symbols), *_code(denominator, symbols), _FLOOR_DIV)
    if expr.is_Add:
        return _chain(expr.args, _ADD, symbols)
    if expr.is_Mul:
        return _chain(expr.args, _MUL, symbols)
    if expr.is_Pow and expr.exp.is_Integer and 0 < int(expr.exp) <= 8:
        return _chain([expr.base] * int(expr.exp), _MUL, symbols)
    raise CompilationError(f"a size has a form the plan cannot evaluate: {expr}")
