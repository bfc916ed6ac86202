"""Calibration: which numbers the values of a graph take, on data of the user.

The graph runs natively in float32 with the values as further results, once over the data; of every
value only what the calibrator keeps is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import onnx_ir as ir

from zenith.errors import ConfigurationError
from zenith.passes.quantize import Range
from zenith.runtime.explain import Accuracy
from zenith.runtime.reference import relative_error

if TYPE_CHECKING:
    from zenith.ir import GraphIR
    from zenith.runtime.compiled_model import CompiledModel

__all__ = ["Calibration", "Calibrator", "MinMax", "accuracy", "with_results"]

Array = np.ndarray[Any, Any]
# Samples whose results in float32 are kept to compare with.
_COMPARED = 8


class Calibrator(Protocol):
    """Sees numbers of named values and says which range of them gets codes."""

    def observe(self, name: str, array: Array) -> None:
        """Take in the numbers that value `name` has in one run."""

    def ranges(self) -> Mapping[str, Range]:
        """Smallest and largest number that is told apart, by name."""


class MinMax:
    """The whole range that was seen."""

    def __init__(self) -> None:
        self._ranges: dict[str, Range] = {}

    def observe(self, name: str, array: Array) -> None:
        if array.size == 0:
            return
        low, high = float(np.min(array)), float(np.max(array))
        seen = self._ranges.get(name, (low, high))
        self._ranges[name] = (float(np.minimum(seen[0], low)), float(np.maximum(seen[1], high)))

    def ranges(self) -> Mapping[str, Range]:
        return self._ranges


class Calibration:
    """Runs the samples through a model in float32: `ranges`, and `compared` samples with results.

    samples: inputs in graph order, read once.
    """

    def __init__(self, samples: Iterable[Sequence[Array]], calibrator: Calibrator) -> None:
        self._samples = samples
        self._calibrator = calibrator
        self.compared: list[tuple[Sequence[Array], dict[str, Array]]] = []
        self.count = 0

    def run(self, model: CompiledModel, results: Sequence[str], observed: Sequence[str]) -> None:
        """results: outputs of the model itself; observed: inputs and other outputs to look at."""
        for sample in self._samples:
            feeds = dict(zip(model.input_names, sample, strict=True))
            outputs = model.run(feeds)
            for name in observed:
                array = feeds[name] if name in feeds else outputs[name]
                self._calibrator.observe(name, array)
            if self.count < _COMPARED:
                self.compared.append((sample, {name: outputs[name] for name in results}))
            self.count += 1
        if self.count == 0:
            raise ConfigurationError(
                "calibration_data is empty", next="give some inputs in the form of sample_input"
            )

    def ranges(self) -> Mapping[str, Range]:
        """What the calibrator says of all samples."""
        return self._calibrator.ranges()


def with_results(graph: GraphIR, names: Sequence[str]) -> GraphIR:
    """A copy of `graph` that also gives the values of these names, as far as it computes them."""
    copy = graph.clone()
    known = {v.name for v in (*copy.inputs, *copy.outputs)}
    by_name = {v.name: v for node in copy.nodes for v in node.outputs}
    wanted = [by_name[name] for name in names if name not in known and name in by_name]
    copy.model.graph.outputs.extend(wanted)
    return copy


def accuracy(
    model: CompiledModel, compared: Sequence[tuple[Sequence[Array], Mapping[str, Array]]]
) -> dict[str, Accuracy]:
    """Of every output of floating-point numbers, by name."""
    errors: dict[str, list[tuple[float, float]]] = {}
    for sample, wanted in compared:
        got = model.run(dict(zip(model.input_names, sample, strict=True)))
        for name, reference in wanted.items():
            if ir.DataType.from_numpy(reference.dtype).is_floating_point():
                pair = relative_error(got[name], reference), _cosine(got[name], reference)
                errors.setdefault(name, []).append(pair)
    return {
        name: Accuracy(max(e for e, _ in pairs), min(c for _, c in pairs), len(pairs))
        for name, pairs in errors.items()
    }


def _cosine(a: Array, b: Array) -> float:
    x, y = np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel()
    norm = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / norm if norm > 0 else float(np.array_equal(x, y))
