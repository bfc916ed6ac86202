"""Registers the CPU backend and its kernels through the public hooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zenith.hookspecs import hookimpl

if TYPE_CHECKING:
    from zenith.runtime.backend import Backend
    from zenith.runtime.kernel_registry import KernelRegistry

ZENITH_API_VERSION = 1


@hookimpl
def zenith_register_backends() -> list[Backend]:
    """The CPU backend."""
    from zenith.backends.cpu.backend import CpuBackend

    return [CpuBackend()]


@hookimpl
def zenith_register_kernels(registry: KernelRegistry) -> None:
    """Every row of every family."""
    from zenith.backends.cpu.kernels import all_specs

    registry.add("cpu", *all_specs())
