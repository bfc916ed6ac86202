"""Operators of exported language models: attention over a cache, and rotary positions."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from zenith_onnx.contrib_table import expands, refuse
from zenith_onnx.upgrade._table import Site

__all__: list[str] = []

_INT64 = int(ir.DataType.INT64)


def _number(site: Site, value: int) -> ir.Value:
    return site.const(np.array(value, np.int64))


def _size(site: Site, x: ir.Value, axis: int) -> ir.Value:
    """[1]: a size of x."""
    return site.add("Shape", x, start=axis, end=axis + 1)


def _counted(site: Site, first: ir.Value, x: ir.Value, axis: int) -> ir.Value:
    """[batch, size of x along `axis`]: first, first + 1, ...; `first` is [1] or [batch, 1]."""
    length = site.add("Squeeze", _size(site, x, axis))
    steps = site.add("Range", _number(site, 0), length, _number(site, 1))
    shape = site.add("Concat", _size(site, x, 0), _size(site, x, axis), axis=0)
    return site.add("Add", site.add("Expand", steps, shape), first)


@expands(
    "RotaryEmbedding", inputs=(4, 4),
    attributes="interleaved is_packed_batching num_heads rotary_embedding_dim scale",
)  # fmt: skip
def _rotary(site: Site) -> None:
    if site.get("is_packed_batching", 0) or site.get("scale", 1.0) != 1.0:
        raise refuse(site, "a packed batch or a scale")
    x, positions, cos, sin = (site.input(k) for k in range(4))
    heads, rank = site.get("num_heads", 0), site.rank(x)
    if rank is None or (rank == 3 and not heads):
        raise refuse(site, "a number of heads that nothing tells")
    if site.rank(positions) != 2:  # one number: where the sequence begins
        positions = _counted(site, positions, x, rank - 2)
    interleaved = site.get("interleaved", 0)
    site.replace(
        site.add(
            "RotaryEmbedding", x, cos, sin, positions, interleaved=interleaved,
            rotary_embedding_dim=site.get("rotary_embedding_dim", 0),
            num_heads=heads if rank == 3 else None,
        )
    )  # fmt: skip


@expands(
    "GroupQueryAttention", inputs=(7, 11), outputs=3,
    attributes="num_heads kv_num_heads scale softcap local_window_size do_rotary "
    "rotary_interleaved smooth_softmax",
)  # fmt: skip
def _grouped(site: Site) -> None:
    """The cache is as long as it was, or as all tokens so far; new keys go behind the valid ones of
    each sequence, and a token sees those up to itself."""
    heads, groups = site.get("num_heads"), site.get("kv_num_heads")
    if not heads or not groups or site.get("smooth_softmax", 0) or site.get("softcap", 0.0) < 0:
        raise refuse(site, "a smooth softmax, or without its numbers of heads")
    past_key, past_value, rows = site.optional(3), site.optional(4), site.optional(1)
    if past_key is None or past_value is None or rows is None or site.optional(2) is None:
        raise refuse(site, "packed heads or no cache")
    q, k, v = (
        site.add("Transpose", site.add("Reshape", site.input(i), site.ints([0, 0, n, size])),
                 perm=[0, 2, 1, 3])
        for i, n, size in ((0, heads, -1), (1, groups, -1), (2, groups, -1))
    )  # fmt: skip
    last = site.add("Cast", site.input(5), to=_INT64)
    total = site.add("Reshape", site.add("Cast", site.input(6), to=_INT64), site.ints([1]))
    length = _size(site, q, 2)
    valid = site.add("Sub", site.add("Add", last, _number(site, 1)), length)
    first = site.add("Where", site.add("Equal", total, length), _number(site, 0), valid)
    first = site.add("Reshape", first, site.ints([-1]))  # [batch]: how many the cache has
    positions = _counted(site, site.add("Unsqueeze", first, site.ints([1])), q, 2)
    if site.get("do_rotary", 0):
        at = site.optional(9) if site.optional(9) is not None else positions
        turn = site.get("rotary_interleaved", 0)
        cos, sin = site.input(7), site.input(8)
        q, k = (site.add("RotaryEmbedding", x, cos, sin, at, interleaved=turn) for x in (q, k))
    # With room for every token, so that sizes do not depend on data before the very end.
    keys, values = (
        site.add("TensorScatter", _longer(site, past, length), new, first, axis=2)
        for past, new in ((past_key, k), (past_value, v))
    )
    mask = _seen(site, positions, keys)
    bias = site.optional(10)
    if bias is not None:
        never = site.scalar_like(-np.inf, q)
        mask = site.add("Where", mask, bias, never)
    y = site.add(
        "Attention", q, keys, values, mask, scale=site.get("scale"),
        softcap=site.get("softcap", 0.0),
    )  # fmt: skip
    back = site.add("Transpose", y, perm=[0, 2, 1, 3])
    end = site.add("Max", _size(site, past_key, 2), total)
    caches = (site.add("Slice", x, site.ints([0]), end, site.ints([2])) for x in (keys, values))
    site.replace(site.add("Reshape", back, site.ints([0, 0, -1])), *caches)


def _longer(site: Site, past: ir.Value, more: ir.Value) -> ir.Value:
    """The cache with room for `more` tokens."""
    pads = site.add("Concat", site.ints([0] * 6), more, site.ints([0]), axis=0)
    return site.add("Pad", past, pads)


def _seen(site: Site, positions: ir.Value, keys: ir.Value) -> ir.Value:
    """[batch, 1, sequence, keys]: the keys up to each token, or as many of them as a window has."""
    length = site.add("Squeeze", _size(site, keys, 2))
    columns = site.add("Range", _number(site, 0), length, _number(site, 1))
    rows = site.add("Unsqueeze", positions, site.ints([1, 3]))
    mask = site.add("LessOrEqual", columns, rows)
    window = site.get("local_window_size", -1)
    if window < 0:
        return mask
    begin = site.add("Sub", rows, _number(site, window))
    return site.add("And", mask, site.add("Greater", columns, begin))
