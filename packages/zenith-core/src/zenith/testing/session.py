"""One run of the kit: which cases, who runs them, what came out."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import pytest

from zenith.errors import ZenithError
from zenith.plugins import plugin_manager
from zenith.runtime.kernel_registry import KernelRegistry, KernelSpec
from zenith.testing.cases import Case, all_cases
from zenith.testing.checks import Result
from zenith.testing.pool import InProcess, Pool, default_size
from zenith.testing.report import Report

__all__ = ["Job", "Session"]

CANDIDATES = 12  # cases that a check which needs one may try


@dataclass(frozen=True)
class Job:
    """One test. check: a name in `checks.CHECKS`; payload: what it is about."""

    name: str
    check: str
    payload: Any
    op: str = ""
    dtype: str = ""


class Session:
    """The backend asked for, its jobs, the pool, the report."""

    def __init__(self, config: pytest.Config) -> None:
        self._options = config.option
        self.backend: str = config.option.zenith_backend
        try:
            plugin_manager().backend(self.backend)
            rows = _rows(self.backend)
        except ZenithError as error:
            raise pytest.UsageError(f"--zenith-backend={self.backend}: {error}") from None
        if not rows:
            raise pytest.UsageError(f"backend '{self.backend}' has no kernel rows: nothing to test")
        owner = next(p.owner for p in plugin_manager().plugins if self.backend in p.backends)
        self.report = Report(self.backend, owner, {row.name: row.op for row in rows})
        self.report.complete = config.option.zenith_cases == "*"
        self.jobs = list(self._jobs({row.op for row in rows}))
        self._pool: Pool | InProcess | None = None
        self._futures: dict[str, Future[Result]] = {}

    def _jobs(self, ops: set[str]) -> list[Job]:
        glob = self._options.zenith_cases
        cases = list(all_cases(_matching(ops, glob)))
        by_op: dict[str, list[Case]] = {}
        for case in cases:
            by_op.setdefault(case.op, []).append(case)
        plain = [case for case in cases if case.dtype == "float32" and case.nbytes > 0]
        some = list({case.op: case for case in reversed(plain)}.values())[::-1][:CANDIDATES]
        jobs = [Job(case.name, "case", case, case.op, case.dtype) for case in cases]
        jobs += [
            Job(f"leaks/{op}", "leaks", sorted(group, key=_size)[:CANDIDATES], op)
            for op, group in by_op.items()
        ]
        jobs += [Job(f"host/{check}", check, some) for check in ("fallback", "errors")]
        return [job for job in jobs if fnmatch.fnmatchcase(job.name, glob)]

    def start(self, items: Sequence[pytest.Item]) -> None:
        """Give the workers all selected tests, in their order; `result` waits for one."""
        jobs = [item.callspec.params["job"] for item in items if hasattr(item, "callspec")]
        jobs = [job for job in jobs if isinstance(job, Job)]
        if self._options.zenith_isolate:
            size = self._options.zenith_jobs or default_size()
            self._pool = Pool(self.backend, self._options.zenith_timeout, size)
            for job in jobs:
                self._futures[job.name] = self._pool.submit(job.check, job.payload)
        else:
            self._pool = InProcess(self.backend)

    def result(self, job: Job) -> Result:
        """The outcome of one test, kept for the report."""
        assert self._pool is not None
        future = self._futures.pop(job.name, None) or self._pool.submit(job.check, job.payload)
        result = future.result()
        self.report.add(job.name, job.check, job.op, job.dtype, result)
        return result

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()
        if self._options.zenith_report and self.report.entries:
            self.report.write(self._options.zenith_report)


def _rows(backend: str) -> list[KernelSpec]:
    registry = KernelRegistry()
    plugin_manager().register_kernels(registry)
    return [row for name, row in registry if name == backend]


def _matching(ops: set[str], glob: str) -> set[str] | None:
    """The operators whose cases a glob such as "Add/*" can name; None for all there are."""
    head = glob.partition("/")[0]
    if "*" in ops or head in ("*", "leaks", "host"):
        return None if "*" in ops else ops
    return {op for op in ops if fnmatch.fnmatchcase(op.rpartition(":")[2], head)}


def _size(case: Case) -> int:
    """Largest first: what leaks is seen sooner; but not what takes long."""
    return -case.nbytes if case.nbytes < 2**18 else case.nbytes
