"""Zenith for JAX: `zenith_jax.compile` is `zenith.compile`."""

from __future__ import annotations

from typing import Any

__all__ = ["compile"]


def compile(model: Any, **options: Any) -> Any:
    """The same call as `zenith.compile`; see there for the options."""
    import zenith

    return zenith.compile(model, **options)
