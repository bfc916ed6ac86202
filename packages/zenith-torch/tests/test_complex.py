"""Complex numbers inside a model, and Fourier transforms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import zenith
import zenith_torch
from zenith.errors import CompilationError

SIGNAL = torch.randn(2, 15)
WINDOW = torch.hann_window(16)


class Model(nn.Module):
    """A function of its inputs and of one complex buffer."""

    def __init__(self, function: Any, buffer: torch.Tensor) -> None:
        super().__init__()
        self.function = function
        self.register_buffer("table", buffer)

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.function(*inputs, self.table)


def rotary(x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * table).flatten(-2)


def fourier_operator(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    spectrum = torch.fft.rfft2(x)
    kept = torch.zeros_like(spectrum)
    kept[..., :3, :3] = torch.einsum("bixy,ioxy->boxy", spectrum[..., :3, :3], weight)
    return torch.fft.irfft2(kept, s=x.shape[-2:])


def short_time(x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    spectrum = torch.stft(x, 16, 4, window=WINDOW.to(x.dtype), return_complex=True)
    return spectrum.abs().square()


UNUSED = torch.ones(1, dtype=torch.complex64)
CASES = {
    "rotary": (rotary, torch.randn(3, 6, 8), torch.polar(torch.ones(6, 4), torch.randn(6, 4))),
    "fourier_operator": (
        fourier_operator,
        torch.randn(2, 3, 8, 8),
        torch.randn(3, 3, 3, 3, dtype=torch.complex64),
    ),
    "stft": (short_time, torch.randn(2, 64), UNUSED),
    "reciprocal": (lambda x, _: (1 / torch.fft.rfft(x)).abs(), SIGNAL, UNUSED),
    "amplitude": (lambda x, _: torch.fft.rfft(x, norm="ortho").abs(), SIGNAL, UNUSED),
    "there_and_back": (lambda x, _: torch.fft.irfft(torch.fft.rfft(x) * 2, n=15), SIGNAL, UNUSED),
    "other_length": (
        lambda x, _: torch.fft.irfft(torch.fft.rfft(x), n=12, norm="forward"),
        SIGNAL,
        UNUSED,
    ),
    "planes": (lambda x, _: torch.fft.fftn(x, dim=(0, 1)).real, SIGNAL, UNUSED),
    "inverse": (
        lambda x, _: torch.fft.ifft(torch.fft.fft(x, norm="ortho")).imag + x,
        SIGNAL,
        UNUSED,
    ),
    "quotient": (
        lambda x, _: (torch.fft.fft(x) / (torch.fft.fft(x + 1) + 2)).real,
        SIGNAL,
        UNUSED,
    ),
    "angle": (lambda x, _: torch.fft.fft(x).angle()[:, 1:], SIGNAL, UNUSED),
}


@pytest.fixture(autouse=True)
def _fresh() -> Any:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("name", CASES)
def test_compile(name: str) -> None:
    function, x, table = CASES[name]
    model = Model(function, table).eval()
    compiled = zenith.compile(model, sample_input=(x,), dynamic={0: {0: "batch"}})
    for given in (x, torch.cat([x, x * 0.5 + 1])):
        torch.testing.assert_close(compiled(given), model(given), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Torchinductor does not support code generation for complex")
@pytest.mark.parametrize("name", ["rotary", "fourier_operator", "stft", "there_and_back"])
def test_gradients(name: str) -> None:
    function, x, table = CASES[name]
    model = Model(function, table)
    exact = Model(function, table.to(torch.complex128))
    backend = zenith_torch.create_backend(fallback="error")
    given, wide = x.clone().requires_grad_(), x.double().requires_grad_()
    torch.compile(model, backend=backend)(given).square().sum().backward()
    exact(wide).square().sum().backward()
    assert given.grad is not None and wide.grad is not None
    error = (given.grad.double() - wide.grad).norm() / wide.grad.norm()
    assert error < 1e-5
    assert {p.kind for p in backend.programs} == {"forward", "backward"}


def test_complex_tensors_cross_the_edges_of_graphs() -> None:
    """A graph break between two halves: what one gives, the other takes."""

    def function(x: torch.Tensor) -> torch.Tensor:
        spectrum = torch.fft.rfft(x).transpose(0, 1)
        torch._dynamo.graph_break()
        return (spectrum * 2).abs()

    backend = zenith_torch.create_backend(fallback="error")
    with torch.no_grad():
        got = torch.compile(function, backend=backend)(SIGNAL)
    torch.testing.assert_close(got, function(SIGNAL), rtol=1e-4, atol=1e-5)
    assert len(backend.programs) == 2


def test_complex_results_of_a_model_are_refused_by_name() -> None:
    model = Model(lambda x, _: {"spectrum": torch.fft.rfft(x)}, UNUSED)
    with pytest.raises(CompilationError, match=r"output 'spectrum' is complex"):
        zenith.compile(model.eval(), sample_input=(SIGNAL,))
