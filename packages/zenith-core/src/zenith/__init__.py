"""Zenith: compile a trained model, run it faster, and see what ran.

`zenith.compile` is where to start; `zenith.backends()` and `zenith.plugins()` tell what is
installed. Everything is imported on first use: importing zenith loads no framework and no ONNX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zenith import backends as backends
    from zenith import errors as errors
    from zenith import plugins as plugins
    from zenith._api import compile, optimize
    from zenith.runtime.compiled_model import CompiledModel

__all__ = [
    "CompiledModel",
    "__version__",
    "backends",
    "compile",
    "errors",
    "optimize",
    "plugins",
]

__version__ = "0.1.0"

# Public names that are not modules of this package, and where each lives.
_HOMES = {
    "CompiledModel": "zenith.runtime.compiled_model",
    "compile": "zenith._api",
    "optimize": "zenith._api",
}
_MODULES = frozenset({"backends", "errors", "plugins"})  # the first and the last can be called


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"zenith.{name}")
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'zenith' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
