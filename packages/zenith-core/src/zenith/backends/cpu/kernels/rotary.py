"""ai.onnx:RotaryEmbedding."""

from __future__ import annotations

from zenith.backends.cpu.emit import BF16, F32, Emit
from zenith.backends.cpu.operand import Operand, same
from zenith.ir.dims import exactly
from zenith.runtime.kernel_registry import Cost, KernelSpec
from zenith.runtime.op_view import OpView

__all__ = ["SPECS"]


def _supports(op: OpView) -> str | None:
    x, cos, sin = (op.required(i) for i in range(3))
    ids = op.input(3)
    if x.rank not in (3, 4):
        return f"x has rank {x.rank}"
    heads = op.attr("num_heads", 0)
    if x.rank == 3 and not heads:
        return "num_heads is missing"
    width = x.shape[-1]
    if not isinstance(width, int):
        return "the head size is dynamic"
    if x.rank == 3 and width % heads != 0:
        return f"width {width} is not a multiple of {heads} heads"
    size = width // heads if x.rank == 3 else width
    dim = op.attr("rotary_embedding_dim", 0) or size
    if dim > size or dim % 2 != 0:
        return f"rotary_embedding_dim {dim} is odd or above the head size"
    for cache in (cos, sin):
        if cache.rank != (2 if ids is not None else 3) or not same(cache.shape[-1], dim // 2):
            return f"cos and sin caches of shape {cache.shape} do not fit"
        if ids is None and not (
            same(cache.shape[1], x.shape[-2] if x.rank == 4 else x.shape[1])
            and (same(cache.shape[0], 1) or same(cache.shape[0], x.shape[0]))
        ):
            return "cos and sin caches are not [batch, sequence, half]"
    return None


def _cost(op: OpView) -> Cost:
    y = op.outputs[0]
    caches = op.required(1).nbytes + op.required(2).nbytes
    return Cost(flops=exactly(3 * y.size), bytes=exactly(2 * y.nbytes + caches))


def _by_head(operand: Operand, heads: int) -> Operand:
    """[B, S, heads * D] as [B, heads, S, D]."""
    batch, rows, width = operand.shape
    split = operand.reshape([batch, rows, heads, width // heads])
    assert split is not None, "the last axis has stride 1, so splitting it is a view"
    return split.transpose([0, 2, 1, 3])


def _emit(e: Emit) -> None:
    op = e.op
    x, cos, sin = (e.inner(i) for i in range(3))
    y = e.output(0)
    if x.rank == 3:
        heads = op.attr("num_heads")
        x, y = _by_head(x, heads), _by_head(y, heads)
    batch, _, rows, size = x.shape
    dim = op.attr("rotary_embedding_dim", 0) or size
    inputs: list[Operand | None] = [x, cos, sin]
    ids = e.operand(3)
    if ids is None:
        half = dim // 2
        inputs[1:] = [cos.expand([batch, rows, half]), sin.expand([batch, rows, half])]
    else:
        inputs.append(ids.expand([batch, rows]))
    kernel = "rotary_f32" if x.dtype == "float32" else "rotary_bf16"
    e.step(kernel, inputs, [y], dim=dim, interleaved=op.attr("interleaved", 0))


SPECS = [
    KernelSpec(
        name,
        "ai.onnx:RotaryEmbedding",
        _emit,
        dtypes={**dict.fromkeys(range(3), kind), 3: frozenset({"int64"})},
        supports=_supports,
        cost=_cost,
    )
    for name, kind in (("rotary_f32", F32), ("rotary_bf16", BF16))
]
