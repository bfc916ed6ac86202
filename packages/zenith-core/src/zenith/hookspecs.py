"""The hooks a plugin may implement. Signatures only; `zenith.plugins` says how they are called.

A plugin is a module (or object) named by an entry point of group "zenith". It sets
``ZENITH_API_VERSION = 1`` and marks its functions with ``zenith.hookspecs.hookimpl``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from zenith.events import Events
    from zenith.plugins import Adapter, Backend

__all__ = ["API_VERSION", "hookimpl", "hookspec"]

API_VERSION = 1
hookspec = pluggy.HookspecMarker("zenith")
hookimpl = pluggy.HookimplMarker("zenith")


@hookspec
def zenith_register_backends() -> Iterable[Backend]:  # type: ignore[empty-body]
    """The backends this plugin offers; called once, must not touch a device."""


@hookspec
def zenith_register_kernels(registry: Any) -> None:
    """Add this plugin's rows: ``registry.add(backend_name, *kernel_specs)``, best first."""


@hookspec
def zenith_register_adapters() -> Iterable[Adapter]:  # type: ignore[empty-body]
    """The adapters this plugin offers; must not import their framework."""


@hookspec
def zenith_register_passes() -> Iterable[Any]:  # type: ignore[empty-body]
    """`zenith.passes.Pass` values, by whose ``name`` a `Backend.pipeline` may ask for them."""


@hookspec
def zenith_register_operators() -> Iterable[Any]:  # type: ignore[empty-body]
    """Operators this plugin declares: ``name`` is "<domain>:<type>", ``function(overload)`` the
    `onnx_ir.Function` with its body of standard operators. A node that no kernel takes is
    replaced by the body."""


@hookspec
def zenith_subscribe(events: Events) -> None:
    """Subscribe listeners to the events of compiling and running."""
