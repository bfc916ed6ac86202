"""Recurrent layers reach the captured program whole.

PyTorch decomposes LSTM, GRU and RNN into their time steps: as many nodes as there are steps, and a
length that cannot change. By the rules of `LAYERS` each layer and direction is one
`zenith_torch::recurrent` instead, which `lower.recurrent` maps to the operator of ONNX. Captures
find out the results' shapes by running PyTorch's rules, so these are exchanged too, for the time of
the capture (`whole_layers`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._decomp import decompositions

__all__ = ["LAYERS", "whole_layers"]

rules: Any = decompositions  # without types, as is what torch.library has for operators
operators: Any = torch.library

_library = operators.Library("zenith_torch", "DEF")  # lives as long as the module
_library.define(
    "recurrent(Tensor x, Tensor h, Tensor? c, Tensor[] weights, str kind, bool reverse)"
    " -> (Tensor, Tensor, Tensor)"
)


@operators.register_fake("zenith_torch::recurrent", lib=_library)  # type: ignore[untyped-decorator]
def _shapes(
    x: torch.Tensor,
    h: torch.Tensor,
    c: torch.Tensor | None,
    weights: list[torch.Tensor],
    kind: str,
    reverse: bool,
) -> tuple[torch.Tensor, ...]:
    """All states (steps, batch, size), then the last one and the last cell (batch, size)."""
    return x.new_empty((x.shape[0], *h.shape)), torch.empty_like(h), torch.empty_like(h)


def _layer(kind: str) -> Any:
    """One layer in one direction, as `_rnn_helper` wants it."""

    def run(x: Any, hidden: Any, weights: Any, has_biases: bool, reverse: bool = False) -> Any:
        h, c = hidden if kind == "LSTM" else (hidden, None)
        out, last, cell = torch.ops.zenith_torch.recurrent(x, h, c, weights, kind, reverse)
        return out, ((last, cell) if kind == "LSTM" else last)

    return run


def _lstm(x: Any, hx: Any, params: Any, has_biases: bool, *how: Any) -> Any:
    if hx[0].shape[2] != hx[1].shape[2]:  # ONNX has no projection of the state
        return rules.lstm_impl(x, hx, params, has_biases, *how)
    params = rules.gather_params(params, has_biases, False)
    hidden = list(zip(*hx, strict=True))
    out, last = rules._rnn_helper(x, hidden, params, has_biases, *how, _layer("LSTM"))
    return out, *(torch.stack(states) for states in zip(*last, strict=True))


def _other(kind: str) -> Any:
    def run(x: Any, hx: Any, params: Any, has_biases: bool, *how: Any) -> Any:
        params = rules.gather_params(params, has_biases, False)
        hidden = hx.unbind(0)
        out, last = rules._rnn_helper(x, hidden, params, has_biases, *how, _layer(kind))
        return out, torch.stack(last)

    return run


LAYERS = {
    torch.ops.aten.lstm.input: _lstm,
    torch.ops.aten.gru.input: _other("GRU"),
    torch.ops.aten.rnn_tanh.input: _other("Tanh"),
    torch.ops.aten.rnn_relu.input: _other("Relu"),
}


@contextmanager
def whole_layers() -> Iterator[None]:
    """Captures inside run the rules of `LAYERS`; PyTorch's own are put back."""
    own = {op: dict(op.py_kernels) for op in LAYERS}

    def put(kernels: Any) -> None:
        for op in LAYERS:
            op.py_kernels.update(kernels(op))
            op._dispatch_cache.clear()

    put(lambda op: dict.fromkeys(own[op], LAYERS[op]))
    try:
        yield
    finally:
        put(own.__getitem__)
