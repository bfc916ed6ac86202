"""Training in half precision: autocast, and loss scaling by torch's GradScaler and by ours."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import zenith_torch
from zenith.amp import LossScaler


@pytest.fixture(autouse=True)
def _fresh() -> Any:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 4))


def compiled(model: nn.Module) -> Any:
    return torch.compile(model, backend=zenith_torch.create_backend(fallback="warn"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    model = net()
    exact = copy.deepcopy(model).double()
    run = compiled(model)
    x = torch.randn(6, 8)
    with torch.autocast("cpu", dtype=dtype):
        result = run(x)
    assert result.dtype is dtype
    result.float().square().sum().backward()
    exact(x.double()).square().sum().backward()
    bound = 0.05 if dtype is torch.bfloat16 else 0.01
    for p, q in zip(model.parameters(), exact.parameters(), strict=True):
        assert p.grad is not None and q.grad is not None and p.grad.dtype is torch.float32
        assert (p.grad.double() - q.grad).norm() <= bound * q.grad.norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_of_half_precision(dtype: torch.dtype, masked: bool) -> None:
    """The sums of its softmax, which backward wants, are single."""
    query, key, value = (torch.randn(2, 3, n, 8).to(dtype).requires_grad_() for n in (5, 7, 7))
    mask = torch.rand(2, 1, 5, 7) > 0.4 if masked else None
    wide = [x.detach().double().requires_grad_() for x in (query, key, value)]
    attend = nn.functional.scaled_dot_product_attention
    backend = zenith_torch.create_backend(fallback="error")
    result = torch.compile(attend, backend=backend)(query, key, value, mask)
    assert result.dtype is dtype
    got = torch.autograd.grad(result.float().sin().sum(), [query, key, value])
    want = torch.autograd.grad(attend(*wide, mask).sin().sum(), wide)
    bound = 0.03 if dtype is torch.bfloat16 else 0.004
    for mine, exact in zip(got, want, strict=True):
        assert mine.dtype is dtype
        assert (mine.double() - exact).norm() <= bound * exact.norm()


class Tiny(nn.Module):
    """A float16 layer whose gradients are below the smallest float16 number, unless scaled."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1).half()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.half()).float().mean() * 1e-9


def test_underflow_and_overflow_with_torch_grad_scaler() -> None:
    model = net()
    run, x = compiled(model), torch.randn(6, 8)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=1000)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    before = [p.detach().clone() for p in model.parameters()]
    loss = run(x).square().sum() * 1e3
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**126  # overflow: the step was left out
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    scaler.update(8.0)
    optimizer.zero_grad()
    scaler.scale(run(x).square().sum()).backward()
    scaler.step(optimizer)
    assert not any(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_underflow_and_overflow_with_our_scaler() -> None:
    model = Tiny()
    run, x = compiled(model), torch.randn(5, 4)
    run(x).backward()
    grad = model.layer.weight.grad
    assert grad is not None and not grad.any()  # underflow
    scaler = LossScaler(2.0**60, largest=2.0**64)
    taken = 0
    for _ in range(40):
        model.zero_grad()
        (run(x) * scaler.scale).backward()
        assert model.layer.weight.grad is not None
        taken += scaler.update([p.grad.numpy() for p in model.parameters()])
    assert scaler.skipped > 5 and taken > 5
    want = x.mean(0).double() * 1e-9
    got = model.layer.weight.grad[0].double() / scaler.unscale
    assert (got - want).norm() < 1e-2 * want.norm()
