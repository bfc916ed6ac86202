"""One backend for each thing a kernel can do wrong, with one Add: "rogue_<fault>"."""

import ctypes
import os
import signal
import threading

import numpy as np

from zenith.hookspecs import hookimpl
from zenith.runtime.backend import CallableBackend
from zenith.runtime.kernel_registry import KernelSpec

ZENITH_API_VERSION = 1


def throws(a, b):
    raise ValueError("no luck today")


def exits(a, b):
    os._exit(3)


def segfaults(a, b):
    ctypes.string_at(0)


def killed(a, b):
    os.kill(os.getpid(), signal.SIGSEGV)


def hangs(a, b):
    threading.Event().wait()


def wrong_shape(a, b):
    return [(a + b)[..., :1]]


def wrong_rank(a, b):
    return [(a + b)[None]]


def wrong_dtype(a, b):
    return [(a + b).astype(np.float64)]


def no_list(a, b):
    return None


def none_in_list(a, b):
    return [None]


def too_few(a, b):
    return []


def wrong_values(a, b):
    return [a + b + np.float32(0.001)]


def writes_after_end(a, b):
    result = a + b
    ctypes.memset(result.ctypes.data + result.nbytes, 1, 4)
    return [result]


def writes_far_after_end(a, b):
    result = a + b
    ctypes.memset(result.ctypes.data, 1, result.nbytes + 64)
    return [a + b]


def reads_after_end(a, b):
    """Harmless as a rule, and a crash where the array ends at the end of what is mapped."""
    ctypes.string_at(a.ctypes.data, a.nbytes + 64)
    return [a + b]


def writes_before_start(a, b):
    result = a + b
    ctypes.memset(result.ctypes.data - 8, 1, 8)
    return [result]


def modifies_input(a, b):
    result = a + b
    a *= 2
    return [result]


kept = {}


def same_memory_again(a, b):
    """Every call gives out one buffer."""
    result = kept.setdefault(a.shape, np.empty(np.broadcast_shapes(a.shape, b.shape), a.dtype))
    np.add(a, b, out=result)
    return [result]


leaked = []


def leaks(a, b):
    leaked.append(a + b)
    return [a + b]


calls = 0


def forgets(a, b):
    """Right the first time."""
    global calls
    calls += 1
    return [a + b if calls == 1 else a - b]


busy = threading.Lock()


def not_for_threads(a, b):
    """Wrong while another thread is inside."""
    if not busy.acquire(blocking=False):
        return [a - b]
    try:
        threading.Event().wait(0.01)
        return [a + b]
    finally:
        busy.release()


def bad_supports(op):
    raise KeyError("no such device")


KERNELS = (
    throws,
    exits,
    segfaults,
    killed,
    hangs,
    wrong_shape,
    wrong_rank,
    wrong_dtype,
    no_list,
    none_in_list,
    too_few,
    wrong_values,
    writes_after_end,
    writes_far_after_end,
    reads_after_end,
    writes_before_start,
    modifies_input,
    same_memory_again,
    leaks,
    forgets,
    not_for_threads,
)


def backend(fault):
    return type("Rogue", (CallableBackend,), {"name": f"rogue_{fault}"})()


@hookimpl
def zenith_register_backends():
    return [backend("bad_supports"), *(backend(kernel.__name__) for kernel in KERNELS)]


@hookimpl
def zenith_register_kernels(registry):
    for kernel in KERNELS:
        run = lambda op, inputs, kernel=kernel: kernel(*inputs)  # noqa: E731
        registry.add(
            f"rogue_{kernel.__name__}", KernelSpec(f"{kernel.__name__}_add", "ai.onnx:Add", run)
        )
    row = KernelSpec("picky_add", "ai.onnx:Add", lambda op, inputs: [], supports=bad_supports)
    registry.add("rogue_bad_supports", row)
