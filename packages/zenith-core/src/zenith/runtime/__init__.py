"""Runtime: from GraphIR to a compiled model, and running it."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "CompileConfig": "zenith.config",
    "CompiledModel": "zenith.runtime.compiled_model",
    "ExecutionContext": "zenith.runtime.context",
    "ExecutionPlan": "zenith.runtime.plan",
    "GraphExecutor": "zenith.runtime.executor",
    "KernelDispatcher": "zenith.runtime.dispatcher",
    "KernelRegistry": "zenith.runtime.kernel_registry",
    "KernelSpec": "zenith.runtime.kernel_registry",
    "MemoryManager": "zenith.runtime.memory_manager",
    "ZenithEngine": "zenith.runtime.engine",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'zenith.runtime' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
