"""Adapter stage: what an adapter gives the engine, and how calls cross the framework's boundary."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from zenith.ir import GraphIR

__all__ = ["Adapter", "ImportedModel", "Signature", "split_sample"]


class Signature(Protocol):
    """How one call crosses the boundary: framework tensors in, framework structure out.

    A signature may have a method ``staged(compiled, args, kwargs)``: for a call inside a trace of
    the framework, it gives the traced results, and NotImplemented for every other call.
    """

    @property
    def input_names(self) -> Sequence[str]:
        """Names of the graph's inputs, in order."""

    @property
    def output_names(self) -> Sequence[str]:
        """Names of the graph's outputs, in order."""

    def flatten(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
        """Tensors in the order of the graph's inputs: dense, on the CPU, of the right type.

        Numpy arrays, or tensors of a type with DLPack's exchange table in C: read in place.

        Raises `ValidationError` when structure, count or dtype is wrong. Sizes are not looked at.
        """

    def maker(self, dtype: str, shape: Sequence[int]) -> Callable[[], Any]:
        """What makes a new dense tensor of the framework, contents undefined, in every call."""

    def to_numpy(self, tensor: Any) -> np.ndarray:
        """The tensor's data as an array, shared where the framework can."""

    def from_numpy(self, array: np.ndarray) -> Any:
        """A tensor of the framework that does not alias `array`'s owner unless it is writable."""

    def unflatten(self, outputs: Sequence[Any]) -> Any:
        """The model's own output structure from tensors in the order of the graph's outputs."""


@dataclass(frozen=True)
class ImportedModel:
    """A model as GraphIR, with nothing of its source kept alive but the weights' data.

    ranges: smallest and largest value of a dimension the model was captured for (None: no bound).
    state: what the inputs of `graph.state` hold before the first call, by name. They are the last
        inputs of the graph, in this order, and their outputs the last outputs; the signature does
        not know of either.
    """

    graph: GraphIR
    signature: Signature
    ranges: dict[str, tuple[int, int | None]] = field(default_factory=dict)
    state: dict[str, np.ndarray] = field(default_factory=dict)


class Adapter(Protocol):
    """Turns one framework's models into GraphIR."""

    name: str

    def accepts(self, model: object) -> bool:
        """Whether this adapter knows `model`; must not import the framework."""

    def import_model(
        self,
        model: Any,
        sample_input: Any,
        dynamic: Mapping[str | int, Any] | None,
    ) -> ImportedModel:
        """Capture and lower `model` to GraphIR."""


def split_sample(sample: Any) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """`sample_input` as positional and keyword arguments; None when none was given."""
    if sample is None:
        return None
    if isinstance(sample, Mapping):
        return (), dict(sample)
    if not isinstance(sample, tuple):
        return (sample,), {}
    if len(sample) == 2 and isinstance(sample[0], tuple) and isinstance(sample[1], Mapping):
        return sample[0], dict(sample[1])
    return sample, {}
