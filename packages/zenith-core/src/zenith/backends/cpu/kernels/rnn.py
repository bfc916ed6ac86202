"""Rows of the rnn family: RNN, GRU and LSTM in all directions, layouts and activations, and the
LSTM of zenith whose state is rounded.

A node becomes two steps: one product of the gemm family for what no state enters, x * W^T + biases
of all time steps, and the recurrence. W, R and B may be constants or computed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zenith.backends.cpu.emit import F32, Emit
from zenith.backends.cpu.epilogue import epilogue_codes
from zenith.backends.cpu.operand import Operand
from zenith.ir.dims import Dim, exactly, product
from zenith.runtime.kernel_registry import Cost, KernelSpec, traffic
from zenith.runtime.op_view import OpView

__all__ = ["SPECS"]

# Codes are shared with ActivationCode in cpp/cpu/kernels/rnn/activations.h. Beside each: the
# default alpha and beta, None where the function has no such parameter.
_ACTIVATIONS: dict[str, tuple[int, float | None, float | None]] = {
    "sigmoid": (0, None, None),
    "tanh": (1, None, None),
    "relu": (2, None, None),
    "affine": (3, 1.0, 0.0),
    "leakyrelu": (4, 0.01, None),
    "thresholdedrelu": (5, 1.0, None),
    "scaledtanh": (6, 1.0, 1.0),
    "hardsigmoid": (7, 0.2, 0.5),
    "elu": (8, 1.0, None),
    "softsign": (9, None, None),
    "softplus": (10, None, None),
}
_DIRECTIONS = {"forward": 0, "reverse": 1, "bidirectional": 2}


@dataclass(frozen=True)
class _Cell:
    """Gates, and the activations ONNX takes when none are given."""

    kernel: str
    gates: int
    activations: tuple[str, ...]
    states: int = 5  # input of the first state; before it and behind the states, ONNX has more
    domain: str = "ai.onnx"


_CELLS = {
    "RNN": _Cell("rnn_f32", 1, ("Tanh",)),
    "GRU": _Cell("gru_f32", 3, ("Sigmoid", "Tanh")),
    "LSTM": _Cell("lstm_f32", 4, ("Sigmoid", "Tanh", "Tanh")),
    "QuantizedLSTM": _Cell("lstm_f32", 4, ("Sigmoid", "Tanh", "Tanh"), 4, "zenith"),
}


def _direction(op: OpView) -> int:
    return _DIRECTIONS[_direction_name(op)]


def _direction_name(op: OpView) -> str:
    return op.overload or op.attr("direction", "forward")


def _direction_count(op: OpView) -> int:
    return 2 if _direction(op) == 2 else 1


def _activation_names(op: OpView) -> list[str]:
    names: list[str] | None = op.attr("activations")
    if not names:
        return list(_CELLS[op.type].activations) * _direction_count(op)
    return names


def _activations(op: OpView) -> dict[str, list[int] | list[float]]:
    """The activation params. alpha and beta are lists of the values of those functions that have
    such a parameter, in order; what the lists do not reach keeps its default."""
    given = {name: list(op.attr(f"activation_{name}") or []) for name in ("alpha", "beta")}
    rows = [_ACTIVATIONS[name.lower()] for name in _activation_names(op)]

    def values(name: str, defaults: list[float | None]) -> list[float]:
        queue = given[name]
        return [
            0.0 if default is None else float(queue.pop(0)) if queue else default
            for default in defaults
        ]

    return {
        "activations": [code for code, _, _ in rows],
        "alpha": values("alpha", [alpha for _, alpha, _ in rows]),
        "beta": values("beta", [beta for _, _, beta in rows]),
    }


def _reason(op: OpView) -> str | None:
    cell = _CELLS[op.type]
    if _direction_name(op) not in _DIRECTIONS:
        return f"direction '{_direction_name(op)}' is unknown"
    directions = _direction_count(op)
    names = _activation_names(op)
    if len(names) != directions * len(cell.activations):
        return f"{len(names)} activations are given, not {directions * len(cell.activations)}"
    unknown = [name for name in names if name.lower() not in _ACTIVATIONS]
    if unknown:
        return f"activation '{unknown[0]}' is unknown"
    r = op.required(2)
    if r.rank != 3 or op.required(0).rank != 3 or op.required(1).rank != 3:
        return "x, W and R are not all of rank 3"
    hidden = r.shape[2]
    if not isinstance(hidden, int):
        return "the hidden size is dynamic"
    if r.shape[:2] != (directions, cell.gates * hidden):
        return f"R of shape {r.shape} does not fit {directions} directions of {cell.gates} gates"
    if op.attr("hidden_size", hidden) != hidden:
        return f"hidden_size is {op.attr('hidden_size')}, and R is for {hidden}"
    x = op.required(0)
    batch = _batch(op)
    state = (batch, directions) if op.attr("layout", 0) else (directions, batch)
    rows = cell.gates * hidden
    return (
        op.misfit(1, directions, rows, x.shape[2])
        or op.misfit(2, directions, rows, hidden)
        or op.misfit(3, directions, 2 * rows)
        or _cannot_be(op, cell.states, *state, hidden)
        or _cannot_be(op, cell.states + 1, *state, hidden)
        or (cell.states == 5 and (_cannot_be(op, 4, batch) or op.misfit(7, directions, 3 * hidden)))
        or None
    )


def _cannot_be(op: OpView, index: int, *shape: Dim) -> str | None:
    """Why input `index` never has this shape. States come from outside and name their sizes as
    they please: that they fit is checked when the plan is bound."""
    value = op.input(index)
    if value is None or value.rank != len(shape):
        return op.misfit(index, *shape)
    if any(
        isinstance(n, int) and isinstance(wanted, int) and n != wanted
        for n, wanted in zip(value.shape, shape, strict=True)
    ):
        return op.misfit(index, *shape)
    return None


# The product of the input with W, and the biases.


def _sums(e: Emit, x: Operand, bias: Operand | None) -> Operand:
    """x * W^T + bias: [rows, directions * gates * hidden] of x's leading axes."""
    w = e.op.required(1)
    columns = exactly(w.shape[0] * w.shape[1])
    rows = x.reshape((product(x.shape[:2]), x.shape[2]))
    assert rows is not None, "x is dense"
    sums = e.temp("float32", (rows.shape[0], columns))
    tail = [] if bias is None else [bias]
    codes = epilogue_codes("bias" if tail else "")
    if w.const is not None and w.const.flags.c_contiguous:
        packed = e.packed(1, "linear_pack_f32", transposed=1)
        e.step("linear_f32", [rows, packed, *tail], [sums], epilogue=codes)
    else:
        flat = e.dense(1).reshape((columns, w.shape[2]))
        assert flat is not None, "W is dense"
        e.step("matmul_f32", [rows, flat.transpose((1, 0)), *tail], [sums], epilogue=codes)
    view = sums.reshape((*x.shape[:2], columns))
    assert view is not None, "a temporary is dense"
    return view


def _biases(e: Emit, apart: bool) -> tuple[Operand | None, Operand | None]:
    """What is added to the sums, and the recurrent bias of the last gate if it stays `apart`."""
    b = e.op.input(3)
    if b is None:
        return None, None
    directions, gates, hidden = _shape(e.op)
    if b.const is None:
        total = e.temp("float32", (directions * gates * hidden,))
        last = e.temp("float32", (directions, hidden)) if apart else None
        e.step("rnn_bias_f32", [e.operand(3)], [total] if last is None else [total, last])
        return total, last
    w, r = np.split(np.asarray(b.const, np.float32), 2, axis=1)
    if not apart:
        return e.const((w + r).reshape(-1)), None
    kept = r.copy()
    kept[:, -hidden:] = 0
    return e.const((w + kept).reshape(-1)), e.const(np.ascontiguousarray(r[:, -hidden:]))


def _shape(op: OpView) -> tuple[int, int, int]:
    """Directions, gates, hidden size."""
    return _direction_count(op), _CELLS[op.type].gates, int(op.required(2).shape[2])


def _batch(op: OpView) -> Dim:
    return op.required(0).shape[0 if op.attr("layout", 0) else 1]


# States and outputs, which lie batch first with layout 1.


def _state_input(e: Emit, index: int, batch_first: bool) -> Operand | None:
    if e.op.input(index) is None:
        return None
    directions, _, hidden = _shape(e.op)
    batch = _batch(e.op)
    order = (batch, directions) if batch_first else (directions, batch)
    state = e.inner(index).exactly_of((*order, hidden))
    return state.transpose((1, 0, 2)) if batch_first else state


def _lengths(e: Emit) -> Operand | None:
    lengths = e.operand(4) if _CELLS[e.op.type].states == 5 else None
    return None if lengths is None else lengths.exactly_of((_batch(e.op),))


def _wanted(op: OpView, index: int) -> bool:
    if index >= len(op.outputs) or not op.outputs[index].name:
        return False
    value = op.outputs[index].value
    return bool(value.uses()) or bool(value.is_graph_output())


def _outputs(e: Emit, batch_first: bool) -> list[Operand | None]:
    """y as [steps, directions, batch, hidden] and the states as [directions, batch, hidden].

    The directions of one step lie side by side, so the usual Transpose and Reshape behind a
    bidirectional layer are views.
    """
    results: list[Operand | None] = []
    for index in range(len(e.op.outputs)):
        if not _wanted(e.op, index):
            results.append(None)
        elif index > 0:
            state = e.output(index)
            results.append(state.transpose((1, 0, 2)) if batch_first else state)
        elif batch_first:
            results.append(e.output(0).transpose((1, 2, 0, 3)))
        else:
            merged = _direction(e.op) == 2 and not e.op.outputs[0].value.is_graph_output()
            results.append(e.output(0, order=(0, 2, 1, 3) if merged else None))
    return results


def _weights(e: Emit, apart: bool) -> tuple[Operand | None, int]:
    """R, and whether it is packed."""
    if not e.op.required(2).is_const:
        return e.operand(2), 0
    gates = _CELLS[e.op.type].gates
    return e.packed(2, "rnn_pack_f32", gates=gates, last=int(apart)), 1


def _emit(e: Emit) -> None:
    op = e.op
    batch_first = bool(op.attr("layout", 0))
    cell = _CELLS[op.type]
    gru, lstm = op.type == "GRU", cell.kernel == "lstm_f32"
    linear_before_reset = gru and bool(op.attr("linear_before_reset", 0))
    bias, recurrent_bias = _biases(e, linear_before_reset)
    sums = _sums(e, e.dense(0), bias)
    weights, packed = _weights(e, gru and not linear_before_reset)
    clip = op.attr("clip")
    e.step(
        cell.kernel,
        [
            sums.transpose((1, 0, 2)) if batch_first else sums,
            weights,
            recurrent_bias,
            _state_input(e, cell.states, batch_first),
            _state_input(e, cell.states + 1, batch_first) if lstm else None,
            e.inner(7) if op.type == "LSTM" and op.input(7) is not None else None,
            _lengths(e),
        ],
        _outputs(e, batch_first),
        direction=_direction(op),
        packed=packed,
        linear_before_reset=int(linear_before_reset),
        input_forget=int(lstm and op.attr("input_forget", 0)),
        quantized=int(op.type == "QuantizedLSTM"),
        clip=float(clip) if clip else float("inf"),
        **_activations(op),
    )


def _cost(op: OpView) -> Cost:
    directions, gates, hidden = _shape(op)
    x = op.required(0)
    rows: Dim = x.shape[0] * x.shape[1]
    return traffic(op, 2 * rows * directions * gates * hidden * (x.shape[2] + hidden))


_DTYPES = {**dict.fromkeys((0, 1, 2, 3, 5, 6, 7), F32), 4: frozenset({"int32"})}

SPECS: list[KernelSpec] = [
    KernelSpec(
        cell.kernel if cell.states == 5 else "quantized_lstm_f32",
        f"{cell.domain}:{op_type}",
        _emit,
        dtypes=_DTYPES if cell.states == 5 else dict.fromkeys(range(6), F32),
        supports=_reason,
        cost=_cost,
    )
    for op_type, cell in _CELLS.items()
]
