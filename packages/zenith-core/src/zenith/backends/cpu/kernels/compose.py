"""Emitting an operator as several steps: elementwise programs and reductions of one dtype."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from zenith.backends.cpu.emit import Emit
from zenith.backends.cpu.kernels.pointwise_program import Program, Value
from zenith.backends.cpu.operand import Operand
from zenith.ir.dims import Dim

__all__ = ["REDUCTIONS", "arg_reduce", "bits_as", "pointwise", "reduced", "squeezed"]

# ONNX operator -> number in cpp/cpu/kernels/reduce/reduce.cpp.
REDUCTIONS = {
    "ReduceSum": 0,
    "ReduceMean": 1,
    "ReduceMax": 2,
    "ReduceMin": 3,
    "ReduceProd": 4,
    "ReduceL1": 5,
    "ReduceL2": 6,
    "ReduceSumSquare": 7,
    "ReduceLogSum": 8,
}


def pointwise(
    e: Emit, build: Callable[..., Value], inputs: Sequence[Operand], output: Operand | None = None
) -> Operand:
    """One elementwise step: ``build(program, *values)`` over `inputs`, which broadcast to the
    output's shape; the result is converted to its dtype. Without an `output` it is a temporary of
    the first input's shape."""
    program = Program()
    values = [program.input(x.dtype) for x in inputs]
    result = build(program, *values)
    if output is not None and output.dtype != result.dtype:
        result = program.cast(result, output.dtype)
    program.finish([result])
    if output is None:
        output = e.temp(result.dtype, inputs[0].shape)
    position = {id(v): x for v, x in zip(values, inputs, strict=True)}
    operands = [
        e.const(v.const) if v.const is not None else position[id(v)] for v in program.inputs
    ]
    codes, args = program.encode()
    shaped = [o.expand(output.shape) for o in operands]
    e.step("pointwise", shaped, [output], steps=codes, args=args)
    return output


def reduced(e: Emit, name: str, x: Operand, axes: Sequence[int]) -> Operand:
    """A reduction into a temporary; the axes stay, with size 1."""
    kept: tuple[Dim, ...] = tuple(1 if axis in axes else n for axis, n in enumerate(x.shape))
    y = e.temp(x.dtype, kept)
    e.step("reduce", [x], [y], op=REDUCTIONS[name], axes=list(axes))
    return y


def arg_reduce(e: Emit, x: Operand, axis: int, y: Operand, *, largest: bool, last: bool) -> None:
    """Where along `axis` the extreme value is."""
    e.step("arg_reduce", [x], [y], axis=axis, largest=int(largest), last=int(last))


def squeezed(x: Operand, axes: Sequence[int]) -> Operand:
    """Without these axes of size 1."""
    for axis in sorted(axes, reverse=True):
        x = x.squeeze(axis)
    return x


def bits_as(x: Operand, dtype: str) -> Operand:
    """The same memory under another dtype of the same size."""
    return replace(x, dtype=dtype)
