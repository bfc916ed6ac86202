"""The options of `zenith.compile` as one frozen value, checked in one place."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from zenith.errors import ConfigurationError

__all__ = ["CompileConfig"]

PRECISIONS: Final = ("fp32", "bf16", "fp16", "int8", "int4-weight", "auto")
MODES: Final = ("default", "reduce-overhead", "max-autotune")
FALLBACKS: Final = ("warn", "error", "allow")
OPT_LEVELS: Final = (0, 1, 2, 3)

Dynamic = Mapping[Any, Mapping[int, str]]  # Any: str | int, but Mapping's key is invariant


@dataclass(frozen=True)
class CompileConfig:
    """Options of one compilation; `zenith.compile` documents each.

    A wrong value raises `ConfigurationError`; whether a target honours a precision, the engine
    says. `target` and `dynamic` are normalised: a tuple of backend names (or ``("auto",)``), and
    plain dicts.
    Whether a named backend exists, and which `backend_options` it knows, is for
    `zenith.plugins` to say: `PluginManager.check`.
    """

    target: str | Sequence[str] = "auto"
    precision: str = "fp32"
    opt_level: int = 2
    mode: str = "default"
    tolerance: float | None = None
    dynamic: Dynamic | None = None
    fallback: str = "warn"
    threads: int | None = None
    calibration_data: Iterable[Any] | None = field(default=None, repr=False)
    cache: bool = True
    backend_options: Mapping[str, Mapping[str, Any]] | None = None

    def __post_init__(self) -> None:
        self._set("target", _target(self.target))
        _choice("precision", self.precision, PRECISIONS)
        _choice("mode", self.mode, MODES)
        _choice("fallback", self.fallback, FALLBACKS)
        if isinstance(self.opt_level, bool) or self.opt_level not in OPT_LEVELS:
            raise _wrong("opt_level", self.opt_level, OPT_LEVELS)
        self._set("tolerance", _tolerance(self.tolerance))
        self._set("threads", _threads(self.threads))
        if not isinstance(self.cache, bool):
            raise _wrong("cache", self.cache, (True, False))
        self._set("dynamic", _dynamic(self.dynamic))
        self._set("backend_options", _backend_options(self.backend_options))
        self._refuse_what_nobody_reads()

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # the way of a frozen dataclass

    def _refuse_what_nobody_reads(self) -> None:
        if self.calibration_data is not None:
            raise ConfigurationError(
                f"calibration_data is read by precision='int8' and 'auto' only, not by "
                f"precision={self.precision!r}",
                next="leave calibration_data out",
            )


def _wrong(option: str, value: object, allowed: Sequence[object]) -> ConfigurationError:
    choices = ", ".join(repr(a) for a in allowed)
    return ConfigurationError(f"{option}={value!r} is not an option; allowed: {choices}")


def _choice(option: str, value: object, allowed: Sequence[str]) -> None:
    if not isinstance(value, str) or value not in allowed:
        raise _wrong(option, value, allowed)


def _target(target: object) -> tuple[str, ...]:
    names = (target,) if isinstance(target, str) else target
    if not isinstance(names, Sequence) or not names:
        names = (None,)
    if not all(isinstance(name, str) and name for name in names):
        raise ConfigurationError(
            f"target={target!r} is not an option; allowed: 'auto', the name of a backend, "
            f"or a list of names in order of priority"
        )
    if len(set(names)) != len(names) or ("auto" in names and len(names) > 1):
        raise ConfigurationError(
            f"target={target!r}: a list names each backend once, and 'auto' stands alone"
        )
    return tuple(names)


def _tolerance(tolerance: object) -> float | None:
    if tolerance is None:
        return None
    number = isinstance(tolerance, numbers.Real) and not isinstance(tolerance, bool)
    if not number or not (0 < float(tolerance) < math.inf):  # type: ignore[arg-type]
        raise ConfigurationError(
            f"tolerance={tolerance!r} is not an option; allowed: None, or a number above 0: the "
            f"bound on max |T - F| / (|F| + rms(F))"
        )
    return float(tolerance)  # type: ignore[arg-type]


def _threads(threads: object) -> int | None:
    if threads is None:
        return None
    integer = isinstance(threads, numbers.Integral) and not isinstance(threads, bool)
    if not integer or int(threads) < 1:  # type: ignore[call-overload]
        raise ConfigurationError(
            f"threads={threads!r} is not an option; allowed: None (every core this process may "
            f"use), or a whole number from 1"
        )
    return int(threads)  # type: ignore[call-overload, no-any-return]


def _dynamic(dynamic: object) -> Dynamic | None:
    if dynamic is None:
        return None
    error = ConfigurationError(
        f"dynamic={dynamic!r} is not an option; allowed: None, or "
        f"{{input name or position: {{axis: name}}}}",
        next='for example dynamic={"input_ids": {0: "batch", 1: "seq"}}; equal names are one size',
    )
    if not isinstance(dynamic, Mapping):
        raise error
    result: dict[str | int, dict[int, str]] = {}
    for key, axes in dynamic.items():
        if (
            isinstance(key, bool)
            or not isinstance(key, (str, int))
            or not isinstance(axes, Mapping)
        ):
            raise error
        for axis, name in axes.items():
            if isinstance(axis, bool) or not isinstance(axis, int):
                raise error
            if not isinstance(name, str) or not name.isidentifier():
                raise error
        result[key] = dict(axes)
    return result


def _backend_options(options: object) -> Mapping[str, Mapping[str, Any]]:
    if options is None:
        return {}
    well_formed = isinstance(options, Mapping) and all(
        isinstance(backend, str)
        and isinstance(values, Mapping)
        and all(isinstance(name, str) for name in values)
        for backend, values in options.items()
    )
    if not well_formed:
        raise ConfigurationError(
            f"backend_options={options!r} is not an option; allowed: None, or "
            f"{{backend name: {{option: value}}}}"
        )
    assert isinstance(options, Mapping)
    return {name: dict(values) for name, values in options.items()}
