"""Where in the user's model something stands: lines for messages and for node metadata."""

from __future__ import annotations

import linecache
import os
import re
import traceback
from typing import Any

import torch

__all__ = ["error_line", "node_line", "short"]

_TORCH = os.path.dirname(torch.__file__) + os.sep
_HERE = os.path.dirname(__file__) + os.sep
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)[^\n]*(?:\n\s+(?P<code>[^\n]*))?')


def _is_users(file: str) -> bool:
    return not file.startswith((_TORCH, _HERE, "<"))


def node_line(node: Any) -> tuple[str, int, str] | None:
    """(file, line, code) of the model's line that made an FX node: its last frame outside torch."""
    trace = node.meta.get("stack_trace") or ""
    frames = [m for m in _FRAME.finditer(trace) if _is_users(m["file"])]
    if not frames:
        return None
    last = frames[-1]
    return last["file"], int(last["line"]), (last["code"] or "").strip()


def error_line(error: BaseException) -> tuple[str, int, str] | None:
    """(file, line, code) of the innermost frame outside torch that an exception went through."""
    frames = [
        (frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if _is_users(frame.f_code.co_filename)
    ]
    if frames and _last_entry_is_ours(error):
        # The trace holds our own callers too; those above the capture are not the model.
        frames = _below_capture(error)
    if not frames:
        return None
    file, line = frames[-1]
    return file, line, linecache.getline(file, line).strip()


def _last_entry_is_ours(error: BaseException) -> bool:
    return any(
        frame.f_code.co_filename.startswith(_HERE)
        for frame, _ in traceback.walk_tb(error.__traceback__)
    )


def _below_capture(error: BaseException) -> list[tuple[str, int]]:
    frames: list[tuple[str, int]] = []
    inside = False
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        if file.startswith(_HERE):
            inside, frames = True, []
        elif inside and _is_users(file):
            frames.append((file, line))
    return frames


def short(line: tuple[str, int, str] | None) -> str:
    """ "file.py:12" for node metadata: without the machine's folders."""
    return f"{os.path.basename(line[0])}:{line[1]}" if line else ""
