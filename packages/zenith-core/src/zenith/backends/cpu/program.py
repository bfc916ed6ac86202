"""A finished native plan: binding to shapes, running, printing."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import onnx_ir as ir
import sympy

from zenith import _native
from zenith.backends.cpu.input_sizes import InputSizes, Key, solve_dims
from zenith.backends.cpu.operand import Operand
from zenith.errors import DeviceOutOfMemoryError, KernelError, ValidationError
from zenith.events import events
from zenith.ir.dims import Dim
from zenith.runtime.context import ExecutionContext
from zenith.runtime.memory_manager import MemoryManager, memory_bytes
from zenith.runtime.numpy_signature import numpy_dtype
from zenith.runtime.plan import TensorSpec

__all__ = ["BoundProgram", "NativeProgram", "PackedConstant", "Step", "Storage", "native_view"]


@dataclass(frozen=True)
class Step:
    """One kernel call. `node` is the index of the node it serves, -1 for the plan itself; `isa` is
    the instruction set whose row runs, which may lie below the plan's.

    batch: size of the first axis, where what lies at each place of it is treated alone, else 1;
    part: which of how many parts of it this step runs over.
    joins: it copies a tensor to a place in a result that other such steps fill;
    placed: it writes its own to such a place.
    """

    node: int
    kernel: str
    isa: str
    inputs: tuple[Operand | None, ...]
    outputs: tuple[Operand | None, ...]
    params: dict[str, Any]
    why: str = ""
    batch: Dim = 1
    part: tuple[int, int] = (1, 1)
    joins: bool = False
    placed: bool = False

    @property
    def reads(self) -> list[Operand]:
        """The inputs it has."""
        return [o for o in self.inputs if o is not None]

    @property
    def writes(self) -> list[Operand]:
        """The outputs it has."""
        return [o for o in self.outputs if o is not None]


@dataclass
class Storage:
    """Memory a plan addresses: an input, an output, a constant, or a piece of the arena."""

    place: str  # "input" | "output" | "constant" | "arena"
    index: int
    bytes: Dim
    array: np.ndarray | None = None


@dataclass(frozen=True)
class PackedConstant:
    """A weight in the layout of its kernel, and how to get the original back."""

    array: np.ndarray
    packer: str
    params: dict[str, Any]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    isa: str

    def unpack(self) -> np.ndarray:
        """The weight as it was before packing."""
        target = np.empty(self.shape, self.dtype)
        _native.unpack(self.isa, self.packer, self.array, native_view(target), self.params)
        return target


@dataclass(frozen=True)
class BoundProgram:
    """A plan with its shapes fixed, and the shapes of its outputs."""

    native: Any  # _native.BoundPlan
    dims: dict[str, int]
    seconds: float
    outputs: tuple[tuple[str, tuple[int, ...]], ...]


class NativeProgram:
    """One native call per run. Safe to use from many threads at once."""

    def __init__(
        self,
        *,
        plan: Any,
        isa: str,
        symbols: list[sympy.Symbol],
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        output_tensors: list[int],
        storages: list[Storage],
        steps: list[Step],
        node_labels: list[str],
        packed: dict[ir.Value, PackedConstant],
        constants: dict[ir.Value, np.ndarray],
    ) -> None:
        self.isa = isa
        self.steps = steps
        self.storages = storages
        self.packed = packed
        self.constants = constants
        self.inputs = inputs
        self.outputs = outputs
        self._plan = plan
        self._names = [symbol.name for symbol in symbols]
        self._sizes = InputSizes(inputs, symbols)
        self._output_tensors = output_tensors
        self._node_labels = node_labels
        axes = self._sizes.axes
        self.runner = _native.ArrayProgram(
            plan,
            len(symbols),
            [(numpy_dtype(s.dtype), a) for s, a in zip(inputs, axes, strict=True)],
            [
                (numpy_dtype(s.dtype), tensor, len(s.shape or ()))
                for s, tensor in zip(outputs, output_tensors, strict=True)
            ],
            memory_bytes(),
        )
        self.memory: MemoryManager[Key, BoundProgram] = MemoryManager(self._bind, told=_tell)

    def bound(self, key: Key, threads: int) -> BoundProgram:
        """The plan for these input dtypes and shapes; a ValidationError when they do not fit."""
        return self.memory.bound(key, threads)

    def _bind(self, key: Key, threads: int) -> BoundProgram:
        started = time.perf_counter()
        values = self._sizes.values(key)
        try:
            native = self._plan.bind(values, threads)
        except MemoryError as cause:
            raise _too_large(None) from cause
        except ValueError as cause:
            shapes = ", ".join(
                f"{s.name}: {list(k[1])}" for s, k in zip(self.inputs, key, strict=True)
            )
            raise ValidationError(
                f"the model cannot run with these input shapes ({shapes}): {cause}",
                next="check the sizes against what the model was built for",
            ) from cause
        outputs = tuple(
            (spec.dtype, tuple(native.shape_of(tensor)))
            for spec, tensor in zip(self.outputs, self._output_tensors, strict=True)
        )
        results = 0
        for name, shape in outputs:
            itemsize = numpy_dtype(name).itemsize
            nbytes = math.prod(shape) * itemsize
            results += nbytes
            if nbytes == 0 and math.prod(filter(None, shape)) * itemsize >= 1 << 63:
                raise _too_large(None)  # numpy has no empty array of such sizes
        if native.arena_bytes + results > memory_bytes():  # do not leave it to the OOM killer
            raise _too_large(native.arena_bytes + results)
        dims = dict(zip(self._names, values, strict=True))
        return BoundProgram(native, dims, time.perf_counter() - started, outputs)

    def caller(
        self, maker: Callable[[str, Sequence[int]], Callable[[], Any]], threads: int
    ) -> Callable[..., list[Any]]:
        """The hot path, ``call(tensors, targets)``: dense tensors in the order of the inputs ->
        results, new tensors but for the last of them, which are written to `targets`.

        maker: see `zenith.runtime.adapter.Signature.maker`.

        Tensors are numpy's, or of a framework whose type has DLPack's exchange table in C.
        """

        def bind(key: Key) -> tuple[Any, list[Callable[[], Any]]]:
            bound = self.bound(key, threads)
            return bound.native, [maker(dtype, shape) for dtype, shape in bound.outputs]

        call: Callable[..., list[Any]] = _native.Caller(bind, self.fail).call
        return call

    def fail(self, native: Any, index: int, message: str | None) -> NoReturn:
        """Raise for step `index`. message: of its kernel; None where the arena had no memory."""
        if message is None:
            raise DeviceOutOfMemoryError(
                f"no memory for an arena of {native.arena_bytes} bytes", next="use a smaller batch"
            )
        step = self.steps[index]
        where = self._node_labels[step.node] if step.node >= 0 else "the plan's own copies"
        raise KernelError(f"kernel '{step.kernel}' failed: {message}\n  at     {where}")

    def run_arrays(
        self, inputs: Sequence[np.ndarray], context: ExecutionContext
    ) -> list[np.ndarray]:
        return self.runner.run(self, inputs, context)

    def prepare(self, inputs: Sequence[np.ndarray], threads: int) -> tuple[list[np.ndarray], Any]:
        """The inputs as the plan takes them, row-major in this machine's byte order, and the plan
        bound to their sizes."""
        dense = [np.asarray(a, numpy_dtype(_name(a.dtype)), order="C") for a in inputs]
        return dense, self.bound(_key(dense), threads).native

    def profiled(self, inputs: Sequence[np.ndarray], context: ExecutionContext) -> list[np.ndarray]:
        """Results, and the nanoseconds of each step in `context`."""
        dense, native = self.prepare(inputs, context.threads)
        outputs = self.bound(_key(dense), context.threads).outputs
        results = [np.empty(shape, numpy_dtype(dtype)) for dtype, shape in outputs]
        pointers = [a.ctypes.data for a in dense]
        targets = [a.ctypes.data for a in results]
        context.times.append(native.profile(pointers, targets, len(self.steps)))
        return results

    def kernel_seconds(self, inputs: Sequence[np.ndarray], threads: int) -> float:
        """Seconds of one run, without the copies that change layouts between nodes."""
        context = ExecutionContext(threads=threads, profile=True)
        self.run_arrays(inputs, context)
        steps = zip(self.steps, context.times[0], strict=True)
        return sum(taken for step, taken in steps if not step.why) * 1e-9

    def updates_in_place(self, source: int, target: int) -> bool:
        """Whether output `target` may be written where input `source` lies.

        So it is when the output begins as a copy of the input in the same layout (which then has
        nothing to do), and nobody reads the input after that.
        """
        read, written = self._storage("input", source), self._storage("output", target)
        uses = [i for i, s in enumerate(self.steps) if _touches(s.inputs, read)]
        begins = [i for i, s in enumerate(self.steps) if _touches((*s.inputs, *s.outputs), written)]
        if not uses or not begins or uses[-1] > begins[0]:
            return False
        step = self.steps[begins[0]]
        if step.kernel != "copy" or not _touches(step.inputs, read):
            return False
        (held,), (kept,) = step.reads, step.writes
        return held.is_dense() and kept.is_dense() and held.shape == kept.shape

    def _storage(self, place: str, index: int) -> int:
        places = [(storage.place, storage.index) for storage in self.storages]
        return places.index((place, index))

    def node_times(self, step_times: Sequence[int]) -> list[int]:
        """Nanoseconds per node from nanoseconds per step; the plan's own copies go to the node
        before them."""
        times = [0] * len(self._node_labels)
        for step, nanoseconds in zip(self.steps, step_times, strict=True):
            times[max(step.node, 0)] += nanoseconds
        return times

    def dims_of(self, inputs: Sequence[np.ndarray]) -> dict[sympy.Symbol, int]:
        """Values of the dynamic dims for these inputs."""
        return solve_dims(self.inputs, tuple((a.dtype.name, a.shape) for a in inputs))

    def node_isas(self) -> list[str]:
        """For every node, the best instruction set among its steps'; for one without steps, that of
        the plan's own copies."""
        ranks = {isa: rank for rank, isa in enumerate(_native.isas())}
        isas = [_native.kernel_isa(self.isa, "copy")] * len(self._node_labels)
        for step in self.steps:
            if step.node >= 0 and ranks[step.isa] < ranks[isas[step.node]]:
                isas[step.node] = step.isa
        return isas

    @property
    def copies(self) -> list[str]:
        """Layout changes the plan added, with the reason."""
        copies = [s for s in self.steps if s.kernel == "copy" and s.why and s.part[0] == 1]
        return [f"{_type_text(s.writes[0])}: {s.why}" for s in copies]

    @property
    def notes(self) -> list[str]:
        """What explain() says of the plan as a whole."""
        notes = []
        if placed := sum(s.placed for s in self.steps if s.part[0] == 1):
            notes.append(f"{placed} steps write their results where a Concat joins them")
        parts = [s.part[1] for s in self.steps if s.part[1] > s.part[0] == 1]
        if parts:
            notes.append(
                f"the batch goes through {len(parts)} steps in up to {max(parts)} parts one after "
                "the other, so that what passes between them stays in the caches"
            )
        return notes

    @property
    def constant_bytes(self) -> int:
        """Bytes of all weights and constants the plan owns."""
        return int(self._plan.constant_bytes)

    def to_text(self) -> str:
        """One line per step: index, kernel, operands -> results."""
        lines = [f"plan cpu({self.isa}) steps={len(self.steps)} constants={self.constant_bytes}"]
        for index, step in enumerate(self.steps):
            ins = ", ".join("_" if o is None else self._text(o) for o in step.inputs)
            outs = ", ".join("_" if o is None else self._text(o) for o in step.outputs)
            line = f"  {index:3d}  {step.kernel}_{step.isa}  ({ins}) -> {outs}"
            part = f"part {step.part[0]} of {step.part[1]}" if step.part[1] > 1 else ""
            why = "; ".join(text for text in (step.why, part) if text)
            lines.append(line + (f"    # {why}" if why else ""))
        return "\n".join(lines)

    def _text(self, operand: Operand) -> str:
        place = self.storages[operand.storage].place[0]
        return f"%{place}{operand.storage}:{_type_text(operand)}"


def _touches(operands: Sequence[Operand | None], storage: int) -> bool:
    return any(o is not None and o.storage == storage for o in operands)


def _key(arrays: Sequence[np.ndarray]) -> Key:
    return tuple([(_name(a.dtype), a.shape) for a in arrays])


def native_view(array: np.ndarray) -> np.ndarray:
    """The same bytes under a dtype numpy itself knows (those of ml_dtypes are not)."""
    if array.dtype.num < 256:  # user-defined types come after
        return array
    return array.view(np.uint16 if array.dtype.itemsize == 2 else np.uint8)


@functools.cache
def _name(dtype: np.dtype[Any]) -> str:
    """numpy makes the name anew each time it is asked."""
    return dtype.name


def _too_large(needed: int | None) -> DeviceOutOfMemoryError:
    size = "more bytes than 64 bits can count" if needed is None else f"{needed} bytes"
    return DeviceOutOfMemoryError(
        f"a call with these input shapes needs {size}, this machine has {memory_bytes()}",
        next="use a smaller batch; for a model of unknown origin, see what its sizes ask for",
    )


def _tell(bound: BoundProgram, dropped: BoundProgram | None) -> None:
    arena = int(bound.native.arena_bytes)
    events.emit("bound", dims=bound.dims, arena=arena, seconds=bound.seconds)
    if dropped is not None:
        events.emit("evicted", dims=dropped.dims)


def _type_text(operand: Operand) -> str:
    return f"{operand.dtype}[{','.join(str(d) for d in operand.shape)}]"
