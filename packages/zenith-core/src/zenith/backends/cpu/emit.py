"""What an emitter sees: the node, its operands in the plan, and how to append steps.

An emitter is ``run`` of a CPU `KernelSpec`: ``def emit(e: Emit) -> None``. It reads operands,
asks for the layout its kernel needs, creates outputs and appends steps. It never looks at data of
non-constant values. Example (a whole kernel row)::

    def _emit_softmax(e: Emit) -> None:
        x = e.dense(0)                                  # row-major; one shared copy if it was not
        e.step("softmax_f32", [x], [e.output(0)], axis=e.op.attr("axis", -1) % x.rank)

    SPECS = [KernelSpec("softmax_f32", "ai.onnx:Softmax", _emit_softmax, dtypes={0: F32})]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from zenith.backends.cpu.operand import Operand
from zenith.ir.dims import Dim
from zenith.runtime.op_view import OpView

__all__ = ["BF16", "F32", "PAIRS", "Emit"]

F32 = frozenset({"float32"})
BF16 = frozenset({"bfloat16"})
# Instruction sets that multiply pairs of bfloat16, with and without tiles.
PAIRS = frozenset({"amx", "avx512_vnni"})


class Emit(Protocol):
    """The interface `zenith.backends.cpu.builder.NodeEmit` implements."""

    @property
    def op(self) -> OpView:
        """The node."""

    def operand(self, index: int) -> Operand | None:
        """Input `index` as it lies (any strides, also 0); None when it is missing."""

    def dense(self, index: int) -> Operand:
        """Input `index` row-major without gaps; a copy step is added (once per value) if needed."""

    def inner(self, index: int) -> Operand:
        """Input `index` with stride 1 (or size 1) on its last axis; other strides are free."""

    def channels_last(self, index: int) -> Operand:
        """Input `index`, logically [N, C, *spatial], dense in memory order [N, *spatial, C]."""

    def output(self, index: int, order: Sequence[int] | None = None) -> Operand:
        """Memory for output `index`, dense in axis order `order` (outermost first; default
        row-major). ``order=channels_last_order(rank)`` for conv nets."""

    def temp(self, dtype: str, shape: Sequence[Dim]) -> Operand:
        """A row-major tensor that lives only between steps of this node."""

    def alias(self, index: int, operand: Operand) -> None:
        """Output `index` is this view of existing memory: no step runs. Views are free."""

    def copy(self, source: Operand, target: Operand) -> None:
        """Append a copy step between tensors of equal shape and dtype, any strides."""

    def join(self, source: Operand, target: Operand) -> None:
        """Append a copy to a place in output 0 that only other such copies share: where it can be,
        the source is computed in that place (see zenith.backends.cpu.joins)."""

    def const(self, array: np.ndarray) -> Operand:
        """A constant owned by the plan (the array is copied)."""

    def packed(self, index: int, packer: str, **params: int | float | Sequence[int]) -> Operand:
        """Constant input `index` packed by a native `Packer` (shared by equal requests)."""

    def packed_array(
        self, array: np.ndarray, packer: str, **params: int | float | Sequence[int]
    ) -> Operand:
        """A derived constant (e.g. merged weights) packed by a native `Packer`."""

    def step(
        self,
        kernel: str,
        inputs: Sequence[Operand | None],
        outputs: Sequence[Operand | None],
        **params: Dim | float | Sequence[Dim] | Sequence[float],
    ) -> None:
        """Append one native kernel call. `params` are exactly the fields of the kernel's Params;
        integer fields may be symbolic."""

    def batch_step(
        self,
        kernel: str,
        inputs: Sequence[Operand | None],
        outputs: Sequence[Operand | None],
        **params: Dim | float | Sequence[Dim] | Sequence[float],
    ) -> None:
        """Append a call that treats each place of the first axis alone: given a part of that axis
        of every operand but constants, it computes that part of the results, to the last bit (see
        zenith.backends.cpu.parts). The first axis of the node's output 0 is the batch."""
