"""`torch.compile(model, backend="zenith")`: inference and training."""

from __future__ import annotations

from zenith_torch.dynamo.backend import Backend
from zenith_torch.dynamo.program import LeftToTorch, Program
from zenith_torch.dynamo.region import Region, refresh

__all__ = ["Backend", "LeftToTorch", "Program", "Region", "refresh"]
