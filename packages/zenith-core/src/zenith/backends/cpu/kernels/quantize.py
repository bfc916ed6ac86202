"""Rows of the quantize family: to and from integers, and exact products of 8-bit integers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from zenith.backends.cpu.emit import F32, Emit
from zenith.backends.cpu.operand import Operand, same
from zenith.backends.cpu.window import as_pixels, output_pixels, rank_reason, window_of
from zenith.ir.dims import Dim, product
from zenith.runtime.kernel_registry import Cost, KernelSpec, traffic
from zenith.runtime.op_view import OpView, ValueView

__all__ = ["SPECS"]

_BYTES = frozenset({"int8", "uint8"})
_FLOATS = frozenset({"float32", "float16", "bfloat16"})
_SMALL_FLOATS = frozenset(
    {"float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float4_e2m1fn"}
)
_QUANTIZED = _SMALL_FLOATS | {
    "int2", "uint2", "int4", "uint4", "int8", "uint8", "int16", "uint16",
}  # fmt: skip
_SCALES = _FLOATS | {"int32", "float8_e8m0fnu"}
_FLOAT, _FLOAT16, _BFLOAT16 = 1, 10, 16  # TensorProto.DataType
_PRECISIONS = {"float32": 0, "float16": _FLOAT16, "bfloat16": _BFLOAT16}


def _is_single(value: ValueView) -> bool:
    return bool(value.size == 1)


# QuantizeLinear and DequantizeLinear.


def _type_reason(op: OpView, index: int, accepted: frozenset[str]) -> str | None:
    value = op.input(index)
    if value is None or value.dtype in accepted:
        return None
    return f"input {index} is {value.dtype}"


def _code(value: ValueView) -> int:
    """ONNX's code of an element type."""
    assert value.value.dtype is not None
    return int(value.value.dtype)


def _granularity_reason(op: OpView) -> str | None:
    x, scale = op.required(0), op.required(1)
    if _is_single(scale):
        return None
    if x.rank == 0:
        return "a scalar has more than one scale"
    axis = int(op.attr("axis", 1)) % x.rank
    if op.attr("block_size", 0) and scale.rank == x.rank:
        return None
    if scale.rank != 1 or not same(scale.shape[0], x.shape[axis]):
        return f"scale of shape {scale.shape} does not fit axis {axis} of {x.shape}"
    return None


def _quantize_reason(op: OpView) -> str | None:
    y = op.outputs[0]
    if y.dtype not in _QUANTIZED:
        return f"output is {y.dtype}"
    if op.attr("precision", 0) not in (0, _FLOAT, _FLOAT16, _BFLOAT16):
        return f"division in data type {op.attr('precision')}"
    return _type_reason(op, 1, _SCALES) or _granularity_reason(op)


def _dequantize_reason(op: OpView) -> str | None:
    if op.outputs[0].dtype not in _FLOATS:
        return f"output is {op.outputs[0].dtype}"
    for index, accepted in ((0, _QUANTIZED | {"int32"}), (1, _SCALES)):
        if _type_reason(op, index, accepted):
            return _type_reason(op, index, accepted)
    return _granularity_reason(op)


@dataclass(frozen=True)
class _Grid:
    """x as [outer, axis, inner], and scale or zero point laid over it."""

    shape: tuple[Dim, Dim, Dim]
    block: int
    lay: Callable[[Operand], Operand]


def _view(operand: Operand, shape: Sequence[Dim]) -> Operand:
    found = operand.reshape(shape)
    assert found is not None, "the operand is dense"
    return found


def _grid(op: OpView) -> _Grid:
    x, scale = op.required(0), op.required(1)
    if _is_single(scale):
        whole = (1, 1, x.size)
        return _Grid(whole, 1, lambda s: _view(s, (1, 1, 1)).expand(whole))
    axis = int(op.attr("axis", 1)) % x.rank
    outer, size = product(x.shape[:axis]), x.shape[axis]
    inner = product(x.shape[axis + 1 :])
    block = int(op.attr("block_size", 0))
    if block and scale.rank == x.rank:
        blocks = scale.shape[axis]
        if inner == 1 and isinstance(size, int) and size % block == 0:
            rows = (outer, blocks, block)  # each block is one run with one scale
            return _Grid(rows, 1, lambda s: _view(s, (outer, blocks, 1)).expand(rows))
        return _Grid((outer, size, inner), block, lambda s: _view(s, (outer, blocks, inner)))
    if inner == 1:
        flat = (outer, 1, size)
        return _Grid(flat, 1, lambda s: _view(s, (1, 1, size)).expand(flat))
    return _Grid(
        (outer, size, inner), 1, lambda s: _view(s, (1, size, 1)).expand((outer, size, inner))
    )


def _precision(op: OpView) -> int:
    code = int(op.attr("precision", 0))
    if code:
        return 0 if code == _FLOAT else code
    return _PRECISIONS.get(op.required(1).dtype, 0)


def _order(e: Emit) -> tuple[int, ...] | None:
    """With one scale for all elements their order is free: that of the input's memory."""
    x = e.operand(0)
    return x.order() if x is not None and _is_single(e.op.required(1)) else None


def _in_order(operand: Operand, order: Sequence[int] | None, shape: Sequence[Dim]) -> Operand:
    """A tensor that is gapless in `order`, as `shape`."""
    return _view(operand if order is None else operand.transpose(order), shape)


def _flat(e: Emit, order: Sequence[int] | None, shape: Sequence[Dim]) -> Operand:
    """Input 0 as `shape`, in `order` or row-major."""
    x = e.operand(0) if order is not None else None
    return _view(e.dense(0), shape) if x is None else _in_order(x, order, shape)


def _emit_linear(kernel: str) -> Callable[[Emit], None]:
    def emit(e: Emit) -> None:
        op, grid, y = e.op, _grid(e.op), e.op.outputs[0]
        order = _order(e)
        # Floats of a byte have no zero point but zero, which adding would take a sign from.
        has_zero = op.input(2) is not None and not y.dtype.startswith("float8")
        e.step(
            kernel,
            [
                _flat(e, order, grid.shape),
                grid.lay(e.dense(1)),
                grid.lay(e.dense(2)) if has_zero else None,
            ],
            [_in_order(e.output(0, order), order, grid.shape)],
            block=grid.block,
            precision=_precision(op) if kernel == "quantize_linear" else 0,
            saturate=int(op.attr("saturate", 1)),
            x_type=_code(op.required(0)),
            scale_type=_code(op.required(1)),
            y_type=_code(y),
        )

    return emit


def _emit_dynamic(e: Emit) -> None:
    e.step("dynamic_quantize", [e.dense(0)], [e.output(i) for i in range(3)])


# Products of 8-bit integers. Where their operands stand among the inputs:


@dataclass(frozen=True)
class _Places:
    a: int
    b: int
    a_zero: int
    b_zero: int
    a_scale: int | None = None
    b_scale: int | None = None
    y_scale: int | None = None
    y_zero: int | None = None
    bias: int | None = None


_PLACES = {
    "MatMulInteger": _Places(0, 1, 2, 3),
    "ConvInteger": _Places(0, 1, 2, 3),
    "QLinearMatMul": _Places(0, 3, 2, 5, 1, 4, 6, 7),
    "QLinearConv": _Places(0, 3, 2, 5, 1, 4, 6, 7, 8),
}


def _single_reason(op: OpView, indices: Sequence[int | None]) -> str | None:
    for index in indices:
        value = None if index is None else op.input(index)
        if value is not None and not _is_single(value):
            return f"input {index} of shape {value.shape} is not one value"
    return None


def _tail(e: Emit) -> list[Operand | None]:
    """Scale and zero point of the output."""
    places = _PLACES[e.op.type]
    if places.y_scale is None or places.y_zero is None:
        return [None, None]
    return [_scale(e, places.y_scale), e.operand(places.y_zero)]


# MatMul: scales and zero points are one value, one per row of a, or one per column of b.


def _side(operand: Operand, shape: Sequence[Dim], axis: int) -> Operand:
    """A scale or zero point of rows (axis -2) or columns (axis -1), over the batch of `shape`."""
    target = [*shape[:-2], 1, 1]
    target[axis] = shape[axis]
    if operand.rank < 2:
        middle: list[Dim] = [1, 1]
        middle[axis] = operand.size
        operand = _view(operand, middle)
    return operand.expand(target)


def _matmul_reason(op: OpView) -> str | None:
    places, y = _PLACES[op.type], op.outputs[0]
    a, b = op.required(places.a), op.required(places.b)
    if min(a.rank, b.rank) == 0 or max(a.rank, b.rank) > 8:
        return f"ranks {a.rank} and {b.rank}"
    for index in (places.a_zero, places.b_zero, places.a_scale, places.b_scale):
        value = None if index is None else op.input(index)
        if value is None or _is_single(value):
            continue
        of_a = index in (places.a_zero, places.a_scale)
        side = a if of_a else b
        if side.rank < 2:
            return f"input {index} has a value per row of a vector"
        length = side.shape[-2 if of_a else -1]
        own = value.shape[0] if value.rank == 1 else value.shape[-2 if of_a else -1]
        if not same(own, length) or (value.rank > 1 and value.shape[-1 if of_a else -2] != 1):
            return f"input {index} of shape {value.shape} does not fit {side.shape}"
    if y.dtype not in _BYTES | {"int32"}:
        return f"output is {y.dtype}"
    return _single_reason(op, (places.y_scale, places.y_zero))


def _scale(e: Emit, index: int) -> Operand:
    """A scale as float32."""
    scale = e.dense(index)
    if scale.dtype == "float32":
        return scale
    wide = e.temp("float32", scale.shape)
    flat = (1, 1, scale.size)
    one = e.const(np.ones((1, 1, 1), np.float32)).expand(flat)
    e.step(
        "dequantize_linear",
        [_view(scale, flat), one, None],
        [_view(wide, flat)],
        block=1,
        precision=0,
        saturate=0,
        x_type=_code(e.op.required(index)),
        scale_type=_FLOAT,
        y_type=_FLOAT,
    )
    return wide


def _packed_matrix(op: OpView) -> np.ndarray | None:
    """A constant right side less its zero point, as [1, K, N] of int16; None if computed."""
    places = _PLACES[op.type]
    b, zero = op.required(places.b), op.input(places.b_zero)
    if b.const is None or b.rank != 2 or (zero is not None and zero.const is None):
        return None
    matrix = b.const.astype(np.int16)
    if zero is not None and zero.const is not None:
        matrix = matrix - zero.const.astype(np.int16).reshape(1, -1)
    return matrix[None]


def _emit_matmul(e: Emit) -> None:
    op, places = e.op, _PLACES[e.op.type]
    right = _packed_matrix(op)
    a, b, y = e.operand(places.a), e.operand(places.b), e.output(0)
    assert a is not None and b is not None
    # A vector is a matrix of one row (left) or one column (right).
    if a.rank == 1:
        a = a.unsqueeze(0)
        y = y.unsqueeze(y.rank if b.rank == 1 else y.rank - 1)
    if b.rank == 1:
        b = b.unsqueeze(1)
        y = y.unsqueeze(y.rank)
    row_values = [i for i in (places.a_zero, places.a_scale) if i is not None]
    column_values = [i for i in (places.b_zero, places.b_scale) if i is not None]
    values = [op.input(i) for i in row_values]
    flat = b.rank == 2 and all(v is None or _is_single(v) for v in values)
    flat = flat and all(v is None or v.rank <= 2 for v in map(op.input, column_values))
    if flat and y.rank > 2:  # one product of all rows
        merged = a.reshape((product(a.shape[:-1]), a.shape[-1]))
        y = _view(y, (product(y.shape[:-1]), y.shape[-1]))
        a = merged or _view(e.dense(places.a), (y.shape[0], a.shape[-1]))
    batch = y.shape[:-2]
    shape = y.shape

    def side(index: int | None, axis: int) -> Operand | None:
        if index is None or op.input(index) is None:
            return None
        is_scale = index in (places.a_scale, places.b_scale)
        return _side(_scale(e, index) if is_scale else e.dense(index), shape, axis)

    e.step(
        "matmul_i8",
        [
            a.expand((*batch, *a.shape[-2:])),
            b.expand((*batch, *b.shape[-2:]))
            if right is None
            else e.packed_array(right, "integer_pack_i16"),
            side(places.a_zero, -2),
            side(places.b_zero, -1) if right is None else None,
            None,
            side(places.a_scale, -2),
            side(places.b_scale, -1),
            *_tail(e),
        ],
        [y],
        packed=int(right is not None),
        sides=int(right is not None or _one_side(op, b)),
    )


def _one_side(op: OpView, b: Operand) -> bool:
    """Whether every item of the batch has the same right side."""
    zero = op.input(_PLACES[op.type].b_zero)
    return b.rank == 2 and (zero is None or zero.rank <= 2)


# Conv.


def _conv_reason(op: OpView) -> str | None:
    places, y = _PLACES[op.type], op.outputs[0]
    w = op.required(places.b)
    if rank_reason(op):
        return rank_reason(op)
    if not all(isinstance(n, int) for n in w.shape):
        return "the size of the weights is dynamic"
    for index in (places.b_zero, places.b_scale):
        value = None if index is None else op.input(index)
        if value is not None and not _is_single(value) and value.shape != (w.shape[0],):
            return f"input {index} of shape {value.shape} is not one value per output channel"
    if y.dtype not in _BYTES | {"int32"}:
        return f"output is {y.dtype}"
    return _single_reason(op, (places.a_zero, places.a_scale, places.y_scale, places.y_zero))


def _conv_constant(op: OpView) -> np.ndarray | None:
    """Constant weights less their zero points, as int16; None if computed."""
    places = _PLACES[op.type]
    w, zero = op.required(places.b), op.input(places.b_zero)
    if w.const is None or (zero is not None and zero.const is None):
        return None
    array = w.const.astype(np.int16)
    if zero is not None and zero.const is not None:
        array = array - zero.const.astype(np.int16).reshape(-1, *[1] * (w.rank - 1))
    return array


def _conv_weights(e: Emit, groups: int, depthwise: bool) -> tuple[Operand, int]:
    """w [M, C, *kernel] as [groups, kernel * C, M / groups], or [kernel, M] if `depthwise`; and
    whether its zero points are taken off."""
    places = _PLACES[e.op.type]
    w, array = e.op.required(places.b), _conv_constant(e.op)
    taps = product(w.shape[2:])
    split = (groups, w.shape[0] // groups, w.shape[1], taps)
    merged = (groups, taps * w.shape[1], w.shape[0] // groups)
    if array is not None and depthwise:
        return e.const(array.reshape(groups, taps).T), 1
    if array is not None:
        array = array.reshape(split).transpose(0, 3, 2, 1).reshape(merged)
        return e.packed_array(np.ascontiguousarray(array), "integer_pack_i16"), 1
    turned = _view(e.dense(places.b), split).transpose((0, 3, 2, 1))
    copy = e.temp(turned.dtype, turned.shape)
    e.copy(turned, copy)
    return _view(copy, merged), 0


def _channels(operand: Operand, shape: Sequence[Dim]) -> Operand:
    """One value, or one per output channel, as `shape`."""
    if operand.size == 1:
        return _view(operand, [1] * len(shape)).expand(shape)
    return _view(operand, shape)


def _emit_conv(e: Emit) -> None:
    op, places = e.op, _PLACES[e.op.type]
    w = op.required(places.b)
    groups, channels = int(op.attr("group", 1)), int(w.shape[0])
    window = window_of(op, w.shape[2:])
    depthwise = groups == channels and w.shape[1] == 1 and _conv_constant(op) is not None
    weights, packed = _conv_weights(e, groups, depthwise)
    zero = None
    if not packed and op.input(places.b_zero) is not None:
        zero = _channels(e.dense(places.b_zero), (groups, channels // groups))
    scale = None
    if places.b_scale is not None:
        scale = _channels(e.dense(places.b_scale), (channels,))
    e.step(
        "conv_i8" if not depthwise else "depthwise_i8",
        [
            _volume(as_pixels(e.channels_last(places.a))),
            weights,
            e.operand(places.a_zero),
            zero,
            None if places.bias is None else e.operand(places.bias),
            None if places.a_scale is None else e.operand(places.a_scale),
            scale,
            *_tail(e),
        ],
        [_volume(output_pixels(e))],
        packed=packed,
        groups=groups,
        kernel_shape=[1, *window.kernel],
        strides=[1, *window.strides],
        pads=[0, *window.pads[:2]],
        dilations=[1, *window.dilations],
    )


def _volume(pixels: Operand) -> Operand:
    """[N, H, W, C] as [N, C, 1, H, W]."""
    return pixels.transpose((0, 3, 1, 2)).unsqueeze(2)


# Costs.


def _depth_cost(op: OpView) -> Cost:
    places = _PLACES[op.type]
    w = op.required(places.b)
    is_conv = "Conv" in op.type
    depth = product(w.shape[1:]) if is_conv else op.required(places.a).shape[-1]
    return traffic(op, 2 * op.outputs[0].size * depth)


def _product_row(
    op_type: str, emit: Callable[[Emit], None], supports: Callable[[OpView], str | None]
) -> KernelSpec:
    places = _PLACES[op_type]
    dtypes = {i: _BYTES for i in (places.a, places.b, places.a_zero, places.b_zero)}
    for index in (places.a_scale, places.b_scale, places.y_scale):
        if index is not None:
            dtypes[index] = _FLOATS if op_type == "QLinearMatMul" else F32
    name = {"MatMulInteger": "matmul_integer", "ConvInteger": "conv_integer"}.get(op_type)
    name = name or {"QLinearMatMul": "qlinear_matmul", "QLinearConv": "qlinear_conv"}[op_type]
    return KernelSpec(
        name, f"ai.onnx:{op_type}", emit, dtypes=dtypes, supports=supports, cost=_depth_cost
    )


SPECS: list[KernelSpec] = [
    KernelSpec(
        "quantize_linear",
        "ai.onnx:QuantizeLinear",
        _emit_linear("quantize_linear"),
        dtypes={0: _FLOATS | {"int32"}},
        supports=_quantize_reason,
    ),
    KernelSpec(
        "dequantize_linear",
        "ai.onnx:DequantizeLinear",
        _emit_linear("dequantize_linear"),
        supports=_dequantize_reason,
    ),
    KernelSpec(
        "dynamic_quantize",
        "ai.onnx:DynamicQuantizeLinear",
        _emit_dynamic,
        dtypes={0: F32},
    ),
    _product_row("MatMulInteger", _emit_matmul, _matmul_reason),
    _product_row("QLinearMatMul", _emit_matmul, _matmul_reason),
    _product_row("ConvInteger", _emit_conv, _conv_reason),
    _product_row("QLinearConv", _emit_conv, _conv_reason),
]
