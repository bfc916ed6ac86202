"""The table of handlers: one function per primitive, registered by the primitive's name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["HANDLERS", "IGNORED", "WRITES", "Handler", "lower"]

Handler = Callable[..., Any]
F = TypeVar("F", bound=Handler)

HANDLERS: dict[str, Handler] = {}
WRITES: dict[str, str] = {}

# Parameters that say how to compute, not what. Any other that a handler does not name is an error.
IGNORED = frozenset(
    {
        "accuracy",
        "indices_are_sorted",
        "out_sharding",
        "precision",
        "sharding",
        "unique_indices",
        "weak_type",
    }
)


def lower(*names: str, writes: str) -> Callable[[F], F]:
    """Register a handler for primitives such as ``"dot_general"``.

    A handler takes the `Builder`, the equation's inputs as `onnx_ir.Value` and its parameters as
    keywords. It returns a value, or a list for a primitive of several results.
    writes: the GraphIR operators that come out, for the coverage table.
    """

    def register(handler: F) -> F:
        for name in names:
            if name in HANDLERS:
                raise ValueError(f"two handlers for {name}")
            HANDLERS[name] = handler
            WRITES[name] = writes
        return handler

    return register
