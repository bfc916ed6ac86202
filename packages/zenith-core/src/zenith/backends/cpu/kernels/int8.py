"""Rows of the int8 family: products of 8-bit operands, with what is fused behind them.

`linear_int8` multiplies rows, `conv_int8` windows, `depthwise_int8` each channel by its own kernel.
Sums are exact; what follows is float32 (`cpp/cpu/kernels/int8/finish.h` is the other side).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zenith.backends.cpu.emit import Emit
from zenith.backends.cpu.epilogue import epilogue_codes, epilogue_reason
from zenith.backends.cpu.kernels.gemm import as_matrix, rows
from zenith.backends.cpu.operand import Operand
from zenith.backends.cpu.window import as_pixels, output_pixels, rank_reason, window_of
from zenith.ir.dims import product
from zenith.ops import epilogue
from zenith.ops.quantized import OPERANDS
from zenith.passes.quantize import Form
from zenith.runtime.kernel_registry import Cost, KernelSpec, traffic
from zenith.runtime.op_view import OpView, ValueView

__all__ = ["SPECS"]

_BYTES = frozenset({"uint8", "int8"})
_DTYPES = {0: _BYTES, 1: frozenset({"float32"}), 3: frozenset({"int8"}), 4: frozenset({"float32"})}
_SPECIAL = ("addq", "quantize", "bfloat16")  # steps of finish.h's own
_LEAST_GELU_STEP = 1e-3  # kLeastGeluStep of finish.h
_PADDING = 64  # elements behind a row of constants: kPadding of finish.h


@dataclass(frozen=True)
class _Tail:
    """The epilogue of a node, taken apart: positions of inputs, None where there is no such step.

    steps: what is left between, with its operands.
    """

    bias: int | None
    add: int | None
    quantize: int | None
    steps: tuple[str, ...]
    operands: tuple[int, ...]


def _tail(op: OpView) -> _Tail:
    places: dict[str, int] = {}
    steps: list[str] = []
    operands: list[int] = []
    at = OPERANDS
    for index, step in enumerate(epilogue.parse(op.overload)):
        if step.name in _SPECIAL or (step.name == "bias" and index == 0):
            places[step.name] = at
        else:
            steps.append(step.name)
            operands += range(at, at + step.operands)
        at += step.operands
    return _Tail(
        places.get("bias"),
        places.get("addq"),
        places.get("quantize"),
        tuple(steps),
        tuple(operands),
    )


def _reason(op: OpView) -> str | None:
    if len(op.inputs) != OPERANDS + epilogue.operands(op.overload):
        return f"the epilogue takes other operands than the node's {len(op.inputs) - OPERANDS}"
    steps = [step.name for step in epilogue.parse(op.overload)]
    if "addq" in steps and steps.index("addq") != int(steps[0] == "bias"):
        return "integers are added behind another step"
    tail = _tail(op)
    constants = [1, 2, 3, 4]
    constants += [i for i in (tail.bias,) if i is not None]
    constants += [i + k for i in (tail.add,) if i is not None for k in (1, 2)]
    constants += [i + k for i in (tail.quantize,) if i is not None for k in (0, 1)]
    for index in constants:
        if op.required(index).const is None:
            return f"input {index} is not constant"
    for index in (1, 2):
        if op.required(index).size != 1:
            return f"input {index} is not one value"
    for operand in tail.operands:
        if op.required(operand).dtype != "float32":
            return f"input {operand} is {op.required(operand).dtype}"
    return epilogue_reason(".".join(tail.steps), len(tail.operands))


def _array(value: ValueView) -> np.ndarray[Any, Any]:
    assert value.const is not None
    return value.const


def _number(value: ValueView) -> float:
    return float(_array(value).reshape(()))


def _channels(e: Emit, array: np.ndarray[Any, Any], groups: int) -> Operand:
    """A constant per output channel, one row a group, padded."""
    wide = array.reshape(groups, -1)
    return e.const(np.pad(wide, ((0, 0), (0, _PADDING))))


def _constants(e: Emit, sums: np.ndarray[Any, Any], groups: int) -> list[Operand]:
    """Offset, scale and bias. sums: of the weights of every output channel."""
    op, tail = e.op, _tail(e.op)
    zero = int(_number(op.required(2))) + (128 if op.required(0).dtype == "int8" else 0)
    channels = sums.size
    scale = np.float32(_number(op.required(1))) * _array(op.required(4)).astype(np.float32)
    bias = np.zeros(channels, np.float32)
    if tail.bias is not None:
        bias = _array(op.required(tail.bias)).astype(np.float32)
    return [
        _channels(e, (-zero * sums.astype(np.int64)).astype(np.int32), groups),
        _channels(e, np.broadcast_to(scale.reshape(-1), (channels,)), groups),
        _channels(e, bias, groups),
    ]


def _params(op: OpView) -> dict[str, Any]:
    """Those of FinishParams."""
    tail = _tail(op)
    params: dict[str, Any] = {
        "epilogue": epilogue_codes(".".join(tail.steps)),
        "x_zero": int(_number(op.required(2))),
        "add_scale": 0.0,
        "add_zero": 0,
        "y_inverse": 1.0,
        "y_zero": 0,
    }
    if tail.add is not None:
        params["add_scale"] = _number(op.required(tail.add + 1))
        params["add_zero"] = int(_number(op.required(tail.add + 2)))
    if tail.quantize is not None:
        params["y_inverse"] = 1.0 / _number(op.required(tail.quantize))
        params["y_zero"] = int(_number(op.required(tail.quantize + 1)))
    return params


# Linear.


def _linear_reason(op: OpView) -> str | None:
    if op.required(3).rank != 2:
        return f"the weights have rank {op.required(3).rank}, not 2"
    return _reason(op)


def _emit_linear(e: Emit) -> None:
    op, tail = e.op, _tail(e.op)
    operands = [e.inner(i) if op.required(i).rank == 1 else rows(e, i) for i in tail.operands]
    sums = _array(op.required(3)).sum(axis=0, dtype=np.int64)
    y = as_matrix(e.output(0))
    assert y is not None
    e.step(
        "linear_int8",
        [
            rows(e, 0),
            e.packed(3, "int8_weights", group=1, column_dilation=1),
            *_constants(e, sums, 1),
            None if tail.add is None else rows(e, tail.add),
            *operands,
        ],
        [y],
        **_params(op),
    )


def _gelu_note(op: OpView) -> str | None:
    tail = _tail(op)
    if tail.quantize is None or tail.steps != ("gelu",):
        return None
    if _number(op.required(tail.quantize)) < _LEAST_GELU_STEP:
        return None
    return (
        "a GELU that is rounded to 8 bits at once is a polynomial within 2e-4, less than a fifth "
        "of a step"
    )


def _linear_cost(op: OpView) -> Cost:
    return traffic(op, 2 * op.outputs[0].size * op.required(3).shape[0])


# Conv.


def _conv_reason(op: OpView) -> str | None:
    if reason := rank_reason(op) or _reason(op):
        return reason
    tail = _tail(op)
    full = [*tail.operands, *([] if tail.add is None else [tail.add])]
    if any(op.required(i).shape != op.outputs[0].shape for i in full):
        return "an operand is broadcast"
    return None


def _depthwise_reason(op: OpView) -> str | None:
    m, per_group = op.required(3).shape[:2]
    if per_group != 1 or m != op.attr("group", 1) or m == 1:
        return "not one kernel per channel"
    return _conv_reason(op)


def _emit_conv(kernel: str, packer: str) -> Callable[[Emit], None]:
    def emit(e: Emit) -> None:
        op, tail = e.op, _tail(e.op)
        weights, group = op.required(3), int(op.attr("group", 1))
        window = window_of(op, weights.shape[2:])
        depthwise = kernel.startswith("depthwise")
        array = _array(weights)
        packing = {"group": group, "column_dilation": window.dilations[-1]}
        sums = array.reshape(array.shape[0], -1).sum(axis=1, dtype=np.int64)

        def pixels(index: int) -> Operand:
            return as_pixels(e.channels_last(index))

        e.batch_step(
            kernel,
            [
                pixels(0),
                e.packed(3, packer, **({} if depthwise else packing)),
                *_constants(e, sums, 1 if depthwise else group),
                None if tail.add is None else pixels(tail.add),
                *(pixels(i) for i in tail.operands),
            ],
            [output_pixels(e)],
            kernel_shape=window.kernel,
            strides=window.strides,
            pads=window.begin,
            dilations=window.dilations,
            group=group,
            **_params(op),
        )

    return emit


def _conv_cost(op: OpView) -> Cost:
    return traffic(op, 2 * op.outputs[0].size * product(op.required(3).shape[1:]))


# Which standard operators become these.


def _form_reason(op: OpView, ranks: Sequence[int]) -> str | None:
    x, w = op.required(0), op.required(1)
    if x.dtype != "float32":
        return f"its input is {x.dtype}"
    if w.const is None:
        return "its right side is not constant"
    if w.rank not in ranks:
        return f"its weights have rank {w.rank}"
    if x.const is not None:
        return "it is constant"
    return None


def _matmul_form(op: OpView) -> Form | str:
    if reason := _form_reason(op, (2,)):
        return reason
    return Form(0, 1, 1) if op.required(0).rank >= 2 else "its left side is a vector"


def _gemm_form(op: OpView) -> Form | str:
    if reason := _form_reason(op, (2,)):
        return reason
    if op.attr("transA", 0) or op.attr("alpha", 1.0) != 1 or op.attr("beta", 1.0) != 1:
        return "it transposes its left side or scales"
    turned = int(op.attr("transB", 0))
    c, size = op.input(2), op.required(1).shape[0 if turned else 1]
    if c is not None and (c.const is None or c.shape != (size,)):
        return "what it adds is not one constant per column"
    return Form(0, 1, 0 if turned else 1)


def _conv_form(op: OpView) -> Form | str:
    if reason := _form_reason(op, (3, 4)):
        return reason
    bias = op.input(2)
    if bias is not None and bias.const is None:
        return "its bias is not constant"
    explicit = op.attr("auto_pad", "NOTSET") == "NOTSET"
    return Form(0, 1, 0) if explicit else "its padding is automatic"


SPECS: list[KernelSpec] = [
    KernelSpec(
        "linear_int8",
        "zenith:QuantizedLinear",
        _emit_linear,
        dtypes=_DTYPES,
        supports=_linear_reason,
        cost=_linear_cost,
        note=_gelu_note,
        quantizes={"ai.onnx:MatMul": _matmul_form, "ai.onnx:Gemm": _gemm_form},
    ),
    KernelSpec(
        "depthwise_int8",
        "zenith:QuantizedConv",
        _emit_conv("depthwise_int8", "depthwise_int8_weights"),
        dtypes=_DTYPES,
        supports=_depthwise_reason,
        cost=_conv_cost,
        note=_gelu_note,
    ),
    KernelSpec(
        "conv_int8",
        "zenith:QuantizedConv",
        _emit_conv("conv_int8", "int8_weights"),
        dtypes=_DTYPES,
        supports=_conv_reason,
        cost=_conv_cost,
        note=_gelu_note,
        quantizes={"ai.onnx:Conv": _conv_form},
    ),
]
