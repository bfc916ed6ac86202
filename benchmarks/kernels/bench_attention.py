"""Attention, normalisation and softmax against torch, interleaved, microseconds (best of runs).

Usage: python benchmarks/kernels/bench_attention.py [isa] [threads]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from zenith import _native


def best(run: Callable[[int], object], rounds: int = 5) -> float:
    """Seconds of one execution; `run(n)` executes n times."""
    start = time.perf_counter()
    run(1)
    n = max(1, int(5e-3 / (time.perf_counter() - start)))
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run(n)
        times.append((time.perf_counter() - start) / n)
    return min(times)


def loop(call: Callable[[], object]) -> Callable[[int], None]:
    def run(n: int) -> None:
        for _ in range(n):
            call()

    return run


def compare(name: str, own: Callable[[int], object], torch_call: Callable[[], object]) -> None:
    times = [(best(own), best(loop(torch_call))) for _ in range(3)]
    mine, theirs = (min(t) * 1e6 for t in zip(*times, strict=True))
    print(f"{name:36s} zenith {mine:9.1f}   torch {theirs:9.1f}   x{theirs / mine:.2f}")


def main() -> None:
    isa = sys.argv[1] if len(sys.argv) > 1 else _native.isas()[0]
    threads = int(sys.argv[2]) if len(sys.argv) > 2 else 2
    torch.set_num_threads(threads)
    random = np.random.default_rng(0)

    def native(kernel: str, inputs: list, outputs: list, **params: object) -> Callable[[int], None]:
        return lambda n: _native.call(isa, kernel, inputs, outputs, params, threads, n)

    heads, d = 12, 64
    for rows, keys in [(32, 32), (128, 128), (384, 384), (1, 512)]:
        # Ours reads views of a fused projection, torch separate tensors.
        fused = random.standard_normal((1, keys, 3, heads, d)).astype(np.float32)
        q, k, v = (fused[:, :, i].transpose(0, 2, 1, 3) for i in range(3))
        q = q[:, :, :rows]
        y = np.zeros((1, rows, heads, d), np.float32).transpose(0, 2, 1, 3)
        tensors = [torch.from_numpy(np.ascontiguousarray(t)) for t in (q, k, v)]
        own = native(
            "attention_f32",
            [q, k, v, None],
            [y],
            scale=d**-0.5,
            softcap=0.0,
            causal=0,
            offset=0,
            left=-1,
            right=-1,
        )

        def sdpa(tensors: list[torch.Tensor] = tensors) -> torch.Tensor:
            return F.scaled_dot_product_attention(*tensors)

        compare(f"attention h12 d64 s{rows} t{keys}", own, sdpa)

    x = random.standard_normal((128, 768)).astype(np.float32)
    y, weight = np.zeros_like(x), np.ones(768, np.float32)
    tx, tw = torch.from_numpy(x), torch.from_numpy(weight)
    own = native("layer_norm_f32", [x, weight, weight], [y], epsilon=1e-5, axes=1)
    compare("layer norm 128x768", own, lambda: F.layer_norm(tx, (768,), tw, tw))
    for shape in [(128, 768), (1536, 128)]:
        x = random.standard_normal(shape).astype(np.float32)
        tx, y = torch.from_numpy(x), np.zeros_like(x)
        own = native("softmax_f32", [x], [y], axis=1)
        compare(f"softmax {shape[0]}x{shape[1]}", own, lambda tx=tx: torch.softmax(tx, 1))


if __name__ == "__main__":
    with torch.inference_mode():
        main()
