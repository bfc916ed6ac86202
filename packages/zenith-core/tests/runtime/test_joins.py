"""What Concat joins is written where it is joined: the same bits, fewer copies, said in text."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import zenith
from zenith import _native
from zenith.backends.cpu import builder
from zenith.backends.cpu.emit import PAIRS
from zenith.backends.cpu.joins import in_place
from zenith.backends.cpu.operand import Operand, dense_strides
from zenith.backends.cpu.program import NativeProgram, Step, Storage

SAME = "pads = [1,1,1,1]"
NORM = "n = GroupNormalization<num_groups = 4>(u, scale, scale) a = Sigmoid(n)"


def resized(mode: str) -> str:
    """To half the size and back."""
    return " ".join(
        f'{y} = Resize<mode = "{mode}">({x}, none, {scale})'
        for x, y, scale in (("u", "p", "half"), ("p", "a", "twice"))
    )


BLOCK = (
    "e = Conv(u, wide) r = Relu(e) d = Conv<pads = [1,1,1,1], group = 96>(r, d96) s = Relu(d)"
    " a = Conv(s, narrow)"
)


# Kernel that computes a from u, precision, channels of u, pixels a side, how.
KERNELS = [
    ("conv_f32", "fp32", 24, 9, "a = Conv<pads = [2,2,2,2]>(u, w5)"),
    ("conv_few_channels_f32", "fp32", 6, 12, f"a = Conv<{SAME}>(u, w3)"),
    ("conv_winograd4_f32", "fp32", 24, 26, f"a = Conv<{SAME}>(u, w3)"),
    ("conv_winograd2_f32", "fp32", 24, 9, f"a = Conv<{SAME}>(u, w3)"),
    ("conv_depthwise_f32", "fp32", 24, 9, f"a = Conv<{SAME}, group = 24>(u, d3)"),
    ("conv_bottleneck_f32", "fp32", 24, 16, BLOCK),
    ("conv_bottleneck_bf16", "bf16", 24, 16, BLOCK),
    ("conv_transpose_f32", "fp32", 24, 9, f"a = ConvTranspose<{SAME}>(u, w3)"),
    ("linear_ozaki_f32", "fp32", 128, 6, "a = Conv(u, w1)"),
    ("max_pool_f32", "fp32", 24, 9, f"a = MaxPool<kernel_shape = [3,3], {SAME}>(u)"),
    ("average_pool_f32", "fp32", 24, 9, f"a = AveragePool<kernel_shape = [3,3], {SAME}>(u)"),
    ("resize_float32", "fp32", 24, 10, resized("linear")),
    ("resize_float32", "fp32", 24, 10, resized("cubic")),
    ("resize_nearest", "fp32", 24, 10, resized("nearest")),
    ("resize_bfloat16", "bf16", 24, 10, resized("linear")),
    ("group_norm_f32", "fp32", 24, 9, NORM),
    ("group_norm_bf16", "bf16", 24, 9, NORM),
    ("conv_bf16", "bf16", 24, 9, f"a = Conv<{SAME}>(u, w3)"),
    ("conv_depthwise_bf16", "bf16", 24, 9, f"a = Conv<{SAME}, group = 24>(u, d3)"),
    ("max_pool_bf16", "bf16", 24, 9, f"a = MaxPool<kernel_shape = [3,3], {SAME}>(u)"),
    ("average_pool_bf16", "bf16", 24, 9, f"a = AveragePool<kernel_shape = [3,3], {SAME}>(u)"),
]


def program_of(compiled: Any) -> NativeProgram:
    (partition,) = compiled.plan.partitions
    assert isinstance(partition.program, NativeProgram)
    return partition.program


def weight(*shape: int) -> np.ndarray:
    values = np.random.default_rng(3).standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    return values.astype(np.float32)


def joined_and_not(monkeypatch: pytest.MonkeyPatch, net: Any, **options: Any) -> tuple[Any, Any]:
    joined = zenith.compile(net, **options)
    monkeypatch.setattr(builder, "in_place", lambda steps, storages: list(steps))
    return joined, zenith.compile(net, **options)


def copies(compiled: Any) -> int:
    return sum(step.joins for step in program_of(compiled).steps)


def check_bits(joined: Any, plain: Any, *inputs: np.ndarray) -> None:
    results = [zip_of(compiled(*inputs)) for compiled in (joined, plain)]
    for a, b in zip(*results, strict=True):
        assert np.array_equal(a, b)


def zip_of(results: Any) -> list[np.ndarray]:
    several = results if isinstance(results, tuple | list) else (results,)
    return [np.asarray(result) for result in several]


@pytest.mark.parametrize("batch", [1, 3, "N"])
@pytest.mark.parametrize(("kernel", "precision", "c", "side", "body"), KERNELS)
def test_every_kernel_reads_and_writes_rows_apart(
    graph_of: Any,
    array: Any,
    monkeypatch: pytest.MonkeyPatch,
    kernel: str,
    precision: str,
    c: int,
    side: int,
    body: str,
    batch: int | str,
) -> None:
    isa = _native.isas()[0]
    if precision == "bf16" and isa not in PAIRS:
        pytest.skip("nothing is bfloat16 between convolutions of float32")
    if kernel == "linear_ozaki_f32" and isa != "amx":
        pytest.skip("no integer tiles here (AMX)")
    weights = {
        "w1": weight(c, c, 1, 1), "w3": weight(c, c, 3, 3), "w5": weight(c, c, 5, 5),
        "d3": weight(c, 1, 3, 3), "last": weight(8, 3 * c, 1, 1), "add": weight(c, c, 1, 1),
        "wide": weight(96, c, 1, 1), "d96": weight(96, 1, 3, 3), "narrow": weight(c, 96, 1, 1),
        "scale": weight(c), "none": np.zeros(0, np.float32),
        "half": np.array([1, 1, 0.5, 0.5], np.float32), "twice": np.array([1, 1, 2, 2], np.float32),
    }  # fmt: skip
    net = graph_of(
        f"(float[{batch},{c},{side},{side}] x) => (float[{batch},8,{side},{side}] y)",
        f"u = Conv(x, w1) {body} v = Conv(a, add) b = Add(v, a) j = Concat<axis = 1>(b, u, a)"
        " y = Conv(j, last)",
        weights,
    )
    joined, plain = joined_and_not(monkeypatch, net, precision=precision)
    steps = program_of(joined).steps
    assert kernel in {step.kernel for step in steps if step.placed}
    assert copies(plain) == 3 and copies(joined) == 0
    check_bits(joined, plain, array(2 if batch == "N" else batch, c, side, side))


@pytest.mark.parametrize("batch", [1, 3])
def test_bytes(
    graph_of: Any, array: Any, error_of: Any, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    """A block as of Inception in int8; what is pooled is read by others, too."""
    net = graph_of(
        f"(float[{batch},16,9,9] x) => (float[{batch},8,9,9] y)",
        f"u = Conv(x, w) r = Relu(u) a = Conv<{SAME}>(r, w3) b = Relu(a)"
        f" c = Conv<{SAME}, group = 16>(r, d3) d = Relu(c)"
        f" p = MaxPool<kernel_shape = [3,3], {SAME}>(r) q = Conv(p, w) s = Relu(q)"
        " j = Concat<axis = 1>(b, d, s) y = Conv(j, last)",
        {"w": weight(16, 16, 1, 1), "w3": weight(16, 16, 3, 3), "d3": weight(16, 1, 3, 3),
         "last": weight(8, 48, 1, 1)},
    )  # fmt: skip
    x = array(batch, 16, 9, 9)
    options = {"precision": "int8", "calibration_data": [(x,)]}
    joined, plain = joined_and_not(monkeypatch, net, **options)
    kernels = {step.kernel for step in program_of(joined).steps if step.placed}
    assert kernels == {"conv_int8", "depthwise_int8"}
    assert copies(plain) == 3 and copies(joined) == 0
    check_bits(joined, plain, x)
    assert error_of(net, joined, x) < 0.1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_rows_of_products(
    graph_of: Any, array: Any, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    net = graph_of(
        "(float[2,7,24] x) => (float[2,7,8] y)",
        "u = MatMul(x, w) a = MatMul(u, w) j = Concat<axis = -1>(a, u) y = MatMul(j, v)",
        {"w": weight(24, 24), "v": weight(48, 8)},
    )
    joined, plain = joined_and_not(monkeypatch, net, precision=precision)
    assert copies(plain) == 2 and copies(joined) == 0
    check_bits(joined, plain, array(2, 7, 24))


def test_a_join_of_joins_and_one_value_twice(
    graph_of: Any, array: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = graph_of(
        "(float[2,16,6,6] x) => (float[2,80,6,6] y)",
        "a = Conv(x, w) b = Conv(a, w) i = Concat<axis = 1>(a, b) j = Concat<axis = 1>(b, i, i)"
        " y = Relu(j)",
        {"w": weight(16, 16, 1, 1)},
    )
    joined, plain = joined_and_not(monkeypatch, net)
    assert copies(joined) < copies(plain) == 5
    check_bits(joined, plain, array(2, 16, 6, 6))


def test_a_dense_block_copies_nothing_twice(
    graph_of: Any, array: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = graph_of(
        "(float[2,16,6,6] x) => (float[2,64,6,6] y)",
        "a = Conv(x, w) b = Conv(a, w) i = Concat<axis = 1>(a, b) c = Conv(i, v)"
        " j = Concat<axis = 1>(a, b, c) r = Relu(j) d = Conv(r, u) k = Concat<axis = 1>(a, b, c, d)"
        " y = Sigmoid(k)",
        {"w": weight(16, 16, 1, 1), "v": weight(16, 32, 1, 1), "u": weight(16, 48, 1, 1)},
    )
    joined, plain = joined_and_not(monkeypatch, net)
    assert copies(plain) == 6 and copies(joined) == 0
    check_bits(joined, plain, array(2, 16, 6, 6))


def test_what_else_uses_a_tensor_decides(graph_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that wants its rows together keeps the copy; so does a cache that begins as an
    input, whose memory it may become."""
    net = graph_of(
        "(float[2,16,6,6] x, float[2,4,5,8] past, float[2,4,1,16] token)"
        " => (float[2,32,6,6] y, float[2,16] z, float[2,4,6,8] cache)",
        "a = Conv(x, w) s = Softmax<axis = 1>(a) y = Concat<axis = 1>(s, a)"
        " g = GlobalAveragePool(a) z = Flatten(g) key = MatMul(token, k)"
        " cache = Concat<axis = 2>(past, key)",
        {"w": weight(16, 16, 1, 1), "k": weight(16, 8)},
    )
    joined, plain = joined_and_not(monkeypatch, net)
    assert copies(joined) == copies(plain) == 4


def test_the_text_says_so(graph_of: Any) -> None:
    net = graph_of(
        "(float[1,16,6,6] x) => (float[1,16,6,6] y)",
        "a = Conv(x, w) b = Conv(a, w) j = Concat<axis = 1>(a, b) y = Conv(j, v)",
        {"w": weight(16, 16, 1, 1), "v": weight(16, 32, 1, 1)},
    )
    note = "2 steps write their results where a Concat joins them"
    assert note in zenith.compile(net).explain().notes


def test_ranges_of_channels_are_joined_channels_last(
    graph_of: Any,
) -> None:
    """Half of a convolution's channels lie apart; what it is joined to stays channels-last."""
    net = graph_of(
        "(float[1,16,6,6] x) => (float[1,16,6,6] y)",
        "a = Conv(x, w) l, r = Split<axis = 1, num_outputs = 2>(a) b = Conv(r, h)"
        " j = Concat<axis = 1>(l, r, b) y = Conv(j, v)",
        {"w": weight(16, 16, 1, 1), "h": weight(8, 8, 1, 1), "v": weight(16, 24, 1, 1)},
    )
    compiled = zenith.compile(net)
    (join, *_) = [step.outputs[0] for step in program_of(compiled).steps if step.joins]
    assert join.strides[1] == 1


class Plans:
    """Random plans of copies and of one kernel, y = 2x + 1, that may do what no lowering does:
    write a result before or after it is joined, in pieces, twice, or read it in other shapes."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.storages: list[Storage] = []
        self.steps: list[Step] = []
        x = self.dense("input", 2, 3, 4)
        parts = [self.part(x) for _ in range(3)]
        axis = int(self.rng.integers(3))
        shape = [n * 3 if a == axis else n for a, n in enumerate((2, 3, 4))]
        whole = self.dense(self.any_of("arena", "output"), *shape)
        if self.any_of(True, False, False):  # not the whole of its memory
            other = int(self.rng.integers(3))
            larger = self.dense("output", *(n + (a == other) for a, n in enumerate(shape)))
            whole = larger.slice(other, 0, shape[other])
        self.join(parts, whole, axis)
        self.step(whole, self.dense("output", *shape))

    def any_of(self, *choices: Any) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def dense(self, place: str, *shape: int) -> Operand:
        self.storages.append(Storage(place, len(self.storages), int(np.prod(shape)) * 4))
        return Operand(len(self.storages) - 1, "float32", shape, dense_strides(shape))

    def step(self, x: Operand, y: Operand, kernel: str = "conv_f32", joins: bool = False) -> None:
        self.steps.append(Step(0, kernel, "any", (x,), (y,), {}, joins=joins))

    def part(self, x: Operand) -> Operand:
        y = self.dense(self.any_of("arena", "arena", "arena", "output"), 2, 3, 4)
        if self.any_of(True, False, False):  # beside something else
            both = self.dense("arena", 4, 3, 4)
            self.step(x, both.slice(0, 2, 2))
            y = both.slice(0, 0, 2)
            self.step(both.slice(0, 2, 2), self.dense("output", 2, 3, 4))
        if self.any_of(True, True, False):
            self.step(x, y)
        else:  # some of it at a time
            axis = int(self.rng.integers(3))
            for start, length in ((0, 1), (1, (2, 3, 4)[axis] - 1)):
                self.step(x.slice(axis, start, length), y.slice(axis, start, length))
        return y

    def join(self, parts: list[Operand], whole: Operand, axis: int) -> None:
        size = parts[0].shape[axis]
        for i, part in enumerate(parts):
            for _ in range(int(self.rng.integers(2))):
                self.something_else(part, whole)
            self.step(part, whole.slice(axis, i * size, size), "copy", joins=True)
        for _ in range(int(self.rng.integers(4))):
            self.something_else(self.any_of(*parts), whole)

    def something_else(self, part: Operand, whole: Operand) -> None:
        kind = self.any_of("read", "read", "read flat", "change", "change all", "read all")
        if kind == "read":
            self.step(
                part, self.dense("output", 2, 3, 4), self.any_of("conv_f32", "softmax", "pointwise")
            )
        elif kind == "read flat":
            flat = part.reshape((24,))
            assert flat is not None
            self.step(flat, self.dense("output", 24))
        elif kind == "change":
            self.step(part, part)
        elif kind == "change all":
            self.step(whole, whole, "copy_more")
        else:
            self.step(whole, self.dense("output", *whole.shape), "copy_more")

    def run(self, steps: list[Step]) -> list[np.ndarray]:
        rng = np.random.default_rng(1)
        places = [s.place for s in self.storages]
        memory = [rng.standard_normal(int(s.bytes) // 4) for s in self.storages]
        memory = [m * (place == "input") for m, place in zip(memory, places, strict=True)]

        def view(o: Operand | None) -> np.ndarray:
            assert o is not None
            strides = [int(s) * 8 for s in o.strides]
            start = memory[o.storage][int(o.offset) :]
            return np.lib.stride_tricks.as_strided(start, [int(n) for n in o.shape], strides)

        for step in steps:
            x = view(step.inputs[0]).copy()
            view(step.outputs[0])[...] = x if step.kernel == "copy" else 2 * x + 1
        return [m for m, place in zip(memory, places, strict=True) if place == "output"]


def rows_at_one_distance(operand: Operand) -> bool:
    rows = [(n, s) for n, s in zip(operand.shape[:-1], operand.strides[:-1]) if n != 1]
    together = all(s == m * t for (_, s), (m, t) in itertools.pairwise(rows))
    return together and (operand.strides[-1] == 1 or operand.shape[-1] == 1)


def test_plans_compute_the_same() -> None:
    dropped = 0
    for seed in range(2000):
        plans = Plans(seed)
        steps = in_place(plans.steps, plans.storages)
        dropped += len(plans.steps) - len(steps)
        for a, b in zip(plans.run(plans.steps), plans.run(steps), strict=True):
            assert np.array_equal(a, b), f"seed {seed}"
        for old, new in zip(
            [step for step in plans.steps if not step.joins],
            [step for step in steps if not step.joins],
            strict=True,
        ):
            before, after = (*old.inputs, *old.outputs), (*new.inputs, *new.outputs)
            for was, operand in zip(before, after, strict=True):
                if was is operand or was is None or operand is None:
                    continue
                reads = new.kernel == "pointwise" and any(operand is o for o in new.reads)
                known = new.kernel == "conv_f32" or reads or operand.strides == was.strides
                assert known, f"seed {seed}: {new.kernel}"
                usable = reads or operand.strides == was.strides or rows_at_one_distance(operand)
                assert usable, f"seed {seed}: {operand}"
    assert dropped > 500
