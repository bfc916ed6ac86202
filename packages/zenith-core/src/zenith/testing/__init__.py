"""What tests of Zenith and of its plugins share."""

from __future__ import annotations

from zenith.runtime.reference import relative_error

__all__ = ["relative_error"]
