"""Runs the engines side by side: a process for each, one of them awake, blocks in turns."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.artefacts import CACHE
from benchmarks.measure import paired_ratio, percentile
from benchmarks.suite import HERE, Cell, Engine

ROUNDS = range(3, 16)  # of blocks: at least, and fewer than
BLOCK_S = (0.1, 1.0)  # seconds of one engine in one round: at least, at most


@dataclass
class Measured:
    """What came of one engine in one cell. Times in milliseconds; None where there are none."""

    engine: str
    status: str  # ok, refused, wrong, error
    message: str = ""
    median: float | None = None
    p99: float | None = None
    calls: int = 0
    blocks: list[float] = field(default_factory=list)
    accuracy: Mapping[str, float] | None = None
    version: str = ""
    flops: float = 0.0
    prepare_s: float | None = None


class Worker:
    """The process of one engine, for all cells.

    It is stopped while others run, so that idle threads of its pool take nothing from them.
    """

    def __init__(self, engine: Engine, python: str, threads: int) -> None:
        self._engine, self._threads = engine, threads
        values = {k: v.format(threads=threads) for k, v in engine.environment.items()}
        cache = {"TORCHINDUCTOR_CACHE_DIR": str(CACHE / "inductor")}
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.worker"],
            cwd=HERE.parent,
            env={**os.environ, **cache, **values},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def await_start(self) -> None:
        """Until its imports are done. If they fail, the first request will say so."""
        assert self._process.stdout is not None
        if self._process.stdout.readline():
            self._process.send_signal(signal.SIGSTOP)

    def prepare(self, cell: Cell) -> Measured:
        """Gets the model ready, in place of the one before."""
        request = {"cell": asdict(cell), "threads": self._threads, "name": self._engine.name}
        answer = self._ask({**request, "options": self._engine.options})
        return Measured(self._engine.name, **answer)

    def block(self, seconds: float) -> list[float] | Measured:
        """Times of calls, in milliseconds; or what became of the process."""
        answer = self._ask({"seconds": seconds})
        if "status" in answer:
            return Measured(self._engine.name, **answer)
        return [1e3 * t for t in answer["seconds"]]

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer of the process, which is awake only until then. One that died is an error
        like any other."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.send_signal(signal.SIGCONT)
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            answer: dict[str, Any] = json.loads(self._process.stdout.readline())
            self._process.send_signal(signal.SIGSTOP)
        except (BrokenPipeError, json.JSONDecodeError):
            return {"status": "error", "message": f"its process ended: {self._process.wait()}"}
        return answer

    def close(self) -> None:
        self._process.kill()
        with contextlib.suppress(BrokenPipeError), self._process:
            pass  # closes the pipes; what a dead process did not read may be left in one


class Fleet:
    """A worker for each engine; one that died is started anew for the next cell."""

    def __init__(self, engines: Sequence[Engine], threads: int, pythons: Mapping[str, str]) -> None:
        self._engines, self._threads, self._pythons = engines, threads, pythons
        self._workers: dict[str, Worker] = {}
        self._start(engines)

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers.values():
            worker.close()

    def measure(self, cell: Cell, seconds: float) -> list[Measured]:
        """All engines in one cell, in about this many seconds; 0 prepares and does not time."""
        deadline = time.perf_counter() + seconds
        self._start([e for e in self._engines if not self._workers[e.name].alive])
        found = {e.name: self._workers[e.name].prepare(cell) for e in self._engines}
        if seconds > 0:
            ready = {n: self._workers[n] for n, m in found.items() if m.status == "ok"}
            take_turns(ready, found, deadline)
        return list(found.values())

    def _start(self, engines: Sequence[Engine]) -> None:
        """Workers for these, all at once: most of their imports is waiting for files."""
        for engine in engines:
            if engine.name in self._workers:
                self._workers[engine.name].close()
            python = self._pythons.get(engine.name, sys.executable)
            self._workers[engine.name] = Worker(engine, python, self._threads)
        for engine in engines:
            self._workers[engine.name].await_start()


def take_turns(workers: Mapping[str, Worker], found: dict[str, Measured], deadline: float) -> None:
    """Blocks of all engines in turns, the first one another in every round."""
    names = list(workers)
    times: dict[str, list[float]] = {name: [] for name in names}
    share = (deadline - time.perf_counter()) / (max(len(names), 1) * ROUNDS.stop)
    block = min(max(share, BLOCK_S[0]), BLOCK_S[1])
    for number in range(ROUNDS.stop):
        if number >= ROUNDS.start and time.perf_counter() > deadline:
            break
        turn = number % max(len(names), 1)
        for name in names[turn:] + names[:turn]:
            milliseconds = workers[name].block(block)
            if isinstance(milliseconds, Measured):
                found[name] = milliseconds
                names.remove(name)
                continue
            times[name] += milliseconds
            found[name].blocks.append(statistics.median(milliseconds))
    for name in names:
        found[name].median = statistics.median(times[name])
        found[name].p99 = percentile(times[name], 0.99)
        found[name].calls = len(times[name])


def compare(cell: Cell, measured: Sequence[Measured]) -> dict[str, Any]:
    """A row of the table: every engine, and Zenith's ratio to each that has times."""
    ours = next((m for m in measured if m.engine == "zenith" and m.blocks), None)
    row: dict[str, Any] = {**asdict(cell), "engines": [asdict(m) for m in measured]}
    row["ratios"] = {}
    for peer in measured:
        if ours is not None and peer is not ours and len(peer.blocks) == len(ours.blocks):
            ratio = paired_ratio(ours.blocks, peer.blocks)
            row["ratios"][peer.engine] = {**asdict(ratio), "verdict": ratio.verdict}
    return row


def default_pythons() -> dict[str, str]:
    """Engines that live in an environment of their own: ZENITH_BENCH_PYTHON_<NAME> names it."""
    prefix = "ZENITH_BENCH_PYTHON_"
    found = {k.removeprefix(prefix).lower(): v for k, v in os.environ.items() if prefix in k}
    return {name: path for name, path in found.items() if Path(path).exists()}
