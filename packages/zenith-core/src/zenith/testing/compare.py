"""How close is close enough: the tolerances of the kit, in one place."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from zenith.runtime.reference import relative_error

__all__ = ["TOLERANCE", "difference"]

# Bound on max |T - F| / (|F| + rms F) by the dtype of a result; a dtype not named must be equal.
# About 2^7 roundings of float32, 2^3 of the narrow types, which are computed in float32.
TOLERANCE = {
    "float64": 1e-7,  # some standard operators are defined by float32 constants
    "float32": 2e-5,
    "float16": 4e-3,
    "bfloat16": 3e-2,
    "float8_e4m3fn": 0.07,
    "float8_e4m3fnuz": 0.07,
    "float8_e5m2": 0.13,
    "float8_e5m2fnuz": 0.13,
}


def difference(result: Any, expected: Any, dtype: str, tolerance: float = 0.0) -> str | None:
    """None when `result` is `expected` within the tolerance of `dtype`, else what differs.

    dtype: what the result must have; `expected` may be wider. tolerance: a larger one.
    """
    if expected is None or result is None:
        return None if result is expected else f"is {_kind(result)}, not {_kind(expected)}"
    if isinstance(expected, list | tuple):
        return _sequence_difference(result, expected, tolerance)
    if not isinstance(result, np.ndarray | np.generic):
        return f"is {_kind(result)}, not an array"
    result, expected = np.asarray(result), np.asarray(expected)
    text = result.dtype.kind in "OSUT" and expected.dtype.kind in "OSUT"
    if result.dtype.name != dtype and not text:
        return f"has dtype {result.dtype.name}, not {dtype}"
    if result.shape != expected.shape:
        return f"has shape {list(result.shape)}, not {list(expected.shape)}"
    if dtype not in TOLERANCE or text:
        return _unequal(result, expected)
    error, allowed = relative_error(result, expected), max(TOLERANCE[dtype], tolerance)
    if error <= allowed:
        return None
    return f"is off by {error:.2e}, allowed is {allowed:g} ({dtype}){_worst(result, expected)}"


def _sequence_difference(result: Any, expected: Any, tolerance: float) -> str | None:
    if not isinstance(result, list | tuple) or len(result) != len(expected):
        return f"is {_kind(result)}, not a sequence of {len(expected)}"
    for index, (ours, theirs) in enumerate(zip(result, expected, strict=True)):
        found = difference(ours, theirs, np.asarray(theirs).dtype.name, tolerance)
        if found:
            return f"element {index} {found}"
    return None


def _unequal(result: NDArray[Any], expected: NDArray[Any]) -> str | None:
    differs = np.asarray(result != expected)
    if not differs.any():
        return None
    where = tuple(int(i) for i in np.argwhere(differs)[0])
    return (
        f"differs in {int(differs.sum())} of {result.size} elements; "
        f"at {list(where)} it is {result[where]}, not {expected[where]}"
    )


def _worst(result: NDArray[Any], expected: NDArray[Any]) -> str:
    t, f = result.astype(np.float64), expected.astype(np.float64)
    with np.errstate(invalid="ignore"):
        gap = np.where((t == f) | (np.isnan(t) & np.isnan(f)), 0.0, np.abs(t - f))
    gap = np.where(np.isnan(gap), np.inf, gap)
    where = np.unravel_index(int(np.argmax(gap)), gap.shape)
    at = [int(i) for i in where]
    return f"; at {at} it is {t[where]:.9g}, not {f[where]:.9g}"


def _kind(value: Any) -> str:
    return "None" if value is None else type(value).__name__
