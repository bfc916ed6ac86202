"""Gradients of single operators through torch.compile(backend="zenith"), against float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import zenith_torch

Function = Callable[..., torch.Tensor]


@pytest.fixture(autouse=True)
def _fresh() -> Any:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def gradients(run: Any, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    leaves = [x.clone().requires_grad_() for x in inputs]
    weighted = 0
    for result in run(*leaves):
        counts = torch.arange(1, result.numel() + 1, dtype=result.dtype)
        weighted = weighted + (result.flatten() * counts.cos()).sum()
    return list(torch.autograd.grad(weighted, leaves))


def check(cases: dict[str, tuple[Function, list[torch.Tensor]]]) -> None:
    """All cases in one graph; each has inputs of its own."""
    sizes = [len(inputs) for _, inputs in cases.values()]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]

    def every(*tensors: torch.Tensor) -> list[torch.Tensor]:
        return [
            function(*tensors[start : start + size])
            for (function, _), start, size in zip(cases.values(), starts, sizes, strict=True)
        ]

    inputs = [x for _, own in cases.values() for x in own]
    backend = zenith_torch.create_backend(fallback="error")
    got = gradients(torch.compile(every, backend=backend), inputs)
    want = gradients(every, [x.double() for x in inputs])
    names = [name for name, (_, own) in cases.items() for _ in own]
    for name, mine, exact in zip(names, got, want, strict=True):
        assert float(exact.abs().max()) > 0, f"{name}: a gradient that cannot be wrong"
        torch.testing.assert_close(
            mine.double(), exact, rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}"
        )


def resized(**how: Any) -> Function:
    return lambda x: F.interpolate(x, **how)


def test_resizing() -> None:
    line, plane, volume = (torch.randn(2, 3, *(5, 6, 4)[:n]) for n in (1, 2, 3))
    cases: dict[str, tuple[Function, list[torch.Tensor]]] = {
        "linear": (resized(size=8, mode="linear"), [line]),
        "nearest": (resized(scale_factor=2.0), [plane]),
        "nearest down": (resized(size=(3, 4)), [plane]),
        "nearest line": (resized(size=7), [line]),
        "nearest volume": (resized(scale_factor=2), [volume]),
        "nearest-exact": (resized(size=(7, 4), mode="nearest-exact"), [plane]),
        "bilinear": (resized(scale_factor=(1.7, 0.6), mode="bilinear"), [plane]),
        "corners": (resized(size=(9, 11), mode="bilinear", align_corners=True), [plane]),
        "bicubic": (resized(size=(9, 4), mode="bicubic"), [plane]),
        "trilinear": (resized(size=(3, 8, 5), mode="trilinear"), [volume]),
        "antialias": (resized(size=(3, 9), mode="bilinear", antialias=True), [plane]),
        "edge": (lambda x: F.pad(x, (2, -1, 0, 3), mode="replicate"), [plane]),
        "edge line": (lambda x: F.pad(x, (2, 1), mode="replicate"), [line]),
    }
    check(cases)


def test_pooling() -> None:
    line, plane, volume = (torch.randn(2, 3, *(9, 7, 6)[:n]) for n in (1, 2, 3))
    check(
        {
            "max volume": (lambda x: F.max_pool3d(x, 3, 2, 1), [volume]),
            "average volume": (lambda x: F.avg_pool3d(x, 3, 2, 1), [volume]),
            "average without padding": (
                lambda x: F.avg_pool3d(x, 3, 2, 1, count_include_pad=False),
                [volume],
            ),
            "adaptive": (lambda x: F.adaptive_max_pool2d(x, (4, 3)), [plane]),
            "adaptive line": (lambda x: F.adaptive_max_pool1d(x, 3), [line]),
            "adaptive volume": (lambda x: F.adaptive_max_pool3d(x, (2, 5, 1)), [volume]),
        }
    )


@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_sampling(padding: str) -> None:
    def sampled(mode: str, corners: bool) -> Function:
        return lambda x, g: F.grid_sample(x, g, mode, padding, corners)

    image, grid = torch.randn(2, 3, 5, 6), torch.rand(2, 4, 3, 2) * 3 - 1.5
    near = (lambda x, g: F.grid_sample(x, g, "nearest", padding, False) + g.mean(), [image, grid])
    check(
        {
            "bilinear": (sampled("bilinear", False), [image, grid]),
            "corners": (sampled("bilinear", True), [image, grid]),
            "nearest": near,
        }
    )


def test_the_rest() -> None:
    v, g = torch.randn(4, 3, 5), torch.rand(4, 1, 1) + 0.5
    check(
        {
            "hardshrink": (lambda x: F.hardshrink(x, 0.3), [torch.randn(4, 5)]),
            "softshrink": (lambda x: F.softshrink(x, 0.3), [torch.randn(4, 5)]),
            "weight norm": (lambda v, g: torch._weight_norm_interface(v, g, 0)[0], [v, g]),
            "weight norm of the last axis": (
                lambda v, g: torch._weight_norm_interface(v, g, 2)[0],
                [v, torch.rand(1, 1, 5) + 0.5],
            ),
        }
    )


@pytest.mark.parametrize("causal", [False, True])
def test_attention_whose_queries_share_heads(causal: bool) -> None:
    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)

    check({"shared": (attention, [torch.randn(2, heads, 5, 8) for heads in (4, 2, 2)])})


def test_scattering_by_a_mask() -> None:
    mask = torch.tensor([[True, False, True, True, False]])
    check(
        {
            "masked_scatter": (
                lambda x, s: x.masked_scatter(mask, s).sin(),
                [torch.randn(4, 5), torch.randn(5, 4)],
            )
        }
    )
