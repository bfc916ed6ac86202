"""Pointwise and reduce kernels next to torch, interleaved, in microseconds.

usage: python bench_pointwise.py [threads]
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from zenith import _native
from zenith.backends.cpu.kernels.pointwise_program import OPS

ISA = _native.isas()[0]
ROUNDS = 25


def code(op: str, dst: int, *sources: int) -> int:
    packed = OPS.index(op) | dst << 16
    for k, source in enumerate(sources):
        packed |= source << (24 + 8 * k)
    return packed


def timed(run: Callable[[int], object], repeat: int) -> float:
    start = time.perf_counter()
    run(repeat)
    return (time.perf_counter() - start) / repeat * 1e6


def native(
    kernel: str, inputs: list[np.ndarray], output: np.ndarray, threads: int, **params: object
) -> Callable[[int], object]:
    return lambda n: _native.call(ISA, kernel, inputs, [output], params, threads, n)


def eager(run: Callable[[], object]) -> Callable[[int], object]:
    def many(n: int) -> None:
        for _ in range(n):
            run()

    return many


Case = tuple[Callable[[int], object], Callable[[], object]]


def cases(shape: tuple[int, int], threads: int) -> dict[str, Case]:
    """Name -> our kernel, what torch does."""
    functional = torch.nn.functional
    x, y, z = (torch.randn(shape) for _ in range(3))
    a, b, c = x.numpy(), y.numpy(), z.numpy()
    out, row = np.empty(shape, np.float32), np.empty(shape[:1], np.float32)
    where = torch.empty(shape)

    def program(inputs: list[np.ndarray], *steps: int) -> Callable[[int], object]:
        args = [0.0] * (2 * len(steps))
        return native("pointwise", inputs, out, threads, steps=list(steps), args=args)

    return {
        "gelu": (program([a], code("gelu", 1, 0)), lambda: functional.gelu(x)),
        "gelu_tanh": (program([a], code("gelu_tanh", 1, 0)),
                      lambda: functional.gelu(x, approximate="tanh")),
        "silu*y": (program([a, b], code("silu", 2, 0), code("mul", 2, 2, 1)),
                   lambda: functional.silu(x) * y),
        "x+y": (program([a, b], code("add", 2, 0, 1)), lambda: torch.add(x, y, out=where)),
        "x*y+z": (program([a, b, c], code("mul", 3, 0, 1), code("add", 3, 3, 2)),
                  lambda: x * y + z),
        "tanh": (program([a], code("tanh", 1, 0)), lambda: torch.tanh(x)),
        "exp": (program([a], code("exp", 1, 0)), lambda: torch.exp(x)),
        "mean": (native("reduce", [a], row, threads, op=1, axes=[1]), lambda: x.mean(-1)),
        "max": (native("reduce", [a], row, threads, op=2, axes=[1]), lambda: x.amax(-1)),
    }  # fmt: skip


def main() -> None:
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    torch.set_num_threads(threads)
    print(f"{ISA}, {threads} threads{'':19s} zenith            torch      ratio")
    print(f"{'':26s}   best  median    best  median  of best")
    for shape in ((128, 3072), (1024, 3072)):
        for name, (ours, theirs) in cases(shape, threads).items():
            many = eager(theirs)
            repeat = max(1, int(2000 / max(1.0, timed(ours, 3))))
            pairs = [(timed(ours, repeat), timed(many, repeat)) for _ in range(ROUNDS)]
            mine, other = [p[0] for p in pairs], [p[1] for p in pairs]
            print(f"{name:10s} {shape!s:14s} {min(mine):8.1f}{statistics.median(mine):8.1f}"
                  f"{min(other):8.1f}{statistics.median(other):8.1f}{min(other) / min(mine):8.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
