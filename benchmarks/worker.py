"""One engine in a process of its own: `python -m benchmarks.worker`, a JSON line per request.

It says when it has imported what it needs. Requests: {"cell", "threads", "name", "options"} first,
answered with what was prepared and how accurate it is; then {"seconds"} for a block of calls,
answered with the times of each.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from dataclasses import asdict
from typing import Any

from benchmarks.artefacts import exact_results
from benchmarks.engines import ENGINES, Prepared, Refused
from benchmarks.measure import accuracy
from benchmarks.suite import LIMITS, Cell

WARM_UP = 5


def main() -> None:
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not end up among the answers
    print(json.dumps({"status": "ready"}), file=channel, flush=True)
    prepared: Prepared | None = None
    for line in sys.stdin:
        request = json.loads(line)
        if "cell" in request:
            prepared = None  # the model before goes first
            gc.collect()
            prepared, answer = _prepare(request)
        else:
            assert prepared is not None
            answer = {"seconds": _block(prepared, request["seconds"])}
        print(json.dumps(answer), file=channel, flush=True)


def _prepare(request: dict[str, Any]) -> tuple[Prepared | None, dict[str, Any]]:
    cell = Cell(**request["cell"])
    started = time.perf_counter()
    try:
        prepared = ENGINES[request["name"]](cell, request["threads"], request["options"])
        results = prepared.call()
        prepare_s = time.perf_counter() - started
        error = accuracy(prepared.arrays(results), exact_results(cell.model, cell.batch))
    except Refused as refusal:
        return None, {"status": "refused", "message": str(refusal)}
    except BaseException as failure:  # noqa: BLE001 - whatever it is, it belongs in the table
        return None, {"status": "error", "message": f"{type(failure).__name__}: {failure}"[:500]}
    status = "ok" if error.rms <= LIMITS[cell.precision] else "wrong"
    answer = {
        "status": status,
        "message": "" if status == "ok" else f"rms error {error.rms:.1e} against float64",
        "accuracy": asdict(error),
        "version": prepared.version,
        "flops": prepared.flops,
        "prepare_s": prepare_s,
    }
    if status == "ok":
        for _ in range(WARM_UP):
            prepared.call()
    return prepared, answer


def _block(prepared: Prepared, seconds: float) -> list[float]:
    """Times of the calls of one block; the first is not counted: it finds cold caches."""
    call, clock = prepared.call, time.perf_counter
    call()
    times: list[float] = []
    end = clock() + seconds
    while not times or clock() < end:
        start = clock()
        call()
        times.append(clock() - start)
    return times


if __name__ == "__main__":
    main()
