"""The side-by-side benchmark but for its times: suites, intervals, accuracy, failures, table."""

from __future__ import annotations

import math
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import report, runner
from benchmarks.measure import Ratio, accuracy, geometric_mean, paired_ratio, percentile
from benchmarks.runner import Fleet, Measured, compare
from benchmarks.suite import LIMITS, Cell, Engine, choose, load_engines, load_suite


def test_core_is_every_model_batch_and_precision() -> None:
    cells = load_suite("core")
    assert len(cells) == len(set(cells)) == 13 * 2 * 4
    assert cells[0] == Cell("bert-base-s32", 1, "fp32")
    assert {c.precision for c in cells} == set(LIMITS)
    assert load_suite("quick")


def test_suites_name_models_that_exist() -> None:
    zoo = pytest.importorskip("benchmarks.zoo")
    for suite in ("core", "quick"):
        assert {cell.model for cell in load_suite(suite)} <= set(zoo.ZOO)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('models = ["a"]\nbatches = [1]', "'precisions' must be a list of str"),
        ('models = []\nbatches = [1]\nprecisions = ["fp32"]', "'models' must be"),
        (
            'models = ["a"]\nbatches = ["1"]\nprecisions = ["fp32"]',
            "'batches' must be a list of int",
        ),
        ('models = ["a"]\nbatches = [1]\nprecisions = ["fp8"]', "unknown precision fp8"),
        ('models = ["a"]\nbatches = [1]\nprecisions = ["fp32"]\nx = 1', "unknown x"),
    ],
)
def test_a_wrong_suite_says_what_is_wrong(text: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(ValueError, match=complaint):
        load_suite("bad", tmp_path)
    with pytest.raises(ValueError, match="no suite 'other'; there are: bad"):
        load_suite("other", tmp_path)


def test_choosing_cells() -> None:
    cells = load_suite("core")
    chosen = choose(cells, model=["mlp"], batch=[8], precision=[])
    assert [c.precision for c in chosen] == list(LIMITS)
    with pytest.raises(ValueError, match="no model"):
        choose(cells, model=["mlpp"])


def test_every_engine_has_a_source_and_code() -> None:
    engines = load_engines()
    assert all(engine.source for engine in engines.values())
    code = pytest.importorskip("benchmarks.engines")
    assert set(engines) == set(code.ENGINES)


def test_the_interval_of_a_ratio() -> None:
    ours, theirs = [1.0, 2.0, 4.0, 1.0], [2.2, 3.6, 8.8, 1.8]  # ratios 2.2, 1.8, 2.2, 1.8
    ratio = paired_ratio(ours, theirs)
    half = 3.182 * math.log(2.2 / 1.8) / math.sqrt(3) / 2  # t of 3, deviation of two values
    middle = math.sqrt(2.2 * 1.8)
    assert ratio.value == pytest.approx(middle)
    assert ratio.low == pytest.approx(middle * math.exp(-half))
    assert ratio.high == pytest.approx(middle * math.exp(half))
    with pytest.raises(ValueError, match="two pairs"):
        paired_ratio([1.0], [1.0])


def test_the_interval_holds_its_promise() -> None:
    """Of 2,000 experiments with a true ratio of 1.3, about 95 % have it in their interval."""
    random = np.random.default_rng(7)
    hits = 0
    for _ in range(2000):
        machine = random.lognormal(0, 0.5, 6)  # what both meet
        ours, theirs = (machine * random.lognormal(0, 0.05, 6) for _ in range(2))
        ratio = paired_ratio(ours.tolist(), (1.3 * theirs).tolist())
        hits += ratio.low <= 1.3 <= ratio.high
    assert 0.935 <= hits / 2000 <= 0.965


def test_verdicts() -> None:
    assert Ratio(1.2, 1.1, 1.3).verdict == "won"
    assert Ratio(1.2, 0.9, 1.6).verdict == "even"
    assert Ratio(0.8, 0.7, 0.9).verdict == "lost"
    assert geometric_mean([2.0, 8.0]) == pytest.approx(4.0)
    assert percentile(list(range(1, 201)), 0.99) == 198
    assert percentile([5.0], 0.99) == 5.0


def test_accuracy_is_of_the_worst_result() -> None:
    exact = [np.array([3.0, 4.0]), np.array([1.0])]
    found = accuracy([np.array([3.0, 4.5]), np.array([1.0])], exact)
    rms = math.sqrt(12.5)
    assert found.rms == pytest.approx(math.sqrt(0.125) / rms)
    assert found.worst == pytest.approx(0.5 / (4 + rms))
    assert accuracy([np.array([np.nan, 4.0]), exact[1]], exact).rms == math.inf
    with pytest.raises(ValueError, match="shape"):
        accuracy([np.array([3.0]), exact[1]], exact)
    with pytest.raises(ValueError, match="1 results, 2 expected"):
        accuracy(exact[:1], exact)


def _row(precision: str = "fp32", ours: float = 1e-6) -> dict[str, Any]:
    blocks = [1.0, 1.1, 0.9]
    zenith = Measured(
        "zenith", "ok", median=1.0, p99=1.1, blocks=blocks, flops=1e6, accuracy={"rms": ours}
    )
    peer = Measured(
        "fast", "ok", median=2.0, p99=2.4, blocks=[2.1, 2.0, 1.9], accuracy={"rms": 2e-6}
    )
    slow = Measured("slow", "ok", median=9.0, p99=9.0, blocks=[9.0] * 3, accuracy={"rms": 2e-6})
    broken = Measured("broken", "error", "ValueError: no such thing")
    false = Measured("false", "wrong", "rms error inf against float64", accuracy={"rms": 1.0})
    return compare(Cell("mlp", 1, precision), [zenith, peer, slow, broken, false])


def test_the_table_shows_what_failed() -> None:
    row = _row()
    assert row["ratios"]["fast"]["verdict"] == "won"
    assert report.best_peer(row) == "fast"
    text = report.table([row], peak_flops=2e9)
    line = next(line for line in text.splitlines() if line.startswith("| mlp b1 fp32"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1:6] == ["1 (1.1)", "2 (2.4)", "9 (9)", "error", "wrong"]
    assert cells[6].endswith("fast") and cells[7:] == ["won", "1.0e-06 / 2.0e-06", "50%"]
    assert "- broken, error (mlp b1 fp32): ValueError: no such thing" in text
    assert "- fp32: 1 won; best peer / zenith: " in text


def test_in_eight_bits_less_accurate_is_not_won() -> None:
    assert report.verdict(_row("int8-static")) == "won"
    assert report.verdict(_row("int8-static", ours=1e-2)) == "less accurate"
    assert report.verdict(_row("fp32", ours=1e-2)) == "won"


def test_without_times_of_ours_the_cell_says_why() -> None:
    peer = Measured("fast", "ok", median=2.0, p99=2.0, blocks=[2.0] * 3, accuracy={"rms": 1e-6})
    row = compare(Cell("mlp", 1, "bf16"), [Measured("zenith", "refused", "not yet"), peer])
    assert row["ratios"] == {} and report.verdict(row) == "refused"
    assert "| refused |" in report.table([row])
    alone = compare(
        Cell("mlp", 1, "fp32"), [Measured("zenith", "ok", median=1.0, blocks=[1.0] * 3)]
    )
    assert report.verdict(alone) == "no peer"


def _stand_in(tmp_path: Path, body: str) -> str:
    """A Python that runs `body` in place of the worker: answer() is there."""
    path = tmp_path / "python"
    head = f"#!{sys.executable}\nimport json, os, sys\n"
    head += "answer = lambda **a: print(json.dumps(a), flush=True)\n"
    path.write_text(head + textwrap.dedent(body))
    path.chmod(0o755)
    return str(path)


def test_blocks_in_turns_and_a_process_that_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "BLOCK_S", (0.0, 0.0))
    log = tmp_path / "log"
    good = """
        answer(status="ready")
        for line in sys.stdin:
            if "cell" in line:
                answer(status="ok", flops=1.0, accuracy={"rms": 0.0}, version=os.environ["N"])
            else:
                open(LOG, "a").write(NAME)
                answer(seconds=[0.001, 0.003, 0.002])
    """
    dies = """
        answer(status="ready")
        for number, line in enumerate(sys.stdin):
            if number == 2:
                os._exit(3)
            answer(**({"status": "ok"} if number == 0 else {"seconds": [0.5]}))
    """
    pythons = {}
    for name, body in (("a", good), ("b", good), ("c", dies)):
        (tmp_path / name).mkdir()
        body = body.replace("LOG", repr(str(log))).replace("NAME", repr(name))
        pythons[name] = _stand_in(tmp_path / name, body)
    engines = [Engine(name, "test", {"N": "{threads}"}) for name in pythons]
    with Fleet(engines, 2, pythons) as fleet:
        first = fleet.measure(Cell("mlp", 1, "fp32"), 60.0)
        second = fleet.measure(Cell("mlp", 8, "fp32"), 0.0)  # the dead one is started anew
    a, b, c = first
    assert a.status == b.status == "ok" and a.version == "2"
    assert a.median == pytest.approx(2.0) and a.p99 == pytest.approx(3.0)
    assert len(a.blocks) == len(b.blocks) == runner.ROUNDS.stop and a.calls == 3 * len(a.blocks)
    assert (c.status, c.message) == ("error", "its process ended: 3")
    assert log.read_text().startswith("abba")
    assert [m.status for m in second] == ["ok"] * 3 and second[0].median is None
