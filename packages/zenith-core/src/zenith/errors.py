"""Every error a public call of Zenith can raise. Each has a stable code and a docs anchor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

__all__ = [
    "ArtifactError",
    "CompilationError",
    "ConfigurationError",
    "DeviceOutOfMemoryError",
    "KernelError",
    "NoKernelFoundError",
    "PluginError",
    "PrecisionError",
    "UnsupportedOperationError",
    "ValidationError",
    "ZenithError",
]


class ZenithError(Exception):
    """Base of all errors of Zenith.

    message: what is wrong, with the node or value as text.
    next: what the user can do about it; shown on a line of its own.
    """

    code: ClassVar[str] = "Z000"

    def __init__(self, message: str, *, next: str | None = None) -> None:
        self.message = message
        self.next = next
        super().__init__(message)

    def __str__(self) -> str:
        lines = [f"[{self.code}] {self.message}"]
        if self.next:
            lines.append(f"  next   {self.next}")
        lines.append(f"  docs   errors#{self.code}")
        return "\n".join(lines)


class CompilationError(ZenithError):
    """The model cannot be compiled: capture failed, or the graph is not valid."""

    code = "Z100"


class UnsupportedOperationError(CompilationError):
    """Operators of the model that Zenith does not know: all of them at once.

    op_type: the names, comma separated.
    operations: (name, source location or "") of every place.
    suggestions: what to write instead, where known.
    """

    code = "Z101"

    def __init__(
        self,
        op_type: str,
        suggestions: Sequence[str] = (),
        *,
        operations: Sequence[tuple[str, str]] = (),
        next: str | None = None,
    ) -> None:
        self.op_type = op_type
        self.suggestions = list(suggestions)
        self.operations = list(operations)
        lines = [f"the model uses operators Zenith does not support: {op_type}"]
        lines += [f"  {name}" + (f"    # {where}" if where else "") for name, where in operations]
        lines += [f"  hint   {hint}" for hint in suggestions]
        super().__init__("\n".join(lines), next=next)


class NoKernelFoundError(CompilationError):
    """Nodes that no kernel of the allowed backends can run, each with what was tried."""

    code = "Z301"


class PrecisionError(ZenithError):
    """The compiled model is further from its source than the tolerance allows."""

    code = "Z401"

    def __init__(
        self,
        expected_tolerance: float,
        actual_error: float,
        *,
        where: str = "",
        next: str | None = None,
    ) -> None:
        self.expected_tolerance = expected_tolerance
        self.actual_error = actual_error
        self.where = where
        at = f" at {where}" if where else ""
        super().__init__(
            f"error {actual_error:.3g} is above the tolerance {expected_tolerance:.3g}{at}",
            next=next,
        )


class KernelError(ZenithError):
    """A kernel failed while running: the data broke a rule of the operator."""

    code = "Z501"


class DeviceOutOfMemoryError(ZenithError, MemoryError):
    """The device has not enough memory for the weights or the arena."""

    code = "Z502"


class ValidationError(ZenithError, ValueError):
    """A model, input or argument breaks a rule: wrong shape, dtype, count, device or structure."""

    code = "Z201"


class ConfigurationError(ZenithError, ValueError):
    """An option has a value that does not exist, or that this target cannot honour."""

    code = "Z202"


class PluginError(ZenithError):
    """A plugin is missing, broken, blocked or incompatible; the cause is kept."""

    code = "Z601"

    def __init__(self, message: str, *, next: str | None = None, **details: Any) -> None:
        self.details = details
        super().__init__(message, next=next)


class ArtifactError(ZenithError):
    """A saved artefact is damaged, foreign or of another format version."""

    code = "Z701"
