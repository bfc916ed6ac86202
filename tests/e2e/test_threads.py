"""One compiled model, many threads, many calls: the same bits, and no growing memory."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from architectures import ARCHITECTURES, build

import zenith


def small_bert() -> zenith.CompiledModel:
    arch = ARCHITECTURES["bert"]
    return zenith.compile(
        build("bert"),
        sample_input=arch.inputs(2, 16),
        dynamic=arch.dynamic_axes(),
        fallback="error",
    )


def resident_bytes() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("name", ["bert", "resnet"])
def test_eight_threads_get_the_bits_of_serial_calls(name: str) -> None:
    arch = ARCHITECTURES[name]
    model = zenith.compile(
        build(name),
        sample_input=arch.inputs(2, arch.size),
        dynamic=arch.dynamic_axes(),
        fallback="error",
    )
    cases = [arch.inputs(1 + i % 4, arch.size, seed=i) for i in range(16)]
    serial = [model(**case)[0] for case in cases]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            parallel = list(pool.map(lambda case: model(**case)[0], cases))
            for ours, wanted in zip(parallel, serial, strict=True):
                assert torch.equal(ours, wanted)


def test_threads_option_does_not_change_what_is_computed() -> None:
    arch = ARCHITECTURES["bert"]
    inputs = arch.inputs(3, 17)
    one, two = (
        zenith.compile(build("bert"), sample_input=inputs, threads=n, fallback="error")
        for n in (1, 2)
    )
    assert torch.equal(one(**inputs)[0], two(**inputs)[0])


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_the_place_in_a_batch_does_not_change_the_bits(name: str) -> None:
    arch = ARCHITECTURES[name]
    inputs = {key: value[[0, 1, 0, 2, 0]] for key, value in arch.inputs(3, 17).items()}
    got = zenith.compile(build(name), sample_input=inputs, fallback="error")(**inputs)[0]
    assert torch.equal(got[0], got[2])
    assert torch.equal(got[0], got[4])
    assert not torch.equal(got[0], got[1])


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_memory_stays_flat() -> None:
    arch, model = ARCHITECTURES["bert"], small_bert()
    cases = [arch.inputs(1 + i % 3, 8 + i) for i in range(40)]  # more shapes than plans are kept
    for case in cases * 5:
        model(**case)
    before = resident_bytes()
    for case in cases * 50:
        model(**case)
    assert resident_bytes() - before < 4 << 20


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_pool_survives_a_fork() -> None:
    """In a process of its own: not everything that other tests import survives one."""
    done = subprocess.run(
        [sys.executable, __file__], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0 and done.stdout.splitlines()[-1:] == ["same"], done


def answer_in_a_child() -> str:
    """Whether a child process gets the bits that its parent got before the fork."""
    arch, model = ARCHITECTURES["bert"], small_bert()
    inputs = arch.inputs(4, 32)
    wanted = model(**inputs)[0].numpy().tobytes()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            same = model(**inputs)[0].numpy().tobytes() == wanted
            os.write(write, b"same" if same else b"different")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    return os.read(read, 16).decode()


if __name__ == "__main__":
    sys.stdout.write(f"{answer_in_a_child()}\n")
