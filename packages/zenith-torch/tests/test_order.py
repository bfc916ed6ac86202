"""Order statistics, running extremes, sorted places, counts: as eager answers, ties and NaN too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch_oracle import Cases

import zenith


def check(inputs: tuple[Any, ...], **cases: Any) -> None:
    model = Cases(**cases)
    compiled = zenith.compile(model, sample_input=inputs, fallback="error")
    with torch.no_grad():
        got, want = compiled(*inputs), model(*inputs)
    for name in cases:
        torch.testing.assert_close(
            got[name],
            want[name],
            rtol=1e-5,
            atol=1e-6,
            equal_nan=True,
            msg=lambda m, name=name: f"{name}: {m}",
        )


@pytest.mark.filterwarnings("ignore:torch.searchsorted")
def test_order() -> None:
    x = torch.randn(4, 7)
    x[1, 2] = float("nan")
    limits = torch.sort(torch.randn(5)).values
    check(
        (x, torch.randint(0, 4, (4, 7)), limits),
        kthvalue=lambda x, i, s: x[2:].kthvalue(3, 1),
        kept=lambda x, i, s: x[2:].kthvalue(2, 0, keepdim=True),
        median=lambda x, i, s: x.median(1),
        median_of_integers=lambda x, i, s: i.median(1).values,
        median_of_all=lambda x, i, s: (x.median(), i.median()),
        largest_so_far=lambda x, i, s: (torch.cummax(x, 1), torch.cummax(i, 0)),
        smallest_so_far=lambda x, i, s: (torch.cummin(x, 0), torch.cummin(i, 1)),
        sums=lambda x, i, s: x.logcumsumexp(1),
        places=lambda x, i, s: (torch.bucketize(x[2:], s), torch.bucketize(i, s, right=True)),
        rows=lambda x, i, s: torch.searchsorted(
            x[2:].sort(1).values, x[2:, :3], side="right", out_int32=True
        ),
        counts=lambda x, i, s: torch.histc(x[2:], 5),
    )


def test_sizes_that_the_data_decides() -> None:
    i = torch.randint(0, 6, (3, 5))
    check(
        (i, torch.randn(3, 5)),
        different=lambda i, w: torch.unique(i, return_inverse=True, return_counts=True),
        rows=lambda i, w: torch.unique(i % 2, dim=0),
        counted=lambda i, w: torch.bincount(i.reshape(-1)),
        weighed=lambda i, w: torch.bincount(i.reshape(-1), w.reshape(-1), minlength=9),
        part=lambda i, w: w[0][i.max().item() - 2 :] * 2,
        read_twice=lambda i, w: (w[w > 0] * i[w > 0], (w > 0).nonzero(), w.masked_select(w > 0)),
        none=lambda i, w: (w[:0].nonzero(), w[:0][w[:0] > 0]),
    )


@pytest.mark.filterwarnings("ignore:index_reduce")
def test_writing() -> None:
    x, y, index = torch.randn(4, 5), torch.randn(2, 5), torch.tensor([3, 1])
    check(
        (x, y, index),
        put=lambda x, y, i: x.put(i, y[0, :2]),
        added=lambda x, y, i: x.put(torch.tensor([-1, 2, 2]), y[0, :3], accumulate=True),
        reduced=lambda x, y, i: x.index_reduce(0, i, y, "amax"),
        means=lambda x, y, i: x.index_reduce(0, i, y, "mean", include_self=False),
        diagonal=lambda x, y, i: torch.diagonal_scatter(x, y[0, :3], 2),
        below=lambda x, y, i: torch.diagonal_scatter(x[None], y[:1, :3], -1, 1, 2),
    )


def test_short_integers_and_products_of_three() -> None:
    i, x, y = (
        torch.randint(-99, 99, (4, 5), dtype=torch.int16),
        torch.randn(3, 4),
        torch.randn(3, 5),
    )
    check(
        (i, x, y),
        short=lambda i, x, y: i @ i.T,
        wrapped=lambda i, x, y: i.to(torch.int8) @ i.to(torch.int8).T,
        bilinear=lambda i, x, y: torch.nn.functional.bilinear(x, y, i.float()[:2, :4, None] * y[0]),
    )


def test_repetitions_by_computed_counts() -> None:
    class Repeat(torch.nn.Module):
        def forward(self, x: torch.Tensor, counts: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return x.repeat_interleave(counts, 0) * 2, torch.repeat_interleave(counts)

    model, x = Repeat().eval(), torch.randn(4, 5)
    compiled = zenith.compile(model, sample_input=(x, torch.tensor([1, 0, 3, 2])), fallback="error")
    for counts in ([1, 0, 3, 2], [0, 0, 1, 0], [0, 0, 0, 0], [2, 2, 2, 2]):
        given = x, torch.tensor(counts)
        for got, want in zip(compiled(*given), model(*given), strict=True):
            assert torch.equal(got, want)
