"""LSTM, GRU and RNN: one operator for each layer and direction, at any length."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import zenith

DYNAMIC: dict[str | int, Any] = {0: {0: "steps", 1: "batch"}}
MODELS = {
    "lstm": lambda: nn.LSTM(4, 6, 2, bidirectional=True),
    "gru": lambda: nn.GRU(4, 6, 2, bidirectional=True),
    "relu": lambda: nn.RNN(4, 6, nonlinearity="relu", bias=False),
    "tanh": lambda: nn.RNN(4, 6, bidirectional=True),
}


def nodes(model: Any) -> list[str]:
    return [node.op_type for node in model.graph.nodes if node.op_type in ("LSTM", "GRU", "RNN")]


def agrees(model: nn.Module, compiled: Any, *inputs: Any) -> None:
    with torch.no_grad():
        got, want = compiled(*inputs), model(*inputs)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_layers(name: str) -> None:
    model = MODELS[name]().eval()
    compiled = zenith.compile(
        model, sample_input=(torch.randn(5, 1, 4),), dynamic=DYNAMIC, fallback="error"
    )
    for steps, batch in ((5, 1), (1, 3), (9, 2)):
        agrees(model, compiled, torch.randn(steps, batch, 4))
    directions = 2 if model.bidirectional else 1
    assert len(nodes(compiled)) == model.num_layers * directions


def test_states_that_are_given() -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.gru = nn.LSTM(4, 6, batch_first=True), nn.GRU(6, 5)

        def forward(self, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> Any:
            y, state = self.lstm(x, (h, c))
            return self.gru(y.relu())[1], state

    model = Tagger().eval()
    inputs = (torch.randn(2, 3, 4), torch.randn(1, 2, 6), torch.randn(1, 2, 6))
    compiled = zenith.compile(model, sample_input=inputs, fallback="error")
    agrees(model, compiled, *inputs)
    assert nodes(compiled) == ["LSTM", "GRU"]


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_a_projected_state_is_taken_apart() -> None:
    model = nn.LSTM(4, 6, proj_size=3).eval()
    x = torch.randn(5, 2, 4)
    compiled = zenith.compile(model, sample_input=(x,), fallback="error")
    agrees(model, compiled, x)
    assert nodes(compiled) == []


def test_pytorch_keeps_its_own_rules() -> None:
    from torch._decomp import decompositions

    from zenith_torch.recurrent import whole_layers

    op = torch.ops.aten.lstm.input
    own = dict(op.py_kernels)
    with pytest.raises(ZeroDivisionError), whole_layers():
        assert decompositions.lstm_impl not in op.py_kernels.values()
        raise ZeroDivisionError
    assert op.py_kernels == own and decompositions.lstm_impl in own.values()
