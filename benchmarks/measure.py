"""Numbers from numbers: errors of results, and ratios of times with their intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom; 1.96 is the limit.
STUDENT = (
    [12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228]
    + [2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086]
    + [2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042]
)


@dataclass(frozen=True)
class Ratio:
    """A ratio of times and its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """of Zenith, where the ratio is a peer's time over Zenith's."""
        return "won" if self.low > 1 else "lost" if self.high < 1 else "even"


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """theirs / ours from blocks measured in turns: the mean of the logarithms and Student's t.

    Each pair was measured within a moment, so what the machine does meanwhile hits both.
    """
    logs = [math.log(t / o) for o, t in zip(ours, theirs, strict=True)]
    if len(logs) < 2:
        raise ValueError("an interval needs at least two pairs of blocks")
    middle = statistics.fmean(logs)
    freedom = len(logs) - 1
    quantile = STUDENT[freedom - 1] if freedom <= len(STUDENT) else 1.96 + 2.5 / freedom
    half = quantile * statistics.stdev(logs) / math.sqrt(len(logs))
    return Ratio(math.exp(middle), math.exp(middle - half), math.exp(middle + half))


def geometric_mean(values: Sequence[float]) -> float:
    """Of ratios."""
    return math.exp(statistics.fmean(math.log(v) for v in values))


def percentile(values: Sequence[float], share: float) -> float:
    """The least value that at least this share of all does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass(frozen=True)
class Accuracy:
    """The worst output against float64.

    rms: |T - F| / |F| in the Euclidean norm; worst: max |T - F| / (|F| + rms F).
    """

    rms: float
    worst: float


def accuracy(results: Sequence[NDArray[Any]], exact: Sequence[NDArray[Any]]) -> Accuracy:
    """Raises ValueError for a wrong number of results or a wrong shape; NaN is infinitely wrong."""
    if len(results) != len(exact):
        raise ValueError(f"{len(results)} results, {len(exact)} expected")
    rms = worst = 0.0
    for index, (given, wanted) in enumerate(zip(results, exact, strict=True)):
        if given.shape != wanted.shape:
            raise ValueError(f"result {index} has shape {given.shape}, not {wanted.shape}")
        difference = np.abs(given.astype(np.float64) - wanted)
        if not np.isfinite(difference).all():
            return Accuracy(math.inf, math.inf)
        size = float(np.sqrt(np.mean(np.square(wanted)))) or 1.0
        rms = max(rms, float(np.sqrt(np.mean(np.square(difference)))) / size)
        worst = max(worst, float(np.max(difference / (np.abs(wanted) + size), initial=0.0)))
    return Accuracy(rms, worst)
