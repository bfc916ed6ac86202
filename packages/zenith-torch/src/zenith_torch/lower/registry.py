"""The table of handlers: one function per ATen operator, registered by the operator's name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["HANDLERS", "lower"]

Handler = Callable[..., Any]
F = TypeVar("F", bound=Handler)

HANDLERS: dict[str, Handler] = {}


def lower(*names: str) -> Callable[[F], F]:
    """Register a handler for operators such as ``"aten.gelu.default"``.

    A handler takes the `Builder` and the operator's arguments: tensors as `onnx_ir.Value`, sizes
    as int or sympy expressions. It returns a value, or a list for an operator of several results.
    An operator with a handler is not decomposed.
    """

    def register(handler: F) -> F:
        for name in names:
            if name in HANDLERS:
                raise ValueError(f"two handlers for {name}")
            HANDLERS[name] = handler
        return handler

    return register
