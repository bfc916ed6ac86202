"""Random numbers under torch.compile: of the right distribution, and again after the same seed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import zenith_torch

COUNT = 20000


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def draws(chances: torch.Tensor) -> tuple[torch.Tensor, ...]:
    empty = torch.empty(COUNT)
    return (
        empty.clone().uniform_(2.0, 5.0),
        empty.clone().exponential_(4.0),
        empty.clone().normal_(1.0, 3.0),
        torch.multinomial(chances, COUNT, replacement=True),
        torch.multinomial(chances.expand(COUNT, 4), 2),
    )


def test_distributions() -> None:
    compiled = torch.compile(draws, backend=zenith_torch.create_backend(fallback="error"))
    chances = torch.tensor([1.0, 0.0, 2.0, 5.0])
    torch.manual_seed(5)
    found = compiled(chances)
    uniform, exponential, normal, many, pairs = found
    assert 2 <= uniform.min() < 2.01 and 4.99 < uniform.max() <= 5
    assert exponential.min() > 0 and exponential.isfinite().all()
    # Means, and shares of what is drawn, within five standard deviations.
    for values, mean, deviation in (
        (uniform, 3.5, 3 / 12**0.5),
        (exponential, 0.25, 0.25),
        (normal, 1.0, 3.0),
        (normal.square(), 10.0, 300**0.5),
        (many.eq(3).float(), 5 / 8, 0.5),
        (many.eq(2).float(), 2 / 8, 0.5),
        (pairs[:, 0].eq(3).float(), 5 / 8, 0.5),
        (pairs[:, 1].eq(3).float(), 1 / 8 * 5 / 7 + 2 / 8 * 5 / 6, 0.5),
    ):
        assert abs(values.double().mean().item() - mean) < 5 * deviation / COUNT**0.5
    assert not many.eq(1).any() and not pairs.eq(1).any()
    assert (pairs[:, 0] != pairs[:, 1]).all()
    torch.manual_seed(5)
    for again, before in zip(compiled(chances), found, strict=True):
        assert torch.equal(again, before)
    assert not torch.equal(compiled(chances)[0], uniform)
