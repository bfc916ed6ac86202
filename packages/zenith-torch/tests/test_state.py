"""Models that change their buffers: the state is the caller's, caches are written in place."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

import zenith
from zenith.errors import CompilationError, ValidationError


class Cache(torch.nn.Module):
    """Appends rows to a buffer, and counts calls; the result depends on all rows so far."""

    def __init__(self, room: int = 8) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(1, 2, room, 3))
        self.register_buffer("length", torch.zeros((), dtype=torch.int64), persistent=False)
        self.scale = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n = x.shape[2]
        self.rows.index_copy_(2, self.length + torch.arange(n), x * self.scale)
        self.length.add_(n)
        return self.rows.sum(2) + self.length


class Window(torch.nn.Module):
    """Its next buffer is no update of the one before, so there are two to take turns."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("last", torch.arange(4.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = torch.cat([self.last, x])
        self.last.copy_(seen[1:])
        return seen.sum()


def steps(count: int, rows: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(1, 2, rows, 3, generator=generator) for _ in range(count)]


def compiled_cache() -> zenith.CompiledModel:
    x = torch.zeros(1, 2, 3, 3)
    return zenith.compile(Cache().eval(), sample_input=x, dynamic={0: {2: "n"}}, fallback="error")


def test_a_cache_is_written_where_it_lies() -> None:
    compiled, model = compiled_cache(), Cache().eval()
    state = compiled.new_state()
    assert state.in_place == {"rows": True, "length": False}
    at = state._now[0].ctypes.data
    for x in [*steps(1, rows=3), *steps(4)]:
        torch.testing.assert_close(state(x), model(x))
    assert state._now[0].ctypes.data == at
    np.testing.assert_allclose(state.arrays()["rows"], model.rows.detach().numpy(), rtol=1e-6)
    assert any("2 buffers, 1 updated in place" in note for note in compiled.explain().notes)


def test_states_are_independent_and_the_model_has_none() -> None:
    compiled = compiled_cache()
    first, second = compiled.new_state(), compiled.new_state()
    a, b = steps(2)
    first(a)
    first(a)
    one, other = first(b), second(b)
    assert not torch.equal(one, other)
    torch.testing.assert_close(other, Cache().eval()(b))


def test_copy_load_and_reset() -> None:
    state = compiled_cache().new_state()
    a, b = steps(2)
    fresh = state(a)
    branch = state.copy()
    assert torch.equal(state(b), branch(b))
    branch.load(state.arrays())
    assert torch.equal(state(b), branch(b))
    state.reset()
    assert torch.equal(state(a), fresh)
    with pytest.raises(ValidationError, match="buffers rows, length"):
        state.load({"rows": np.zeros(3)})
    with pytest.raises(ValidationError, match=r"'rows' is float32\[1, 2, 8, 3\]"):
        state.load({**state.arrays(), "rows": np.zeros(3)})


def test_buffers_that_are_replaced_take_turns() -> None:
    compiled, model = zenith.compile(Window().eval(), sample_input=torch.ones(1)), Window().eval()
    state = compiled.new_state()
    assert state.in_place == {"last": False}
    for x in torch.arange(5.0).split(1):
        torch.testing.assert_close(state(x), model(x))


def test_a_buffer_that_is_read_after_the_write_is_not_shared() -> None:
    class Late(Cache):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            before = self.rows.clone()
            return super().forward(x) + before.sum(2)

    compiled, model = zenith.compile(Late().eval(), sample_input=steps(1)[0]), Late().eval()
    state = compiled.new_state()
    for x in steps(3):
        torch.testing.assert_close(state(x), model(x))


def test_outside_its_room_nothing_is_written() -> None:
    state = compiled_cache().new_state()
    with pytest.raises(zenith.errors.KernelError, match="outside"):
        state(torch.zeros(1, 2, 9, 3))


def test_without_a_state_the_call_says_how() -> None:
    compiled = compiled_cache()
    with pytest.raises(ValidationError, match=r"keeps state.*rows, length") as caught:
        compiled(steps(1)[0])
    assert "new_state()" in str(caught.value)
    out = compiled.run(
        {"x": np.ones((1, 2, 1, 3), np.float32), **compiled.new_state().arrays()}
    )  # by name, state is an input and an output like others
    assert out["length.next"] == 1 and out["rows.next"].sum() == 12
    assert compiled.verify(steps(1)[0]).worst < 1e-6


def test_a_model_without_state_takes_the_same_call() -> None:
    layer = torch.nn.Linear(3, 3).eval()
    compiled, x = zenith.compile(layer, sample_input=torch.ones(2, 3)), torch.ones(2, 3)
    assert torch.equal(compiled.new_state()(x), compiled(x))


def test_one_call_at_a_time() -> None:
    state = compiled_cache().new_state()
    with state._busy, pytest.raises(ValidationError, match="in use by another call"):
        state(steps(1)[0])
    results: list[torch.Tensor] = []
    thread = threading.Thread(target=lambda: results.append(state(steps(1)[0])))
    thread.start()
    thread.join()
    assert len(results) == 1


def test_buffers_that_share_memory_are_refused() -> None:
    class Twice(Cache):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("again", self.rows[:, :1])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + self.again.sum()

    with pytest.raises(CompilationError, match="shares memory|cannot capture"):
        zenith.compile(Twice().eval(), sample_input=steps(1)[0])


def test_an_input_that_is_written_is_refused_by_name() -> None:
    class Writes(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.add_(1)

    with pytest.raises(CompilationError, match="writes to its input 'x'"):
        zenith.compile(Writes().eval(), sample_input=torch.ones(2))


def test_tolerance_is_checked_from_the_first_state() -> None:
    zenith.compile(Cache().eval(), sample_input=steps(1)[0], tolerance=1e-5)
