"""Resizing of known sizes runs on the CPU's own kernels and answers as PyTorch does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import zenith

CASES: list[dict[str, Any]] = [
    {"scale_factor": 2},
    {"size": (5, 13)},
    {"size": (5, 13), "mode": "nearest-exact"},
    {"scale_factor": 1.7, "mode": "bilinear"},
    {"size": (7, 9), "mode": "bilinear"},
    {"size": (15, 13), "mode": "bilinear", "align_corners": True},
    {"size": (4, 3), "mode": "bilinear", "antialias": True},
    {"size": (4, 13), "mode": "bicubic", "antialias": True},
]


@pytest.mark.parametrize("options", CASES, ids=str)
def test_interpolate(options: dict[str, Any]) -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.interpolate(x, **options)

    x = torch.randn(3, 2, 7, 9, generator=torch.Generator().manual_seed(0))
    fast = zenith.compile(
        Model().eval(), sample_input=x[:2], dynamic={0: {0: "n"}}, fallback="error"
    )
    torch.testing.assert_close(fast(x), F.interpolate(x, **options), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["nearest", "bicubic", "bilinear"])
def test_a_factor_of_sizes_that_change(mode: str) -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.interpolate(x, scale_factor=1.7 if mode == "bilinear" else 2.0, mode=mode)

    sizes = {0: {2: "high", 3: "wide"}}
    fast = zenith.compile(
        Model().eval(), sample_input=torch.randn(2, 3, 8, 6), dynamic=sizes, fallback="error"
    )
    for high, wide in ((8, 6), (7, 10)):
        x = torch.randn(2, 3, high, wide)
        torch.testing.assert_close(fast(x), Model()(x), rtol=1e-5, atol=1e-5)
