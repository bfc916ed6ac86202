"""ai.onnx:Attention: queries, keys and values as strided views, heads in any place."""

from __future__ import annotations

from zenith import _native
from zenith.backends.cpu.emit import BF16, F32, PAIRS, Emit
from zenith.backends.cpu.operand import Operand, same
from zenith.ir.dims import Dim
from zenith.runtime.kernel_registry import Cost, KernelSpec, traffic
from zenith.runtime.op_view import OpView

__all__ = ["SPECS"]

_FLOAT = 1  # TensorProto.FLOAT
_TILE_ROWS = 4  # from so many query rows on, products on AMX tiles are faster than in float32


def _used(op: OpView, index: int) -> bool:
    """Whether anyone reads output `index`."""
    if index >= len(op.outputs):
        return False
    value = op.outputs[index].value
    return bool(value.uses()) or value.is_graph_output()


def _heads(op: OpView, index: int) -> Dim:
    """Number of heads of q, k or v."""
    value = op.required(index)
    if value.rank == 4:
        return value.shape[1]
    return op.attr("q_num_heads" if index == 0 else "kv_num_heads")


def _sizes(op: OpView) -> tuple[Dim, Dim, Dim, Dim]:
    """Query rows, keys (with the past ones), head size, value head size."""
    q, k, v = (op.required(i) for i in range(3))
    past = op.input(4)
    keys = k.shape[-2] + (past.shape[2] if past is not None else 0)
    if q.rank == 4:
        return q.shape[2], keys, q.shape[3], v.shape[3]
    d, e = q.shape[2] // _heads(op, 0), v.shape[2] // _heads(op, 2)
    return q.shape[1], keys, d, e


def _supports(op: OpView) -> str | None:
    q, k, v = (op.required(i) for i in range(3))
    if q.rank not in (3, 4) or {q.rank, k.rank, v.rank} != {q.rank}:
        return "q, k and v are not all of rank 4 or all of rank 3"
    if any(past is not None and past.rank != 4 for past in (op.input(4), op.input(5))):
        return "past_key or past_value is not of rank 4"
    if q.rank == 3 and not (op.attr("q_num_heads") and op.attr("kv_num_heads")):
        return "q_num_heads and kv_num_heads are missing"
    heads, groups = _heads(op, 0), _heads(op, 1)
    if not (isinstance(heads, int) and isinstance(groups, int)):
        if not (same(heads, groups) and same(groups, _heads(op, 2))):
            return f"whether {heads} heads are a multiple of {groups} is not known"
    elif groups == 0 or heads % groups != 0 or _heads(op, 2) != groups:
        return f"{heads} query heads are not a multiple of {groups} key heads"
    _, keys, d, e = _sizes(op)
    if not (isinstance(d, int) and isinstance(e, int)):
        return "the head size is dynamic"
    lengths = op.input(6)
    if lengths is not None and (lengths.rank != 1 or op.input(4) is not None):
        return "nonpad_kv_seqlen is not a vector, or stands beside past keys"
    if (op.input(4) is None) != (op.input(5) is None):
        return "only one of past_key and past_value is given"
    if _used(op, 3):
        return "qk_matmul_output is used"
    if op.attr("softmax_precision", _FLOAT) != _FLOAT:
        return "softmax_precision is not float32"
    mask = op.input(3)
    if mask is not None:
        if mask.dtype not in ("float32", "bool"):
            return f"attn_mask is {mask.dtype}, not float32 or bool"
        if mask.rank == 0 or mask.rank > 4:
            return f"attn_mask has rank {mask.rank}"
        # The operator's text broadcasts such a mask, its reference pads it.
        if same(mask.shape[-1], 1) and not same(keys, 1):
            return "attn_mask has one column for several keys"
    return None


def _cost(op: OpView) -> Cost:
    rows, keys, d, e = _sizes(op)
    batch, heads = op.required(0).shape[0], _heads(op, 0)
    return traffic(op, batch * heads * rows * keys * (2 * d + 2 * e + 5))


def _by_head(operand: Operand, heads: int) -> Operand:
    """[B, S, heads * D] as [B, heads, S, D]."""
    batch, rows, width = operand.shape
    split = operand.reshape([batch, rows, heads, width // heads])
    assert split is not None, "the last axis has stride 1, so splitting it is a view"
    return split.transpose([0, 2, 1, 3])


def _with_past(e: Emit, new: Operand, past: int, present: int) -> Operand:
    """Keys or values with the past ones before them, in the present output where it is used."""
    old = e.inner(past) if e.op.input(past) is not None else None
    if old is None and not _used(e.op, present):
        return new
    batch, heads, rows, d = new.shape
    before: Dim = 0 if old is None else old.shape[2]
    if _used(e.op, present):
        target = e.output(present)
    else:
        target = e.temp(new.dtype, [batch, heads, before + rows, d])
    if old is not None:
        e.copy(old, target.slice(2, 0, before))
    e.copy(new, target.slice(2, before, rows))
    return target


def _emit(e: Emit) -> None:
    op = e.op
    q, k, v = (e.inner(i) for i in range(3))
    y: Operand
    if q.rank == 4:
        y = e.output(0, order=(0, 2, 1, 3))
    else:
        heads, groups = _heads(op, 0), _heads(op, 1)
        q, k, v = _by_head(q, heads), _by_head(k, groups), _by_head(v, groups)
        y = _by_head(e.output(0), heads)
    past = op.input(4)
    offset: Dim = past.shape[2] if past is not None else 0
    k, v = _with_past(e, k, 4, 1), _with_past(e, v, 5, 2)
    mask = e.operand(3)
    if mask is not None:
        mask = mask.expand([*q.shape[:3], mask.shape[-1]])
    scale = op.attr("scale")
    e.step(
        "attention_f32" if q.dtype == "float32" else "attention_bf16",
        [q, k, v, mask, e.operand(6)],
        [y],
        scale=max(q.shape[3], 1) ** -0.5 if scale is None else scale,
        softcap=float(op.attr("softcap", 0.0)),
        causal=op.attr("is_causal", 0),
        offset=offset,
        left=op.attr("left_window_size", -1),
        right=op.attr("right_window_size", -1),
    )


def _beside_int8(op: OpView) -> str | None:
    """Without products of pairs the kernel of bfloat16 widens its operands."""
    isa = _native.isas()[0]
    if isa not in PAIRS:
        return "no products of bfloat16 here (AVX512-BF16 or AMX)"
    rows = _sizes(op)[0]
    few = isa == "amx" and isinstance(rows, int) and rows < _TILE_ROWS
    return f"{rows} query rows fill little of a tile of bfloat16" if few else None


def _dtypes(kind: frozenset[str]) -> dict[int, frozenset[str]]:
    return {**dict.fromkeys((0, 1, 2, 4, 5), kind), 6: frozenset({"int64"})}


SPECS = [
    KernelSpec(
        "attention_f32",
        "ai.onnx:Attention",
        _emit,
        dtypes=_dtypes(F32),
        supports=_supports,
        cost=_cost,
    ),
    KernelSpec(
        "attention_bf16",
        "ai.onnx:Attention",
        _emit,
        dtypes=_dtypes(BF16),
        supports=_supports,
        cost=_cost,
        tags=frozenset({"bf16"}),
        beside_int8=_beside_int8,
    ),
]
