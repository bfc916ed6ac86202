"""What happens while compiling and running, as events; listeners subscribe, nothing is logged.

::

    from zenith.events import events
    stop = events.subscribe(print)      # each listener gets one frozen dataclass per event
    ...
    stop()

Without a listener an emit is one attribute test. A listener that raises is reported once, through
the logger "zenith", and dropped: it never breaks the run that emitted.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

__all__ = [
    "Bound",
    "CompileFinished",
    "CompileStarted",
    "Event",
    "Events",
    "Evicted",
    "Fallback",
    "KernelSelected",
    "PassRan",
    "RunFinished",
    "events",
]


@dataclass(frozen=True)
class Event:
    """Base of all events; `name` is what `Events.emit` is called with."""

    name: ClassVar[str] = ""


@dataclass(frozen=True)
class CompileStarted(Event):
    """A model came in: its class, and the backends asked for."""

    name: ClassVar[str] = "compile_started"
    model: str
    target: tuple[str, ...]


@dataclass(frozen=True)
class CompileFinished(Event):
    """A model was compiled (`error` is None) or was not; wall time in seconds."""

    name: ClassVar[str] = "compile_finished"
    model: str
    seconds: float
    nodes: int = 0
    error: str | None = None


@dataclass(frozen=True)
class PassRan(Event):
    """A graph pass ran: whether it changed the graph, and the node counts around it."""

    name: ClassVar[str] = "pass_ran"
    pass_name: str
    changed: bool
    nodes_before: int
    nodes_after: int
    seconds: float


@dataclass(frozen=True)
class KernelSelected(Event):
    """A node got its kernel; `rejected` are the better rows that could not run it, with reasons."""

    name: ClassVar[str] = "kernel_selected"
    node: str
    op: str
    backend: str
    kernel: str
    rejected: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Fallback(Event):
    """A node does not run on the first backend of the target."""

    name: ClassVar[str] = "fallback"
    node: str
    op: str
    backend: str
    why: str


@dataclass(frozen=True)
class Bound(Event):
    """A plan was bound to sizes it had not seen (or no longer held); arena in bytes."""

    name: ClassVar[str] = "bound"
    dims: dict[str, int]
    arena: int
    seconds: float


@dataclass(frozen=True)
class Evicted(Event):
    """A bound plan was dropped to make room for a newer one."""

    name: ClassVar[str] = "evicted"
    dims: dict[str, int]


@dataclass(frozen=True)
class RunFinished(Event):
    """One call of a compiled model ended; wall time in seconds."""

    name: ClassVar[str] = "run_finished"
    model: str
    seconds: float
    error: str | None = None


_TYPES: dict[str, type[Event]] = {kind.name: kind for kind in Event.__subclasses__()}

Listener: TypeAlias = Callable[[Any], None]


class Events:
    """The listener bus. Safe to use from many threads; listeners run in the emitting thread."""

    def __init__(self) -> None:
        self._listeners: tuple[Listener, ...] = ()  # replaced, never changed: emit takes no lock
        self._lock = threading.Lock()

    @property
    def active(self) -> bool:
        """Whether anybody listens: guards the work of collecting an event's data."""
        return bool(self._listeners)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener(event)` for every event from now on; returns how to stop."""
        if not callable(listener):
            raise TypeError(f"a listener is called with each event; {listener!r} is not callable")
        with self._lock:
            self._listeners = (*self._listeners, listener)
        return lambda: self._drop(listener)

    def emit(self, name: str, /, **data: Any) -> None:
        """Tell all listeners; `data` are the fields of the event's dataclass."""
        if not self._listeners:
            return
        event = _TYPES[name](**data)
        for listener in self._listeners:
            try:
                listener(event)
            except Exception:  # a listener must never break the run: reported, then dropped
                self._drop(listener)
                logging.getLogger("zenith").exception(
                    "listener %r failed on %s and is dropped", listener, name
                )

    def _drop(self, listener: Listener) -> None:
        with self._lock:
            kept = list(self._listeners)
            if listener in kept:
                kept.remove(listener)
            self._listeners = tuple(kept)


events = Events()
"""The bus of this process."""
