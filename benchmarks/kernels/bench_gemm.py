"""linear_f32 next to torch's F.linear: same shapes, same threads, alternating calls.

python benchmarks/kernels/bench_gemm.py [--isa avx2] [--threads 2] [--seconds 0.2] [--cold]
Prints the median time of each, GFLOP/s at the best time, its share of the multiply-add peak that
was measured in the same run, and how many times faster zenith is (ratio of the medians).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from zenith import _native

ROWS = (1, 8, 32, 128, 384)
WEIGHTS = ((768, 768), (3072, 768), (768, 3072), (384, 1536))  # (N, K)


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def peak(isa: str, threads: int) -> float:
    """GFLOP/s of the microkernel where nothing but arithmetic counts: all operands in L1."""
    m, n, k = 48, 48, 96
    x, w = np.ones((m, k), np.float32), np.ones((k, n), np.float32)
    packed = _native.pack(isa, "linear_pack_f32", w, {"transposed": 0})
    y, repeat = np.empty((m, n), np.float32), 40
    params: dict[str, list[int]] = {"epilogue": []}

    def run() -> None:
        _native.call(isa, "linear_f32", [x, packed], [y], params, threads=1, repeat=repeat)

    return threads * max(2 * m * n * k * repeat / seconds(run) / 1e9 for _ in range(300))


def compare(
    isa: str, m: int, n: int, k: int, threads: int, budget: float, cold: bool
) -> tuple[list[float], list[float]]:
    """Times of zenith and of torch. cold: weights cycle through more memory than the caches."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((m, k)).astype(np.float32)
    bias = rng.standard_normal(n).astype(np.float32)
    copies = max(1, 160_000_000 // (4 * n * k)) if cold else 1
    weights = [rng.standard_normal((n, k)).astype(np.float32) for _ in range(copies)]
    packed = [_native.pack(isa, "linear_pack_f32", w, {"transposed": 1}) for w in weights]
    tensors = [torch.from_numpy(w) for w in weights]
    y, tx, tb = np.empty((m, n), np.float32), torch.from_numpy(x), torch.from_numpy(bias)
    params = {"epilogue": [1]}
    ours: list[float] = []
    theirs: list[float] = []
    end = time.perf_counter() + budget
    i = 0
    while i < 5 or time.perf_counter() < end:
        p, t = packed[i % copies], tensors[i % copies]

        def zenith(p: np.ndarray = p) -> None:
            _native.call(isa, "linear_f32", [x, p, bias], [y], params, threads=threads)

        def torch_linear(t: torch.Tensor = t) -> None:
            torch.nn.functional.linear(tx, t, tb)

        ours.append(seconds(zenith))
        theirs.append(seconds(torch_linear))
        i += 1
    return ours, theirs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--isa", default=_native.isas()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.2, help="per shape")
    parser.add_argument("--cold", action="store_true", help="weights come from memory")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    top = peak(args.isa, args.threads)
    print(f"{args.isa}, {args.threads} threads, peak of the microkernel {top:.0f} GFLOP/s")
    print("   M     N     K   zenith us   torch us  GFLOP/s  of peak  torch/zenith")
    for n, k in WEIGHTS:
        for m in ROWS:
            ours, theirs = compare(args.isa, m, n, k, args.threads, args.seconds, args.cold)
            a, b = statistics.median(ours), statistics.median(theirs)
            rate = 2 * m * n * k / min(ours) / 1e9
            print(
                f"{m:4d} {n:5d} {k:5d} {a * 1e6:11.1f} {b * 1e6:10.1f} {rate:8.1f} "
                f"{rate / top:7.0%} {b / a:12.2f}x",
                flush=True,
            )


if __name__ == "__main__":
    main()
