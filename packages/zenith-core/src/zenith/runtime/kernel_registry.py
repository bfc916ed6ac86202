"""Select stage, first half: what kernels exist. A kernel is one `KernelSpec` row."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from zenith.errors import PluginError
from zenith.ir.dims import UnknownSizeError, exactly
from zenith.passes.quantize import Form

if TYPE_CHECKING:
    from zenith.runtime.op_view import OpView

__all__ = ["Cost", "KernelRegistry", "KernelSpec", "no_cost", "traffic"]


@dataclass(frozen=True)
class Cost:
    """What one execution does: floating-point operations and bytes moved at least.

    Either may be a symbolic expression when the shapes are dynamic.
    """

    flops: Any = 0
    bytes: Any = 0


def _yes(op: OpView) -> str | None:
    return None


def _silent(op: OpView) -> str | None:
    return None


def _not_beside_int8(op: OpView) -> str | None:
    return "its bfloat16 is left to precision='bf16'"


def no_cost(op: OpView) -> Cost:
    """Of what moves nothing, or nobody knows how much before it runs."""
    return Cost()


def traffic(op: OpView, flops: Any) -> Cost:
    """`flops`, and the bytes of every operand and result."""
    values = [v for v in (*op.inputs, *op.outputs) if v is not None and v.name]
    return Cost(flops=exactly(flops), bytes=exactly(sum(v.nbytes for v in values)))


def _one_each(op: OpView) -> Cost:
    return traffic(op, op.outputs[0].size)


@dataclass(frozen=True)
class KernelSpec:
    """One kernel: what it computes, when it applies, what it costs and what runs.

    name: ``<op>_<dtype>``, unique within a backend; the ISA is added when shown.
    op: ``"*"`` for any, or ``"<domain>:<type>"`` with domain "ai.onnx" for standard operators,
        e.g. ``"ai.onnx:MatMul"`` or ``"zenith:Linear"``.
    overload: glob over the node's overload string (zenith operators only).
    dtypes: for each constrained input position, the numpy names it accepts.
    supports: None when the kernel can run this node, else the reason why not, as a clause
        ("head size 80 is not a multiple of 16").
    cost: flops and bytes of one execution.
    note: what explain() should say of this kernel on a node, as a clause ("its GELU is rounded to
        8 bits at once"): an approximation that nobody asked for by name. None mostly.
    run: what runs. The CPU backend's native kernels give an emitter ``(Emit) -> None`` that
        appends steps to the plan; a `CallableBackend` takes ``(op, inputs) -> outputs`` over
        numpy arrays (None for a missing optional input).
    call: `run` is such a callable in a backend whose other kernels are planned. It allocates its
        results, so their sizes may follow from data; the executor calls it between two plans.
    tensors_only: no input or output may be a sequence or an optional.
    tags: properties the dispatcher may exclude by; "winograd" and "ozaki" are not used at
        opt_level <= 1, "strassen" only at opt_level 3.
        Of a row for bfloat16, "bf16" says that converting operands to it pays: where
        ``precision="bf16"`` begins.
    beside_int8: of a row with that tag, None where it is faster than the float32 row between
        products of 8-bit integers, so that ``precision="int8"`` begins there too; else why not.
    quantizes: of a kernel over 8-bit integers: standard operators by key that become its own when
        their operands are quantized, with how they are (`Form`), or the reason why this node not.
    """

    name: str
    op: str
    run: Callable[..., Any]
    overload: str = "*"
    dtypes: dict[int, frozenset[str]] = field(default_factory=dict)
    supports: Callable[[OpView], str | None] = _yes
    cost: Callable[[OpView], Cost] = _one_each
    note: Callable[[OpView], str | None] = _silent
    call: bool = False
    tensors_only: bool = True
    tags: frozenset[str] = frozenset()
    beside_int8: Callable[[OpView], str | None] = _not_beside_int8
    quantizes: dict[str, Callable[[OpView], Form | str]] = field(default_factory=dict)

    def reason_against(self, op: OpView) -> str | None:
        """None if this kernel can run `op`, else why not."""
        if self.tensors_only:
            for view in (*op.inputs, *op.outputs):
                if view is not None and not isinstance(view.value.type, ir.TensorType | None):
                    return f"'{view.name}' is a {view.value.type}, not a tensor"
        for position, accepted in self.dtypes.items():
            value = op.inputs[position] if position < len(op.inputs) else None
            if value is not None and value.dtype not in accepted:
                return f"input {position} is {value.dtype}, not {' or '.join(sorted(accepted))}"
        try:
            return self.supports(op)
        except UnknownSizeError as unknown:
            return str(unknown)

    def matches(self, key: str, overload: str) -> bool:
        """Whether this row is for the operator `key` with this overload."""
        return self.op in (key, "*") and fnmatch.fnmatchcase(overload, self.overload)


class KernelRegistry:
    """Rows of all backends, in the order they were registered (best first)."""

    def __init__(self) -> None:
        self._rows: dict[str, list[KernelSpec]] = {}
        self._by_op: dict[tuple[str, str], list[KernelSpec]] = {}

    def add(self, backend: str, *specs: KernelSpec) -> None:
        """Append rows for `backend`; a second row of one name is a `PluginError`."""
        rows = self._rows.setdefault(backend, [])
        for spec in specs:
            if any(row.name == spec.name for row in rows):
                raise PluginError(f"backend '{backend}' registers kernel '{spec.name}' twice")
            rows.append(spec)
            self._by_op.setdefault((backend, spec.op), []).append(spec)

    def candidates(self, backend: str, op: OpView) -> list[KernelSpec]:
        """Rows of `backend` for this operator, best first."""
        rows = self._by_op.get((backend, op.key), []) + self._by_op.get((backend, "*"), [])
        return [row for row in rows if row.matches(op.key, op.overload)]

    def quantized_form(self, backend: str, op: OpView) -> Form | str:
        """How `backend` takes this node with quantized operands, or why it does not."""
        reasons: list[str] = []
        for row in self._rows.get(backend, []):
            if op.key in row.quantizes:
                found = row.quantizes[op.key](op)
                if isinstance(found, Form):
                    return found
                reasons.append(found)
        return " | ".join(reasons) or "no kernel over integers"

    def backends(self) -> list[str]:
        return list(self._rows)

    def __iter__(self) -> Iterator[tuple[str, KernelSpec]]:
        for backend, rows in self._rows.items():
            for row in rows:
                yield backend, row
