"""The child process: takes jobs from `pool` one by one, says what it does, sends the result."""

from __future__ import annotations

import faulthandler
import os
import warnings
from multiprocessing.connection import Connection

__all__ = ["serve"]


def serve(pipe: Connection, backend: str, log: str, timeout: float) -> None:
    """Answer ("job", kind, payload, guard) with ("stage", text) and at last ("done", Result).

    log: a file where Python's stacks go when the process dies or takes too long.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    from zenith.testing.checks import CHECKS

    warnings.simplefilter("ignore")
    with open(log, "w", encoding="utf-8") as file:
        faulthandler.enable(file)
        pipe.send(("ready", ""))
        while (job := pipe.recv()) is not None:
            kind, payload, guard = job
            file.seek(0)
            file.truncate()
            faulthandler.dump_traceback_later(timeout * 0.9, file=file)
            result = CHECKS[kind](payload, backend, guard, lambda text: pipe.send(("stage", text)))
            faulthandler.cancel_dump_traceback_later()
            pipe.send(("done", result))
