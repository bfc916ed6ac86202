"""Execute stage: what belongs to one call, and only to it."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field

__all__ = ["ExecutionContext", "current_threads"]


@dataclass
class ExecutionContext:
    """Per-call state. Kernels and plans hold none, so calls with their own context run at once.

    threads: most workers for this call (0: all available).
    profile: collect nanoseconds per step into `times`, one list per partition.
    """

    threads: int = 0
    profile: bool = False
    times: list[list[int]] = field(default_factory=list)


# `threads` of the call whose kernels run in Python: they take a node and arrays, and no more.
current_threads: ContextVar[int] = ContextVar("current_threads", default=0)
