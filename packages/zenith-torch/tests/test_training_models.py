"""Training of whole models through torch.compile(backend="zenith"), against eager in float64."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import zenith_torch

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore")  # the model library's own


@pytest.fixture(autouse=True)
def _fresh() -> Any:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def ids(*shape: int) -> torch.Tensor:
    return torch.randint(0, 200, shape)


def bert(dropout: float = 0.0) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    config = transformers.BertConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        vocab_size=200,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        num_labels=3,
        problem_type="single_label_classification",
    )
    mask = torch.ones(4, 16, dtype=torch.long)
    mask[1, 9:] = 0
    inputs = {"input_ids": ids(4, 16), "attention_mask": mask, "labels": torch.tensor([0, 1, 2, 1])}
    return transformers.BertForSequenceClassification(config), inputs


def gpt2() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    config = transformers.GPT2Config(
        n_embd=64,
        n_layer=2,
        n_head=4,
        vocab_size=200,
        use_cache=False,
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
        bos_token_id=0,
        eos_token_id=0,
    )
    tokens = ids(2, 16)
    return transformers.GPT2LMHeadModel(config), {"input_ids": tokens, "labels": tokens}


def resnet() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    config = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[16, 32],
        depths=[1, 2],
        layer_type="basic",
        num_labels=3,
        problem_type="single_label_classification",
    )
    labels = torch.tensor([0, 1, 2, 1])
    model = transformers.ResNetForImageClassification(config)
    return model, {"pixel_values": torch.randn(4, 3, 32, 32), "labels": labels}


def wide(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}


def distance(model: nn.Module, exact: nn.Module) -> float:
    """Relative distance of all gradients."""
    pairs = [
        (p.grad.double(), q.grad)
        for p, q in zip(model.parameters(), exact.parameters(), strict=True)
        if q.grad is not None and p.grad is not None
    ]
    assert pairs
    error = sum(float((g - w).square().sum()) for g, w in pairs)
    return float((error / sum(float(w.square().sum()) for _, w in pairs)) ** 0.5)


@pytest.mark.parametrize("make", [bert, gpt2, resnet])
def test_gradients(make: Any) -> None:
    model, inputs = make()
    model.train()
    exact = copy.deepcopy(model).double()
    backend = zenith_torch.create_backend(fallback="error")
    compiled = torch.compile(model, backend=backend)
    for _ in range(2):  # gradients add up over both steps; statistics move twice
        loss = compiled(**inputs).loss
        loss.backward()
        want = exact(**wide(inputs)).loss
        want.backward()
        assert abs(loss.item() - want.item()) < 1e-5
    assert distance(model, exact) < 2e-6
    for mine, theirs in zip(model.buffers(), exact.buffers(), strict=True):
        torch.testing.assert_close(mine.double(), theirs.double(), rtol=1e-5, atol=1e-6)
    programs = backend.programs
    assert all(p.kind in ("forward", "backward") and not p.left for p in programs)
    assert all(r.compilations == 1 for p in programs for r in p.regions)


def test_the_wrong_decomposition_would_be_noticed() -> None:
    """PyTorch's own table, which the backend must not use, is far off (see `dynamo.backend`)."""
    from torch._decomp import core_aten_decompositions

    from zenith_torch.dynamo.backend import decompositions

    name = "aten._scaled_dot_product_flash_attention_for_cpu.default"
    assert name in {str(op) for op in core_aten_decompositions()}
    assert name not in {str(op) for op in decompositions()}


def test_training_with_dropout() -> None:
    """Other numbers than eager's, the same distribution; repeated by torch.manual_seed."""
    model, inputs = bert(dropout=0.3)
    model.train()
    backend = zenith_torch.create_backend(fallback="error")
    compiled = torch.compile(model, backend=backend)

    def step(seed: int) -> tuple[float, torch.Tensor]:
        model.zero_grad()
        torch.manual_seed(seed)
        loss = compiled(**inputs).loss
        loss.backward()
        return loss.item(), model.classifier.weight.grad.clone()

    first, again, other = step(1), step(1), step(2)
    assert first[0] == again[0] and torch.equal(first[1], again[1])
    assert first[0] != other[0]
    eager = torch.tensor([model(**inputs).loss.item() for _ in range(40)])
    ours = torch.tensor([step(10 + i)[0] for i in range(40)])
    spread = (eager.var() / 40 + ours.var() / 40).sqrt()
    assert (eager.mean() - ours.mean()).abs() < 4 * spread
    assert 0.5 < eager.std() / ours.std() < 2


class Dropped(nn.Module):
    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        drop = nn.functional.dropout
        return drop(x, self.p), drop(x, self.p)


def test_dropout_forward_and_backward_agree() -> None:
    backend = zenith_torch.create_backend(fallback="error")
    compiled = torch.compile(Dropped(0.3), backend=backend)
    x = torch.ones(200, 500, requires_grad=True)
    one, two = compiled(x)
    (grad,) = torch.autograd.grad(one.sum(), x, retain_graph=True)
    assert torch.equal(grad, one.detach())  # x is one: the mask, scaled
    kept = one != 0
    assert abs(kept.float().mean() - 0.7) < 0.01
    torch.testing.assert_close(one[kept], torch.full_like(one[kept], 1 / 0.7))
    both = (kept & (two != 0)).float().mean()
    assert abs(both - 0.49) < 0.01  # the two are independent
    three, _ = compiled(x)
    assert abs((kept & (three != 0)).float().mean() - 0.49) < 0.01  # and so are two calls


def test_nothing_and_everything_dropped() -> None:
    for p in (0.0, 1.0):
        torch._dynamo.reset()
        compiled = torch.compile(Dropped(p), backend="zenith", options={"fallback": "error"})
        x = torch.randn(3, 4, requires_grad=True)
        torch.testing.assert_close(compiled(x)[0], x if p == 0 else torch.zeros_like(x))


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_training_steps_follow_eager(name: str) -> None:
    model, inputs = resnet()
    model.train()
    other = copy.deepcopy(model)
    compiled = torch.compile(model, backend=zenith_torch.create_backend(fallback="error"))
    kind = getattr(torch.optim, name)
    ours, theirs = kind(model.parameters(), lr=1e-2), kind(other.parameters(), lr=1e-2)
    for _ in range(4):
        losses = []
        for net, run, optimizer in ((model, compiled, ours), (other, other, theirs)):
            optimizer.zero_grad()
            loss = run(**inputs).loss
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            assert net.training
        assert abs(losses[0] - losses[1]) < 1e-3
    model.eval()
    other.eval()
    with torch.no_grad():
        got, want = compiled(**inputs).logits, other(**inputs).logits
    torch.testing.assert_close(got, want, rtol=1e-2, atol=1e-2)
