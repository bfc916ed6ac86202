"""Models that are wrong in every way we could think of, and a runner that bounds each.

Run as a script it compiles (and calls, where that works) the named cases under a memory limit and
prints one JSON line each; `test_untrusted.py` starts it and reads what happened.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
import warnings
from typing import Any

import hostile_graphs as hostile_graphs
import hostile_sizes as hostile_sizes
import numpy as np
from hostile_kit import CASES

__all__ = ["CASES"]

GIB = 1 << 30
MEMORY = 6 * GIB  # of address space: libraries and thread stacks take the first part of it
SECONDS = 30


def feeds_of(compiled: Any) -> dict[str, np.ndarray]:
    """Inputs of the sizes the model asks for; free sizes are 3, integers are huge."""
    feeds = {}
    for spec in compiled.plan.inputs:
        shape = [d if isinstance(d, int) else 3 for d in spec.shape]
        if spec.dtype == "int64":
            feeds[spec.name] = np.full(shape, 1 << 45, np.int64)
        elif len(shape) == 1 and not isinstance(spec.shape[0], int):
            feeds[spec.name] = np.ones([1 << 16], spec.dtype)
        else:
            feeds[spec.name] = np.ones(shape, spec.dtype)
    return feeds


def outcome(source: Any) -> tuple[str, str]:
    """The name of what was raised, with its message; "ok" when all went well."""
    import zenith
    from zenith.errors import ZenithError

    try:
        compiled = zenith.compile(source, fallback="allow")
        compiled.run(feeds_of(compiled))
    except ZenithError as error:
        return type(error).__name__, str(error)
    except BaseException as error:  # noqa: BLE001  the point of the exercise
        return f"dirty {type(error).__name__}", str(error)
    return "ok", ""


def main() -> None:
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for name in sys.argv[1:]:
        print(json.dumps({"start": name}), flush=True)  # noqa: T201
        signal.alarm(SECONDS)
        source = CASES[name][0]()
        started = time.perf_counter()
        kind, message = outcome(source)
        seconds = time.perf_counter() - started
        signal.alarm(0)
        line = {"case": name, "kind": kind, "message": message[:2000], "seconds": seconds}
        print(json.dumps(line), flush=True)  # noqa: T201


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "2")
    main()
