"""Rows of the sample family: images read between their pixels (GridSample, RoiAlign, DeformConv),
and neighbourhood operators (MaxRoiPool, Col2Im, LRN, LpNormalization, BatchNormalization)."""

from __future__ import annotations

from zenith.backends.cpu.emit import F32, Emit
from zenith.backends.cpu.epilogue import epilogue_codes
from zenith.backends.cpu.kernels.views import known, need, unbound
from zenith.backends.cpu.operand import Operand, channels_last_order, same
from zenith.backends.cpu.window import as_pixels, output_pixels, window_of
from zenith.ir.dims import Dim, ceil_div, exactly, floor_div, product
from zenith.runtime.kernel_registry import Cost, KernelSpec, traffic
from zenith.runtime.op_view import OpView

__all__ = ["SPECS"]

_I64 = frozenset({"int64"})
# Numbers of cpp/cpu/kernels/sample/grid.cpp.
_MODES = {"linear": 0, "bilinear": 0, "nearest": 1, "cubic": 2, "bicubic": 2}
_PADDING = {"zeros": 0, "border": 1, "reflection": 2}
_MOST_LANES = 16


def _image_reason(op: OpView) -> str | None:
    rank = op.required(0).rank
    return None if rank == 4 else f"inputs of rank {rank} have no kernel, only 4"


def _grid_reason(op: OpView) -> str | None:
    rank = op.required(0).rank
    if rank not in (4, 5):
        return f"inputs of rank {rank} have no kernel, only 4 and 5"
    if op.attr("mode", "linear") not in _MODES:
        return f"unknown mode {op.attr('mode')}"
    if op.attr("padding_mode", "zeros") not in _PADDING:
        return f"unknown padding mode {op.attr('padding_mode')}"
    return None


def _emit_grid(e: Emit) -> None:
    grid = need(e, 1)
    e.step(
        "grid_sample_f32",
        [as_pixels(e.channels_last(0), 3), grid.unsqueeze(1) if grid.rank == 4 else grid],
        [output_pixels(e, 3)],
        mode=_MODES[e.op.attr("mode", "linear")],
        padding=_PADDING[e.op.attr("padding_mode", "zeros")],
        align_corners=int(e.op.attr("align_corners", 0)),
    )


def _emit_roi_align(e: Emit) -> None:
    op = e.op
    coordinates = op.attr("coordinate_transformation_mode", "half_pixel")
    e.step(
        "roi_align_f32",
        [as_pixels(e.channels_last(0)), need(e, 1), need(e, 2)],
        [output_pixels(e)],
        take_max=int(op.attr("mode", "avg") == "max"),
        half_pixel=int(coordinates == "half_pixel"),
        sampling_ratio=int(op.attr("sampling_ratio", 0)),
        spatial_scale=float(op.attr("spatial_scale", 1.0)),
    )


def _emit_roi_pool(e: Emit) -> None:
    e.step(
        "max_roi_pool_f32",
        [as_pixels(e.channels_last(0)), need(e, 1)],
        [output_pixels(e)],
        take_max=1,
        half_pixel=0,
        sampling_ratio=0,
        spatial_scale=float(e.op.attr("spatial_scale", 1.0)),
    )


def _deform_reason(op: OpView) -> str | None:
    if not all(isinstance(n, int) for n in op.required(1).shape):
        return "the shape of the weights is dynamic"
    return _image_reason(op)


def _emit_deform(e: Emit) -> None:
    """Pixels under every tap are gathered, then multiplied as a convolution of width `taps`."""
    op = e.op
    results, of_group, *kernel = op.required(1).shape
    window, group, taps = window_of(op, kernel), int(op.attr("group", 1)), product(kernel)
    x = as_pixels(e.channels_last(0))
    n, _, height, width = op.outputs[0].shape
    channels = x.shape[3]
    columns = e.temp("float32", (n, height, width, taps, channels))
    e.step(
        "deform_columns_f32",
        [x, need(e, 2), e.operand(4)],
        [columns],
        kernel_shape=window.kernel,
        strides=window.strides,
        pads=window.begin,
        dilations=window.dilations,
        offset_group=int(op.attr("offset_group", 1)),
    )
    image = columns.reshape((n, height, exactly(width * taps), channels))
    assert image is not None, "the columns are gapless"
    bias = e.operand(3)
    e.step(
        "conv_f32",
        [image, _weights(e, results, of_group * taps, group), *([bias] if bias else [])],
        [output_pixels(e)],
        kernel_shape=(1, taps),
        strides=(1, taps),
        pads=(0, 0),
        dilations=(1, 1),
        group=group,
        epilogue=epilogue_codes("bias" if bias else ""),
    )


def _weights(e: Emit, results: int, depth: int, group: int) -> Operand:
    if e.op.required(1).is_const:
        return e.packed(1, "conv_weights_f32", group=group)
    padded = ceil_div(results // group, _MOST_LANES) * _MOST_LANES
    packed = e.temp("uint8", (4 * group * padded * depth,))
    e.step("pack_conv_weights_f32", [need(e, 1)], [packed], group=group)
    return packed


def _col2im_reason(op: OpView) -> str | None:
    image, block = known(op, 1), known(op, 2)
    if image is None or block is None:
        return "image_shape or block_shape is computed from data"
    if len(image) > 3:
        return f"images of {len(image)} axes have no kernel, only 3"
    columns = op.required(0).shape[2]
    if not same(columns, product(_col2im_blocks(op))):
        return f"{columns} columns are not one for each position of a block"
    return None


def _col2im_places(op: OpView) -> tuple[list[int], list[int], list[int]]:
    """Strides, dilations, pads."""
    axes = len(known(op, 1) or ())
    strides = list(op.attr("strides") or [1] * axes)
    dilations = list(op.attr("dilations") or [1] * axes)
    return strides, dilations, list(op.attr("pads") or [0] * 2 * axes)


def _col2im_blocks(op: OpView) -> list[Dim]:
    """How many positions a block has along each axis."""
    image, block = known(op, 1) or (), known(op, 2) or ()
    strides, dilations, pads = _col2im_places(op)
    blocks: list[Dim] = []
    for i, size in enumerate(image):
        span = size + pads[i] + pads[i + len(image)] - dilations[i] * (block[i] - 1) - 1
        blocks.append(exactly(floor_div(exactly(span), strides[i]) + 1))
    return blocks


def _emit_col2im(e: Emit) -> None:
    op = e.op
    block, axes = known(op, 2) or (), len(known(op, 1) or ())
    strides, dilations, pads = _col2im_places(op)
    blocks = _col2im_blocks(op)
    ones, zeros = [1] * (3 - axes), [0] * (3 - axes)
    out = e.output(0)
    for _ in ones:
        out = out.unsqueeze(2)
    e.step(
        "col2im_f32",
        [e.dense(0)],
        [out],
        block=[*ones, *block],
        strides=[*ones, *strides],
        pads=[*zeros, *pads[:axes]],
        dilations=[*ones, *dilations],
        blocks=[*ones, *blocks],
    )


def _emit_lrn(e: Emit) -> None:
    order = channels_last_order(need(e, 0).rank)

    def pixels(operand: Operand) -> Operand:
        last = operand.transpose(order)
        flat = last.reshape((product(last.shape[:-1]), last.shape[-1]))
        assert flat is not None, "the operand is gapless"
        return flat

    e.step(
        "lrn_f32",
        [pixels(e.channels_last(0))],
        [pixels(e.output(0, order=order))],
        size=int(e.op.attr("size")),
        alpha=float(e.op.attr("alpha", 1e-4)),
        beta=float(e.op.attr("beta", 0.75)),
        bias=float(e.op.attr("bias", 1.0)),
    )


def _three(operand: Operand, axis: int) -> Operand:
    """A gapless tensor as [outer, n, inner] around an axis."""
    shape = operand.shape
    three = operand.reshape((product(shape[:axis]), shape[axis], product(shape[axis + 1 :])))
    assert three is not None, "the operand is gapless"
    return three


def _emit_lp(e: Emit) -> None:
    x = e.dense(0)
    axis = int(e.op.attr("axis", -1)) % x.rank
    e.step(
        "lp_normalize_f32",
        [_three(x, axis)],
        [_three(e.output(0), axis)],
        p=int(e.op.attr("p", 2)),
    )


def _batch_norm_reason(op: OpView) -> str | None:
    rank = op.required(0).rank
    return None if rank >= 2 else f"inputs of rank {rank} have no channels"


def _emit_batch_norm(e: Emit) -> None:
    op, x = e.op, e.dense(0)
    training = bool(op.attr("training_mode", 0))
    outputs = [_three(e.output(0), 1)]
    if training:
        for i in range(1, 3):
            wanted = i < len(op.outputs) and op.node.outputs[i].name
            outputs.append(e.output(i) if wanted else e.temp("float32", (x.shape[1],)))
    e.step(
        "batch_norm_f32",
        [_three(x, 1), *(need(e, i) for i in range(1, 5))],
        outputs,
        training=int(training),
        epsilon=float(op.attr("epsilon", 1e-5)),
        momentum=float(op.attr("momentum", 0.9)),
    )


def _deform_cost(op: OpView) -> Cost:
    depth = product(op.required(1).shape[1:])
    return traffic(op, 2 * op.outputs[0].size * depth)


_ALL_F32 = dict.fromkeys(range(5), F32)

SPECS: list[KernelSpec] = [
    KernelSpec(
        "grid_sample_f32",
        "ai.onnx:GridSample",
        _emit_grid,
        dtypes={0: F32, 1: F32},
        supports=_grid_reason,
    ),
    KernelSpec(
        "roi_align_f32",
        "ai.onnx:RoiAlign",
        _emit_roi_align,
        dtypes={0: F32, 1: F32, 2: _I64},
        supports=_image_reason,
    ),
    KernelSpec(
        "max_roi_pool_f32",
        "ai.onnx:MaxRoiPool",
        _emit_roi_pool,
        dtypes={0: F32, 1: F32},
        supports=_image_reason,
    ),
    KernelSpec(
        "deform_conv_f32",
        "ai.onnx:DeformConv",
        _emit_deform,
        dtypes=_ALL_F32,
        supports=_deform_reason,
        cost=_deform_cost,
    ),
    KernelSpec(
        "col2im_f32",
        "ai.onnx:Col2Im",
        _emit_col2im,
        dtypes={0: F32},
        supports=lambda op: _col2im_reason(op) or unbound(op),
    ),
    KernelSpec("lrn_f32", "ai.onnx:LRN", _emit_lrn, dtypes={0: F32}),
    KernelSpec("lp_normalize_f32", "ai.onnx:LpNormalization", _emit_lp, dtypes={0: F32}),
    KernelSpec(
        "batch_norm_any_f32",
        "ai.onnx:BatchNormalization",
        _emit_batch_norm,
        dtypes=_ALL_F32,
        supports=_batch_norm_reason,
    ),
]
