"""A large batch goes through the plan part by part: the same results, less memory, said in text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import zenith
from zenith.backends.cpu import parts
from zenith.backends.cpu.program import NativeProgram

# A residual block behind a stem and a pool; the pool's result is a result of the model, too.
NET = """
    s = Conv<pads = [1,1,1,1]>(x, w0, b0) sr = Relu(s)
    p = MaxPool<kernel_shape = [3,3], strides = [2,2], pads = [1,1,1,1]>(sr)
    e = Conv(p, w1, b1) e6 = Relu(e)
    d = Conv<pads = [1,1,1,1]>(e6, w2, b1) d6 = Relu(d)
    c = Conv(d6, w3) r = Add(c, p) y = Relu(r)
    m = GlobalAveragePool(y) f = Flatten(m) z = MatMul(f, v)
"""
SHAPES: dict[str, tuple[int, ...]] = {
    "w0": (16, 8, 3, 3), "w1": (24, 16, 1, 1), "w2": (24, 24, 3, 3), "w3": (16, 24, 1, 1),
    "b0": (16,), "b1": (24,), "v": (16, 10),
}  # fmt: skip


def net_of(graph_of: Any, batch: int | str) -> Any:
    rng = np.random.default_rng(5)
    weights = {
        n: (rng.standard_normal(s) / np.sqrt(np.prod(s[1:]))).astype(np.float32)
        for n, s in SHAPES.items()
    }
    ends = f"(float[{batch},8,48,40] x) => (float[{batch},16,24,20] p, float[{batch},10] z)"
    return graph_of(ends, NET, weights)


def program_of(compiled: Any) -> NativeProgram:
    (partition,) = compiled.plan.partitions
    assert isinstance(partition.program, NativeProgram)
    return partition.program


@pytest.fixture
def small_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image of the net and its neighbours have to fit in them."""
    monkeypatch.setattr(parts, "_FAR_BYTES", 1 << 12)
    monkeypatch.setattr(parts, "_NEAR_BYTES", 1 << 16)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("batch", [4, 6, 7])
def test_parts_change_no_bit(
    graph_of: Any, array: Any, monkeypatch: pytest.MonkeyPatch, precision: str, batch: int
) -> None:
    x, net = array(batch, 8, 48, 40), net_of(graph_of, batch)
    options: dict[str, Any] = {"precision": precision}
    if precision == "int8":
        options["calibration_data"] = [(x,)]
    whole = zenith.compile(net, **options)
    monkeypatch.setattr(parts, "_FAR_BYTES", 1 << 12)
    monkeypatch.setattr(parts, "_NEAR_BYTES", 1 << 16)
    split = zenith.compile(net, **options)
    for a, b in zip(whole(x), split(x), strict=True):
        assert np.array_equal(np.asarray(a), np.asarray(b))
    kinds = {step.part[1] for step in program_of(split).steps}
    assert kinds - {1} and all(batch % kind == 0 for kind in kinds)
    assert {step.part for step in program_of(whole).steps} == {(1, 1)}


@pytest.mark.usefixtures("small_caches")
def test_results_are_right(graph_of: Any, array: Any, error_of: Any) -> None:
    net = net_of(graph_of, 6)
    assert error_of(net, zenith.compile(net), array(6, 8, 48, 40)) < 1e-5


@pytest.mark.usefixtures("small_caches")
def test_all_steps_of_a_part_come_before_the_next_part(graph_of: Any) -> None:
    compiled = zenith.compile(net_of(graph_of, 4), opt_level=1)
    steps = [step for step in program_of(compiled).steps if step.part[1] > 1]
    nodes = sorted({step.node for step in steps})
    parts_of_node = {step.part[1] for step in steps}
    assert parts_of_node == {4} and len(nodes) == 5
    assert [(step.part[0], step.node) for step in steps] == [
        (part, node) for part in (1, 2, 3, 4) for node in nodes
    ]
    assert "part 4 of 4" in str(compiled.plan)
    note = "the batch goes through 5 steps in up to 4 parts"
    assert any(note in said for said in compiled.explain().notes)


def test_what_passes_between_takes_the_memory_of_a_part(
    graph_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = graph_of(
        "(float[8,32,32,32] x) => (float[8,32,32,32] y)",
        "a = Conv(x, w) b = Relu(a) c = Conv(b, w) y = Conv(c, w)",
        {"w": np.ones((32, 32, 1, 1), np.float32)},
    )
    sizes = []
    for near in (1 << 30, 1 << 18):
        monkeypatch.setattr(parts, "_FAR_BYTES", 1 << 20)
        monkeypatch.setattr(parts, "_NEAR_BYTES", near)
        program = program_of(zenith.compile(net, threads=1))
        bound = program.bound((("float32", (8, 32, 32, 32)),), 1)
        sizes.append(bound.native.arena_bytes)
    image = 32 * 32 * 32 * 4
    assert sizes[0] >= 16 * image and sizes[1] <= 8 * image + 8 * image // 2  # y, else parts


@pytest.mark.usefixtures("small_caches")
def test_profile_adds_up_the_parts_of_a_node(graph_of: Any, array: Any) -> None:
    compiled = zenith.compile(net_of(graph_of, 4))
    times = [node.time for node in compiled.profile(array(4, 8, 48, 40)).nodes]
    assert len(times) == len(compiled.explain().nodes)
    assert sum(time or 0 for time in times) > 0


@pytest.mark.usefixtures("small_caches")
def test_whole_where_parts_do_not_apply(graph_of: Any, array: Any, error_of: Any) -> None:
    """A dynamic batch, one image, and indices, which count from the first image on."""
    indices = """
        p, i = MaxPool<kernel_shape = [2,2], strides = [2,2]>(x)
        q, j = MaxPool<kernel_shape = [2,2], strides = [2,2]>(p)
    """
    ends = "(float[4,16,16,16] x) => (float[4,16,4,4] q, int64[4,16,8,8] i, int64[4,16,4,4] j)"
    nets = [net_of(graph_of, "B"), net_of(graph_of, 1), graph_of(ends, indices)]
    inputs = [array(4, 8, 48, 40), array(1, 8, 48, 40), array(4, 16, 16, 16)]
    for net, x in zip(nets, inputs, strict=True):
        compiled = zenith.compile(net)
        steps = [step for step in program_of(compiled).steps if step.kernel != "copy"]
        assert {step.part for step in steps} == {(1, 1)}
        assert error_of(net, compiled, x) < 1e-5


def test_heavy_weights_are_read_once(graph_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_FAR_BYTES", 1 << 12)
    monkeypatch.setattr(parts, "_NEAR_BYTES", 1 << 12)
    rng = np.random.default_rng(3)
    wide = {n: rng.standard_normal((256, 256, 1, 1)).astype(np.float32) for n in ("v", "w")}
    body = "a = Conv(x, v) r = Relu(a) y = Conv(r, w)"
    net = graph_of("(float[4,256,4,4] x) => (float[4,256,4,4] y)", body, wide)
    assert {step.part for step in program_of(zenith.compile(net)).steps} == {(1, 1)}


def test_an_absurd_batch_is_planned_at_once(graph_of: Any) -> None:
    weights = {"w": np.ones((1, 1, 1, 1), np.float32)}
    body = "a = Conv(x, w) y = Conv(a, w)"
    ends = f"(float[{1 << 40},1,4,4] x) => (float[{1 << 40},1,4,4] y)"
    steps = program_of(zenith.compile(graph_of(ends, body, weights))).steps
    assert max(step.part[1] for step in steps) <= 256
