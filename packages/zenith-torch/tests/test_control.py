"""torch.cond, while_loop, scan and map: native plans for their bodies, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch._higher_order_ops import associative_scan, scan, while_loop
from torch._higher_order_ops.map import map as map_rows

import zenith
import zenith_torch

pytestmark = pytest.mark.filterwarnings("ignore")  # of PyTorch's own tracing


@pytest.fixture(autouse=True)
def _fresh() -> Any:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Layer(nn.Module):
    """A function of a linear layer and the inputs."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.linear = nn.Linear(4, 4)

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.function(self.linear, *inputs)


def chosen(linear: nn.Module, x: torch.Tensor) -> Any:
    def yes(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return linear(x).relu(), x.sum(0)

    def no(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.tanh(), linear(x).mean(0)

    return torch.cond(x.sum() > 0, yes, no, (x,))


def repeated(linear: nn.Module, x: torch.Tensor) -> Any:
    def goes_on(turn: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (y.abs().sum() < 50) & (turn < 9)

    def step(turn: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return turn + 1, linear(y) * 1.5 + y.sign()

    return while_loop(goes_on, step, (torch.tensor(0), x))


def scanned(linear: nn.Module, x: torch.Tensor) -> Any:
    def step(carry: torch.Tensor, row: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return (carry + linear(row)).tanh(), carry * 2

    return scan(step, x.mean(0), x)


def mapped(linear: nn.Module, x: torch.Tensor) -> Any:
    return map_rows(lambda row, y: linear(row).relu() + y.sum(), x, x.mean(0))


def summed(linear: nn.Module, x: torch.Tensor) -> Any:
    return associative_scan(lambda a, b: a + b, linear(x), 0, combine_mode="generic")


FUNCTIONS = {"If": chosen, "Loop": repeated, "Scan": scanned, "Scan ": mapped, "Add": summed}


@pytest.mark.parametrize("operator", FUNCTIONS)
def test_values(operator: str) -> None:
    model = Layer(FUNCTIONS[operator]).eval()
    x = torch.rand(5, 4)
    rows = {} if operator == "Add" else {0: {0: "rows"}}
    compiled = zenith.compile(model, sample_input=(x,), dynamic=rows, fallback="error")
    for given in (x, -x, torch.randn(5 if operator == "Add" else 3, 4)):
        with torch.no_grad():
            torch.testing.assert_close(compiled(given), model(given), rtol=1e-5, atol=1e-5)
    assert operator.strip() in {node.op_type for node in compiled.graph.nodes}


@pytest.mark.parametrize("operator", ["If", "Scan", "Scan "])
def test_gradients(operator: str) -> None:
    model = Layer(FUNCTIONS[operator])
    backend = zenith_torch.create_backend(fallback="error")
    compiled = torch.compile(model, backend=backend)
    for sign in (1, -1):
        x = (torch.rand(5, 4) * sign).requires_grad_()
        leaves = [x, *model.parameters()]
        got, want = (
            torch.autograd.grad(sum(r.square().sum() for r in _several(run(x))), leaves)
            for run in (compiled, model)
        )
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert {program.kind for program in backend.programs} == {"forward", "backward"}


def _several(results: Any) -> list[torch.Tensor]:
    return list(results) if isinstance(results, tuple) else [results]


def test_a_body_with_an_unknown_operator_stays_with_its_operator() -> None:
    def use(x: torch.Tensor) -> torch.Tensor:
        (y,) = torch.cond(
            x.sum() > 0, lambda x: (torch.special.bessel_j0(x),), lambda x: (-x,), (x,)
        )
        return y * 2 + 1

    backend = zenith_torch.create_backend(fallback="allow")
    compiled = torch.compile(use, backend=backend)
    for x in (torch.rand(3), -torch.rand(3)):
        torch.testing.assert_close(compiled(x), use(x))
    (program,) = backend.programs
    assert {(row.node, row.op) for row in program.left} == {
        ("cond", "aten.special_bessel_j0.default")
    }
    assert len(program.regions) == 2
