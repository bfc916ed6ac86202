"""Mixtures of experts: rows go to the matrices that the data chooses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import zenith
import zenith_torch

pytest.importorskip("transformers.integrations.moe")  # its operator for float32


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 8, 6))

    def forward(self, x: torch.Tensor, expert: torch.Tensor) -> torch.Tensor:
        expert, order = torch.sort(expert)
        ends = torch.histc(expert.float(), 4, 0, 3).cumsum(0, dtype=torch.int32)
        return torch.ops.transformers.grouped_mm_fallback(x[order], self.weight, ends)


def test_every_row_takes_its_own_expert() -> None:
    model = Experts().eval()
    sample = (torch.randn(6, 8), torch.tensor([1, 0, 3, 3, 2, 1]))
    rows = {0: "rows"}
    compiled = zenith.compile(
        model, sample_input=sample, dynamic={0: rows, 1: rows}, fallback="error"
    )
    for chosen in (sample[1], torch.full((9,), 2), torch.tensor([3, 0])):
        x = torch.randn(len(chosen), 8)
        with torch.no_grad():
            torch.testing.assert_close(compiled(x, chosen), model(x, chosen))
    products = [node.op for node in compiled.explain().nodes if "Linear" in node.op]
    assert len(products) == 4  # one for each expert, whatever the number of rows


def test_gradients() -> None:
    torch._dynamo.reset()
    model = Experts()
    compiled = torch.compile(model, backend=zenith_torch.create_backend(fallback="error"))
    x, chosen = torch.randn(7, 8, requires_grad=True), torch.tensor([3, 0, 0, 3, 0, 3, 2])
    leaves = [x, model.weight]
    got = torch.autograd.grad(compiled(x, chosen).square().sum(), leaves)
    want = torch.autograd.grad(model(x, chosen).square().sum(), leaves)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    assert (got[1][1] == 0).all()  # nobody went there


def test_bfloat16_and_batches() -> None:
    class Grouped(nn.Module):
        def forward(self, x: torch.Tensor, w: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
            return nn.functional.grouped_mm(x, w, offs=ends)

    x, w = torch.randn(6, 8).bfloat16(), torch.randn(2, 8, 16).bfloat16()
    inputs = (x, w, torch.tensor([2, 6], dtype=torch.int32))
    compiled = zenith.compile(Grouped().eval(), sample_input=inputs, fallback="error")
    torch.testing.assert_close(compiled(*inputs), Grouped()(*inputs), rtol=2e-2, atol=2e-2)
