"""What a plan's inputs must be, and what their sizes say about its symbols."""

from __future__ import annotations

from collections.abc import Sequence

import sympy

from zenith.errors import ValidationError
from zenith.runtime.plan import TensorSpec

__all__ = ["InputSizes", "Key", "solve_dims"]

Key = tuple[tuple[str, tuple[int, ...]], ...]  # dtype and shape of every input


class InputSizes:
    """Values of the symbols for the shapes of a call.

    What to compare is listed once, so that a loop whose state grows binds quickly.
    """

    def __init__(self, inputs: Sequence[TensorSpec], symbols: Sequence[sympy.Symbol]) -> None:
        self._inputs = inputs
        self._symbols = symbols
        index = {symbol: k for k, symbol in enumerate(symbols)}
        self._first: dict[int, tuple[int, int]] = {}  # symbol -> input and axis that show it
        self._forms: list[tuple[str, int, list[tuple[int, int]], list[tuple[int, int]]]] = []
        self._plain = True  # every size is a number or a symbol
        for position, spec in enumerate(inputs):
            assert spec.shape is not None, "a plan knows the ranks of its inputs"
            numbers: list[tuple[int, int]] = []
            named: list[tuple[int, int]] = []
            for axis, dim in enumerate(spec.shape):
                if isinstance(dim, int):
                    numbers.append((axis, dim))
                elif isinstance(dim, sympy.Symbol) and dim in index:
                    named.append((axis, index[dim]))
                    self._first.setdefault(index[dim], (position, axis))
                else:
                    self._plain = False
            self._forms.append((spec.dtype, len(spec.shape), numbers, named))

    @property
    def axes(self) -> list[list[int | None]]:
        """Of each input the sizes, ``~k`` for symbol k, None where one is more than a symbol."""
        found = []
        for _, rank, numbers, named in self._forms:
            sizes = dict(numbers) | {axis: ~symbol for axis, symbol in named}
            found.append([sizes.get(axis) for axis in range(rank)])
        return found

    def values(self, key: Key) -> list[int]:
        """One number per symbol, 0 where no input shows it. A ValidationError where `key` is not
        what the plan takes."""
        if self._plain and len(key) == len(self._forms):
            found = self._quick(key)
            if found is not None:
                return found
        dims = solve_dims(self._inputs, key)
        return [dims.get(symbol, 0) for symbol in self._symbols]

    def _quick(self, key: Key) -> list[int] | None:
        for (dtype, shape), (wanted, rank, numbers, _) in zip(key, self._forms, strict=True):
            if dtype != wanted or len(shape) != rank:
                return None
            for axis, number in numbers:
                if shape[axis] != number:
                    return None
        values = [0] * len(self._symbols)
        for symbol, (position, axis) in self._first.items():
            values[symbol] = key[position][1][axis]
        for (_, shape), (_, _, _, named) in zip(key, self._forms, strict=True):
            for axis, symbol in named:
                if shape[axis] != values[symbol]:
                    return None
        return values


def solve_dims(inputs: Sequence[TensorSpec], key: Key) -> dict[sympy.Symbol, int]:
    """Values of the symbols from the shapes of the inputs, after checking dtype, rank and sizes."""
    if len(inputs) != len(key):
        raise ValidationError(f"the model takes {len(inputs)} inputs, {len(key)} were given")
    dims: dict[sympy.Symbol, int] = {}
    for position, (spec, (dtype, shape)) in enumerate(zip(inputs, key, strict=True)):
        if dtype != spec.dtype:
            raise ValidationError(
                f"input '{spec.name}' is {dtype}, the model takes {spec.dtype}",
                next=f"convert it, or compile with a sample of dtype {dtype}",
            )
        assert spec.shape is not None, "a plan knows the ranks of its inputs"
        if len(shape) != len(spec.shape):
            raise ValidationError(
                f"input '{spec.name}' has shape {list(shape)}, the model takes {spec}"
            )
        for axis, (dim, size) in enumerate(zip(spec.shape, shape, strict=True)):
            if isinstance(dim, sympy.Symbol):
                known = dims.setdefault(dim, size)
                if known != size:
                    raise ValidationError(
                        f"input '{spec.name}' has {size} at axis {axis}, but '{dim}' is {known} "
                        "from another input"
                    )
            elif isinstance(dim, int) and dim != size:
                raise ValidationError(
                    f"input '{spec.name}' has shape {list(shape)}, "
                    f"the model was compiled for {spec}",
                    next="to make this size free, compile with "
                    f'dynamic={{"{spec.name}": {{{axis}: "n{position}_{axis}"}}}}',
                )
    for spec, (_, shape) in zip(inputs, key, strict=True):
        for axis, (dim, size) in enumerate(zip(spec.shape or (), shape, strict=True)):
            if not isinstance(dim, int | sympy.Symbol) and dim.subs(dims) != size:
                raise ValidationError(
                    f"input '{spec.name}' has {size} at axis {axis}, the model needs {dim} = "
                    f"{dim.subs(dims)}"
                )
    return dims
