"""What a backend is: a name, a probe, lowering passes, and how a partition becomes a program."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from zenith.ir.types import constant_data, item_bytes
from zenith.plugins import BackendStatus
from zenith.runtime.tensor_check import TensorCheck

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
    a list, an absent optional None.

    A program may also have ``runner``, a `_native.Runner`: what it is natively, so that a plan goes
    from one partition to the next, and around loops, without Python.
    """

    def run_arrays(
        self, inputs: Sequence[np.ndarray], context: ExecutionContext
    ) -> list[np.ndarray]:
        """Run on numpy arrays. Results are new arrays, but of control flow: there inputs and
        constants may pass through, the latter as views."""

    def to_text(self) -> str:
        """The program as a readable list."""


class Backend:
    """Base of all backends. A pure Python backend subclasses `CallableBackend` instead."""

    name: str = ""
    owner: str = ""  # the distribution it comes from; the plugin manager fills it in
    # Its plans are bound to sizes before they run, and compute shape arithmetic without kernels.
    plans_sizes: bool = False
    # Values of `zenith.compile(precision=)` that its kernels honour.
    precisions: frozenset[str] = frozenset({"fp32"})

    def probe(self) -> BackendStatus:
        """Whether the device is here."""
        return BackendStatus()

    def describe(self) -> str:
        """Name with the part that matters for speed, e.g. "cpu(avx2)"."""
        return self.name

    @property
    def whose(self) -> str:
        """Who answers for its kernels, as messages say it after a kernel's name."""
        owner = f" of {self.owner}" if self.owner else ""
        return f" of backend '{self.name}'{owner}"

    def pipeline(self, opt_level: int) -> Sequence[str]:
        """Names of the lowering passes for partitions of this backend."""
        return ()

    def kernel_names(self, selections: Sequence[Selection], program: Program) -> list[str]:
        """The full name of each node's kernel in `program`, as explain() shows it."""
        return [selection.spec.name for selection in selections]

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
        return CallableProgram(graph, selections, self.whose)


class CallableProgram:
    """Walks the nodes of a partition in Python, one callable each.

    whose: who answers for the kernels, as messages say it after a kernel's name.
    """

    def __init__(self, graph: GraphIR, selections: Sequence[Selection], whose: str = "") -> None:
        self._inputs = list(graph.inputs)
        self._outputs = list(graph.outputs)
        for selection in selections:
            _fits_in_memory(selection.op)
        self._whose = whose
        self._input_checks = [TensorCheck(v) for v in self._inputs]
        self._result_checks = [[TensorCheck(v) for v in s.op.node.outputs] for s in selections]
        self._steps = [(s.op, s.spec.run, s.spec.name) for s in selections]
        self._constants = {
            value: np.array(constant_data(value.const_value))
            for value in graph.initializers.values()
            if value.const_value is not None
        }

    def run_arrays(
        self, inputs: Sequence[np.ndarray], context: ExecutionContext
    ) -> list[np.ndarray]:
        from zenith.errors import DeviceOutOfMemoryError, KernelError
        from zenith.runtime.context import current_threads

        current_threads.set(context.threads)
        sizes = self._sizes(inputs)
        env: dict[Any, Any] = dict(self._constants)
        env.update(zip(self._inputs, inputs, strict=True))
        for (op, run, name), checks in zip(self._steps, self._result_checks, strict=True):
            where = f"kernel '{name}'{self._whose}"
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
                    f"{where} failed on node '{op.node.name}' ({op.key}): "
                    f"{str(cause) or type(cause).__name__}"
                ) from cause
            wrong = _wrong_results(checks, results, sizes)
            if wrong:
                raise KernelError(f"{where} on node '{op.node.name}' ({op.key}): {wrong}")
            env.update(zip(op.node.outputs, results, strict=False))
        results = [env[v] for v in self._outputs]
        return own_results(results, [*inputs, *self._constants.values()])

    def _sizes(self, inputs: Sequence[Any]) -> dict[str, int]:
        """The named sizes of these inputs, after checking that the inputs are right."""
        from zenith.errors import ValidationError

        sizes: dict[str, int] = {}
        for check, array in zip(self._input_checks, inputs, strict=True):
            check.bind(array, sizes)
            given = check.mismatch(array, sizes)
            if given is not None:
                raise ValidationError(
                    f"input '{check.name}' is {given}, the model takes {check}"
                    + "".join(f"; '{name}' is {size}" for name, size in sizes.items())
                )
        return sizes

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


def _fits_in_memory(op: OpView) -> None:
    """Raise where a result is known to be more than this machine's memory."""
    from zenith.errors import DeviceOutOfMemoryError
    from zenith.runtime.memory_manager import memory_bytes

    for value in op.node.outputs:
        dims = value.shape.dims if value.shape is not None else ()
        sizes = [d for d in dims if isinstance(d, int)]
        if len(sizes) != len(dims):
            continue
        needed = math.prod(sizes) * item_bytes(value.dtype)
        if needed > memory_bytes():
            raise DeviceOutOfMemoryError(
                f"'{value.name}', a result of node '{op.node.name}' ({op.key}), has {needed} "
                f"bytes; this machine has {memory_bytes()}",
                next="check the sizes that the model's constants ask for",
            )


def _wrong_results(
    checks: Sequence[TensorCheck], results: Any, sizes: dict[str, int]
) -> str | None:
    """What is wrong with a kernel's results; None when they are what the graph says."""
    if not isinstance(results, list | tuple):
        return f"it returned {type(results).__name__}, not a list of arrays"
    named = max((i + 1 for i, check in enumerate(checks) if check.name), default=0)
    if len(results) < named:
        return f"it returned {len(results)} result(s), and the node has {named}"
    for check, result in zip(checks, results, strict=False):
        given = check.mismatch(result, sizes)
        if given is not None:
            return f"it returned {given} for '{check.name}', which is {check}"
    return None
