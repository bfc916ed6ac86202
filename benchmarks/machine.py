"""Facts of the machine, measured and read, for the head of a report."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "onnxruntime", "openvino", "numpy", "zenith-core")
ISA_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8")


def machine_facts(threads: int) -> dict[str, Any]:
    """CPU, instruction sets, measured limits of this moment, and versions."""
    from zenith import _native
    from zenith.runtime.roofline import machine_limits

    limits = machine_limits()
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        **_cpuinfo(),
        "threads": threads,
        "zenith_isa": _native.isas()[0],
        "fma_peak_flops": limits.flops,
        "bandwidth_bytes_per_s": limits.bandwidth,
        "python": platform.python_version(),
        "system": platform.platform(),
        "versions": versions,
    }


def _cpuinfo() -> dict[str, Any]:
    path = Path("/proc/cpuinfo")
    fields: dict[str, str] = {}
    if path.exists():
        for line in path.read_text().splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    flags = set(fields.get("flags", "").split())
    return {
        "cpu": fields.get("model name", platform.processor()),
        "isa": [flag for flag in ISA_FLAGS if flag in flags],
    }
