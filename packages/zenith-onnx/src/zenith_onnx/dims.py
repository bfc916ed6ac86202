"""Sizes as the model declares them: every dynamic axis of an input gets a usable name."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import onnx_ir as ir

from zenith.errors import ConfigurationError

__all__ = ["name_sizes"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def name_sizes(
    inputs: Sequence[ir.Value], dynamic: Mapping[str | int, Mapping[int, str]] | None
) -> None:
    """Give the inputs shapes of ints, names, and expressions over names of other axes.

    Unnamed and unreadable sizes get fresh names. dynamic: axes to name in place of what the model
    declares, by input name or position.
    """
    wanted = _wanted(inputs, dynamic or {})
    plain = {
        text
        for value in inputs
        for dim in value.shape or ()
        if (text := _text(dim)) is not None and _is_name(text)
    } | {name for axes in wanted.values() for name in axes.values()}
    fresh = _fresh_names(plain)
    renamed: dict[str, str] = {}
    for value in inputs:
        if value.shape is None or not isinstance(value.type, ir.TensorType):
            continue  # elements of a sequence differ in size
        axes = wanted.get(str(value.name), {})
        dims: list[int | str] = []
        for axis, dim in enumerate(value.shape):
            text = _text(dim)
            if axis in axes:
                dims.append(axes[axis])
            elif isinstance(dim, int):
                dims.append(dim if dim >= 0 else next(fresh))
            elif text is None:
                dims.append(next(fresh))
            elif _is_name(text) or _is_expression(dim, plain):
                dims.append(text)
            else:
                dims.append(renamed.setdefault(text, next(fresh)))
        value.shape = ir.Shape(dims)


def _wanted(
    inputs: Sequence[ir.Value], dynamic: Mapping[str | int, Mapping[int, str]]
) -> dict[str, dict[int, str]]:
    names = [str(v.name) for v in inputs]
    found: dict[str, dict[int, str]] = {}
    for key, axes in dynamic.items():
        if isinstance(key, int) and -len(names) <= key < len(names):
            key = names[key]
        if key not in names:
            raise ConfigurationError(
                f"dynamic: the model has no input {key!r}; it takes {', '.join(names)}"
            )
        shape = inputs[names.index(str(key))].shape
        if shape is None:
            raise ConfigurationError(f"dynamic: input {key!r} declares no rank")
        for axis, name in axes.items():
            if not -len(shape) <= axis < len(shape):
                raise ConfigurationError(f"dynamic: input {key!r} has no axis {axis}")
            found.setdefault(str(key), {})[axis % len(shape)] = name
    return found


def _text(dim: int | ir.SymbolicDim) -> str | None:
    return None if isinstance(dim, int) else dim.value


def _is_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None and not keyword.iskeyword(text)


def _is_expression(dim: Any, names: set[str]) -> bool:
    """Whether a size is computed from sizes that are axes of their own somewhere."""
    try:
        expression = ir.SymbolicDim(dim.value)._expr
    except ValueError:
        return False
    symbols = {s.name for s in expression.free_symbols} if expression is not None else set()
    return bool(symbols) and symbols <= names


def _fresh_names(taken: set[str]) -> Iterator[str]:
    index = 0
    while True:
        if f"dim_{index}" not in taken:
            yield f"dim_{index}"
        index += 1
