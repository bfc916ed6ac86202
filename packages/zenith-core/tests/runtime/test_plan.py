"""The native plan: crossings, binding to sizes, memory, size programs, text."""

from __future__ import annotations

import random
import sys
from typing import Any

import numpy as np
import pytest
import sympy

import zenith
from zenith import _native
from zenith.backends.cpu.program import NativeProgram, solve_dims
from zenith.backends.cpu.size_code import size_code
from zenith.errors import CompilationError, ValidationError
from zenith.ir.dims import symbol
from zenith.runtime.memory_manager import MemoryManager
from zenith.runtime.plan import TensorSpec


def test_a_call_is_one_native_call(mlp: Any, array: Any) -> None:
    """Once a plan is bound: into C++, from there the makers of the results, and out."""
    compiled = zenith.compile(mlp())
    assert compiled.plan.native and len(compiled.plan.partitions) == 1
    x = array(2, 5, 24)
    compiled(x)
    entered: list[str] = []

    def count(frame: Any, event: str, called: Any) -> None:
        if event == "c_call":
            entered.append(called.__name__)
        elif event == "call":
            entered.append(frame.f_code.co_name)

    sys.setprofile(count)
    try:
        compiled(x)
    finally:
        sys.setprofile(None)
    assert entered.count("call") == 1  # of the native caller
    after = entered[entered.index("call") :]
    assert after == ["call", "unflatten", "len", "setprofile"]


def test_text_lists_every_step(mlp: Any) -> None:
    compiled = zenith.compile(mlp(), opt_level=1)
    (partition,) = compiled.plan.partitions
    text = str(compiled.plan)
    assert isinstance(partition.program, NativeProgram)
    assert text == compiled.plan.to_text() and "partition cpu" in text
    for step in partition.program.steps:
        assert f"{step.kernel}_{step.isa}" in text
    assert "float32[B,5,24]" in text


def test_sizes_bind_once_each(mlp: Any, array: Any) -> None:
    compiled = zenith.compile(mlp())
    memory: Any = compiled.plan.partitions[0].program.memory  # type: ignore[attr-defined]
    for batch in (1, 2, 1, 2, 7):
        assert compiled(array(batch, 5, 24)).shape == (batch, 5, 24)
    assert (memory.binds, memory.evictions) == (3, 0)


def test_bound_plans_are_bounded(graph_of: Any, array: Any) -> None:
    compiled = zenith.compile(graph_of("(float[B,3] x) => (float[B,3] y)", "y = Relu(x)"))
    memory: Any = compiled.plan.partitions[0].program.memory  # type: ignore[attr-defined]
    for batch in range(1, 71):
        compiled(array(batch, 3))
    assert (memory.binds, memory.evictions) == (70, 6)
    compiled(array(70, 3))
    assert memory.binds == 70
    np.testing.assert_array_equal(compiled(array(1, 3)), np.maximum(array(1, 3), 0))
    assert (memory.binds, memory.evictions) == (71, 7)


def test_the_least_recently_used_goes_first() -> None:
    made: list[str] = []

    def bind(key: str, threads: int) -> str:
        made.append(key)
        return key

    memory: MemoryManager[str, str] = MemoryManager(bind, capacity=2)
    for key in "abacab":
        assert memory.bound(key, 0) == key
    assert made == ["a", "b", "c", "b"] and memory.evictions == 2


def test_a_failing_bind_leaves_nothing_behind() -> None:
    def bind(key: str, threads: int) -> str:
        if key == "bad":
            raise ValidationError("no")
        return key

    memory: MemoryManager[str, str] = MemoryManager(bind)
    with pytest.raises(ValidationError):
        memory.bound("bad", 0)
    assert memory.bound("good", 0) == "good" and memory.binds == 1


@pytest.mark.parametrize("seed", range(60))
def test_live_blocks_never_overlap(seed: int) -> None:
    rng = random.Random(seed)
    blocks = []
    for _ in range(rng.randint(1, 60)):
        first = rng.randint(0, 40)
        size = rng.choice([0, 1, 63, 64, 65, rng.randint(0, 10_000)])
        blocks.append((size, first, first + rng.choice([0, 1, rng.randint(0, 40)])))
    offsets, total = MemoryManager.assign(blocks)
    live = 0
    for step in range(82):
        live = max(live, sum(b[0] for b in blocks if b[1] <= step <= b[2]))
    assert total >= live
    for i, (size, first, last) in enumerate(blocks):
        assert offsets[i] % 64 == 0 and offsets[i] >= 0 and offsets[i] + size <= total
        for j in range(i):
            other, begin, end = blocks[j]
            together = first <= end and begin <= last and size and other
            if together:
                assert offsets[i] + size <= offsets[j] or offsets[j] + other <= offsets[i]


def test_blocks_that_follow_each_other_share_memory() -> None:
    _, total = MemoryManager.assign([(1000, 0, 1), (1000, 2, 3), (1000, 4, 5)])
    assert total <= 1024
    assert MemoryManager.assign([]) == ([], 0)


A, B = symbol("a"), symbol("b")


def random_size(rng: random.Random, depth: int) -> Any:
    if depth == 0:
        return rng.choice([A, B, sympy.Integer(rng.randint(1, 9))])
    x, y = random_size(rng, depth - 1), random_size(rng, rng.randint(0, depth - 1))
    positive = sympy.Integer(rng.randint(1, 7))
    return rng.choice(
        [x + y, x * y, x - y, sympy.floor(x / positive), sympy.ceiling(x / positive),
         sympy.Mod(x, positive), sympy.Max(x, y), sympy.Min(x, y), x**2]
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(150))
def test_sizes_are_what_sympy_says(seed: int) -> None:
    """Size programs as the native plan evaluates them: the shape of a bound tensor."""
    rng = random.Random(seed)
    size = sympy.Max(0, random_size(rng, rng.randint(1, 3)))
    plan = _native.Plan(2)
    code = size_code(size, [A, B])
    storage = plan.arena(code)
    tensor = plan.tensor(storage, 9, [code], [1], 0)
    for values in ((0, 0), (1, 2), (3, 5), (8, 1), (17, 12)):
        wanted = int(sympy.sympify(size).subs({A: values[0], B: values[1]}))
        if wanted < 1 << 20:
            bound = plan.bind(list(values), 1)
            assert tuple(bound.shape_of(tensor)) == (wanted,)


def test_a_size_from_data_has_no_program() -> None:
    with pytest.raises(CompilationError, match="'c' depends on data"):
        size_code(symbol("c") + 1, [A, B])


SPECS = (TensorSpec("x", "float32", (A, 3, B)), TensorSpec("y", "float32", (2 * A + 1,)))


def key(x: tuple[int, ...], y: tuple[int, ...], dtype: str = "float32") -> Any:
    return (("float32", x), (dtype, y))


def test_dims_are_solved_and_checked() -> None:
    assert solve_dims(SPECS, key((4, 3, 2), (9,))) == {A: 4, B: 2}
    wrong = {
        "input 'x' has shape": key((4, 5, 2), (9,)),
        "the model needs 2\\*a \\+ 1 = 9": key((4, 3, 2), (8,)),
        "input 'y' has shape": key((4, 3, 2), (9, 1)),
        "input 'y' is float64": key((4, 3, 2), (9,), "float64"),
        "takes 2 inputs, 1 were given": key((4, 3, 2), (9,))[:1],
    }
    for message, given in wrong.items():
        with pytest.raises(ValidationError, match=message):
            solve_dims(SPECS, given)
