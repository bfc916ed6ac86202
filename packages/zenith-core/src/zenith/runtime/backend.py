"""What a backend is: a name, a probe, lowering passes, and how a partition becomes a program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from zenith.plugins import BackendStatus

if TYPE_CHECKING:
    from zenith.config import CompileConfig
    from zenith.ir import GraphIR
    from zenith.runtime.context import ExecutionContext
    from zenith.runtime.dispatcher import Selection
    from zenith.runtime.op_view import OpView

__all__ = [
    "Backend",
    "BackendStatus",
    "CallableBackend",
    "CallableProgram",
    "Program",
    "own_results",
]


class Program(Protocol):
    """A compiled partition. Tensors cross its edge as numpy arrays or raw pointers; a sequence is
    a list, an absent optional None."""

    def run_arrays(
        self, inputs: Sequence[np.ndarray], context: ExecutionContext
    ) -> list[np.ndarray]:
        """Run on numpy arrays; results are new arrays."""

    def to_text(self) -> str:
        """The program as a readable list."""


class Backend:
    """Base of all backends. A pure Python backend subclasses `CallableBackend` instead."""

    name: str = ""
    # Its plans are bound to sizes before they run, and compute shape arithmetic without kernels.
    plans_sizes: bool = False

    def probe(self) -> BackendStatus:
        """Whether the device is here."""
        return BackendStatus()

    def describe(self) -> str:
        """Name with the part that matters for speed, e.g. "cpu(avx2)"."""
        return self.name

    def pipeline(self, opt_level: int) -> Sequence[str]:
        """Names of the lowering passes for partitions of this backend."""
        return ()

    def kernel_name(self, selection: Selection) -> str:
        """The kernel's full name as explain() shows it."""
        return selection.spec.name

    def build(
        self, graph: GraphIR, selections: Sequence[Selection], config: CompileConfig
    ) -> Program:
        """Plan one partition, whose nodes are `selections` in order."""
        raise NotImplementedError


class CallableBackend(Backend):
    """Runs kernels that are Python callables ``run(op, inputs) -> outputs`` over numpy arrays."""

    def build(
        self, graph: GraphIR, selections: Sequence[Selection], config: CompileConfig
    ) -> Program:
        return CallableProgram(graph, selections)


class CallableProgram:
    """Walks the nodes of a partition in Python, one callable each."""

    def __init__(self, graph: GraphIR, selections: Sequence[Selection]) -> None:
        self._inputs = list(graph.inputs)
        self._outputs = list(graph.outputs)
        self._steps = [(s.op, s.spec.run, s.spec.name) for s in selections]
        self._constants = {
            value: np.array(value.const_value.numpy())
            for value in graph.initializers.values()
            if value.const_value is not None
        }

    def run_arrays(
        self, inputs: Sequence[np.ndarray], context: ExecutionContext
    ) -> list[np.ndarray]:
        from zenith.errors import DeviceOutOfMemoryError, KernelError

        env: dict[Any, Any] = dict(self._constants)
        env.update(zip(self._inputs, inputs, strict=True))
        for op, run, name in self._steps:
            arguments = [None if v is None else env[v] for v in op.node.inputs]
            try:
                results = run(op, arguments)
            except MemoryError as cause:
                raise DeviceOutOfMemoryError(
                    f"no memory for node '{op.node.name}' ({op.key}): {cause}",
                    next="use smaller inputs",
                ) from cause
            except Exception as cause:
                raise KernelError(
                    f"kernel '{name}' failed on node '{op.node.name}' ({op.key}): {cause}"
                ) from cause
            _check_results(op, name, results)
            env.update(zip(op.node.outputs, results, strict=False))
        results = [env[v] for v in self._outputs]
        return own_results(results, [*inputs, *self._constants.values()])

    def to_text(self) -> str:
        return "\n".join(
            f"  {i:3d}  {name}  {op.key}" for i, (op, _, name) in enumerate(self._steps)
        )


def own_results(results: Sequence[Any], taken: Sequence[Any]) -> list[Any]:
    """Results in row-major memory that none of `taken` and no other result has."""
    ids = {id(a) for value in taken for a in (value if isinstance(value, list) else [value])}

    def own(value: Any) -> Any:
        if isinstance(value, list):
            return [own(item) for item in value]
        if value is None:
            return None
        dense = np.asarray(value, order="C")
        if dense.base is not None or id(dense) in ids:
            dense = dense.copy()
        ids.add(id(dense))
        return dense

    return [own(value) for value in results]


def _check_results(op: OpView, name: str, results: Sequence[np.ndarray]) -> None:
    """A foreign kernel's results must have the dtype and rank the graph says."""
    from zenith.errors import KernelError

    for view, result in zip(op.outputs, results, strict=False):
        if not view.name or not isinstance(result, np.ndarray):
            continue
        if view.dtype not in ("unknown", result.dtype.name) and result.dtype.kind != "O":
            raise KernelError(
                f"kernel '{name}' returned {result.dtype.name} for '{view.name}', "
                f"which is {view.dtype}"
            )
        if view.value.shape is not None and len(view.value.shape) != result.ndim:
            raise KernelError(
                f"kernel '{name}' returned rank {result.ndim} for '{view.name}', "
                f"which has rank {len(view.value.shape)}"
            )
