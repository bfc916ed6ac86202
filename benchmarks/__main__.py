"""Zenith beside its peers: `python -m benchmarks`. docs/BENCHMARKS.md says how a cell is judged."""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import machine_facts
from benchmarks.report import table
from benchmarks.runner import Fleet, compare, default_pythons
from benchmarks.suite import HERE, choose, load_engines, load_suite


def main() -> None:
    options = _options()
    if options.report:
        _print_table(_merged(options.report))
        return
    engines = load_engines()
    if unknown := set(options.engines) - set(engines):
        raise SystemExit(f"no engine {', '.join(sorted(unknown))}; there are: {', '.join(engines)}")
    wanted = [engines[name] for name in options.engines or engines]
    cells = choose(
        load_suite(options.suite),
        model=options.models,
        batch=options.batches,
        precision=options.precisions,
    )
    report: dict[str, Any] = {"machine": machine_facts(options.threads), "rows": [], "left_out": []}
    end = time.perf_counter() + options.budget
    with Fleet(wanted, options.threads, default_pythons()) as fleet:
        for position, cell in enumerate(cells):
            left = end - time.perf_counter()
            if left <= 0 and not options.prepare:
                print(f"no time left for {len(cells) - position} cells")
                break
            seconds = 0.0 if options.prepare else left / (len(cells) - position)
            measured = fleet.measure(cell, seconds)
            report["rows"].append(compare(cell, measured))
            report["left_out"] = [str(c) for c in cells[position + 1 :]]
            if not options.prepare:  # after every cell: a long run may be cut short
                options.out.parent.mkdir(parents=True, exist_ok=True)
                options.out.write_text(json.dumps(report, indent=1) + "\n")
            for m in measured:
                shown = m.status if m.median is None else f"{m.median:.3g} ms"
                took = "" if m.prepare_s is None else f"{m.prepare_s:.1f} s"
                print(f"{cell!s:36} {m.engine:18} {shown:12} {took:8} {m.message[:80]}", flush=True)
    if not options.prepare:
        _print_table(report)


def _options() -> argparse.Namespace:
    def names(text: str) -> list[str]:
        return text.split(",")

    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--suite", default="core", help="a file of benchmarks/suites")
    parser.add_argument("--models", type=names, default=[], help="some of the suite's, by comma")
    parser.add_argument("--batches", type=lambda t: [int(n) for n in names(t)], default=[])
    parser.add_argument("--precisions", type=names, default=[])
    parser.add_argument("--engines", type=names, default=[], help="names of engines.toml")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--budget", type=float, default=3600, help="seconds for all cells, preparation included"
    )
    parser.add_argument(
        "--prepare", action="store_true", help="fill the caches of build/bench, time nothing"
    )
    parser.add_argument("--out", type=Path, default=HERE / "out" / "report.json")
    parser.add_argument(
        "--report", type=Path, nargs="+", help="print the table of these reports, run nothing"
    )
    return parser.parse_args()


def _merged(paths: list[Path]) -> dict[str, Any]:
    """Reports of one machine as one; of a cell measured twice the last counts."""
    reports = [json.loads(path.read_text()) for path in paths]
    rows = {(r["model"], r["batch"], r["precision"]): r for p in reports for r in p["rows"]}
    return {"machine": reports[-1]["machine"], "rows": list(rows.values())}


def _print_table(report: dict[str, Any]) -> None:
    machine = report["machine"]
    peak = machine["fma_peak_flops"]
    print(
        f"\n{machine['cpu']}, {machine['threads']} threads, {machine['zenith_isa']}; "
        f"fp32 {peak / 1e9:.0f} GFLOP/s, {machine['bandwidth_bytes_per_s'] / 1e9:.0f} GB/s; "
        f"{machine['versions']}; median (p99) in ms\n"
    )
    print(table(report["rows"], peak))


if __name__ == "__main__":
    main()
