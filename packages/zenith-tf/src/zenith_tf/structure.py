"""Trees of tensors: the shape of a call's arguments and of its results, kept as a template.

A template is made of `Leaf`, `Constant`, lists, tuples (named ones too) and dicts. Arguments are
taken apart along it (`collect`), results put together along it (`rebuild`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zenith.errors import ValidationError

__all__ = ["Constant", "Leaf", "collect", "make_template", "rebuild"]


@dataclass(frozen=True)
class Leaf:
    """The place of tensor number `index`."""

    index: int


@dataclass(frozen=True)
class Constant:
    """A value that is no tensor; the compiled model holds it fixed."""

    value: Any


@dataclass(frozen=True)
class _Sequence:
    """A list, tuple or named tuple; `build` makes one from its items."""

    build: Callable[[list[Any]], Any]
    items: tuple[Any, ...]


@dataclass(frozen=True)
class _Dict:
    items: dict[Any, Any]


def make_template(
    value: Any, is_tensor: Callable[[Any], bool], found: list[tuple[str, Any]], name: str
) -> Any:
    """The template of `value`; its tensors are appended to `found` with a name made of `name`,
    keys and positions."""
    if is_tensor(value):
        found.append((name, value))
        return Leaf(len(found) - 1)
    if isinstance(value, Mapping):
        return _Dict(
            {k: make_template(v, is_tensor, found, _below(name, k)) for k, v in value.items()}
        )
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        parts = zip(value._fields, value, strict=True)
        items = [make_template(v, is_tensor, found, _below(name, k)) for k, v in parts]
        kind = type(value)
        return _Sequence(lambda built: kind(*built), tuple(items))
    if isinstance(value, list | tuple):
        build: Callable[[list[Any]], Any] = tuple if isinstance(value, tuple) else list
        return _Sequence(
            build,
            tuple(make_template(v, is_tensor, found, _below(name, i)) for i, v in enumerate(value)),
        )
    return Constant(value)


def _below(name: str, key: Any) -> str:
    return f"{name}_{key}" if name and isinstance(key, int) else str(key)


def collect(template: Any, value: Any, into: list[Any], where: str) -> None:
    """Put the tensors of `value` to their places in `into`.

    Raises `ValidationError` when `value` is not built like the template. A dict may come for a
    list nowhere but at the top of a Keras model, which is the caller's business.
    """
    if isinstance(template, Leaf):
        into[template.index] = value
    elif isinstance(template, Constant):
        if not _same(template.value, value):
            raise ValidationError(
                f"{where} is {value!r}, but was {template.value!r} when the model was compiled, "
                "which made it a constant"
            )
    elif isinstance(template, _Dict):
        if not isinstance(value, Mapping) or set(value) != set(template.items):
            keys = ", ".join(map(str, template.items))
            raise ValidationError(f"{where} must be a dict with the keys {keys}")
        for key, inner in template.items.items():
            collect(inner, value[key], into, f"{where}[{key!r}]")
    else:
        count = len(template.items)
        if not isinstance(value, list | tuple) or len(value) != count:
            raise ValidationError(f"{where} must be a list or tuple of {count}")
        for i, (inner, item) in enumerate(zip(template.items, value, strict=True)):
            collect(inner, item, into, f"{where}[{i}]")


def rebuild(template: Any, tensors: Sequence[Any]) -> Any:
    """A value built like the template around `tensors`."""
    if isinstance(template, Leaf):
        return tensors[template.index]
    if isinstance(template, Constant):
        return template.value
    if isinstance(template, _Dict):
        return {key: rebuild(inner, tensors) for key, inner in template.items.items()}
    return template.build([rebuild(inner, tensors) for inner in template.items])


def _same(constant: Any, value: Any) -> bool:
    if constant is value:
        return True
    if (
        isinstance(value, np.ndarray)
        or hasattr(value, "dtype")
        or type(constant) is not type(value)
    ):
        return False
    return bool(constant == value)
