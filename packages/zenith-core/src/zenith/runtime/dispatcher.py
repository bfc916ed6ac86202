"""Select stage, second half: one kernel per node, and why each other one lost."""

from __future__ import annotations

from dataclasses import dataclass

from zenith.runtime.kernel_registry import KernelRegistry, KernelSpec
from zenith.runtime.op_view import OpView

__all__ = ["KernelDispatcher", "Selection"]

# By tag of a row: the opt_level it begins at, and what a lower one says.
_LEAST_LEVELS = {
    "winograd": (2, "keeps to exact algorithms"),
    "ozaki": (2, "multiplies in floating point"),
    "strassen": (3, "keeps rows apart; Strassen's products begin at 3"),
}


@dataclass(frozen=True)
class Selection:
    """The kernel of one node. `lost` holds (kernel, reason) of every candidate not taken."""

    op: OpView
    spec: KernelSpec
    why: str
    lost: tuple[tuple[str, str], ...] = ()


class KernelDispatcher:
    """Asks the rows of one backend in their order; the first that says yes wins."""

    def __init__(self, registry: KernelRegistry, opt_level: int = 2) -> None:
        self._registry = registry
        self._opt_level = opt_level

    def select(
        self, backend: str, op: OpView, *, call: bool | None = None
    ) -> Selection | list[tuple[str, str]]:
        """A `Selection`, or the (kernel, reason) list of everything that declined.

        call: only rows of this kind (`KernelSpec.call`); None for both.
        """
        declined: list[tuple[str, str]] = []
        candidates = self._registry.candidates(backend, op)
        for position, spec in enumerate(candidates):
            if call is not None and spec.call != call:
                continue
            reason = self._excluded(spec) or _reason_against(spec, op)
            if reason is not None:
                declined.append((spec.name, reason))
                continue
            later = [(s.name, "slower: later in the list") for s in candidates[position + 1 :]]
            why = "only kernel for this node" if not declined and not later else "first that fits"
            return Selection(op, spec, why, (*declined, *later))
        return declined

    def accepting(self, backend: str, op: OpView) -> list[KernelSpec]:
        """Every planned row of `backend` that takes this node, best first."""
        return [
            spec
            for spec in self._registry.candidates(backend, op)
            if not spec.call and not self._excluded(spec) and not _reason_against(spec, op)
        ]

    def _excluded(self, spec: KernelSpec) -> str | None:
        for tag, (least, reason) in _LEAST_LEVELS.items():
            if tag in spec.tags and self._opt_level < least:
                return f"opt_level={self._opt_level} {reason}"
        return None


def _reason_against(spec: KernelSpec, op: OpView) -> str | None:
    """A row whose predicate raises, or answers nonsense, declines: its kernel is not trusted."""
    try:
        reason: object = spec.reason_against(op)
    except Exception as error:  # noqa: BLE001  whatever a plugin raises is its answer
        return f"its supports() raised {type(error).__name__}: {error}"
    if reason is None or isinstance(reason, str):
        return reason
    return f"its supports() answered {reason!r}, neither None nor a reason"
