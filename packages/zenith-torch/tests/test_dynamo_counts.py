"""How often torch.compile(backend="zenith") compiles; operators and precisions it refuses."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import nn

import zenith_torch
from zenith.errors import ConfigurationError, UnsupportedOperationError
from zenith.events import events
from zenith.runtime.stages import FallbackWarning


@pytest.fixture(autouse=True)
def _fresh() -> Any:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Attention(nn.Module):
    """Tokens to class scores: batch and length are free."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.inner, self.head = nn.Linear(16, 48), nn.Linear(16, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        q, k, v = self.inner(x).view(*x.shape[:2], 3, 2, 8).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        scores: torch.Tensor = self.head(y.transpose(1, 2).flatten(2))
        return scores


def compilations(backend: Any) -> int:
    return sum(r.compilations for p in backend.programs for r in p.regions)


def test_two_hundred_shapes_take_few_compilations() -> None:
    model = Attention().eval()
    backend = zenith_torch.create_backend(fallback="error")
    compiled = torch.compile(model, backend=backend)
    finished: list[Any] = []
    stop = events.subscribe(lambda e: e.name == "compile_finished" and finished.append(e))
    shapes = random.Random(0)
    try:
        with torch.no_grad():
            for _ in range(200):
                tokens = torch.randint(0, 50, (shapes.randint(2, 12), shapes.randint(2, 60)))
                torch.testing.assert_close(compiled(tokens), model(tokens), rtol=1e-5, atol=1e-5)
            # The first shape; another length; another batch as well, and from there on all others.
            assert len(finished) == compilations(backend) == 3
            torch.testing.assert_close(compiled(tokens[:1]), model(tokens[:1]))
    finally:
        stop()
    assert compilations(backend) == 4  # a batch of one is another graph of Dynamo's


def test_training_with_changing_shapes() -> None:
    model = Attention()
    backend = zenith_torch.create_backend(fallback="error")
    compiled = torch.compile(model, backend=backend)
    for batch, length in ((4, 8), (3, 9), (7, 5), (2, 30), (6, 4)):
        tokens = torch.randint(0, 50, (batch, length))
        got, want = (
            torch.autograd.grad(run(tokens).square().mean(), list(model.parameters()))
            for run in (compiled, model)
        )
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)
    kinds = [program.kind for program in backend.programs]
    assert sorted(kinds) == ["backward"] * 2 + ["forward"] * 2
    assert compilations(backend) == 4


@torch.library.custom_op("zenith_tests::cubed", mutates_args=())
def cubed(x: torch.Tensor) -> torch.Tensor:
    """An operator that a user registered, of which Zenith knows nothing."""
    return x**3


@cubed.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


cubed.register_autograd(
    lambda context, grad: grad * 3 * context.saved_tensors[0] ** 2,
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)


class Custom(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.second(cubed(self.first(x)).relu())
        return y


@pytest.mark.parametrize("trained", [False, True])
def test_a_custom_operator_is_named_and_stays_with_torch(trained: bool) -> None:
    model, x = Custom(), torch.randn(5, 4)
    backend = zenith_torch.create_backend()
    compiled = torch.compile(model, backend=backend)
    with torch.set_grad_enabled(trained), pytest.warns(FallbackWarning, match="zenith_tests.cubed"):
        got, want = compiled(x), model(x)
    torch.testing.assert_close(got, want)
    if trained:
        leaves = list(model.parameters())
        torch.testing.assert_close(
            torch.autograd.grad(got.sum(), leaves), torch.autograd.grad(want.sum(), leaves)
        )
    left = {row.op for program in backend.programs for row in program.left}
    assert left == {"zenith_tests.cubed.default"}
    text = backend.explain()
    assert "PyTorch runs cubed = zenith_tests.cubed.default: no lowering" in text
    assert len(backend.programs[0].regions) == 2


def test_a_custom_operator_can_be_refused() -> None:
    compiled = torch.compile(Custom(), backend=zenith_torch.create_backend(fallback="error"))
    with pytest.raises(UnsupportedOperationError, match="zenith_tests.cubed"), torch.no_grad():
        compiled(torch.randn(5, 4))


def test_precisions_of_inference_are_refused_in_training() -> None:
    model, x = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8)), torch.randn(16, 64)
    backend = zenith_torch.create_backend(precision="int4-weight")
    compiled = torch.compile(model, backend=backend)
    with pytest.raises(ConfigurationError, match=r"int4-weight.*inference.*gradients"):
        compiled(x)
    with pytest.raises(ConfigurationError, match="no kernel"), torch.no_grad():
        compiled(x)  # asked for and not to be had: PyTorch's float32 is no answer


def test_int8_needs_inputs_that_torch_compile_cannot_give() -> None:
    with pytest.raises(ConfigurationError, match=r"calibration_data(.|\n)*zenith\.compile"):
        zenith_torch.create_backend(precision="int8")
    options = {"precision": "int8"}
    for mode in (torch.no_grad, torch.enable_grad):
        compiled = torch.compile(nn.Linear(4, 3), backend="zenith", options=options)
        with pytest.raises(ConfigurationError, match="calibration_data"), mode():
            compiled(torch.randn(5, 4))
        torch._dynamo.reset()


def test_bfloat16_is_passed_on() -> None:
    model, x = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)), torch.randn(16, 64)
    backend = zenith_torch.create_backend(precision="bf16", fallback="error")
    with torch.no_grad():
        got, want = torch.compile(model, backend=backend)(x), model(x)
    assert got.dtype is torch.float32
    assert not torch.equal(got, want)  # rounded somewhere
    torch.testing.assert_close(got, want, rtol=3e-2, atol=3e-2)
    assert "bf16" in backend.explain()
