"""Kernels of bfloat16 against float64 of the rounded operands: sums are float32, so only the last
rounding shows."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from zenith import _native
from zenith.backends.cpu.emit import PAIRS
from zenith.backends.cpu.epilogue import epilogue_codes

ISAS = _native.isas()
Array = np.ndarray[Any, Any]
BF16 = np.dtype(ml_dtypes.bfloat16)
GATES = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x * (1 + np.vectorize(math.erf)(x / np.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2,
}
ULP = 2.0**-7  # half of it is the error of one rounding


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng([5, *seed])


def halves(shape: tuple[int, ...], *seed: int) -> Array:
    return rng(*seed, *shape).standard_normal(shape).astype(BF16)


def bits(a: Array | None) -> Array | None:
    """As the native side reads it from numpy."""
    return a.view(np.uint16) if a is not None and a.dtype == BF16 else a


def call(isa: str, kernel: str, inputs: list[Any], outputs: list[Array], **params: Any) -> None:
    threads = params.pop("threads", 2)
    _native.call(
        isa, kernel, [bits(a) for a in inputs], [bits(a) for a in outputs], params, threads
    )


def packed(isa: str, w: Array, transposed: int = 0) -> Array:
    return _native.pack(isa, "linear_pack_bf16", w.view(np.uint16), {"transposed": transposed})


def close(got: Array, wanted: Array, size: float | Array) -> None:
    """Within one rounding of the result, and float32's error on terms of this size."""
    rounding = ULP / 2 if got.dtype == BF16 else 2e-6
    error = np.abs(got.astype(np.float64) - wanted)
    assert np.all(error <= rounding * np.abs(wanted) * 1.01 + 3e-6 * size)


SHAPES = [
    (1, 1, 1), (1, 32, 32), (3, 7, 5), (8, 64, 48), (9, 33, 50), (16, 96, 64), (17, 31, 33),
    (33, 128, 100), (65, 200, 97), (70, 0, 40), (0, 8, 8), (4, 8, 0), (200, 66, 130),
]  # fmt: skip


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", SHAPES)
def test_linear(isa: str, shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    x, w, bias = halves((m, k), 1), halves((k, n), 2), halves((n,), 3)
    other = halves((m, n), 4)
    wanted = x.astype(np.float64) @ w.astype(np.float64) + bias.astype(np.float64)
    wanted = np.maximum(wanted, 0) + other.astype(np.float64)
    codes = epilogue_codes("bias.relu.add")
    results = []
    for kind, threads in ((BF16, 1), (np.dtype(np.float32), 1), (BF16, 2)):
        y = np.empty((m, n), kind)
        operands = [x, packed(isa, w), bias, other]
        call(isa, "linear_bf16", operands, [y], epilogue=codes, threads=threads)
        close(y, wanted, np.sqrt(k) + 1)
        results.append(y)
    np.testing.assert_array_equal(bits(results[0]), bits(results[2]))  # threads change no bit


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("steps", ["silu", "bias.gelu", "bias.add.gelu_tanh", "silu.add"])
@pytest.mark.parametrize("product", [None, "whole", "row", "column", "float32"])
def test_linear_gates(isa: str, steps: str, product: str | None) -> None:
    """A function as the last step or before a product, of each shape an operand may have."""
    m, k, n = 37, 66, 101
    x, w, bias, other = halves((m, k), 1), halves((k, n), 2), halves((n,), 3), halves((m, n), 4)
    shape = {"row": (n,), "column": (m, 1)}.get(product or "", (m, n))
    factor = halves(shape, 5).astype(np.float32 if product == "float32" else BF16)
    wanted = x.astype(np.float64) @ w.astype(np.float64)
    operands = []
    for step in steps.split("."):
        if step in ("bias", "add"):
            operands.append(bias if step == "bias" else other)
            wanted = wanted + operands[-1].astype(np.float64)
        else:
            wanted = GATES[step](wanted)
    size = np.sqrt(k) + 1
    if product is not None:
        operands.append(factor)
        wanted, size = wanted * factor.astype(np.float64), 4 * size
        steps += ".mul"
    results = []
    for kind, threads in ((BF16, 1), (np.dtype(np.float32), 1), (BF16, 2)):
        target = np.full((m, n + 9), 7, kind)
        y = target[:, 4:-5]
        inputs = [x, packed(isa, w), *operands]
        call(isa, "linear_bf16", inputs, [y], epilogue=epilogue_codes(steps), threads=threads)
        close(y, wanted, size)
        assert np.all(target[:, :4] == 7) and np.all(target[:, -5:] == 7)
        results.append(y)
    np.testing.assert_array_equal(bits(results[0]), bits(results[2]))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("gate", GATES)
def test_gates_of_every_number(isa: str, gate: str) -> None:
    """What is rounded at once may be off by a tenth of the rounding; float32 results are exact."""
    codes = np.arange(1 << 16, dtype=np.uint16)
    x = codes[codes & 0x7FFF < 0x7B80].view(BF16)  # below 2^120
    left, w = np.zeros((x.size, 2), BF16), np.ones((2, 5), BF16)
    left[:, 0] = x
    with np.errstate(over="ignore", under="ignore"):
        wanted = GATES[gate](x.astype(np.float64))[:, None]
    wanted[np.abs(wanted) < 2.0**-126] = 0
    for kind, error in ((BF16, ULP / 2 + 4e-4), (np.dtype(np.float32), 2e-6)):
        y = np.empty((x.size, 5), kind)
        call(isa, "linear_bf16", [left, packed(isa, w)], [y], epilogue=epilogue_codes(gate))
        off = np.abs(y.astype(np.float64) - wanted)
        size: Any = np.maximum(1, np.abs(x.astype(np.float64)))[:, None]
        if kind == BF16 and isa.startswith(("amx", "avx512")):
            size = 1  # far on the left it is 0; elsewhere what is left of 1 - 1 times x
        assert np.all(off <= error * np.abs(wanted) + 6e-7 * size)
    ends = np.array([[np.inf, 0], [np.nan, 0]], np.float32).astype(BF16)
    y = np.empty((2, 5), BF16)
    call(isa, "linear_bf16", [ends, packed(isa, w)], [y], epilogue=epilogue_codes(gate))
    assert np.all(y[0] == np.inf) and np.all(np.isnan(y[1]))


@pytest.mark.parametrize("isa", ISAS)
def test_linear_reads_strided_rows_and_float32(isa: str) -> None:
    wide, w = halves((40, 200), 1), halves((64, 70), 2)
    x = wide[::2, 3:67]
    wanted = x.astype(np.float64) @ w.astype(np.float64)
    for operand in (x, x.astype(np.float32)):
        target = np.full((20, 90), 7, np.float32)
        y = target[:, 5:75]
        call(isa, "linear_bf16", [operand, packed(isa, w)], [y], epilogue=[])
        close(y, wanted, 8)
        assert np.all(target[:, :5] == 7) and np.all(target[:, 75:] == 7)


@pytest.mark.parametrize("isa", ISAS)
def test_linear_rounds_float32_operands_first(isa: str) -> None:
    x, w = rng(9).standard_normal((11, 64)).astype(np.float32), halves((64, 40), 2)
    got, wanted = np.empty((11, 40), np.float32), np.empty((11, 40), np.float32)
    call(isa, "linear_bf16", [x, packed(isa, w)], [got], epilogue=[])
    call(isa, "linear_bf16", [x.astype(BF16), packed(isa, w)], [wanted], epilogue=[])
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("isa", ISAS)
def test_rows_do_not_depend_on_their_place(isa: str) -> None:
    x, w = halves((150, 96), 1), halves((96, 70), 2)
    whole = np.empty((150, 70), np.float32)
    call(isa, "linear_bf16", [x, packed(isa, w)], [whole], epilogue=[])
    for first, last in ((0, 1), (3, 20), (141, 150)):
        part = np.empty((last - first, 70), np.float32)
        call(isa, "linear_bf16", [x[first:last], packed(isa, w)], [part], epilogue=[])
        np.testing.assert_array_equal(part, whole[first:last])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("steps", ["bias", "bias.add.relu6", "add", "relu"])
def test_rows_do_not_depend_on_their_tile(isa: str, steps: str) -> None:
    """bfloat16 results of tiles of any height, in whole panels and in one that is not."""
    n, x, w = 70, halves((31, 34), 1), halves((34, 70), 2)
    bias, other = halves((n,), 3), halves((31, n), 4)
    wanted = x.astype(np.float64) @ w.astype(np.float64)
    wanted = wanted + bias.astype(np.float64) if "bias" in steps else wanted
    wanted = wanted + other.astype(np.float64) if "add" in steps else wanted
    wanted = np.maximum(wanted, 0) if "relu" in steps else wanted
    wanted = np.minimum(wanted, 6) if "relu6" in steps else wanted
    whole = None
    for m in range(31, 0, -1):
        y = np.empty((m, n), BF16)
        operands = [bias] * ("bias" in steps) + [other[:m]] * ("add" in steps)
        inputs = [x[:m], packed(isa, w), *operands]
        call(isa, "linear_bf16", inputs, [y], epilogue=epilogue_codes(steps))
        whole = y if whole is None else whole
        np.testing.assert_array_equal(bits(y), bits(whole[:m]))
    assert whole is not None
    close(whole, wanted, 7)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (33, 49), (64, 96)])
def test_packing_is_undone(isa: str, shape: tuple[int, int]) -> None:
    w = halves(shape, 1)
    for source, transposed in ((w, 0), (w.T, 0), (w, 1)):
        data = packed(isa, source, transposed)
        back = np.empty(source.shape, BF16)
        _native.unpack(
            isa, "linear_pack_bf16", data, back.view(np.uint16), {"transposed": transposed}
        )
        np.testing.assert_array_equal(
            back.view(np.uint16), np.ascontiguousarray(source).view(np.uint16)
        )


@pytest.mark.parametrize("isa", ISAS)
def test_not_a_number_and_infinity_pass_through(isa: str) -> None:
    x, w = halves((18, 64), 1), halves((64, 33), 2)
    x[3, 5], x[17, 63] = np.nan, np.inf
    y = np.empty((18, 33), BF16)
    call(isa, "linear_bf16", [x, packed(isa, w)], [y], epilogue=[])
    assert np.isnan(y[3]).all() and np.isinf(y[17]).all()
    assert np.isfinite(np.delete(y, [3, 17], axis=0)).all()


def norm(x: Array, scale: Array, bias: Array | None, center: bool) -> Array:
    x = x.astype(np.float64)
    if center:
        x = x - x.mean(-1, keepdims=True)
    y = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * scale.astype(np.float64)
    return y if bias is None else y + bias.astype(np.float64)


@pytest.mark.parametrize("isa", _native.complete_isas())
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (21, 16), (2, 33), (70, 40), (9, 768), (0, 8)])
def test_norms(isa: str, shape: tuple[int, int]) -> None:
    a, b = halves(shape, 1), halves(shape, 2)
    scale, bias = halves(shape[1:], 3), halves(shape[1:], 4)
    total = (a.astype(np.float32) + b.astype(np.float32)).astype(BF16)
    for center, name in ((True, "layer"), (False, "rms")):
        weights = [scale, bias] if center else [scale]
        for threads in (1, 2):
            y = np.empty(shape, BF16)
            params = {"epsilon": 1e-5, "axes": 1, "threads": threads}
            call(isa, f"{name}_norm_bf16", [a, *weights], [y], **params)
            close(y, norm(a, scale, bias if center else None, center), 4)
            y, s = np.empty(shape, BF16), np.empty(shape, BF16)
            call(isa, f"add_{name}_norm_bf16", [a, b, *weights], [y, s], **params)
            np.testing.assert_array_equal(bits(s), bits(total))
            close(y, norm(total, scale, bias if center else None, center), 4)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("heads", "groups", "rows", "keys", "d", "e"),
    [(1, 1, 1, 1, 1, 1), (4, 2, 5, 9, 16, 24), (2, 1, 300, 300, 8, 8), (3, 3, 0, 4, 8, 8),
     (8, 1, 130, 1100, 8, 16)],
)  # fmt: skip
def test_attention(isa: str, heads: int, groups: int, rows: int, keys: int, d: int, e: int) -> None:
    q, k, v = (
        halves((2, rows, heads, d), 1),
        halves((2, keys, groups, d), 2),
        halves((2, keys, groups, e), 3),
    )
    q, k, v = (t.transpose(0, 2, 1, 3) for t in (q, k, v))
    mask = np.broadcast_to(rng(4).random((rows, keys)) < 0.8, (2, heads, rows, keys))
    mask = mask & (np.arange(keys) < keys - keys // 3)  # the last third hidden from all
    offset = keys - rows
    repeat = heads // groups
    kd, vd = (np.repeat(t.astype(np.float64), repeat, 1) for t in (k, v))
    scores = q.astype(np.float64) @ kd.swapaxes(-1, -2) * 0.3
    seen = mask & (np.arange(keys) <= offset + np.arange(rows)[:, None])
    scores = np.where(seen, scores, -np.inf)
    top = scores.max(-1, keepdims=True, initial=-1e30)
    weights = np.exp(scores - top)
    sums = weights.sum(-1, keepdims=True)
    weights = np.divide(weights, sums, out=np.zeros_like(weights), where=sums > 0)
    wanted = weights @ vd
    # Where pairs are multiplied the weights are rounded as well.
    rounded = isa in PAIRS
    size = ULP / 2 / 3e-6 * (weights @ np.abs(vd)) if rounded else 4.0
    for threads in (1, 2):
        y = np.zeros((2, rows, heads, e), BF16).transpose(0, 2, 1, 3)
        call(isa, "attention_bf16", [q, k, v, mask], [y], scale=0.3, softcap=0.0, causal=1,
             offset=offset, left=-1, right=-1, threads=threads)  # fmt: skip
        close(np.ascontiguousarray(y), wanted, size)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("window", [(0, -1, -1), (1, -1, -1), (1, 3, -1), (0, 40, 5)])
@pytest.mark.parametrize("rows", [1, 3, 4, 5, 29])
@pytest.mark.parametrize(
    ("keys", "d", "e"), [(1, 3, 1), (37, 32, 33), (131, 80, 100), (300, 65, 64)]
)
def test_attention_of_few_and_many_rows(
    isa: str, window: tuple[int, int, int], rows: int, keys: int, d: int, e: int
) -> None:
    """Against the same numbers in float32, also where keys and values end inside a vector."""
    causal, left, right = window
    how = {"scale": d**-0.5, "softcap": 0.0, "causal": causal, "offset": max(keys - rows, 0),
           "left": left, "right": right}  # fmt: skip
    shapes = (6, rows, d), (2, keys, d), (2, keys, e)
    q, k, v = (halves((3, *s), i) for i, s in enumerate(shapes))
    wanted = np.zeros((3, 6, rows, e), np.float32)
    wide = [t.astype(np.float32) for t in (q, k, v)]
    call(isa, "attention_f32", [*wide, None], [wanted], **how)
    y = np.zeros((3, 6, rows, e), BF16)
    call(isa, "attention_bf16", [q, k, v, None], [y], **how)
    # Results are means of values.
    close(y, wanted, ULP / 3e-6 * np.abs(wide[2]).max())
    one = np.zeros((1, 6, rows, e), BF16)
    call(isa, "attention_bf16", [q[2:], k[2:], v[2:], None], [one], **how, threads=1)
    np.testing.assert_array_equal(bits(y[2:]), bits(one))
    # One group, whose heads threads share; the first half reads what it read before.
    call(isa, "attention_bf16", [q[:1], k[:1, :1], v[:1, :1], None], [one], **how, threads=4)
    np.testing.assert_array_equal(bits(y[:1, :3]), bits(one[:, :3]))
    call(isa, "attention_f32", [*(t[:1, :n] for t, n in zip(wide, (6, 1, 1), strict=True)), None],
         [wanted[:1]], **how)  # fmt: skip
    close(one, wanted[:1], ULP / 3e-6 * np.abs(wide[2]).max())


@pytest.mark.parametrize("isa", ISAS)
def test_attention_of_few_rows_reads_nothing_behind_the_keys(isa: str) -> None:
    """A cache has room for more keys, whose numbers mean nothing."""
    q, k, v = halves((1, 4, 1, 64), 1), halves((1, 2, 70, 64), 2), halves((1, 2, 70, 64), 3)
    for n in (1, 2, 33, 69):
        k[:, :, n:] = v[:, :, n:] = np.nan
        y, one = np.zeros((2, 1, 4, 1, 64), BF16)
        how = {"scale": 0.2, "softcap": 0.0, "causal": 0, "offset": 0, "left": -1, "right": -1}
        call(isa, "attention_bf16", [q, k, v, None, np.array([n])], [y], **how)
        call(isa, "attention_bf16", [q, k[:, :, :n], v[:, :, :n], None], [one], **how)
        assert np.isfinite(one.astype(np.float32)).all()
        np.testing.assert_array_equal(bits(y), bits(one))
        k, v = halves((1, 2, 70, 64), 2), halves((1, 2, 70, 64), 3)


@pytest.mark.parametrize("isa", ISAS)
def test_attention_of_few_rows_is_the_same_on_any_number_of_threads(isa: str) -> None:
    """Heads of one group that see different numbers of keys, together and apart."""
    for seen in (7, 21, 22, 40):
        q, k, v = (
            halves((1, heads, rows, 64), heads) for heads, rows in ((2, 1), (1, 41), (1, 41))
        )
        mask = np.arange(41) < np.array([seen, seen + 1]).reshape(1, 2, 1, 1)
        how = {"scale": 0.2, "softcap": 0.0, "causal": 0, "offset": 0, "left": -1, "right": -1}
        one, two = np.zeros((2, 1, 2, 1, 64), BF16)
        call(isa, "attention_bf16", [q, k, v, mask], [one], **how, threads=1)
        call(isa, "attention_bf16", [q, k, v, mask], [two], **how, threads=2)
        np.testing.assert_array_equal(bits(one), bits(two))


@pytest.mark.parametrize("isa", ISAS)
def test_attention_with_lengths(isa: str) -> None:
    """Keys behind a batch's length are not there, and its last query stands at the last key."""
    lengths, rows, keys = [40, 7, 0, 3], 5, 40
    q, k, v = halves((4, 4, rows, 16), 1), halves((4, 2, keys, 16), 2), halves((4, 2, keys, 24), 3)
    params = {"scale": 0.3, "softcap": 0.0, "causal": 1, "left": -1, "right": -1}
    y = np.zeros((4, 4, rows, 24), BF16)
    counts = np.array(lengths)
    call(isa, "attention_bf16", [q, k, v, None, counts], [y], offset=0, **params)
    for b, n in enumerate(lengths):
        one = np.zeros((1, 4, rows, 24), BF16)
        operands = [q[b : b + 1], k[b : b + 1, :, :n], v[b : b + 1, :, :n]]
        call(isa, "attention_bf16", operands, [one], offset=n - rows, **params)
        np.testing.assert_array_equal(bits(y[b : b + 1]), bits(one))
    assert np.abs(y[0].astype(np.float32)).min() > 0 and not y[2].any()
