"""The table of a run: losses like wins, and what failed by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.measure import geometric_mean

Row = Mapping[str, Any]


def best_peer(row: Row) -> str | None:
    """The peer with the least median, of those whose results are right."""
    peers = [e for e in row["engines"] if not e["engine"].startswith("zenith")]
    timed = [e for e in peers if e["median"] is not None]
    best = min(timed, key=lambda e: e["median"], default=None)
    return None if best is None else str(best["engine"])


def verdict(row: Row) -> str:
    """won, lost or even against the best peer; or why there is none.

    In 8 bits a won cell with results less accurate than the peer's is no win.
    """
    engines = {e["engine"]: e for e in row["engines"]}
    ours = engines.get("zenith")
    if ours is None or ours["median"] is None:
        return "-" if ours is None else str(ours["status"])
    peer = best_peer(row)
    if peer is None:
        return "no peer"
    result = str(row["ratios"][peer]["verdict"])
    if result == "won" and row["precision"].startswith("int8"):
        theirs = engines[peer]["accuracy"]["rms"]
        if ours["accuracy"]["rms"] > theirs:
            return "less accurate"
    return result


def table(rows: Sequence[Row], peak_flops: float | None = None) -> str:
    """Markdown: a line per cell, a column per engine; then means, and every failure in words."""
    names = list(dict.fromkeys(e["engine"] for row in rows for e in row["engines"]))
    head = ["cell", *names, "best peer / zenith (95 %)", "verdict", "rms error", "of peak"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        engines = {e["engine"]: e for e in row["engines"]}
        cell = f"{row['model']} b{row['batch']} {row['precision']}"
        times = [_time(engines.get(name)) for name in names]
        lines.append("| " + " | ".join([cell, *times, *_judged(row, engines, peak_flops)]) + " |")
    return "\n".join([*lines, "", *_means(rows), "", *_failures(rows)]).rstrip() + "\n"


def _time(engine: Mapping[str, Any] | None) -> str:
    if engine is None:
        return ""
    if engine["median"] is None:
        return str(engine["status"])
    return f"{engine['median']:.3g} ({engine['p99']:.3g})"


def _judged(row: Row, engines: Mapping[str, Any], peak: float | None) -> list[str]:
    peer = best_peer(row)
    ratio = row["ratios"].get(peer)
    text = ""
    if ratio is not None:
        text = f"{ratio['value']:.2f} ({ratio['low']:.2f} - {ratio['high']:.2f}) {peer}"
    ours = engines.get("zenith")
    error, share = "", ""
    if ours is not None and ours["accuracy"] is not None:
        error = f"{ours['accuracy']['rms']:.1e}"
        if peer is not None:
            error += f" / {engines[peer]['accuracy']['rms']:.1e}"
        if ours["median"] and peak:
            share = f"{ours['flops'] / (1e-3 * ours['median']) / peak:.0%}"
    return [text, verdict(row), error, share]


def _means(rows: Iterable[Row]) -> list[str]:
    """Geometric means of the ratios, precision by precision, to the best peer and to eager."""
    lines = []
    for precision in dict.fromkeys(row["precision"] for row in rows):
        these = [row for row in rows if row["precision"] == precision and row["ratios"]]
        verdicts = [verdict(row) for row in rows if row["precision"] == precision]
        counted = {v: verdicts.count(v) for v in dict.fromkeys(verdicts)}
        text = ", ".join(f"{count} {v}" for v, count in counted.items())
        for label, pick in (("best peer", best_peer), ("torch-eager", lambda _: "torch-eager")):
            ratios = [r["ratios"][pick(r)]["value"] for r in these if pick(r) in r["ratios"]]
            if ratios:
                mean = geometric_mean(ratios)
                text += f"; {label} / zenith: {mean:.2f} over {len(ratios)} cells"
        lines.append(f"- {precision}: {text}")
    return lines


def _failures(rows: Iterable[Row]) -> list[str]:
    """Every engine without a time, with its own words; equal ones once."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        for engine in row["engines"]:
            if engine["status"] != "ok":
                what = (engine["engine"], engine["status"], engine["message"])
                cells = found.setdefault(what, [])
                cells.append(f"{row['model']} b{row['batch']} {row['precision']}")
    return [
        f"- {engine}, {status} ({', '.join(cells)}): {' '.join(message.split())[:200]}"
        for (engine, status, message), cells in found.items()
    ]
