"""Zenith for PyTorch: `zenith_torch.compile` is `zenith.compile`; `torch.compile` has a backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from zenith_torch.dynamo import Backend

__all__ = ["backend", "compile", "create_backend", "explain", "refresh"]


def compile(model: Any, **options: Any) -> Any:
    """The same call as `zenith.compile`; see there for the options."""
    import zenith

    return zenith.compile(model, **options)


def create_backend(
    *,
    target: str | Sequence[str] = "auto",
    precision: str = "fp32",
    mode: str = "default",
    **options: Any,
) -> Backend:
    """A backend for ``torch.compile(model, backend=create_backend(...))``.

    target, precision, mode and the other options (opt_level, fallback, threads, cache,
    backend_options) are those of `zenith.compile`; a wrong one raises `ConfigurationError` here.
    The backend's `explain()` and `programs` show what became of the graphs.
    """
    from zenith_torch.dynamo import Backend

    return Backend(target=target, precision=precision, mode=mode, **options)


def backend(
    module: torch.fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    options: Mapping[str, Any] | None = None,
    mode: str | None = None,
) -> Callable[..., Any]:
    """What ``torch.compile(model, backend="zenith")`` calls, once for each graph of Dynamo."""
    return _default()(module, example_inputs, options=options, mode=mode)


def explain() -> str:
    """What became of the graphs of ``backend="zenith"``: kernels, and what PyTorch runs."""
    return _default().explain()


def refresh(model: Any = None) -> None:
    """Take the parameters of `model` (of all models by default) as they are now.

    Only for writes that PyTorch itself does not count: see `zenith_torch.dynamo.refresh`.
    """
    from zenith_torch.dynamo import refresh

    refresh(model)


@cache
def _default() -> Backend:
    from zenith_torch.dynamo import Backend

    return Backend()
