"""Plan stage: the frozen, printable list the executor walks."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from zenith import _native
from zenith.ir.dims import Dim, UnknownSizeError
from zenith.runtime.backend import Program
from zenith.runtime.dispatcher import Selection
from zenith.runtime.op_view import ValueView

__all__ = ["ExecutionPlan", "PlannedPartition", "TensorSpec"]


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of the model: name, numpy dtype name, shape (ints or expressions).

    The shape of a value whose rank depends on data, or that is no tensor, is None.
    """

    name: str
    dtype: str
    shape: tuple[Dim, ...] | None

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.dtype}[...]"
        return f"{self.dtype}[{', '.join(str(d) for d in self.shape)}]"


@dataclass(frozen=True)
class PlannedPartition:
    """Consecutive nodes of one backend. `inputs`/`outputs` are slots of the plan's value table."""

    backend: str
    program: Program
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    selections: tuple[Selection, ...]


@dataclass(frozen=True)
class ExecutionPlan:
    """Partitions in order over a table of slots: the model's inputs, then what is computed.

    constants: slots of results that are weights, where no partition computes them.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    output_slots: tuple[int, ...]
    n_slots: int
    partitions: tuple[PlannedPartition, ...]
    constants: Mapping[int, np.ndarray] = field(default_factory=dict)

    @property
    def native(self) -> bool:
        """Whether one native program is the whole model, so that a call is one native call."""
        return (
            len(self.partitions) == 1
            and hasattr(self.partitions[0].program, "caller")
            and self.partitions[0].inputs == tuple(range(len(self.inputs)))
            and self.partitions[0].outputs == self.output_slots
        )

    @functools.cached_property
    def walk(self) -> _native.Walk:
        """The plan as a native list of calls on numpy arrays."""
        constants = dict(self.constants)
        walk = _native.Walk(len(self.inputs), self.n_slots, self.output_slots, constants)
        for part in self.partitions:
            runner = getattr(part.program, "runner", None)
            walk.add(part.program, runner, part.inputs, part.outputs)
        return walk

    def to_text(self) -> str:
        """The plan as text: every partition with its steps."""
        lines = []
        for partition in self.partitions:
            lines.append(f"partition {partition.backend}")
            lines.append(partition.program.to_text())
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.to_text()


def tensor_specs(values: Sequence[ir.Value]) -> tuple[TensorSpec, ...]:
    """Specs of graph inputs or outputs."""
    views = [ValueView(v) for v in values]
    return tuple(_spec(view) for view in views)


def _spec(view: ValueView) -> TensorSpec:
    if not isinstance(view.value.type, ir.TensorType | None):
        return TensorSpec(view.name, str(view.value.type), None)  # a sequence or an optional
    try:
        return TensorSpec(view.name, view.dtype, view.shape)
    except UnknownSizeError:
        return TensorSpec(view.name, view.dtype, None)
