"""The bits of numbers as numbers of another type: for adapters."""

from __future__ import annotations

import onnx_ir as ir

from zenith.ir.builder import GraphBuilder, NotSupportedError

__all__ = ["bitcast"]

_WORDS = {1: ir.DataType.UINT8, 2: ir.DataType.UINT16, 4: ir.DataType.UINT32, 8: ir.DataType.UINT64}


def bitcast(b: GraphBuilder, x: ir.Value, kind: ir.DataType) -> ir.Value:
    """The same bits as `kind`; of another size by a last axis of parts, the low bits first."""
    assert x.dtype is not None
    if x.dtype == kind:
        return x
    if x.dtype.itemsize == kind.itemsize:
        return b.op("BitCast", x, dtype=kind, to=kind)
    if not {x.dtype.itemsize, kind.itemsize} <= _WORDS.keys():
        raise NotSupportedError("between types of different size, of less than a byte")
    old, new = int(x.dtype.itemsize), int(kind.itemsize)
    word = bitcast(b, x, _WORDS[old])
    wide, last = _WORDS[max(old, new)], b.rank_of(x)
    count, bits = max(old, new) // min(old, new), 8 * min(old, new)
    places = b.number([bits * i for i in range(count)], wide, (count,))
    if old > new:
        moved = b.op("BitShift", b.unsqueeze(word, last), places, direction="RIGHT")
        word = b.op("BitwiseAnd", moved, b.number(2**bits - 1, wide))
        return bitcast(b, b.cast(word, _WORDS[new]), kind)
    moved = b.op("BitShift", b.cast(word, wide), places, direction="LEFT")
    parts = [b.squeeze(b.slice(moved, last - 1, i, i + 1), last - 1) for i in range(count)]
    word = parts[0]
    for part in parts[1:]:
        word = b.op("BitwiseOr", word, part)
    return bitcast(b, word, kind)
