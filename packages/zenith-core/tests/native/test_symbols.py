"""No kernel object defines a weak symbol that another instruction set may define too.

Every instruction set compiles the same sources. Of weak symbols of one name the linker keeps one,
maybe the AVX-512 one, and every machine would run it. What is of an instruction set's own namespace
has a name that no other one has.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def kernel_objects() -> list[Path]:
    """Objects of the kernel sources, where pip (or ZENITH_BUILD_DIR) left its build folder."""
    given = os.environ.get("ZENITH_BUILD_DIR")
    folders = [Path(given)] if given else sorted(ROOT.glob("build/*-*"))
    return [o for f in folders for o in sorted(f.glob("CMakeFiles/zenith_*.dir/**/*.o"))]


def weak_symbols(nm: str, path: Path) -> list[str]:
    command = [nm, "-C", "--defined-only", str(path)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = [line[16:].split(maxsplit=1) for line in text.splitlines()]
    (folder,) = (
        part for part in path.parts if part.startswith("zenith_") and part.endswith(".dir")
    )
    own = f"zenith::{folder[len('zenith_') : -len('.dir')]}::"
    return [name for kind, name in lines if kind in ("W", "V", "u") and own not in name]


def test_no_weak_symbols_in_kernels() -> None:
    nm, objects = shutil.which("nm"), kernel_objects()
    if nm is None or not objects:
        pytest.skip("there is no build folder, or no nm to read it")
    weak = {str(o): found for o in objects if (found := weak_symbols(nm, o))}
    assert not weak
