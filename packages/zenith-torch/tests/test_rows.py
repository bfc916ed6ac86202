"""Rows by index, by mask and by bag, and distances of rows: through both ways of compiling."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import zenith
import zenith_torch

functional = nn.functional


@pytest.fixture(autouse=True)
def _fresh() -> Any:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Bags(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.table = nn.EmbeddingBag(20, 6, **options)
        self.options = options

    def forward(self, indices: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        if self.options["mode"] != "sum" or "padding_idx" in self.options:
            result: torch.Tensor = self.table(indices, offsets)
            return result
        weights = torch.cos(torch.arange(len(indices)).to(self.table.weight.dtype))
        return self.table(indices, offsets, per_sample_weights=weights)  # type: ignore[no-any-return]


BAGS: list[dict[str, Any]] = [
    {"mode": "sum"},
    {"mode": "sum", "padding_idx": 3},
    {"mode": "mean"},
    {"mode": "mean", "include_last_offset": True},
    {"mode": "max"},
    {"mode": "max", "padding_idx": 3},
]


@pytest.mark.parametrize("options", BAGS, ids=str)
def test_bags(options: dict[str, Any]) -> None:
    """Among them an empty bag, and a row that counts for nothing."""
    indices, offsets = torch.tensor([5, 3, 5, 0, 19, 3, 7]), torch.tensor([0, 2, 2, 5])
    if options.get("include_last_offset"):
        offsets = torch.tensor([0, 2, 2, 5, 7])
    model = Bags(**options)
    compiled = zenith.compile(model.eval(), sample_input=(indices, offsets))
    torch.testing.assert_close(compiled(indices, offsets), model(indices, offsets))
    if options["mode"] == "max":
        return
    exact = copy.deepcopy(model).double()
    backend = zenith_torch.create_backend(fallback="error")
    torch.compile(model, backend=backend)(indices, offsets).square().sum().backward()
    exact(indices, offsets).square().sum().backward()
    assert model.table.weight.grad is not None and exact.table.weight.grad is not None
    got = model.table.weight.grad.double()
    torch.testing.assert_close(got, exact.table.weight.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("p", [0.0, 1.0, 2.0, 3.0, float("inf")])
@pytest.mark.parametrize("rows", [4, 30])
def test_distances(p: float, rows: int) -> None:
    def function(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.cdist(x, y, p=p)

    x, y = torch.randn(2, 5, 6), torch.randn(2, rows, 6)
    x[0, 0] = y[0, 0]  # a distance of zero has a gradient of zero
    backend = zenith_torch.create_backend(fallback="error")
    compiled = torch.compile(function, backend=backend)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x, y), function(x, y), rtol=1e-4, atol=1e-3)
    if p == 0 or rows > 25:
        return
    leaves = [t.clone().requires_grad_() for t in (x, y)]
    wide = [t.double().requires_grad_() for t in (x, y)]
    compiled(*leaves).square().sum().backward()
    function(*wide).square().sum().backward()
    for mine, theirs in zip(leaves, wide, strict=True):
        assert mine.grad is not None and theirs.grad is not None
        torch.testing.assert_close(mine.grad.double(), theirs.grad, rtol=1e-4, atol=1e-4)


class Masked(nn.Module):
    """Sizes that the data decides, inside the model and as results."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        positive = x[x > 0]
        rows, columns = torch.where(x < 0)
        return {
            "positive": positive * 2,
            "mean": positive.mean(),
            "places": torch.nonzero(x > 1),
            "negative": x[rows, columns],
            "picked": torch.masked_select(x, x > 0.5) + 1,
            "rows": x[x[:, 0] > 0].sum(0),
        }


def test_sizes_that_the_data_decides() -> None:
    x = torch.randn(6, 5)
    model = Masked().eval()
    compiled = zenith.compile(model, sample_input=(x,), dynamic={0: {0: "rows"}}, fallback="allow")
    for given in (x, torch.randn(9, 5), torch.full((2, 5), -1.0)):
        got, want = compiled(given), model(given)
        assert got.keys() == want.keys()
        for name in want:
            torch.testing.assert_close(got[name], want[name], equal_nan=True)


class Experts(nn.Module):
    """Each row goes to its two best experts, and what they say is added up at its place."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(8, 4)
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights, chosen = self.gate(x).softmax(-1).topk(2)
        total = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows, which = torch.where(chosen == number)
            total.index_add_(0, rows, expert(x[rows]) * weights[rows, which, None])
        return total


def test_experts_by_index() -> None:
    model, x = Experts().eval(), torch.randn(7, 8)
    compiled = zenith.compile(model, sample_input=(x,), fallback="allow")
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-5)


def test_rows_written_by_a_mask() -> None:
    def function(x: torch.Tensor, mask: torch.Tensor, rows: torch.Tensor) -> Any:
        return (
            torch.index_put(x, (mask,), rows),
            torch.index_put(x, (mask,), torch.tensor(2.0), accumulate=True),
            functional.embedding(torch.tensor([[0, 2], [2, 1]]), x, max_norm=0.5),
        )

    x, mask, rows = torch.randn(4, 3), torch.tensor([True, False, True, True]), torch.randn(3, 3)
    backend = zenith_torch.create_backend(fallback="error")
    with torch.no_grad():
        got = torch.compile(function, backend=backend)(x.clone(), mask, rows)
        want = function(x.clone(), mask, rows)
    torch.testing.assert_close(got, want)
