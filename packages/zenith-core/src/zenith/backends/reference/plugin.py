"""Registers the reference backend through the public hooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zenith.hookspecs import hookimpl

if TYPE_CHECKING:
    from zenith.runtime.backend import Backend
    from zenith.runtime.kernel_registry import KernelRegistry

ZENITH_API_VERSION = 1


@hookimpl
def zenith_register_backends() -> list[Backend]:
    """The reference backend."""
    from zenith.backends.reference.backend import ReferenceBackend

    return [ReferenceBackend()]


@hookimpl
def zenith_register_kernels(registry: KernelRegistry) -> None:
    """One row for everything."""
    from zenith.backends.reference.backend import REFERENCE_ROW

    registry.add("reference", REFERENCE_ROW)
