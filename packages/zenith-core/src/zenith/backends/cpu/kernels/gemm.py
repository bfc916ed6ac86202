"""Rows of the gemm family: matrix products, with whatever is fused behind them.

`linear_f32` and `linear_bf16` multiply by a constant packed ahead of time, `matmul_f32` by a
computed tensor; `linear_ozaki_f32` is `linear_f32` on integer tiles, `linear_strassen_f32` saves an
eighth of its work. They take an epilogue (`zenith.backends.cpu.epilogue`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np

from zenith import _native
from zenith.backends.cpu.emit import BF16, F32, Emit
from zenith.backends.cpu.epilogue import (
    OPERAND_STEPS,
    epilogue_codes,
    epilogue_note,
    epilogue_reason,
    epilogue_steps,
)
from zenith.backends.cpu.kernels.compose import pointwise
from zenith.backends.cpu.kernels.pointwise_program import Program, Value
from zenith.backends.cpu.operand import Operand, dense_strides
from zenith.ir.dims import Dim, product
from zenith.runtime.kernel_registry import Cost, KernelSpec, traffic
from zenith.runtime.op_view import OpView, ValueView

__all__ = ["SPECS", "as_matrix", "ozaki_note", "ozaki_reason", "rows"]

_MAX_RANK = 8
_GAINS = frozenset({"bf16"})
_TIES = frozenset({"strassen"})
_DIGITS = frozenset({"ozaki"})
# Below these the digits of x cost what the faster product saves (README of the native family).
_OZAKI_ROWS, _OZAKI_WIDTH = 4, 128
# Where most products gained by Strassen's scheme on the one machine measured, and where an earlier
# version gained on another (README of the native family).
_STRASSEN_ROWS, _STRASSEN_FEWER_ROWS, _STRASSEN_WIDTH = 256, 48, 768


def _product_cost(depth: Dim, op: OpView) -> Cost:
    return traffic(op, 2 * op.outputs[0].size * depth)


# Products with a constant matrix.


def as_matrix(operand: Operand) -> Operand | None:
    """A view as [rows, last axis] with stride 1 on the last axis, or None."""
    shape = (product(operand.shape[:-1]), operand.shape[-1])
    view = operand.reshape(shape)
    if view is None and operand.is_dense():  # also without elements
        view = replace(operand, shape=shape, strides=dense_strides(shape))
    return view if view is not None and (view.strides[-1] == 1 or shape[-1] == 1) else None


def rows(e: Emit, index: int) -> Operand:
    """Input `index` as a matrix of its last axis, copied only when it must be."""
    found = as_matrix(e.inner(index)) or as_matrix(e.dense(index))
    assert found is not None
    return found


def _output_rows(y: Operand) -> Operand:
    found = as_matrix(y)
    assert found is not None
    return found


def _linear_reason(op: OpView) -> str | None:
    weights = op.required(1)
    if not weights.is_const:
        return "the weights are not constant"
    if weights.rank != 2:
        return f"the weights have rank {weights.rank}, not 2"
    return epilogue_reason(op.overload, len(op.inputs) - 2)


@cache
def _has_tiles() -> bool:
    return any("linear_ozaki_f32" in _native.kernels(isa) for isa in _native.isas())


def ozaki_reason(rows: Dim, weights: ValueView) -> str | None:
    """What is against `linear_ozaki_f32`, for so many rows and constant weights."""
    if not _has_tiles():
        return "no integer tiles here (AMX)"
    if isinstance(rows, int) and rows < _OZAKI_ROWS:
        return f"{rows} rows, fewer than {_OZAKI_ROWS}"
    width = min(int(size) for size in weights.shape[:2])
    if width < _OZAKI_WIDTH:
        return f"{width} wide, less than {_OZAKI_WIDTH}"
    assert weights.const is not None
    total = np.sum(weights.const, dtype=np.float64)
    return None if np.isfinite(total) else "the weights are not finite"


def ozaki_note(op: OpView) -> str:
    """What a product on integer tiles does to its numbers."""
    return (
        "float32 products by exact sums of 8-bit digits: every number keeps 24 bits below the "
        "largest of its row (column) and 384 neighbours of the depth"
    )


def _ozaki_row_reason(
    plain: Callable[[OpView], str | None],
) -> Callable[[OpView], str | None]:
    """plain: of the row that computes the same without it."""

    def reason(op: OpView) -> str | None:
        return plain(op) or ozaki_reason(product(op.required(0).shape[:-1]), op.required(1))

    return reason


def _strassen_reason(
    plain: Callable[[OpView], str | None], least_rows: int
) -> Callable[[OpView], str | None]:
    """plain: of the row that computes the same without it. Any number of rows will do where it is
    not known."""

    def reason(op: OpView) -> str | None:
        why = plain(op)
        if why is not None:
            return why
        rows = product(op.required(0).shape[:-1])
        if isinstance(rows, int) and rows < least_rows:
            return f"{rows} rows, fewer than {least_rows}"
        width = min(int(size) for size in op.required(1).shape)
        return f"{width} wide, less than {_STRASSEN_WIDTH}" if width < _STRASSEN_WIDTH else None

    return reason


def _strassen_note(op: OpView) -> str:
    return (
        "products by Strassen's scheme: a row's last bits depend on the rows beside it and on the "
        "number of threads; packed weights take twice their size"
    )


def _emit_linear(kernel: str, packer: str) -> Callable[[Emit], None]:
    def emit(e: Emit) -> None:
        steps = [step for step in epilogue_steps(e.op.overload) if step in OPERAND_STEPS]
        operands = [
            e.inner(2 + i) if step == "bias" else rows(e, 2 + i) for i, step in enumerate(steps)
        ]
        e.step(
            kernel,
            [rows(e, 0), e.packed(1, packer, transposed=0), *operands],
            [_output_rows(e.output(0))],
            epilogue=epilogue_codes(e.op.overload),
        )

    return emit


# MatMul: numpy's rules.


def _constant_matrix(op: OpView) -> bool:
    right = op.required(1)
    return right.is_const and right.rank == 2


def _packed_matmul_reason(op: OpView) -> str | None:
    if not _constant_matrix(op):
        return "the right side is not a constant matrix"
    return "the left side is a scalar" if op.required(0).rank == 0 else None


def _emit_packed_matmul(kernel: str, packer: str) -> Callable[[Emit], None]:
    def emit(e: Emit) -> None:
        x, y = rows(e, 0), e.output(0)
        y = _output_rows(y if e.op.outputs[0].rank > 1 else y.unsqueeze(0))
        e.step(kernel, [x, e.packed(1, packer, transposed=0)], [y], epilogue=[])

    return emit


def _matmul_reason(op: OpView) -> str | None:
    ranks = [op.required(i).rank for i in (0, 1)]
    if min(ranks) == 0:
        return "an input is a scalar"
    return f"rank {max(ranks)} is above {_MAX_RANK}" if max(ranks) > _MAX_RANK else None


def _fast_left(e: Emit, index: int) -> Operand:
    """Rows of the left side are read many times: they should be contiguous."""
    operand = e.operand(index)
    assert operand is not None
    single_row = operand.rank >= 2 and operand.shape[-2] == 1
    return operand if operand.rank < 2 or single_row else e.inner(index)


def _emit_matmul(e: Emit) -> None:
    a, b, y = _fast_left(e, 0), e.operand(1), e.output(0)
    assert b is not None
    # A vector is a matrix of one row (left) or one column (right).
    if a.rank == 1:
        a = a.unsqueeze(0)
        y = y.unsqueeze(y.rank if b.rank == 1 else y.rank - 1)
    if b.rank == 1:
        b = b.unsqueeze(1)
        y = y.unsqueeze(y.rank)
    e.step("matmul_f32", [_batched(a, y), _batched(b, y)], [y], epilogue=[])


def _batched(operand: Operand, y: Operand) -> Operand:
    """With the batch axes of the product; repeated items have stride 0."""
    return operand.expand((*y.shape[:-2], *operand.shape[-2:]))


def _matmul_cost(op: OpView) -> Cost:
    return _product_cost(op.required(0).shape[-1], op)


# Gemm: alpha * A' * B' + beta * C.


def _gemm_reason(op: OpView) -> str | None:
    ranks = [op.required(i).rank for i in (0, 1)]
    return None if ranks == [2, 2] else f"A and B have ranks {ranks[0]} and {ranks[1]}, not 2"


def _transposed(operand: Operand, flag: int) -> Operand:
    return operand.transpose((1, 0)) if flag else operand


def _scale(e: Emit, factor: float) -> Operand:
    return e.const(np.full((1, 1), factor, np.float32))


def _gemm_tail(e: Emit, alpha: float) -> tuple[list[str], list[Operand]]:
    """Steps and operands for alpha and beta * C, behind the bare product."""
    c, beta = e.op.input(2), float(e.op.attr("beta", 1.0))
    if c is None or beta == 0:
        return (["mul"], [_scale(e, alpha)]) if alpha != 1 else ([], [])
    steps: list[str] = ["mul"] if alpha != 1 else []
    operands: list[Operand] = [_scale(e, alpha)] if alpha != 1 else []
    if c.const is not None and beta != 1:
        return [*steps, "add"], [*operands, e.const(np.asarray(c.const * np.float32(beta)))]
    if beta != 1:
        # (alpha / beta * product + C) * beta needs no scaled copy of C.
        steps, operands = ["mul"], [_scale(e, alpha / beta)]
    steps, operands = [*steps, "add"], [*operands, e.inner(2)]
    return ([*steps, "mul"], [*operands, _scale(e, beta)]) if beta != 1 else (steps, operands)


def _emit_gemm(e: Emit) -> None:
    op = e.op
    alpha = float(op.attr("alpha", 1.0))
    trans_a, trans_b = int(op.attr("transA", 0)), int(op.attr("transB", 0))
    a = e.operand(0)
    assert a is not None
    a = _transposed(a, trans_a)
    if not (a.strides[1] == 1 or a.shape[1] == 1 or a.shape[0] == 1):
        copy = e.temp("float32", a.shape)
        e.copy(a, copy)
        a = copy
    steps, operands = _gemm_tail(e, alpha)
    if op.required(1).is_const:
        kernel, right = "linear_f32", e.packed(1, "linear_pack_f32", transposed=trans_b)
    else:
        b = e.operand(1)
        assert b is not None
        kernel, right = "matmul_f32", _transposed(b, trans_b)
    codes = epilogue_codes(".".join(steps))
    e.step(kernel, [a, right, *operands], [e.output(0)], epilogue=codes)


def _gemm_cost(op: OpView) -> Cost:
    return _product_cost(op.required(0).shape[0 if op.attr("transA", 0) else 1], op)


def _float_inputs(count: int) -> dict[int, frozenset[str]]:
    return dict.fromkeys(range(count), F32)


# float64 and integers: a plain kernel, no packing.

_TYPED = frozenset({"float64", "int32", "int64", "uint32", "uint64"})


def _emit_typed_matmul(e: Emit) -> None:
    a, b, y = e.operand(0), e.operand(1), e.output(0)
    assert a is not None and b is not None
    if a.rank == 1:
        a = a.unsqueeze(0)
        y = y.unsqueeze(y.rank if b.rank == 1 else y.rank - 1)
    if b.rank == 1:
        b = b.unsqueeze(1)
        y = y.unsqueeze(y.rank)
    e.step("matmul_typed", [_batched(a, y), _batched(b, y)], [y])


def _emit_typed_gemm(e: Emit) -> None:
    """alpha and beta are float: integers are scaled in float64 and truncated."""
    op, y = e.op, e.output(0)
    a, b = e.operand(0), e.operand(1)
    assert a is not None and b is not None
    a = _transposed(a, int(op.attr("transA", 0)))
    b = _transposed(b, int(op.attr("transB", 0)))
    alpha, beta = float(op.attr("alpha", 1.0)), float(op.attr("beta", 1.0))
    c = e.operand(2) if op.input(2) is not None and beta != 0 else None
    if alpha == 1 and c is None:
        e.step("matmul_typed", [a, b], [y])
        return
    product = e.temp(y.dtype, y.shape)
    e.step("matmul_typed", [a, b], [product])
    plain = y.dtype == "float64" or (alpha == 1 and beta == 1)
    work = y.dtype if plain else "float64"

    def build(p: Program, v: Value, *rest: Value) -> Value:
        v = p.cast(v, work)
        if alpha != 1:
            v = p.op("mul", v, p.number(alpha, work))
        for term in rest:
            term = p.cast(term, work)
            if beta != 1:
                term = p.op("mul", term, p.number(beta, work))
            v = p.op("add", v, term)
        return p.cast(v, y.dtype)

    pointwise(e, build, [product] if c is None else [product, c], y)


# Rows for fewer rows come behind the plain product: only mode="max-autotune" takes them.


def _strassen_linear(name: str, least_rows: int) -> KernelSpec:
    return KernelSpec(
        name,
        "zenith:Linear",
        _emit_linear("linear_strassen_f32", "strassen_pack_f32"),
        dtypes=_float_inputs(8),
        supports=_strassen_reason(_linear_reason, least_rows),
        cost=_matmul_cost,
        note=_strassen_note,
        tags=_TIES,
    )


def _strassen_matmul(name: str, least_rows: int) -> KernelSpec:
    return KernelSpec(
        name,
        "ai.onnx:MatMul",
        _emit_packed_matmul("linear_strassen_f32", "strassen_pack_f32"),
        dtypes=_float_inputs(2),
        supports=_strassen_reason(_packed_matmul_reason, least_rows),
        cost=_matmul_cost,
        note=_strassen_note,
        tags=_TIES,
    )


SPECS: list[KernelSpec] = [
    KernelSpec(
        "linear_ozaki_f32",
        "zenith:Linear",
        _emit_linear("linear_ozaki_f32", "ozaki_pack_f32"),
        dtypes=_float_inputs(8),
        supports=_ozaki_row_reason(_linear_reason),
        cost=_matmul_cost,
        note=ozaki_note,
        tags=_DIGITS,
    ),
    _strassen_linear("linear_strassen_f32", _STRASSEN_ROWS),
    KernelSpec(
        "linear_f32",
        "zenith:Linear",
        _emit_linear("linear_f32", "linear_pack_f32"),
        dtypes=_float_inputs(8),
        supports=_linear_reason,
        cost=_matmul_cost,
    ),
    _strassen_linear("linear_strassen_fewer_f32", _STRASSEN_FEWER_ROWS),
    KernelSpec(
        "linear_bf16",
        "zenith:Linear",
        _emit_linear("linear_bf16", "linear_pack_bf16"),
        dtypes=dict.fromkeys(range(8), BF16),
        supports=_linear_reason,
        cost=_matmul_cost,
        note=epilogue_note,
        tags=_GAINS,
    ),
    KernelSpec(
        "matmul_ozaki_f32",
        "ai.onnx:MatMul",
        _emit_packed_matmul("linear_ozaki_f32", "ozaki_pack_f32"),
        dtypes=_float_inputs(2),
        supports=_ozaki_row_reason(_packed_matmul_reason),
        cost=_matmul_cost,
        note=ozaki_note,
        tags=_DIGITS,
    ),
    _strassen_matmul("matmul_strassen_f32", _STRASSEN_ROWS),
    KernelSpec(
        "matmul_packed_f32",
        "ai.onnx:MatMul",
        _emit_packed_matmul("linear_f32", "linear_pack_f32"),
        dtypes=_float_inputs(2),
        supports=_packed_matmul_reason,
        cost=_matmul_cost,
    ),
    _strassen_matmul("matmul_strassen_fewer_f32", _STRASSEN_FEWER_ROWS),
    KernelSpec(
        "matmul_packed_bf16",
        "ai.onnx:MatMul",
        _emit_packed_matmul("linear_bf16", "linear_pack_bf16"),
        dtypes=dict.fromkeys(range(2), BF16),
        supports=_packed_matmul_reason,
        cost=_matmul_cost,
        tags=_GAINS,
    ),
    KernelSpec(
        "matmul_f32",
        "ai.onnx:MatMul",
        _emit_matmul,
        dtypes=_float_inputs(2),
        supports=_matmul_reason,
        cost=_matmul_cost,
    ),
    KernelSpec(
        "gemm_f32",
        "ai.onnx:Gemm",
        _emit_gemm,
        dtypes=_float_inputs(3),
        supports=_gemm_reason,
        cost=_gemm_cost,
    ),
    KernelSpec(
        "matmul_typed",
        "ai.onnx:MatMul",
        _emit_typed_matmul,
        dtypes=dict.fromkeys(range(2), _TYPED),
        supports=_matmul_reason,
        cost=_matmul_cost,
    ),
    KernelSpec(
        "gemm_typed",
        "ai.onnx:Gemm",
        _emit_typed_gemm,
        dtypes=dict.fromkeys(range(3), _TYPED),
        supports=_gemm_reason,
        cost=_gemm_cost,
    ),
]
