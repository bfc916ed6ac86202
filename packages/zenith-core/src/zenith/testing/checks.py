"""What is checked of one case, in the process that may die of it (`worker`), or in this one.

Nothing here knows pytest. A check says `Result`; the outcomes "crash" and "hang" are for `pool` to
tell.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

import zenith
from zenith.errors import NoKernelFoundError, ValidationError, ZenithError
from zenith.ir import GraphIR
from zenith.runtime.partition import EXECUTOR
from zenith.testing.cases import Case
from zenith.testing.compare import difference
from zenith.testing.guard import damage, guarded

__all__ = ["CHECKS", "Result", "Say"]

Say = Callable[[str], None]  # what is being done now, told to who watches
THREADS, WARM_UP, CALLS, ROUNDS = 8, 60, 300, 5
SLOW = 0.5  # seconds; a case whose call takes longer is not repeated by many threads


@dataclass
class Result:
    """How a check ended. outcome: pass | fail | crash | hang | skipped-as-declared."""

    outcome: str
    reason: str = ""
    kernels: list[str] = field(default_factory=list)
    seconds: float = 0.0


class _Failed(Exception):
    """A check that did not hold; the text is the reason."""


class _Declined(Exception):
    """The rows of the backend say why they do not run this case."""


def check_case(case: Case, backend: str, guard: bool, say: Say) -> Result:
    """Everything about one case: compile, dispatch, results, memory, repetition, threads."""
    kernels: list[str] = []

    def work() -> None:
        say("the compiler")
        graph, compiled = _compile(case.model, case.overload, backend)
        kernels.extend(dict.fromkeys(node.kernel for node in compiled.explain().nodes))
        expected = _expected(case)
        damage()
        say(f"kernel {', '.join(kernels) or '(none)'}")
        with guarded() if guard else contextlib.nullcontext():
            seconds = _check_results(case, graph, compiled, expected)
        say(f"kernel {', '.join(kernels) or '(none)'} called by {THREADS} threads")
        if case.repeatable and seconds < SLOW:
            _check_threads(case, compiled)

    return _result(work, kernels)


def check_leaks(cases: Sequence[Case], backend: str, guard: bool, say: Say) -> Result:
    """Memory after many calls of the first case that the backend runs is what it was before."""
    kernels: list[str] = []

    def work() -> None:
        for position, case in enumerate(cases):
            say("the compiler")
            try:
                _, compiled = _compile(case.model, case.overload, backend)
                break
            except _Declined:
                if position == len(cases) - 1:
                    raise
        kernels.extend(dict.fromkeys(node.kernel for node in compiled.explain().nodes))
        say(f"kernel {', '.join(kernels)} called {CALLS} times")
        for _ in range(WARM_UP):
            compiled(*case.inputs)
        left = ""
        for _ in range(ROUNDS):  # caches and the allocator's own stores fill up; a leak goes on
            rss, blocks = _memory()
            for _ in range(CALLS):
                compiled(*case.inputs)
            rss, blocks = _memory()[0] - rss, _memory()[1] - blocks
            if blocks > CALLS // 2:
                left = f"{blocks} Python objects"
            elif rss > 2**20 + CALLS * 64:
                left = f"{rss} bytes"
            else:
                return
        raise _Failed(f"{CALLS} calls left {left} behind, {ROUNDS} times in turn ({case.name})")

    return _result(work, kernels)


def check_fallback(cases: Sequence[Case], backend: str, guard: bool, say: Say) -> Result:
    """A node the backend has no kernel for: an error, a warning or silence, and right results."""
    kernels: list[str] = []

    def work() -> None:
        case, model = _with_a_foreign_node(cases, backend, say)
        say("the compiler")
        graph = GraphIR.from_onnx(onnx.ModelProto.FromString(model)).infer_shapes()
        options: dict[str, Any] = {"target": backend, "opt_level": 0}
        try:
            zenith.compile(graph, fallback="error", **options)
        except NoKernelFoundError as error:
            if "ai.onnx:Hardmax" not in str(error):
                raise _Failed(f"the error does not name the node: {error}") from None
        else:
            raise _Failed('fallback="error" raised nothing')
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            compiled = zenith.compile(graph, fallback="warn", **options)
        if not any("Hardmax" in str(w.message) for w in caught):
            raise _Failed('fallback="warn" did not name the node')
        explained = compiled.explain()
        kernels.extend(node.kernel for node in explained.nodes)
        if [n.op for n in explained.fallbacks] != ["ai.onnx:Hardmax"]:
            raise _Failed(f"explain().fallbacks is {explained.fallbacks}")
        if not any(n.backend == backend for n in explained.nodes):
            raise _Failed(f"nothing runs on {backend} beside a node that cannot")
        say(f"kernels {', '.join(kernels)}")
        _compare(graph, _call(compiled, case.inputs), _reference(model, case.inputs))

    return _result(work, kernels)


def check_errors(cases: Sequence[Case], backend: str, guard: bool, say: Say) -> Result:
    """Wrong calls are a `ValidationError`, and right ones work after them."""
    kernels: list[str] = []

    def work() -> None:
        case, compiled = _first_compiled(cases, backend, say)
        kernels.extend(node.kernel for node in compiled.explain().nodes)
        good = case.inputs
        wrong = {
            "an input too few": good[1:],
            "an input too many": (*good, good[0]),
            "a wrong rank": (good[0][None], *good[1:]),
            "a wrong size": (np.concatenate([good[0], good[0]]), *good[1:]),
            "a wrong dtype": (good[0].astype(np.complex64), *good[1:]),
            "text for a number": (np.full(good[0].shape, "x"), *good[1:]),
        }
        before = _call(compiled, good)
        for what, inputs in wrong.items():
            say(f"kernel {', '.join(kernels)} called with {what}")
            try:
                compiled(*inputs)
            except ValidationError:
                continue
            except Exception as error:
                raise _Failed(f"{what} raised {type(error).__name__}: {error}") from error
            raise _Failed(f"{what} raised nothing")
        _same_bits(before, _call(compiled, good), "after wrong calls")

    return _result(work, kernels)


CHECKS: dict[str, Callable[[Any, str, bool, Say], Result]] = {
    "case": check_case,
    "leaks": check_leaks,
    "fallback": check_fallback,
    "errors": check_errors,
}


def _result(work: Callable[[], None], kernels: list[str]) -> Result:
    """Run `work`; what it raises becomes the result."""
    started = time.perf_counter()
    outcome, reason = "pass", ""
    try:
        work()
    except _Failed as failed:
        outcome, reason = "fail", str(failed)
    except _Declined as declined:
        outcome, reason = "skipped-as-declared", str(declined)
    except ZenithError as error:
        outcome, reason = "fail", f"{type(error).__name__}: {error.message}"
    except BaseException as error:
        last = "".join(traceback.format_exc(limit=-3))
        outcome, reason = "fail", f"{type(error).__name__} escaped: {error}\n{last}"
    return Result(outcome, reason, list(kernels), time.perf_counter() - started)


def _compile(model: bytes, overload: str, backend: str) -> tuple[GraphIR, Any]:
    """Compile for `backend` alone; what its rows decline is `_Declined` with their reasons."""
    graph = GraphIR.from_onnx(onnx.ModelProto.FromString(model)).infer_shapes()
    try:
        compiled = zenith.compile(graph, target=backend, fallback="error", opt_level=0)
    except NoKernelFoundError as error:
        raise _Declined(_declared(graph, backend, error)) from None
    allowed = (backend, EXECUTOR)  # control flow is nobody's backend
    elsewhere = [n for n in compiled.explain().nodes if n.backend not in allowed]
    if elsewhere:
        raise _Failed(f"explain() shows {elsewhere[0].op} on {elsewhere[0].backend}")
    return graph, compiled


def _declared(graph: GraphIR, backend: str, error: NoKernelFoundError) -> str:
    """The reason each row gives against the node; a row that has none is a failure."""
    from zenith.runtime.op_view import OpView

    reasons = []
    for node in graph.nodes:
        op = OpView(node, body=graph.model.functions.get(node.op_identifier()))
        for spec in _registry().candidates(backend, op):
            reason = spec.reason_against(op)
            if reason is not None:
                reasons.append(f"{spec.name}: {reason}")
    if not reasons:
        raise _Failed(f"the rows take this node, and yet: {error.message}")
    return " | ".join(reasons)


_registries: list[Any] = []


def _registry() -> Any:
    if not _registries:
        from zenith.plugins import plugin_manager
        from zenith.runtime.kernel_registry import KernelRegistry

        registry = KernelRegistry()
        plugin_manager().register_kernels(registry)
        _registries.append(registry)
    return _registries[0]


def _expected(case: Case) -> list[Any]:
    if case.expected is not None:
        return list(case.expected)
    wide = case.oracle is not None
    inputs = tuple(
        x.astype(np.float32) if wide and x.dtype.name in ("float16", "bfloat16") else x
        for x in case.inputs
    )
    return _reference(case.oracle or case.model, inputs)


def _reference(model: bytes, inputs: Sequence[Any]) -> list[Any]:
    from zenith.runtime.reference import evaluate_float64

    graph = GraphIR.from_onnx(onnx.ModelProto.FromString(model)).infer_shapes()
    feeds = {str(v.name): x for v, x in zip(graph.inputs, inputs, strict=True)}
    with np.errstate(all="ignore"):
        results = evaluate_float64(graph, feeds)
    return [results[str(v.name)] for v in graph.outputs]


def _call(compiled: Any, inputs: Sequence[Any]) -> list[Any]:
    results = compiled(*inputs)
    return list(results) if isinstance(results, tuple) else [results]


def _check_results(case: Case, graph: GraphIR, compiled: Any, expected: Sequence[Any]) -> float:
    """All that one thread can tell; how many seconds the first call took."""
    inputs = [_copied(x) for x in case.inputs]
    started = time.perf_counter()
    first = _call(compiled, inputs)
    seconds = time.perf_counter() - started
    _raise_damage()
    for position, (mine, original) in enumerate(zip(inputs, case.inputs, strict=True)):
        if not _identical(mine, original):
            raise _Failed(f"input {position} was modified")
    if case.repeatable:
        _compare(graph, first, expected, case.tolerance)
    _check_memory(first, inputs, "an input")
    if not case.repeatable:
        return seconds
    kept = [_copied(x) for x in first]
    second = _call(compiled, inputs)
    _same_bits(kept, first, "after a second call")
    _same_bits(kept, second, "the second time")
    _check_memory(second, first, "the result of an earlier call")
    strided = [_strided(x) for x in case.inputs]
    _same_bits(kept, _call(compiled, strided), "for inputs that are not contiguous")
    del inputs, first, second, strided, kept
    _raise_damage()
    return seconds


def _compare(
    graph: GraphIR, results: Sequence[Any], expected: Sequence[Any], tolerance: float = 0.0
) -> None:
    if len(results) != len(expected):
        raise _Failed(f"{len(results)} result(s), not {len(expected)}")
    for value, result, wanted in zip(graph.outputs, results, expected, strict=True):
        dtype = value.dtype.numpy().name if value.dtype is not None else _name(wanted)
        found = difference(result, wanted, dtype, tolerance)
        if found:
            raise _Failed(f"output '{value.name}' {found}")


def _name(value: Any) -> str:
    return np.asarray(value).dtype.name if value is not None else "none"


def _check_memory(results: Sequence[Any], others: Sequence[Any], what: str) -> None:
    """No result shares memory with `others`, nor with another result."""
    for position, result in enumerate(results):
        if not isinstance(result, np.ndarray):
            continue
        for other in (*others, *results[position + 1 :]):
            if isinstance(other, np.ndarray) and np.may_share_memory(result, other):
                raise _Failed(f"output {position} shares memory with {what} or with another output")


def _check_threads(case: Case, compiled: Any) -> None:
    """Eight threads call one model at once; all get the same bits."""
    wanted = _call(compiled, case.inputs)
    start = threading.Barrier(THREADS)

    def call() -> list[Any]:
        start.wait(30)
        return _call(compiled, case.inputs)

    with ThreadPoolExecutor(THREADS) as threads:
        futures = [threads.submit(call) for _ in range(THREADS)]
        for future in futures:
            _same_bits(wanted, future.result(), f"when {THREADS} threads call")


def _same_bits(wanted: Sequence[Any], results: Sequence[Any], when: str) -> None:
    for position, (a, b) in enumerate(zip(wanted, results, strict=True)):
        if not _identical(a, b):
            raise _Failed(f"output {position} has other bits {when}")


def _identical(a: Any, b: Any) -> bool:
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(_identical(x, y) for x, y in zip(a, b, strict=True))
    if a is None or b is None:
        return a is b
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype.kind in "OSUT":
        return a.shape == b.shape and bool(np.all(a == b))
    return bool(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes())


def _copied(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_copied(x) for x in value]
    return None if value is None else np.array(value)


def _strided(value: Any) -> Any:
    """The same values, every second element of a larger array."""
    if not isinstance(value, np.ndarray) or value.ndim == 0:
        return _copied(value)
    wide = np.repeat(value, 2, axis=-1)
    return wide[..., ::2]


def _raise_damage() -> None:
    found = damage()
    if found:
        raise _Failed("writes out of bounds: " + "; ".join(found))


def _memory() -> tuple[int, int]:
    """Bytes resident, and live objects of Python's allocator."""
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), sys.getallocatedblocks()


def _compiling(cases: Sequence[Case], backend: str, say: Say) -> Iterator[tuple[Case, Any]]:
    say("the compiler")
    for case in cases:
        with contextlib.suppress(_Declined):
            yield case, _compile(case.model, case.overload, backend)[1]


def _first_compiled(cases: Sequence[Case], backend: str, say: Say) -> tuple[Case, Any]:
    for found in _compiling(cases, backend, say):
        return found
    raise _Declined("no case that this check could use is taken by the backend")


def _with_a_foreign_node(cases: Sequence[Case], backend: str, say: Say) -> tuple[Case, bytes]:
    """A case with a Hardmax behind it, which no row of the backend takes."""
    from zenith.runtime.op_view import OpView

    for case, _ in _compiling(cases, backend, say):
        proto = onnx.ModelProto.FromString(case.model)
        (result, *_) = GraphIR.from_onnx(proto).infer_shapes().outputs
        if result.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
            continue
        node = onnx.helper.make_node("Hardmax", [proto.graph.output[0].name], ["z"], "foreign")
        proto.graph.node.append(node)
        proto.graph.output[0].CopyFrom(onnx.ValueInfoProto(name="z"))
        graph = GraphIR.from_onnx(proto).infer_shapes()
        op = OpView(graph.nodes[-1])
        rows = _registry().candidates(backend, op)
        if any(row.reason_against(op) is None for row in rows):
            raise _Declined("the backend takes Hardmax too: nothing falls back")
        return case, proto.SerializeToString()
    raise _Declined("no case that this check could use is taken by the backend")
