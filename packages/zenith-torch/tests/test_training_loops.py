"""What training loops do beside steps: recomputation, compiled optimizers, loaded states."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import zenith_torch


@pytest.fixture(autouse=True)
def _fresh() -> Any:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_what_is_computed_again_is_what_was_computed() -> None:
    """Of a product with dropout, the gradient is the mask itself: the one that forward used."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = (nn.Parameter(torch.ones(64, 32)) for _ in range(2))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            one = checkpoint(lambda w: F.dropout(w * x, 0.5).sin(), self.first, use_reentrant=False)
            return one, F.dropout(self.second, 0.25)

    model, x = Twice().train(), torch.rand(64, 32) + 0.5
    backend = zenith_torch.create_backend(fallback="error")
    compiled = torch.compile(model, backend=backend)
    torch.manual_seed(3)
    one, other = compiled(x)
    (one.sum() + other.sum()).backward()
    kept = one != 0
    torch.testing.assert_close(one[kept], (2 * x).sin()[kept])
    torch.testing.assert_close(model.first.grad, torch.where(kept, 2 * x * (2 * x).cos(), 0.0))
    torch.testing.assert_close(model.second.grad, other)
    assert 0.4 < kept.float().mean() < 0.6 and not torch.equal(kept, other != 0)
    torch.manual_seed(3)
    assert torch.equal(compiled(x)[0], one) and not torch.equal(compiled(x)[0], one)


def test_attention_computed_again() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)
    exact, x = copy.deepcopy(layer).double(), torch.randn(2, 5, 16)
    backend = zenith_torch.create_backend(fallback="error")
    compiled = torch.compile(lambda x: checkpoint(layer, x, use_reentrant=False), backend=backend)
    compiled(x).square().mean().backward()
    exact(x.double()).square().mean().backward()
    for mine, theirs in zip(layer.parameters(), exact.parameters(), strict=True):
        assert mine.grad is not None and theirs.grad is not None
        torch.testing.assert_close(mine.grad.double(), theirs.grad, rtol=1e-4, atol=1e-6)


def test_what_is_drawn_twice_is_never_drawn_by_two(monkeypatch: Any) -> None:
    """Half of it on PyTorch would mean another mask: the region is refused instead."""
    import zenith
    from zenith.errors import CompilationError

    def refuse(*_: Any, **__: Any) -> Any:
        raise CompilationError("no")

    weight = nn.Parameter(torch.ones(8))
    function = torch.compile(
        lambda x: checkpoint(lambda w: F.dropout(w * x).sin(), weight, use_reentrant=False),
        backend=zenith_torch.create_backend(fallback="allow"),
    )
    monkeypatch.setattr(zenith, "compile", refuse)
    with pytest.raises(CompilationError, match="no"):
        function(torch.ones(8))


def test_lists_of_tensors() -> None:
    def several(*tensors: torch.Tensor) -> Any:
        x, y = list(tensors[:2]), list(tensors[2:])
        return (
            torch._foreach_add(x, y, alpha=0.5),
            torch._foreach_mul(x, [2.0, -3.0]),
            torch._foreach_addcdiv(x, y, torch._foreach_exp(x), [0.25, 4.0]),
            torch._foreach_addcmul(x, y, x, 0.1),
            torch._foreach_lerp(x, y, 0.3),
            torch._foreach_norm(x, 2),
            torch._foreach_maximum(x, 0.1),
            torch._foreach_clamp_max(x, y),
            torch._foreach_pow(torch._foreach_abs(x), 1.5),
            torch._foreach_sub(x, 1),
        )

    given = [torch.randn(3, 4), torch.randn(5), torch.randn(3, 4), torch.randn(5)]
    compiled = torch.compile(several, backend=zenith_torch.create_backend(fallback="error"))
    torch.testing.assert_close(compiled(*given), several(*given), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what PyTorch itself imports
def test_a_compiled_optimizer_step() -> None:
    """The whole loop: clipped gradients, a schedule, and a state that is loaded in between.

    The other side is Dynamo without a compiler: a compiled step counts in tensors, eager does not.
    """
    start = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    x, y = torch.randn(16, 6), torch.randint(0, 3, (16,))
    found = []
    for backend in (zenith_torch.create_backend(fallback="error"), "eager"):
        torch._dynamo.reset()
        model = copy.deepcopy(start)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, amsgrad=True, foreach=True)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        step = torch.compile(optimizer.step, backend=backend)
        losses = []
        for number in range(6):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            step()
            optimizer.zero_grad()
            losses.append(loss.item())
            if number == 2:
                schedule.step()
                model.load_state_dict({k: v / 2 for k, v in model.state_dict().items()})
        found.append((losses, model.state_dict()))
    assert found[0][0][-1] < found[0][0][0]
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)
