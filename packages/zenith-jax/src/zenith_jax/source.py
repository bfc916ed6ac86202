"""Where in the user's code an equation of a jaxpr comes from."""

from __future__ import annotations

import linecache
import os
import sys
from typing import Any

__all__ = ["equation_line", "short"]

Line = tuple[str, int, str]

# Files of these packages are not the user's: a line in the caller says more.
_LIBRARIES = tuple(
    f"{os.sep}{name}{os.sep}" for name in ("jax", "jaxlib", "flax", "equinox", "jaxtyping")
)
_HERE = os.path.dirname(os.path.abspath(__file__))
_PREFIXES = (os.path.join(sys.base_prefix, "lib", "python"), _HERE)


def equation_line(eqn: Any) -> Line | None:
    """(file, line number, text) of the innermost frame of the user's own code."""
    traceback = eqn.source_info.traceback
    if traceback is None:
        return None
    for frame in traceback.frames:
        file = frame.file_name
        if file.startswith(_PREFIXES) and "site-packages" not in file:
            continue
        if not any(library in file for library in _LIBRARIES) and not file.startswith("<"):
            return file, frame.line_num, linecache.getline(file, frame.line_num).strip()
    return None


def short(line: Line | None) -> str:
    """ "file.py:12" for node metadata: without the machine's folders."""
    return f"{os.path.basename(line[0])}:{line[1]}" if line else ""
