"""Recurrent layers, whole: see `zenith_torch.recurrent`."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from zenith_torch.builder import Builder
from zenith_torch.lower.registry import lower

# The order of the gates: ONNX's, by their places in PyTorch's.
_GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "Tanh": (0,), "Relu": (0,)}


@lower("zenith_torch.recurrent.default")
def recurrent(
    b: Builder,
    x: ir.Value,
    h: ir.Value,
    c: ir.Value | None,
    weights: Sequence[ir.Value],
    kind: str,
    reverse: bool,
) -> list[ir.Value]:
    """One layer in one direction; ONNX has an axis of directions, here of size 1."""
    steps, batch, _ = b.shape_of(x)
    size = b.static_shape_of(weights[1])[1]

    def ordered(weight: ir.Value) -> ir.Value:
        gates = [b.slice(weight, 0, g * size, (g + 1) * size) for g in _GATES[kind]]
        return b.concat(gates, 0)

    w, r, *biases = (ordered(weight) for weight in weights)
    op_type = kind if kind in ("LSTM", "GRU") else "RNN"
    states = [b.unsqueeze(state, 0) for state in (h, c) if state is not None]
    out, *last = b.ops(
        op_type,
        x,
        b.unsqueeze(w, 0),
        b.unsqueeze(r, 0),
        b.unsqueeze(b.concat(biases, 0), 0) if biases else None,
        None,
        *states,
        results=[
            (x.dtype, (steps, 1, batch, size)),
            *((x.dtype, (1, batch, size)) for _ in states),
        ],
        hidden_size=size,
        direction="reverse" if reverse else "forward",
        linear_before_reset=1 if kind == "GRU" else None,
        activations=[kind] if op_type == "RNN" else None,
    )
    final = [b.squeeze(state, 0) for state in last]
    return [b.squeeze(out, 1), final[0], final[-1]]
