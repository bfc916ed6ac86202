"""Memory stage: arena offsets by lifetime, and the bounded cache of bound plans."""

from __future__ import annotations

import functools
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from zenith import _native

__all__ = ["MemoryManager", "check_bytes", "memory_bytes"]

Key = TypeVar("Key")
Bound = TypeVar("Bound")


@functools.cache
def memory_bytes() -> int:
    """Memory this process may use: the machine's, or less in a container."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        with open("/sys/fs/cgroup/memory.max") as file:
            return min(total, int(file.read()))
    except (OSError, ValueError):  # no such group, or "max"
        return total


def check_bytes(nbytes: int) -> None:
    """Raise `MemoryError` for a size from data that no memory holds, before it is asked for."""
    if nbytes > memory_bytes():
        raise MemoryError(f"a result of {nbytes} bytes does not fit in memory")


class MemoryManager(Generic[Key, Bound]):
    """Keeps the most recently used bound plans of one program, one per set of input shapes.

    capacity: how many are kept; the oldest is dropped beyond that (its next use binds again).
    told: called, outside the lock, with every plan bound and the one dropped for it, if any.
    """

    def __init__(
        self,
        bind: Callable[[Key, int], Bound],
        capacity: int = 64,
        told: Callable[[Bound, Bound | None], None] = lambda bound, dropped: None,
    ) -> None:
        self._bind = bind
        self._told = told
        self._capacity = capacity
        self._bound: OrderedDict[tuple[Key, int], Bound] = OrderedDict()
        self._lock = threading.Lock()
        self.binds = 0
        self.evictions = 0

    def bound(self, shapes: Key, threads: int) -> Bound:
        """The plan bound to these input shapes, made now if it is not at hand."""
        key = (shapes, threads)
        with self._lock:
            found = self._bound.get(key)
            if found is not None:
                self._bound.move_to_end(key)
                return found
            fresh = self._bind(shapes, threads)
            self._bound[key] = fresh
            self.binds += 1
            dropped = None
            if len(self._bound) > self._capacity:
                dropped = self._bound.popitem(last=False)[1]
                self.evictions += 1
        self._told(fresh, dropped)
        return fresh

    @property
    def capacity(self) -> int:
        """How many bound plans are kept at most."""
        return self._capacity

    @staticmethod
    def assign(blocks: Sequence[tuple[int, int, int]]) -> tuple[list[int], int]:
        """Offsets for blocks (bytes, first step, last step) and the size of the arena.

        Blocks whose lifetimes overlap never share bytes; offsets are multiples of 64.
        """
        offsets, total = _native.place_blocks(list(blocks))
        return list(offsets), int(total)
