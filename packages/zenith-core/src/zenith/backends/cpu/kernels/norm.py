"""Layer, RMS, group and instance normalisation, the sums of two tensors normalised at once, and
group normalisation with an activation (`zenith.backends.cpu.epilogue`)."""

from __future__ import annotations

from collections.abc import Callable

from zenith.backends.cpu.emit import BF16, F32, Emit
from zenith.backends.cpu.epilogue import epilogue_codes, epilogue_note, epilogue_reason
from zenith.backends.cpu.operand import Operand, channels_last_order, same
from zenith.ir.dims import Dim, product
from zenith.runtime.kernel_registry import Cost, KernelSpec, traffic
from zenith.runtime.op_view import OpView

__all__ = ["SPECS"]

_FLOAT = 1  # TensorProto.FLOAT


def _cost(op: OpView) -> Cost:
    # Mean, squared differences, scale and shift: two operations each, about.
    return traffic(op, 7 * op.outputs[0].size)


def _row_axes(op: OpView) -> int:
    """How many trailing axes are normalised together."""
    rank = op.required(0).rank
    return rank - int(op.attr("axis", -1)) % rank


def _supports_row(op: OpView) -> str | None:
    """LayerNormalization and RMSNormalization."""
    x = op.required(0)
    if x.rank == 0:
        return "a scalar has no axis"
    if op.attr("stash_type", _FLOAT) != _FLOAT:
        return "stash_type is not float32"
    for output in op.outputs[1:]:
        if output.value.uses() or output.value.is_graph_output():
            return "the mean or inverse deviation is used"
    row = product(x.shape[x.rank - _row_axes(op) :])
    for value in op.inputs[1:]:
        if value is not None and not same(value.size, row):
            return f"scale or bias of shape {value.shape} is not one value per element of a row"
    return None


def _supports_sum(op: OpView) -> str | None:
    """AddLayerNorm and AddRMSNorm."""
    a, b = op.required(0), op.required(1)
    if a.rank == 0 or a.rank != b.rank:
        return "the two terms differ in rank"
    if not all(same(m, n) for m, n in zip(a.shape, b.shape, strict=True)):
        return "the two terms differ in shape"
    row = product(a.shape[a.rank - _row_axes(op) :])
    for value in op.inputs[2:]:
        if value is not None and not same(value.size, row):
            return f"scale or bias of shape {value.shape} is not one value per element of a row"
    return None


def _emit_rows(kernel: str, terms: int) -> Callable[[Emit], None]:
    """`terms` inputs of the output's shape, then scale and perhaps bias; one output per term."""

    def emit(e: Emit) -> None:
        op = e.op
        axes = _row_axes(op)
        take = e.inner if axes == 1 else e.dense
        inputs: list[Operand | None] = [take(i) for i in range(terms)]
        inputs += [e.dense(i) for i in range(terms, len(op.inputs)) if op.inputs[i] is not None]
        outputs = [e.output(i) for i in range(terms)]
        e.step(kernel, inputs, outputs, epsilon=op.attr("epsilon", 1e-5), axes=axes)

    return emit


def _groups(op: OpView) -> int:
    """Number of channel groups; an instance is a group of one channel."""
    channels = op.required(0).shape[1]
    return int(channels if op.type == "InstanceNormalization" else op.attr("num_groups"))


def _supports_group(op: OpView) -> str | None:
    x = op.required(0)
    if x.rank < 2:
        return "there is no channel axis"
    channels = x.shape[1]
    if not isinstance(channels, int):
        return "the number of channels is dynamic"
    if op.attr("stash_type", _FLOAT) != _FLOAT:
        return "stash_type is not float32"
    groups = _groups(op)
    if groups < 1 or channels % groups != 0:
        return f"{channels} channels are not a multiple of {groups} groups"
    for value in op.inputs[1:]:
        if value is not None and not same(value.size, channels):
            return "scale and bias are not one value per channel"
    return epilogue_reason(op.overload, 0)


def _by_channel(operand: Operand, order: tuple[int, ...]) -> Operand:
    """[N, C, *spatial], gapless in `order`, as [N, C, P]."""
    positions: Dim = product(operand.shape[2:])
    batch, channels = operand.shape[:2]
    row_major = order == tuple(range(operand.rank))
    shape = [batch, channels, positions] if row_major else [batch, positions, channels]
    flat = operand.transpose(order).reshape(shape)
    assert flat is not None, "the operand is gapless in this order"
    return flat if row_major else flat.transpose([0, 2, 1])


def _emit_group(kernel: str) -> Callable[[Emit], None]:
    def emit(e: Emit) -> None:
        operand = e.operand(0)
        assert operand is not None
        row_major = tuple(range(operand.rank))
        last = channels_last_order(operand.rank)
        order = last if operand.order() == last else row_major
        x = e.channels_last(0) if order == last else e.dense(0)
        e.batch_step(
            kernel,
            [_by_channel(x, order), e.dense(1), e.dense(2)],
            [_by_channel(e.output(0, order=order), order)],
            epsilon=e.op.attr("epsilon", 1e-5),
            groups=_groups(e.op),
            epilogue=epilogue_codes(e.op.overload),
        )

    return emit


def _row(
    name: str, op: str, emit: Callable[[Emit], None], supports: Callable[[OpView], str | None]
) -> KernelSpec:
    kind = BF16 if name.endswith("_bf16") else F32
    dtypes = dict.fromkeys(range(4), kind)
    note = epilogue_note  # none without an epilogue
    return KernelSpec(name, op, emit, dtypes=dtypes, supports=supports, cost=_cost, note=note)


_ROWS = (
    ("layer_norm", "ai.onnx:LayerNormalization", 1, _supports_row),
    ("rms_norm", "ai.onnx:RMSNormalization", 1, _supports_row),
    ("add_layer_norm", "zenith:AddLayerNorm", 2, _supports_sum),
    ("add_rms_norm", "zenith:AddRMSNorm", 2, _supports_sum),
)
_GROUPS = (
    ("group_norm", "ai.onnx:GroupNormalization"),
    ("instance_norm", "ai.onnx:InstanceNormalization"),
    ("group_norm_act", "zenith:GroupNorm"),
)
SPECS = [
    *(
        _row(f"{name}_{kind}", op, _emit_rows(f"{name}_{kind}", terms), supports)
        for name, op, terms, supports in _ROWS
        for kind in ("f32", "bf16")
    ),
    *(
        _row(f"{name}_{kind}", op, _emit_group(f"group_norm_{kind}"), _supports_group)
        for name, op in _GROUPS
        for kind in ("f32", "bf16")
    ),
]
