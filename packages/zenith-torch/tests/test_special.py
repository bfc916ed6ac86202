"""Functions of statistics and physics against PyTorch in float64, also far out and near zero."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

import zenith
import zenith_torch

S = torch.special
FAR = torch.logspace(-5, 1.9, 40)
BOTH = torch.cat([-FAR, torch.zeros(1), FAR])
CHANCES = torch.cat([torch.logspace(-30, -1, 30), torch.linspace(0.1, 0.999, 30)])
ENDS = torch.tensor([0.0, 1.0, -1.0, 2.0])

Function = Callable[[torch.Tensor], torch.Tensor]


class Use(nn.Module):
    def __init__(self, functions: dict[str, Function]) -> None:
        super().__init__()
        self.functions = functions

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: function(x) for name, function in self.functions.items()}


def check(x: torch.Tensor, **functions: Function) -> None:
    """Within a few roundings of the value, relative to it."""
    model = Use(functions).eval()
    compiled = zenith.compile(model, sample_input=(x,), fallback="error", cache=False)
    got, want = compiled(x), model(x.double())
    few = 64 * torch.finfo(x.dtype).eps
    for name in functions:
        assert got[name].dtype == x.dtype
        torch.testing.assert_close(
            got[name].double(), want[name], rtol=few, atol=1e-300, equal_nan=True
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_functions_keep_their_digits(dtype: torch.dtype) -> None:
    check(BOTH.to(dtype), i0=torch.i0, i0e=S.i0e, i1=S.i1, i1e=S.i1e)
    check(BOTH.clamp(min=-8).to(dtype), erfcx=S.erfcx)
    check(torch.cat([CHANCES, ENDS]).to(dtype), ndtri=S.ndtri)
    orders = {f"order {n}": lambda x, n=n: torch.polygamma(n, x) for n in (2, 5)}
    check(FAR[FAR > 0.01].to(dtype), **orders)


def test_polygamma_of_order_one() -> None:
    """PyTorch's own has ten digits in double precision: where the value is known."""
    x = torch.tensor([1.0, 0.5, -0.5], dtype=torch.float64)
    model = Use({"trigamma": lambda x: torch.polygamma(1, x)}).eval()
    got = zenith.compile(model, sample_input=(x,))(x)["trigamma"]
    square = math.pi**2
    want = torch.tensor([square / 6, square / 2, square / 2 + 4], dtype=torch.float64)
    torch.testing.assert_close(got, want, rtol=1e-14, atol=0)


def test_polygamma_below_zero() -> None:
    x = torch.tensor([-0.3, -1.7, -2.4, -6.9], dtype=torch.float64)
    check(x, **{f"order {n}": lambda x, n=n: torch.polygamma(n, x) for n in (2, 3)})
    poles = torch.tensor([0.0, -1.0, -3.0])
    got = zenith.compile(
        Use(
            {"odd": lambda x: torch.polygamma(1, x), "even": lambda x: torch.polygamma(2, x)}
        ).eval(),
        sample_input=(poles,),
    )(poles)
    assert got["odd"].tolist() == [torch.inf] * 3 and got["even"].tolist() == [-torch.inf] * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_next_number(dtype: torch.dtype) -> None:
    inf, tiny = torch.inf, torch.finfo(dtype).smallest_normal
    x = torch.tensor([1.0, -1.0, 0.0, 0.0, tiny, -tiny, inf, 2.0, torch.nan, 3.0]).to(dtype)
    y = torch.tensor([2.0, 2.0, -1.0, 1.0, 0.0, 0.0, 0.0, 2.0, 1.0, torch.nan]).to(dtype)

    class Next(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return torch.nextafter(x, y)

    got = zenith.compile(Next().eval(), sample_input=(x, y), fallback="error")(x, y)
    torch.testing.assert_close(got, torch.nextafter(x, y), rtol=0, atol=0, equal_nan=True)


def test_gradients_through_them() -> None:
    def use(x: torch.Tensor) -> torch.Tensor:
        return (torch.i0(x) + S.i1e(x) + S.erfcx(x) + S.ndtri(x) + torch.digamma(x)).sum()

    backend = zenith_torch.create_backend(fallback="error")
    x = (torch.rand(3, 5) * 0.8 + 0.1).requires_grad_()
    y = x.detach().double().requires_grad_()
    (got,) = torch.autograd.grad(torch.compile(use, backend=backend)(x), x)
    (want,) = torch.autograd.grad(use(y), y)
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-6)
    assert not any(program.left for program in backend.programs)


def test_functions_of_whole_tensors() -> None:
    x = torch.randn(4, 5)
    functions: dict[str, Function] = {
        "distance": lambda x: torch.dist(x, x.flip(0)),
        "largest distance": lambda x: torch.dist(x, x.flip(0), torch.inf),
        "median of numbers": lambda x: torch.where(x > 0, x, torch.nan).nanmedian(),
        "median of none": lambda x: (x * torch.nan).nanmedian(),
        "frequencies": lambda x: torch.fft.fftfreq(7, 0.5).to(x.dtype),
        "of an even size": lambda x: torch.fft.fftfreq(8).to(x.dtype),
        "upper half": lambda x: torch.fft.rfftfreq(7, 2.0).to(x.dtype),
    }
    check(x, **functions)
