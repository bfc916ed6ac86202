"""Loss scaling for training in half precision, the same for every framework.

Small gradients vanish in float16 (below 6e-8). So the loss is multiplied by a large number before
the backward pass and the gradients are divided by it afterwards. The number is found while
training: it is cut when gradients overflow, and such a step is left out; it grows again after a
while without one::

    scaler = LossScaler()
    gradients = backward(loss * scaler.scale)           # in whatever framework
    if scaler.update(gradients):
        optimizer.step([g / scaler.unscale for g in gradients])

PyTorch users have the same thing as `torch.amp.GradScaler`, which works with compiled models.
bfloat16 has the range of float32 and needs no scaling.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from zenith.errors import ConfigurationError

__all__ = ["LossScaler", "all_finite"]


class LossScaler:
    """The scale and the rule by which it moves.

    initial: the first scale. growth: the factor after `interval` steps in a row without overflow,
    at most to `largest`. backoff: the factor after an overflow, at least to `smallest`.

    scale: what the next loss is multiplied with. unscale: what the gradients of the latest `update`
    were multiplied with. skipped: how many steps were left out so far.
    """

    def __init__(
        self,
        initial: float = 2.0**16,
        *,
        growth: float = 2.0,
        backoff: float = 0.5,
        interval: int = 2000,
        smallest: float = 2.0**-24,
        largest: float = 2.0**32,
    ) -> None:
        _check(math.isfinite(growth) and growth >= 1, f"growth={growth}: a number of at least 1")
        _check(0 < backoff < 1, f"backoff={backoff}: a number between 0 and 1")
        _check(interval >= 1, f"interval={interval}: a number of steps")
        _check(
            0 < smallest <= initial <= largest < math.inf,
            f"smallest={smallest} <= initial={initial} <= largest={largest}: does not hold",
        )
        self.scale = float(initial)
        self.unscale = self.scale
        self.skipped = 0
        self._growth, self._backoff, self._interval = growth, backoff, interval
        self._smallest, self._largest = smallest, largest
        self._good_steps = 0

    def update(self, gradients: Iterable[Any] | bool) -> bool:
        """Move the scale after a backward pass; whether the step is to be taken.

        gradients: anything numpy can read (see `all_finite`), still scaled; or the answer itself,
        where the framework has looked already: whether all of them are finite.
        """
        finite = gradients if isinstance(gradients, bool) else all_finite(gradients)
        self.unscale = self.scale
        if not finite:
            self.scale = max(self.scale * self._backoff, self._smallest)
            self._good_steps = 0
            self.skipped += 1
            return False
        self._good_steps += 1
        if self._good_steps == self._interval:
            self.scale = min(self.scale * self._growth, self._largest)
            self._good_steps = 0
        return True

    def state_dict(self) -> dict[str, float]:
        """What a checkpoint has to keep."""
        return {"scale": self.scale, "good_steps": self._good_steps, "skipped": self.skipped}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Continue from a checkpoint."""
        scale = float(state["scale"])
        _check(self._smallest <= scale <= self._largest, f"scale={scale}: out of bounds")
        self.scale = self.unscale = scale
        self._good_steps, self.skipped = int(state["good_steps"]), int(state["skipped"])


def all_finite(tensors: Iterable[Any]) -> bool:
    """Whether no tensor has an infinity or a NaN. Takes arrays and whatever numpy can read without
    a change: tensors of JAX and TensorFlow, CPU tensors of PyTorch without gradient; not None."""
    import numpy as np

    for tensor in tensors:
        array = np.asarray(tensor)
        # The sum of finite numbers may overflow, so it only ever acquits.
        if array.size and not (np.isfinite(_total(array)) or bool(np.isfinite(array).all())):
            return False
    return True


def _total(array: Any) -> Any:
    import numpy as np

    with np.errstate(all="ignore"):
        return array.sum(dtype=np.float64)


def _check(holds: bool, text: str) -> None:
    if not holds:
        raise ConfigurationError(f"LossScaler: {text}")
