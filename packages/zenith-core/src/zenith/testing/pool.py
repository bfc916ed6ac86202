"""Worker processes: a case that dies or never ends takes its worker along, and nobody else.

pytest-xdist with pytest-timeout also survives both, but tells neither the signal nor the stack nor
a hang from a crash, and collects every case once per worker.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import tempfile
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from zenith.testing.checks import CHECKS, Result

__all__ = ["InProcess", "Pool", "default_size"]

_START = 120.0  # seconds a worker may take to import zenith
_STACK = 12  # lines of a stack that a report shows


class _Worker:
    """One child process, started anew after it died."""

    def __init__(self, backend: str, timeout: float, folder: str, number: int) -> None:
        self._backend, self._timeout = backend, timeout
        self._log = os.path.join(folder, f"worker{number}.log")
        self._process: Any = None
        self._pipe: Any = None

    def run(self, kind: str, payload: Any) -> Result:
        result = self._attempt(kind, payload, guard=True)
        if result.outcome == "crash":
            plain = self._attempt(kind, payload, guard=False)
            if plain.outcome not in ("crash", "hang"):
                reason = f"accesses memory out of bounds of an array: {result.reason}"
                return replace(result, reason=reason)
        return result

    def _attempt(self, kind: str, payload: Any, guard: bool) -> Result:
        if self._process is None or not self._process.is_alive():
            self._start()
        started = time.monotonic()
        self._pipe.send((kind, payload, guard))
        stage = "start"
        while True:
            left = started + self._timeout - time.monotonic()
            try:
                if not self._pipe.poll(max(left, 0)):
                    return self._died("hang", stage, started)
                what, value = self._pipe.recv()
            except (EOFError, OSError):
                return self._died("crash", stage, started)
            if what == "done":
                done: Result = value
                return done
            stage = value

    def _start(self) -> None:
        from zenith.testing.worker import serve

        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        arguments = (theirs, self._backend, self._log, self._timeout)
        self._process = context.Process(target=serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        try:
            if self._pipe.poll(_START) and self._pipe.recv()[0] == "ready":
                return
        except EOFError:
            pass
        code = self._process.exitcode
        self.stop()
        raise RuntimeError(f"the worker process did not start (exit status {code})")

    def _died(self, outcome: str, stage: str, started: float) -> Result:
        seconds = time.monotonic() - started
        if outcome == "hang":
            how = f"no end after {self._timeout:g} s"
        else:
            self._process.join(10)
            how = _exit(self._process.exitcode)
        self.stop()
        with open(self._log, encoding="utf-8", errors="replace") as file:
            lines = [line.rstrip() for line in file if line.strip()][:_STACK]
        return Result(outcome, "\n".join([f"{how} in {stage}", *lines]), [], seconds)

    def stop(self) -> None:
        if self._process is None:
            return
        with contextlib.suppress(OSError, ValueError):
            self._pipe.send(None)
        self._process.join(0.5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(10)
        self._pipe.close()
        self._process = None


def _exit(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
    return f"the process ended with status {code}"


class Pool:
    """`size` workers that take jobs in the order of `submit`."""

    def __init__(self, backend: str, timeout: float, size: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="zenith-testing-")
        self._workers = [_Worker(backend, timeout, self._folder.name, i) for i in range(size)]
        self._free: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._free.put(worker)
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="zenith-testing")
        self._closing = threading.Event()

    def submit(self, kind: str, payload: Any) -> Future[Result]:
        return self._threads.submit(self._run, kind, payload)

    def _run(self, kind: str, payload: Any) -> Result:
        if self._closing.is_set():
            return Result("fail", "the session ended before this case ran")
        worker = self._free.get()
        try:
            return worker.run(kind, payload)
        finally:
            self._free.put(worker)

    def close(self) -> None:
        self._closing.set()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for worker in self._workers:
            worker.stop()
        self._folder.cleanup()


class InProcess:
    """Without isolation, for a debugger: a crash is a crash of pytest."""

    def __init__(self, backend: str) -> None:
        self._backend = backend

    def submit(self, kind: str, payload: Any) -> Future[Result]:
        future: Future[Result] = Future()
        future.set_result(CHECKS[kind](payload, self._backend, False, lambda text: None))
        return future

    def close(self) -> None:
        """Nothing to stop."""


def default_size() -> int:
    return max(1, min(len(os.sched_getaffinity(0)), 4))
