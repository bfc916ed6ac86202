"""Runs pipelines: lists of pass names, in order, with a report."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from zenith.errors import CompilationError, ConfigurationError, ZenithError
from zenith.ir import GraphIR
from zenith.passes.base import Pass, PassRecord, Report
from zenith.passes.pipelines import CANONICALIZE
from zenith.passes.registry import get_pass

__all__ = ["PassManager", "optimize_graph"]


class PassManager:
    """Runs passes in order on one graph.

    passes: names (`zenith.passes.registry`) or `Pass` values.
    debug: verify the graph after every pass; also on with the environment's ZENITH_VERIFY=1.
    """

    def __init__(self, passes: Sequence[str | Pass], *, debug: bool = False) -> None:
        self.passes = [get_pass(p) if isinstance(p, str) else p for p in passes]
        self.debug = debug or os.environ.get("ZENITH_VERIFY") == "1"

    def run(self, graph: GraphIR) -> Report:
        """Rewrite `graph` in place. A pass that breaks the graph is named in the error."""
        report = Report()
        for step in self.passes:
            before, start = len(graph), time.perf_counter()
            try:
                changed = step.run(graph)
            except ZenithError:
                raise
            except Exception as error:
                raise CompilationError(
                    f"pass '{step.name}' failed: {type(error).__name__}: {error}",
                    next="opt_level=0 compiles without optional passes",
                ) from error
            seconds = time.perf_counter() - start
            report.records.append(PassRecord(step.name, changed, seconds, before, len(graph)))
            if self.debug:
                try:
                    graph.verify()
                except ZenithError as error:
                    raise CompilationError(
                        f"pass '{step.name}' left an invalid graph: {error.message}"
                    ) from error
        return report


def optimize_graph(
    graph: GraphIR, opt_level: int = 2, *, debug: bool = False
) -> tuple[GraphIR, Report]:
    """A canonical copy of `graph` and what was done to it. Independent of target.

    opt_level 0: only shapes; 1: exact rewrites; 2: default; 3: more compile time.
    """
    if opt_level not in range(len(CANONICALIZE)):
        raise ConfigurationError(f"opt_level={opt_level!r} is not one of 0, 1, 2, 3")
    copy = graph.clone()
    return copy, PassManager(CANONICALIZE[opt_level], debug=debug).run(copy)
