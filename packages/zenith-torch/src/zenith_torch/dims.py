"""Sizes: torch's symbolic integers as plain sympy expressions in the user's dimension names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import sympy
import torch

from zenith.ir.dims import Dim, exactly, symbol

__all__ = ["SymbolNames", "is_symbolic"]

_SYMBOLIC_TYPES = (torch.SymInt, torch.SymFloat, torch.SymBool)


def is_symbolic(value: object) -> bool:
    """Whether a value is one of torch's symbolic scalars."""
    return isinstance(value, _SYMBOLIC_TYPES)


class SymbolNames:
    """Rewrites torch's symbols to the names the user gave.

    Two torch symbols that carry one name become one dimension: the user said they are equal.
    """

    def __init__(self) -> None:
        self._names: dict[sympy.Symbol, sympy.Symbol] = {}
        self._cache: dict[Any, Dim] = {}

    def bind(self, size: Any, name: str) -> None:
        """Give the symbol of `size` a name, unless it has one or is an expression of others."""
        if isinstance(size, torch.SymInt) and size.node.expr.is_Symbol:
            self._names.setdefault(size.node.expr, symbol(name))

    def named(self, torch_symbol: sympy.Symbol) -> sympy.Symbol:
        """The dimension a torch symbol stands for."""
        return self._names.setdefault(torch_symbol, symbol(torch_symbol.name))

    def dim(self, size: Any) -> Any:
        """An int, or an expression over named non-negative integers; a float that is known."""
        if isinstance(size, int):
            return size
        if not is_symbolic(size):
            return size
        expr = size.node.expr
        if expr not in self._cache:
            plain = sympy.sympify(self._plain(expr))
            if isinstance(size, torch.SymFloat) and plain.is_number:
                return float(plain)
            self._cache[expr] = exactly(plain.replace(sympy.ceiling, _ceiling))
        return self._cache[expr]

    def shape(self, sizes: Iterable[Any]) -> tuple[Dim, ...]:
        return tuple(self.dim(size) for size in sizes)

    def _plain(self, expr: Any) -> Any:
        """torch's own integer functions in sympy's vocabulary."""
        if expr.is_Symbol:
            return self.named(expr)
        if expr.is_Float:  # a scale: 2.0 * h is a size like 2 * h, and 1.7 * h is 17 * h / 10
            return sympy.Rational(str(float(expr)))
        if not expr.args:
            return expr
        args = [self._plain(arg) for arg in expr.args]
        rule = _PLAIN.get(type(expr).__name__)
        return rule(*args) if rule is not None else expr.func(*args)


def _ceiling(value: Any) -> Any:
    """sympy turns -floor(-x) into a ceiling, which the texts of ONNX sizes do not know."""
    above, below = sympy.fraction(sympy.together(value))
    return sympy.floor((above + below - 1) / below)


def _int_floor_div(a: Any, b: Any) -> Any:
    return sympy.floor(sympy.sympify(a) / b)


_PLAIN: Mapping[str, Any] = {
    "FloorDiv": _int_floor_div,
    "CleanDiv": _int_floor_div,
    "CeilDiv": lambda a, b: sympy.floor((sympy.sympify(a) + b - 1) / b),
    "Mod": sympy.Mod,
    "PythonMod": sympy.Mod,
    "ModularIndexing": lambda a, b, c: sympy.Mod(_int_floor_div(a, b), c),
    "IntTrueDiv": lambda a, b: sympy.sympify(a) / b,
    "FloatTrueDiv": lambda a, b: sympy.sympify(a) / b,
    "ToFloat": lambda a: a,
    "FloorToInt": sympy.floor,
    "TruncToInt": sympy.floor,
    "CeilToInt": lambda a: -sympy.floor(-a),
    "PowByNatural": sympy.Pow,
    "Max": sympy.Max,
    "Min": sympy.Min,
    "Identity": lambda a: a,
}
