"""Rows of the conv family, best first: products of pixels on integer tiles, Winograd, depthwise,
few input channels, direct, volumes, and transposed convolution; then those of bfloat16.

All are products with packed weights, packed when the plan is built where they are constant, and
apply an epilogue (`zenith.backends.cpu.epilogue`). Data stays channels-last between them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from zenith import _native
from zenith.backends.cpu.emit import BF16, F32, PAIRS, Emit
from zenith.backends.cpu.epilogue import (
    OPERAND_STEPS,
    epilogue_codes,
    epilogue_note,
    epilogue_reason,
    epilogue_steps,
)
from zenith.backends.cpu.kernels.gemm import as_matrix, ozaki_note, ozaki_reason
from zenith.backends.cpu.operand import Operand
from zenith.backends.cpu.window import (
    Window,
    as_pixels,
    output_pixels,
    rank_reason,
    transposed_window_of,
    window_of,
)
from zenith.ir.dims import ceil_div, exactly, product
from zenith.runtime.kernel_registry import Cost, KernelSpec, traffic
from zenith.runtime.op_view import OpView, ValueView

__all__ = ["SPECS"]

# The most floats in a vector of any instruction set.
_MOST_LANES = 16
# Groups are merged up to this many channels.
_MERGED_CHANNELS = 16
# Below this many channels, taps of one kernel row are joined into one long product.
_FEW_CHANNELS = 16
# Winograd's transforms need this many channels on both sides to pay.
_WINOGRAD_CHANNELS = 16

# As many as make it faster than direct products of bfloat16, which are twice as fast as float32's.
_WINOGRAD_BF16 = 128


def _weights(op: OpView) -> ValueView:
    weights = op.input(1)
    assert weights is not None
    return weights


def _window(op: OpView) -> Window:
    return window_of(op, _weights(op).shape[2:])


def _group(op: OpView) -> int:
    return int(op.attr("group", 1))


def _epilogue(op: OpView) -> str:
    """Steps behind the product; the bias input of a plain Conv is one."""
    if op.domain == "ai.onnx":
        return "" if op.input(2) is None else "bias"
    return op.overload


def _constant_reason(op: OpView) -> str | None:
    """For kernels whose weights take long to lay out."""
    return "the weights are not constant" if not _weights(op).is_const else _reason(op)


def _reason(op: OpView, axes: int = 2) -> str | None:
    if not all(isinstance(n, int) for n in _weights(op).shape):
        return "the shape of the weights is dynamic"
    if reason := rank_reason(op, axes):
        return reason
    epilogue = _epilogue(op)
    operands = [v for v in op.inputs[2:] if v is not None]
    if reason := epilogue_reason(epilogue, len(operands)):
        return reason
    steps = [step for step in epilogue_steps(epilogue) if step in OPERAND_STEPS]
    for step, operand in zip(steps, operands, strict=True):
        if step != "bias" and operand.shape != op.outputs[0].shape:
            return f"the operand of '{step}' is broadcast"
    return None


def _depthwise_reason(op: OpView) -> str | None:
    if reason := _constant_reason(op):
        return reason
    m, per_group = _weights(op).shape[:2]
    if m == 1:
        return "a single channel: there is nothing to do side by side"
    return None if per_group == 1 and m == _group(op) else "not one kernel per channel"


def _few_channels_reason(op: OpView) -> str | None:
    if reason := _reason(op):
        return reason
    if _group(op) != 1:
        return f"it has {_group(op)} groups"
    channels, window = _weights(op).shape[1], _window(op)
    if channels >= _FEW_CHANNELS or window.kernel[1] == 1:
        return f"{channels} input channels make long products already"
    return None if window.dilations[1] == 1 else "columns of the kernel are apart"


def _merge(op: OpView) -> int:
    """How many groups are computed as one, the weights between them zero.

    A group of few channels leaves the register tile with short products, which cost more than
    products with zeros do.
    """
    group, (m, per_group) = _group(op), _weights(op).shape[:2]
    most = max(1, _MERGED_CHANNELS // max(m // group, per_group, 1))
    return max(n for n in range(1, most + 1) if group % n == 0)


def _merged_reason(op: OpView) -> str | None:
    if reason := _constant_reason(op):
        return reason
    return None if _merge(op) > 1 else "groups are wide enough on their own"


def _winograd_reason(tile: int) -> Callable[[OpView], str | None]:
    def reason(op: OpView) -> str | None:
        if against := _constant_reason(op):
            return against
        window = _window(op)
        if (window.kernel, window.strides, window.dilations) != ((3, 3), (1, 1), (1, 1)):
            return "only for a 3x3 kernel of stride 1 and dilation 1"
        m, per_group = _weights(op).shape[:2]
        if min(m // _group(op), per_group) < _WINOGRAD_CHANNELS:
            return f"fewer than {_WINOGRAD_CHANNELS} channels"
        batch, _, *sizes = op.outputs[0].shape
        if not all(isinstance(size, int) for size in sizes):
            return "the image size is dynamic"
        best = _winograd_tile(batch if isinstance(batch, int) else 1, *sizes)
        return None if best == tile else f"tiles of {best}x{best} outputs suit this size better"

    return reason


def _winograd_tile(batch: int, height: int, width: int) -> int:
    """Outputs per tile side.

    4 where it takes clearly fewer products, borders included, and has enough tiles to use each
    weight often; else 2, with less than half of the weights and less error.
    """
    tiles = {tile: -(-height // tile) * -(-width // tile) for tile in (2, 4)}
    return 4 if tiles[4] * 36 < 0.8 * tiles[2] * 16 and batch * tiles[4] >= 32 else 2


def _operands(e: Emit, axes: int = 2) -> list[Operand]:
    found: list[Operand] = []
    steps = [step for step in epilogue_steps(_epilogue(e.op)) if step in OPERAND_STEPS]
    for index, step in enumerate(steps, 2):
        operand = e.inner(index) if step == "bias" else as_pixels(e.channels_last(index), axes)
        assert operand is not None
        found.append(operand)
    return found


def _packed(e: Emit, packer: str, **params: int) -> Operand:
    """The weights as `packer` lays them out, by a step of the plan where they are computed."""
    if _weights(e.op).is_const:
        return e.packed(1, packer, **params)
    weights = e.operand(1)
    assert weights is not None
    group, results = _group(e.op), weights.shape[0]
    if e.op.type == "ConvTranspose":
        results = weights.shape[1] * group
    vectors = group * ceil_div(results // group, _MOST_LANES)
    bytes = 4 * vectors * _MOST_LANES * weights.size * group // results
    packed = e.temp("uint8", (bytes,))
    e.step(f"pack_{packer}", [weights], [packed], **params)
    return packed


def _emit(
    kernel: str,
    packer: str,
    *,
    grouped: bool = False,
    any_layout: bool = False,
    dilated: bool = False,
) -> Callable[[Emit], None]:
    """grouped, dilated: what else the packer wants to know."""

    def emit(e: Emit) -> None:
        op, window = e.op, _window(e.op)
        params: dict[str, Any] = {"group": _group(op)} if grouped else {}
        if dilated:
            params["column_dilation"] = window.dilations[1]
        x = e.operand(0) if any_layout else e.channels_last(0)
        assert x is not None
        e.batch_step(
            kernel,
            [as_pixels(x), _packed(e, packer, **params), *_operands(e)],
            [output_pixels(e)],
            kernel_shape=window.kernel,
            strides=window.strides,
            pads=window.begin,
            dilations=window.dilations,
            group=_group(op),
            epilogue=epilogue_codes(_epilogue(op)),
        )

    return emit


def _emit_merged(e: Emit) -> None:
    op, window, merge = e.op, _window(e.op), _merge(e.op)
    weights, group = _weights(op).const, _group(op) // merge
    assert weights is not None
    m, per_group = weights.shape[:2]
    rows = m // _group(op)
    wide = np.zeros((m, per_group * merge, *weights.shape[2:]), np.float32)
    for g in range(_group(op)):
        block, at = slice(g * rows, (g + 1) * rows), g % merge * per_group
        wide[block, at : at + per_group] = weights[block]
    e.batch_step(
        "conv_f32",
        [
            as_pixels(e.channels_last(0)),
            e.packed_array(wide, "conv_weights_f32", group=group),
            *_operands(e),
        ],
        [output_pixels(e)],
        kernel_shape=window.kernel,
        strides=window.strides,
        pads=window.begin,
        dilations=window.dilations,
        group=group,
        epilogue=epilogue_codes(_epilogue(op)),
    )


def _pixels_reason(op: OpView) -> str | None:
    if reason := _constant_reason(op):
        return reason
    window = _window(op)
    if window.kernel != (1, 1) or any(pad != 0 for pad in window.pads) or _group(op) != 1:
        return "not a product of single pixels: 1x1, no pads, one group"
    batch, _, *sizes = op.outputs[0].shape
    return ozaki_reason(product((batch, *sizes)), _weights(op))


def _emit_pixels(e: Emit) -> None:
    """A convolution that looks at single pixels is a product of matrices."""
    window, y = _window(e.op), output_pixels(e)
    x = as_pixels(e.channels_last(0))
    if window.strides != (1, 1):
        for axis, stride in enumerate(window.strides, 1):
            x = x.slice(axis, 0, y.shape[axis], stride)
        dense = e.temp("float32", x.shape)
        e.copy(x, dense)
        x = dense
    packed = e.packed(1, "ozaki_pack_f32", transposed=1)
    bias_or_pixels = [_matrix(operand) for operand in _operands(e)]
    e.batch_step(
        "linear_ozaki_f32",
        [_matrix(x), packed, *bias_or_pixels],
        [_matrix(y)],
        epilogue=epilogue_codes(_epilogue(e.op)),
    )


def _matrix(operand: Operand) -> Operand:
    """Pixels as rows; a bias as it is."""
    found = operand if operand.rank == 1 else as_matrix(operand)
    assert found is not None
    return found


def _volume_reason(op: OpView) -> str | None:
    return _reason(op, 3)


def _padded(e: Emit, window: Window) -> Operand:
    """Input 0 with its border of zeros, channels-last."""
    x, out = e.operand(0), e.op.outputs[0]
    assert x is not None
    missing = len(window.kernel) + 2 - out.rank
    sizes = [
        exactly((n - 1) * stride + (k - 1) * dilation + 1)
        for n, stride, k, dilation in zip(
            (*(1,) * missing, *out.shape[2:]),
            window.strides,
            window.kernel,
            window.dilations,
            strict=True,
        )
    ]
    padded = e.temp("float32", (x.shape[0], *sizes, x.shape[1]))
    e.batch_step("pad", [as_pixels(x, 3), None], [padded], begin=[0, *window.begin, 0], mode=0)
    return padded


def _emit_volume(e: Emit) -> None:
    op = e.op
    window = window_of(op, _weights(op).shape[2:], 3)
    # Few channels: taps along the last axis are neighbours in memory, one long piece.
    channels = _weights(op).shape[1]
    joined = channels < _FEW_CHANNELS and window.kernel[2] > 1
    joined = joined and window.dilations[2] == 1 and _group(op) == 1 and not _crops(window)
    x = _padded(e, window) if joined else as_pixels(e.channels_last(0), 3)
    e.batch_step(
        "conv_volume_f32",
        [x, _packed(e, "conv_weights_f32", group=_group(op)), *_operands(e, 3)],
        [output_pixels(e, 3)],
        kernel_shape=window.kernel,
        strides=window.strides,
        pads=(0, 0, 0) if joined else window.begin,
        dilations=window.dilations,
        group=_group(op),
        joined=int(joined),
        epilogue=epilogue_codes(_epilogue(op)),
    )


def _crops(window: Window) -> bool:
    """Negative pads remove elements."""
    return any(isinstance(pad, int) and pad < 0 for pad in window.pads)


def _emit_transposed(e: Emit) -> None:
    op = e.op
    window = transposed_window_of(op, _weights(op).shape[2:])
    e.batch_step(
        "conv_transpose_f32",
        [
            as_pixels(e.channels_last(0), 3),
            _packed(e, "conv_transpose_weights_f32", group=_group(op)),
            *_operands(e, 3),
        ],
        [output_pixels(e, 3)],
        kernel_shape=window.kernel,
        strides=window.strides,
        pads=window.begin,
        dilations=window.dilations,
        group=_group(op),
        joined=0,
        epilogue=epilogue_codes(_epilogue(op)),
    )


def _tiling_reason(op: OpView) -> str | None:
    """For a transposed convolution whose kernels lie side by side in the result."""
    if reason := _reason(op):
        return reason
    bias, window = op.input(2), transposed_window_of(op, _weights(op).shape[2:], 2)
    if not _weights(op).is_const or (bias is not None and not bias.is_const):
        return "the weights or the bias are not constant"
    plain = _group(op) == 1 and window.dilations == (1, 1) and not any(window.pads)
    if not plain or window.kernel != window.strides or any(op.attr("output_padding") or ()):
        return "kernels overlap, or leave gaps"
    return None if _native.isas()[0] in PAIRS else "no fast products of bfloat16 here"


def _emit_tiling(e: Emit) -> None:
    """Each row of the kernel is a product of pixels: a pixel of x gives `kw` neighbours in one row
    of the result, and the next row lies below."""
    op, x, y = e.op, as_pixels(e.channels_last(0)), output_pixels(e)
    weights, bias = _weights(op).const, op.input(2)
    assert weights is not None
    rows, width = transposed_window_of(op, weights.shape[2:], 2).kernel
    weights = weights.reshape(*weights.shape[:2], rows, width)
    operands = []
    if bias is not None and bias.const is not None:
        operands.append(e.const(np.tile(bias.const, width)))
    for row in range(rows):
        to = y.slice(1, row, x.shape[1], rows).reshape((*x.shape[:3], width * y.shape[3]))
        assert to is not None, "the result is dense"
        of_row = weights[:, :, row].transpose(2, 1, 0).reshape(-1, weights.shape[0], 1, 1)
        packed = e.packed_array(of_row, "conv_weights_bf16", group=1, column_dilation=1)
        e.step(
            "conv_bf16",
            [x, packed, *operands],
            [to],
            kernel_shape=(1, 1),
            strides=(1, 1),
            pads=(0, 0),
            dilations=(1, 1),
            group=1,
            epilogue=epilogue_codes(_epilogue(op)),
        )


def _transposed_cost(op: OpView) -> Cost:
    x = op.inputs[0]
    assert x is not None
    depth = product(_weights(op).shape[1:])
    return traffic(op, 2 * x.size * depth)


def _cost(op: OpView) -> Cost:
    depth = product(_weights(op).shape[1:])
    return traffic(op, 2 * op.outputs[0].size * depth)


def _bf16_reason(op: OpView) -> str | None:
    if reason := _constant_reason(op):
        return reason
    return None if _native.isas()[0] in PAIRS else "no fast products of bfloat16 here"


def _bf16_depthwise_reason(op: OpView) -> str | None:
    return _bf16_reason(op) or _depthwise_reason(op)


def _bf16_direct_reason(op: OpView) -> str | None:
    if reason := _bf16_reason(op):
        return reason
    group, (m, per_group) = _group(op), _weights(op).shape[:2]
    channels = min(m // group, per_group)
    if group > 1 and channels < _FEW_CHANNELS:
        return f"groups of less than {_FEW_CHANNELS} channels fill little of a tile"
    # Without tiles, products of pairs save half of the time; of 4x4 results Winograd saves more,
    # where its transforms are little beside the products.
    if _native.isas()[0] != "amx" and channels >= _WINOGRAD_BF16 and not _winograd_reason(4)(op):
        return "Winograd's algorithm is faster, in float32"
    return None


def _emit_bf16_direct(e: Emit) -> None:
    few = _weights(e.op).shape[1] < _FEW_CHANNELS
    emit = _emit("conv_bf16", "conv_weights_bf16", grouped=True, dilated=True, any_layout=few)
    emit(e)


_Row = tuple[str, Callable[[Emit], None], Callable[[OpView], str | None], frozenset[str]]
_F32_ROWS: list[_Row] = [
    *(
        (
            f"winograd{tile}",
            _emit(f"conv_winograd{tile}_f32", f"conv_winograd{tile}_weights_f32", grouped=True),
            _winograd_reason(tile),
            frozenset({"winograd"}),
        )
        for tile in (4, 2)
    ),
    (
        "depthwise",
        _emit("conv_depthwise_f32", "conv_depthwise_weights_f32"),
        _depthwise_reason,
        frozenset(),
    ),
    (
        "few_channels",
        _emit("conv_few_channels_f32", "conv_weights_f32", grouped=True, any_layout=True),
        _few_channels_reason,
        frozenset(),
    ),
    # Products with zeros carry infinities and NaN from group to group: not at low levels.
    ("merged_groups", _emit_merged, _merged_reason, frozenset({"winograd"})),
    ("direct", _emit("conv_f32", "conv_weights_f32", grouped=True), _reason, frozenset()),
    ("volume", _emit_volume, _volume_reason, frozenset()),
]
_BF16_ROWS: list[_Row] = [
    (
        "depthwise",
        _emit("conv_depthwise_bf16", "conv_depthwise_weights_bf16"),
        _bf16_depthwise_reason,
        frozenset(),  # it saves memory only: not worth a conversion
    ),
    ("direct", _emit_bf16_direct, _bf16_direct_reason, frozenset({"bf16"})),
]

_OPS = (("conv", "ai.onnx:Conv"), ("conv_bias_act", "zenith:ConvBiasAct"))
SPECS: list[KernelSpec] = [
    KernelSpec(
        f"{prefix}_ozaki_f32",
        op,
        _emit_pixels,
        dtypes=dict.fromkeys(range(10), F32),
        supports=_pixels_reason,
        cost=_cost,
        note=ozaki_note,
        tags=frozenset({"ozaki"}),
    )
    for prefix, op in _OPS
]
SPECS += [
    KernelSpec(
        f"{prefix}_{name}_{kind}",
        op,
        emit,
        dtypes=dict.fromkeys(range(10), dtypes),
        supports=supports,
        cost=_cost,
        note=epilogue_note,
        tags=tags,
    )
    for prefix, op in _OPS
    for kind, dtypes, rows in (("f32", F32, _F32_ROWS), ("bf16", BF16, _BF16_ROWS))
    for name, emit, supports, tags in rows
]
SPECS += [
    KernelSpec(
        "conv_transpose_f32",
        "ai.onnx:ConvTranspose",
        _emit_transposed,
        dtypes=dict.fromkeys(range(3), F32),
        supports=_volume_reason,
        cost=_transposed_cost,
    ),
    KernelSpec(
        "conv_transpose_bf16",
        "ai.onnx:ConvTranspose",
        _emit_tiling,
        dtypes=dict.fromkeys(range(3), BF16),
        supports=_tiling_reason,
        cost=_transposed_cost,
        tags=frozenset({"bf16"}),
    ),
]
