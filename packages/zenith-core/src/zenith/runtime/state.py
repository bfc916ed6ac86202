"""Execute stage: a model's state between calls, owned by the caller.

A state buffer is a pair of the graph: an input, and the output whose value is the input of the next
call (`GraphIR.state`). Where the plan begins an output by copying its input there, both lie in the
same memory and the copy falls away: appending to a cache costs what is appended.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zenith.errors import ValidationError

if TYPE_CHECKING:
    from zenith.runtime.compiled_model import CompiledModel

__all__ = ["ModelState", "StateSpec"]

Array = NDArray[Any]


@dataclass(frozen=True)
class StateSpec:
    """One state buffer: the name of its input, and what it holds at first.

    in_place: whether the plan may write its output where its input lies.
    """

    name: str
    initial: Array
    in_place: bool


class ModelState:
    """What one sequence of calls remembers: call it like the model, and it remembers.

    Made by `CompiledModel.new_state()`, as often as needed: each is a sequence of its own (a
    conversation, a stream), all share the model's plan and weights. One call at a time; use one
    state per thread.
    """

    def __init__(self, model: CompiledModel, specs: Sequence[StateSpec]) -> None:
        self._model = model
        self._specs = list(specs)
        self._busy = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Back to what the source model held when it was compiled."""
        now = [np.array(spec.initial, order="C") for spec in self._specs]
        # Where the next value is written, for buffers that are not updated in place.
        after = [
            array if spec.in_place else np.empty_like(array)
            for spec, array in zip(self._specs, now, strict=True)
        ]
        self._now, self._next = now, after

    def copy(self) -> ModelState:
        """A second state with the same content, for example to branch a search."""
        twin = ModelState(self._model, self._specs)
        twin.load(self.arrays())
        return twin

    def arrays(self) -> dict[str, Array]:
        """Copies of the buffers by name."""
        return {s.name: a.copy() for s, a in zip(self._specs, self._now, strict=True)}

    def load(self, arrays: Mapping[str, Array]) -> None:
        """Put the content of `arrays` (all buffers, by name) into the buffers."""
        names = [spec.name for spec in self._specs]
        if set(arrays) != set(names):
            raise ValidationError(
                f"the state has the buffers {', '.join(names) or 'none'}; given: "
                f"{', '.join(arrays) or 'nothing'}"
            )
        for name, now in zip(names, self._now, strict=True):
            given = np.asarray(arrays[name])
            if given.shape != now.shape or given.dtype != now.dtype:
                raise ValidationError(
                    f"state buffer '{name}' is {now.dtype}{list(now.shape)}, given was "
                    f"{given.dtype}{list(given.shape)}"
                )
        for name, now in zip(names, self._now, strict=True):
            now[...] = arrays[name]

    @property
    def in_place(self) -> dict[str, bool]:
        """Which buffers are updated where they lie; the others are written anew by every call."""
        return {spec.name: spec.in_place for spec in self._specs}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model's results for these inputs, from this state; the state moves on."""
        if not self._busy.acquire(blocking=False):
            raise ValidationError(
                "this state is in use by another call", next="make a state per thread: new_state()"
            )
        try:
            results = self._model.step(self._now, self._next, args, kwargs)
            self._now, self._next = self._next, self._now
        finally:
            self._busy.release()
        return results

    def __repr__(self) -> str:
        buffers = ", ".join(
            f"{s.name}: {a.dtype}{list(a.shape)}"
            for s, a in zip(self._specs, self._now, strict=True)
        )
        return f"ModelState({buffers})"
