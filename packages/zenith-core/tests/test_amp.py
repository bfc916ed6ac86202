"""The loss scaler against overflow and underflow."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from zenith.amp import LossScaler, all_finite
from zenith.errors import ConfigurationError


def test_overflow_cuts_the_scale_and_skips_the_step() -> None:
    scaler = LossScaler(1024.0)
    assert not scaler.update([np.ones(3, np.float16), np.array([1, np.inf], np.float16)])
    assert (scaler.scale, scaler.unscale, scaler.skipped) == (512.0, 1024.0, 1)
    assert not scaler.update([np.array([np.nan], np.float32)])
    assert scaler.scale == 256.0
    assert scaler.update([np.ones(3, np.float16)])
    assert (scaler.scale, scaler.unscale, scaler.skipped) == (256.0, 256.0, 2)


def test_growth_after_an_interval_without_overflow() -> None:
    scaler = LossScaler(4.0, interval=3, largest=8.0)
    scales = []
    for finite in (True, True, False, True, True, True, True, True, True, True, True, True):
        scaler.update(finite)
        scales.append(scaler.scale)
    assert scales == [4, 4, 2, 2, 2, 4, 4, 4, 8, 8, 8, 8]


def test_bounds() -> None:
    scaler = LossScaler(2.0, smallest=1.0)
    for _ in range(5):
        scaler.update(False)
    assert scaler.scale == 1.0


def test_training_in_float16_needs_it_and_recovers() -> None:
    """y = w * x with a loss whose gradient is below float16's smallest number."""

    def gradient(w: float, scale: float) -> np.ndarray[Any, Any]:
        with np.errstate(over="ignore"):
            return np.array([np.float16((w - 3.0) * 1e-8 * scale)])

    assert gradient(1.0, 1.0)[0] == 0  # underflow: without scaling nothing is learnt
    scaler, w, steps = LossScaler(2.0**60, largest=2.0**60, interval=10), 1.0, 0
    for _ in range(80):
        grads = [gradient(w, scaler.scale)]
        if scaler.update(grads):
            w -= 0.3e8 * float(grads[0][0]) / scaler.unscale
            steps += 1
    assert scaler.skipped > 0 and steps > 50
    assert abs(w - 3.0) < 1e-2


def test_what_is_finite() -> None:
    big = np.full(100, 3e38, np.float32)  # its float32 sum is infinite, none of it is
    assert all_finite([big, np.full(4, 1e308), np.zeros(0), np.arange(3)])
    assert all_finite([np.ones(3, ml_dtypes.bfloat16)])
    assert not all_finite([big, np.array([np.inf, -np.inf])])
    assert not all_finite([np.array([1, np.nan], ml_dtypes.bfloat16)])
    assert all_finite([])


@pytest.mark.parametrize(
    "options",
    [{"growth": 0.5}, {"backoff": 1.0}, {"interval": 0}, {"initial": 0.0}, {"largest": 1.0}],
)
def test_wrong_options(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="LossScaler"):
        LossScaler(**options)


def test_checkpoint() -> None:
    scaler = LossScaler(64.0, interval=2)
    scaler.update(False)
    scaler.update(True)
    other = LossScaler(interval=2)
    other.load_state_dict(scaler.state_dict())
    for one in (scaler, other):
        one.update(True)
    assert scaler.scale == other.scale == 64.0 and other.skipped == 1
    with pytest.raises(ConfigurationError):
        other.load_state_dict({"scale": 0.0, "good_steps": 0, "skipped": 0})
