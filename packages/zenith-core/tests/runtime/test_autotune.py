"""mode="max-autotune": which kernel wins, what is remembered, what is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx.helper as oh
import onnx.numpy_helper
import pytest

import zenith
from zenith.ir import GraphIR
from zenith.runtime.autotune import Autotuner, TuningRecords

Array = np.ndarray[Any, Any]


def conv_net(height: int | str = 20) -> GraphIR:
    rng = np.random.default_rng(0)
    w = rng.standard_normal((32, 16, 3, 3)).astype(np.float32)
    b = rng.standard_normal(32).astype(np.float32)
    nodes = [
        oh.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        oh.make_node("Relu", ["c"], ["y"]),
    ]
    ends = [
        [oh.make_tensor_value_info(name, 1, [1, channels, height, 20])]
        for name, channels in (("x", 16), ("y", 32))
    ]
    weights = [onnx.numpy_helper.from_array(w, "w"), onnx.numpy_helper.from_array(b, "b")]
    graph = oh.make_graph(nodes, "g", *ends, initializer=weights)
    return GraphIR.from_onnx(oh.make_model(graph, opset_imports=[oh.make_opsetid("", 28)]))


def compile_tuned(graph: GraphIR, **options: Any) -> zenith.CompiledModel:
    return zenith.compile(graph, target="cpu", mode="max-autotune", fallback="error", **options)


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "zenith" / "tuning.json"


def x(height: int = 20) -> Array:
    return np.random.default_rng(1).standard_normal((1, 16, height, 20), np.float32)


def test_candidates_are_timed_and_the_fastest_wins(records: Path) -> None:
    compiled = compile_tuned(conv_net())
    (node,) = compiled.explain().nodes
    (times,) = json.loads(records.read_text()).values()
    assert len(times) >= 3 and all(taken > 0 for taken in times.values())
    best = min(times, key=times.__getitem__)
    assert node.kernel.startswith(best) and node.why.startswith(f"fastest of {len(times)}")
    assert {name for name, _ in node.candidates} >= set(times) - {best}
    assert "1 kernels chosen by timing, 0 from records" in str(compiled.explain().notes)
    plain = zenith.compile(conv_net(), target="cpu")
    np.testing.assert_allclose(compiled(x()), plain(x()), rtol=1e-4, atol=1e-4)


def test_records_decide_the_next_time(records: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_tuned(conv_net())
    found = json.loads(records.read_text())
    monkeypatch.setattr(Autotuner, "_measure", lambda *_: pytest.fail("it was timed again"))
    for winner in next(iter(found.values())):
        forged = {k: dict.fromkeys(t, 9.0) | {winner: 1.0} for k, t in found.items()}
        records.write_text(json.dumps(forged))
        compiled = compile_tuned(conv_net())
        (node,) = compiled.explain().nodes
        assert node.kernel.startswith(winner), f"the records say {winner}"
        assert "0 kernels chosen by timing, 1 from records" in str(compiled.explain().notes)
        want = compiled.verify(x())
        assert want.worst < 1e-4


def test_without_cache_nothing_is_written(records: Path) -> None:
    compile_tuned(conv_net(), cache=False)
    assert not records.exists()


def test_a_spent_budget_and_dynamic_sizes_keep_the_rule(
    records: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = compile_tuned(conv_net("H"))
    assert "1 nodes of dynamic sizes keep the rule's choice" in str(compiled.explain().notes)
    monkeypatch.setattr("zenith.runtime.autotune.BUDGET_SECONDS", 0.0)
    rule = zenith.compile(conv_net(), target="cpu").explain().nodes[0].kernel
    compiled = compile_tuned(conv_net())
    assert compiled.explain().nodes[0].kernel == rule
    assert "was spent before 1 nodes" in str(compiled.explain().notes)


def test_other_level_other_candidates(records: Path) -> None:
    compile_tuned(conv_net(), opt_level=1)
    (times,) = json.loads(records.read_text()).values()
    assert not [name for name in times if "winograd" in name]


def test_records_of_others_stay_and_broken_ones_are_named(tmp_path: Path) -> None:
    path = tmp_path / "tuning.json"
    mine, other = TuningRecords(path), TuningRecords(path)
    mine.put("a", {"k": 1.0})
    other.put("b", {"k": 2.0})
    mine.save()
    other.save()
    assert TuningRecords(path).get("a") == {"k": 1.0}
    assert TuningRecords(path).get("b") == {"k": 2.0}
    assert list(tmp_path.iterdir()) == [path]
    path.write_text('{"a": ')
    with pytest.warns(UserWarning, match="cannot be read"):
        assert TuningRecords(path).get("a") is None
