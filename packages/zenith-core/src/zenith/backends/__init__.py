"""The built-in backends. They register through the plugin hooks, like any other."""

from __future__ import annotations

import sys
import types

from zenith.plugins import BackendInfo, plugin_manager


class _CallableModule(types.ModuleType):
    """`zenith.backends()` is public API, and `zenith.backends` is this package: both are true."""

    def __call__(self) -> list[BackendInfo]:
        """Every backend with its state (ready, unavailable, ...) and why."""
        return plugin_manager().backend_infos()


sys.modules[__name__].__class__ = _CallableModule
