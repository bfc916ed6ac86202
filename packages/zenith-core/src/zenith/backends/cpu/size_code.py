"""Symbolic sizes as the postfix programs `_native.Plan` evaluates at bind time."""

from __future__ import annotations

from collections.abc import Sequence

import sympy

from zenith.errors import CompilationError, ValidationError
from zenith.ir.dims import Dim, exactly

__all__ = ["size_code"]

# The opcodes of cpp/include/zenith/plan.h, in order.
_CONST, _SYMBOL, _ADD, _MUL, _FLOOR_DIV, _MOD, _MIN, _MAX = range(8)


def size_code(dim: Dim, symbols: Sequence[sympy.Symbol]) -> int | list[int]:
    """An int for a static size, else its postfix program; unknown forms are a CompilationError."""
    dim = exactly(dim)
    if isinstance(dim, int):
        return _counted(dim)
    position = {s: i for i, s in enumerate(symbols)}
    return _code(dim, position)


def _counted(size: int) -> int:
    """The size, if 64 bits can count it."""
    if not -(1 << 63) <= size < 1 << 63:
        raise ValidationError(
            f"a size in the model is about 2^{size.bit_length()}: more than 64 bits can count",
            next="check the sizes that its constants ask for (Expand, Tile, Range, Pad, Resize)",
        )
    return size


def _chain(args: Sequence[sympy.Expr], op: int, position: dict[sympy.Symbol, int]) -> list[int]:
    code = _code(args[0], position)
    for arg in args[1:]:
        code += [*_code(arg, position), op]
    return code


def _code(expr: sympy.Expr, position: dict[sympy.Symbol, int]) -> list[int]:
    if expr.is_Integer:
        return [_CONST, _counted(int(expr))]
    if expr.is_Symbol:
        if expr not in position:
            raise CompilationError(
                f"the size '{expr}' depends on data, not only on the shapes of the inputs",
                next="give the model inputs that fix this size",
            )
        return [_SYMBOL, position[expr]]
    if isinstance(expr, sympy.floor):
        numerator, denominator = sympy.fraction(sympy.together(expr.args[0]))
        return [*_code(numerator, position), *_code(denominator, position), _FLOOR_DIV]
    if isinstance(expr, sympy.ceiling):
        numerator, denominator = sympy.fraction(sympy.together(expr.args[0]))
        return _code(-sympy.floor(-numerator / denominator), position)
    if isinstance(expr, sympy.Mod):
        return _chain(expr.args, _MOD, position)
    if isinstance(expr, sympy.Min | sympy.Max):
        return _chain(expr.args, _MIN if isinstance(expr, sympy.Min) else _MAX, position)
    numerator, denominator = sympy.fraction(sympy.together(expr))
    if denominator != 1:  # integer valued as a whole, for example s*(s + 1)/2
        return [*_code(numerator, position), *_code(denominator, position), _FLOOR_DIV]
    if expr.is_Add:
        return _chain(expr.args, _ADD, position)
    if expr.is_Mul:
        return _chain(expr.args, _MUL, position)
    if expr.is_Pow and expr.exp.is_Integer and 0 < int(expr.exp) <= 8:
        return _chain([expr.base] * int(expr.exp), _MUL, position)
    raise CompilationError(f"a size has a form the plan cannot evaluate: {expr}")
