"""How fast this machine can go: measured once per process, for the roofline column."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass

import numpy as np

from zenith import _native

__all__ = ["MachineLimits", "machine_limits"]


@dataclass(frozen=True)
class MachineLimits:
    """flops: fp32 operations per second; bandwidth: bytes per second from the last-level cache."""

    flops: float
    bandwidth: float

    def seconds(self, flops: float, bytes_moved: float) -> float:
        """The least time for this much work."""
        return max(flops / self.flops, bytes_moved / self.bandwidth)


@functools.cache
def machine_limits() -> MachineLimits:
    """Best of a few runs of a cache-resident matrix product and of a copy that leaves L2."""
    isa = _native.isas()[0]
    m, n, k = 192, 768, 256
    x = np.ones((m, k), np.float32)
    packed = _native.pack(isa, "linear_pack_f32", np.ones((k, n), np.float32), {"transposed": 0})
    y = np.empty((m, n), np.float32)
    params: dict[str, list[int]] = {"epilogue": []}
    flops = 2 * m * n * k / _best(lambda: _native.call(isa, "linear_f32", [x, packed], [y], params))
    source = np.ones(1 << 20, np.float32)
    target = np.empty_like(source)
    copied = 2 * source.nbytes / _best(lambda: _native.call(isa, "copy", [source], [target], {}))
    return MachineLimits(flops, copied)


def _best(call: object) -> float:
    assert callable(call)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)
