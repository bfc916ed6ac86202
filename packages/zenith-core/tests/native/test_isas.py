"""Instruction sets: which are usable, what an overlay has from its base, and how to force one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from zenith import _native

ISAS = _native.isas()
COMPLETE = _native.complete_isas()
OVERLAYS = [isa for isa in ISAS if isa not in COMPLETE]


def test_complete_ones_have_the_same_rows() -> None:
    first, *others = [set(_native.kernels(isa)) for isa in COMPLETE]
    assert "copy" in first and all(rows == first for rows in others)


@pytest.mark.parametrize("isa", COMPLETE)
def test_a_complete_one_runs_its_own_rows(isa: str) -> None:
    assert {_native.kernel_isa(isa, kernel) for kernel in _native.kernels(isa)} == {isa}


@pytest.mark.parametrize("isa", OVERLAYS)
def test_an_overlay_has_the_other_rows_from_below(isa: str) -> None:
    own = set(_native.kernels(isa))
    below = ISAS[ISAS.index(isa) + 1 :]
    complete = next(name for name in below if name in COMPLETE)
    every = set(_native.kernels(complete))
    assert not every <= own  # not all of it; little that the base cannot do
    assert own - every <= {"linear_ozaki_f32"}
    for kernel in every:
        owner = _native.kernel_isa(isa, kernel)
        assert (owner == isa) == (kernel in own)
        assert owner in (isa, *below[: below.index(complete) + 1])


@pytest.mark.skipif("amx" not in ISAS, reason="no tiles here")
def test_what_uses_no_tiles_is_from_below_them() -> None:
    own, below = (set(_native.kernels(isa)) for isa in ("amx", "avx512_vnni"))
    assert below - own == {"depthwise_int8", "conv_depthwise_bf16"}


@pytest.mark.parametrize("isa", ISAS)
def test_a_forced_one_removes_the_better(isa: str) -> None:
    code = "from zenith import _native; print(*_native.isas())"
    env = {**os.environ, "ZENITH_ISA": isa}
    run = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ISAS[ISAS.index(isa) :]


def test_unknown_rows_and_sets_are_errors() -> None:
    with pytest.raises(ValueError, match="no kernel nothing for"):
        _native.kernel_isa(ISAS[0], "nothing")
    with pytest.raises(ValueError, match="no kernel copy for mmx"):
        _native.kernel_isa("mmx", "copy")
