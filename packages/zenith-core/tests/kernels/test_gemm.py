"""linear_f32, matmul_f32 and the weight packer against float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from zenith import _native
from zenith.backends.cpu.epilogue import epilogue_codes, epilogue_reason, epilogue_steps

ISAS = _native.complete_isas()
Array = np.ndarray[Any, Any]

_erf = np.vectorize(math.erf, otypes=[float])
FUNCTIONS: dict[str, Any] = {
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "gelu": lambda x: 0.5 * x * (1 + _erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "hardswish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "hardsigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
}


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng([7, *seed])


def normal(shape: tuple[int, ...], *seed: int) -> Array:
    return rng(*seed, *shape).standard_normal(shape).astype(np.float32)


def finish(product: Array, overload: str, operands: list[Array]) -> Array:
    """The epilogue in float64."""
    rest = [o.astype(np.float64) for o in operands]
    for step in epilogue_steps(overload):
        if step in ("bias", "add"):
            product = product + rest.pop(0)
        elif step == "mul":
            product = product * rest.pop(0)
        else:
            product = FUNCTIONS[step](product)
    return product


def product(a: Array, b: Array) -> Array:
    return np.asarray(a.astype(np.float64) @ b.astype(np.float64))


def tolerance(a: Array, b: Array) -> float:
    """Rounding of a sum of K products, with room for the order of summation."""
    return 2e-6 * math.sqrt(max(1, a.shape[-1])) * 3 + 2e-6


def pack(isa: str, weights: Array, transposed: int = 0) -> Array:
    return np.asarray(_native.pack(isa, "linear_pack_f32", weights, {"transposed": transposed}))


def linear(
    isa: str,
    x: Array,
    w: Array,
    overload: str = "",
    operands: list[Array] | None = None,
    threads: int = 1,
    out: Array | None = None,
) -> Array:
    y = np.full((x.shape[0], w.shape[1]), np.nan, np.float32) if out is None else out
    inputs = [x, pack(isa, w), *(operands or [])]
    params = {"epilogue": epilogue_codes(overload)}
    _native.call(isa, "linear_f32", inputs, [y], params, threads=threads)
    return y


def matmul(isa: str, a: Array, b: Array, threads: int = 1) -> Array:
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    y = np.full((*batch, a.shape[-2], b.shape[-1]), np.nan, np.float32)
    lead = len(batch)
    a = a.reshape((1,) * (lead + 2 - a.ndim) + a.shape) if a.ndim < lead + 2 else a
    b = b.reshape((1,) * (lead + 2 - b.ndim) + b.shape) if b.ndim < lead + 2 else b
    _native.call(isa, "matmul_f32", [a, b], [y], {"epilogue": []}, threads=threads)
    return y


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (7, 48), (16, 49), (33, 130), (0, 5), (5, 0)])
def test_pack_round_trip(isa: str, shape: tuple[int, int]) -> None:
    w = normal(shape)
    wide = normal((shape[0] * 2, shape[1] * 3))
    for source in (w, normal(shape[::-1]).T, wide[::2, ::3]):
        for transposed in (0, 1):
            packed = pack(isa, source, transposed)
            back = np.full(source.shape, np.nan, np.float32)
            _native.unpack(isa, "linear_pack_f32", packed, back, {"transposed": transposed})
            assert np.array_equal(back, source)
            view = np.full(source.shape[::-1], np.nan, np.float32).T
            _native.unpack(isa, "linear_pack_f32", packed, view, {"transposed": transposed})
            assert np.array_equal(view, source)
            other = pack(isa, source.T, 1 - transposed)
            assert np.array_equal(packed, other)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("m", [*range(1, 18), 63, 200])
def test_linear_rows(isa: str, threads: int, m: int) -> None:
    for n, k in ((1, 1), (5, 7), (8, 66), (16, 3), (40, 9), (48, 64), (97, 33), (200, 130)):
        x, w = normal((m, k)), normal((k, n))
        y = linear(isa, x, w, threads=threads)
        np.testing.assert_allclose(y, product(x, w), rtol=0, atol=tolerance(x, w))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("k", [1, 4, 767, 768, 1023, 1025, 2049, 3072])
def test_linear_depth(isa: str, k: int) -> None:
    """Deep products take several passes over a panel, also with a narrow last panel."""
    for m, n in ((1, 50), (4, 96), (7, 40), (13, 100)):
        x, w, b = normal((m, k)), normal((k, n)), normal((n,), 1)
        y = linear(isa, x, w, "bias.relu", [b], threads=2)
        want = finish(product(x, w), "bias.relu", [b])
        np.testing.assert_allclose(y, want, rtol=0, atol=tolerance(x, w))


@pytest.mark.parametrize("isa", ISAS)
def test_linear_large_is_split_both_ways(isa: str) -> None:
    for m, n, k in ((700, 40, 520), (96, 1000, 300), (1400, 17, 600)):
        x, w = normal((m, k)), normal((k, n))
        y = linear(isa, x, w, threads=2)
        np.testing.assert_allclose(y, product(x, w), rtol=0, atol=tolerance(x, w))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("k", [33, 2049])
def test_linear_gives_the_same_bits_everywhere(isa: str, k: int) -> None:
    """Whatever the number of rows and threads, the place of a row among them and of a column."""
    row, column = normal((1, k)), normal((k, 1))
    want = linear(isa, row, column, "gelu")[0, 0]
    for m, n in ((1, 50), (2, 7), (5, 97), (9, 17), (39, 100), (150, 50)):
        x, w = np.repeat(row, m, axis=0), np.repeat(column, n, axis=1)
        for threads in (1, 2):
            assert np.all(linear(isa, x, w, "gelu", threads=threads) == want)


@pytest.mark.parametrize("isa", ISAS)
def test_linear_empty(isa: str) -> None:
    assert linear(isa, normal((0, 4)), normal((4, 5))).shape == (0, 5)
    assert linear(isa, normal((3, 4)), normal((4, 0))).shape == (3, 0)
    bias = normal((20,))
    y = linear(isa, normal((3, 0)), normal((0, 20)), "bias", [bias])
    assert np.array_equal(y, np.broadcast_to(bias, (3, 20)))


@pytest.mark.parametrize("isa", ISAS)
def test_linear_strides(isa: str) -> None:
    """Rows of x, y and of every operand may lie apart; nothing between them is touched."""
    x, w = normal((20, 90))[::2, 3:73], normal((55, 70)).T
    add, mul = normal((20, 80))[1::2, :55], normal((10, 60))[:, 5:]
    frame = np.full((10, 70), 9, np.float32)
    linear(isa, x, w, "add.mul", [add, mul], threads=2, out=frame[:, 4:59])
    want = finish(product(x, w), "add.mul", [add, mul])
    np.testing.assert_allclose(frame[:, 4:59], want, rtol=1e-5, atol=4 * tolerance(x, w))
    assert (frame[:, :4] == 9).all() and (frame[:, 59:] == 9).all()


OVERLOADS = [
    "bias",
    "bias.add",
    "mul",
    "add.relu",
    "bias.mul.add.silu.mul",
    *(f"bias.{f}" for f in FUNCTIONS),
    *FUNCTIONS,
    *(f"mul.{f}.add" for f in FUNCTIONS),
]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("overload", OVERLOADS)
def test_epilogue(isa: str, overload: str) -> None:
    for m, n in ((1, 3), (7, 48), (9, 67)):
        x, w = normal((m, 24)), normal((24, n))
        operands = [
            normal((n,) if step == "bias" else (m, n), i)
            for i, step in enumerate(s for s in epilogue_steps(overload) if s not in FUNCTIONS)
        ]
        assert epilogue_reason(overload, len(operands)) is None
        y = linear(isa, x, w, overload, operands, threads=2)
        want = finish(product(x, w), overload, operands)
        np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("isa", ISAS)
def test_operands_that_repeat(isa: str) -> None:
    """Gemm's C may be a scalar, a column or a row: axes of size 1 repeat."""
    x, w = normal((9, 24)), normal((24, 67))
    for shape in ((), (1,), (1, 1), (9, 1), (1, 67), (67,), (9, 67)):
        c = np.asarray(normal(shape, 3))
        y = linear(isa, x, w, "add.relu", [c])
        want = finish(product(x, w), "add.relu", [c])
        np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("isa", ISAS)
def test_nan_and_infinity_pass_through(isa: str) -> None:
    x = np.array([[np.nan, 0], [np.inf, 0], [-np.inf, 0]], np.float32)
    w = np.ones((2, 20), np.float32)
    for overload in ("", "relu", "relu6"):
        y = linear(isa, x, w, overload)
        assert np.isnan(y[0]).all()
        assert (y[1] == (6 if overload == "relu6" else np.inf)).all()
        assert (y[2] == (-np.inf if overload == "" else 0)).all()


def test_unknown_epilogues_have_a_reason() -> None:
    assert epilogue_reason("bias.swish", 1) == "epilogue step 'swish' is unknown"
    assert epilogue_reason("bias.add", 1) == "the epilogue takes 2 operands, the node has 1"
    assert epilogue_reason(".".join(["relu"] * 9), 0) == "the epilogue has 9 steps, more than 8"


BATCHES: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((), ()),
    ((3,), (3,)),
    ((2, 3), (3,)),
    ((1, 3), (2, 1)),
    ((2, 1, 2), (3, 1)),
    ((), (4,)),
    ((0,), (0,)),
    ((1,), (0,)),
]
SIZES = [(1, 1, 1), (1, 70, 33), (70, 1, 33), (5, 20, 8), (17, 50, 64), (64, 96, 19), (2, 3, 0)]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("batches", BATCHES)
@pytest.mark.parametrize("size", SIZES)
def test_matmul(
    isa: str, threads: int, batches: tuple[tuple[int, ...], tuple[int, ...]], size: tuple[int, ...]
) -> None:
    m, n, k = size
    for turned_a in (False, True):
        for turned_b in (False, True):
            a, b = normal((*batches[0], m, k)), normal((*batches[1], k, n))
            if turned_a:
                a = np.ascontiguousarray(a.swapaxes(-1, -2)).swapaxes(-1, -2)
            if turned_b:
                b = np.ascontiguousarray(b.swapaxes(-1, -2)).swapaxes(-1, -2)
            y = matmul(isa, a, b, threads)
            np.testing.assert_allclose(y, product(a, b), rtol=0, atol=tolerance(a, b))


@pytest.mark.parametrize("isa", ISAS)
def test_matmul_any_strides(isa: str) -> None:
    for m, n, k in ((1, 40, 70), (40, 1, 70), (1, 1, 5), (9, 53, 21)):
        a, b = normal((2, 2 * m, 3 * k))[:, ::2, ::3], normal((2, 3 * k, 2 * n))[:, ::3, ::2]
        y = matmul(isa, a, b, 2)
        np.testing.assert_allclose(y, product(a, b), rtol=0, atol=tolerance(a, b))


@pytest.mark.parametrize("isa", ISAS)
def test_matmul_of_attention_views(isa: str) -> None:
    """Q, K, V as views of one [batch, row, 3, head, size] tensor; the output lies by rows too."""
    qkv = normal((2, 37, 3, 4, 24)).transpose(2, 0, 3, 1, 4)
    q, k, v = qkv
    scores = matmul(isa, q, k.swapaxes(-1, -2), 2)
    np.testing.assert_allclose(scores, product(q, k.swapaxes(-1, -2)), rtol=0, atol=5e-5)
    out = np.full((2, 37, 4, 24), np.nan, np.float32)
    target = out.transpose(0, 2, 1, 3)
    _native.call(isa, "matmul_f32", [scores, v], [target], {"epilogue": []}, threads=2)
    np.testing.assert_allclose(target, product(scores, v), rtol=1e-5, atol=4e-4)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("size", [(1, 40, 70), (40, 1, 70), (9, 53, 21)])
def test_matmul_epilogue(isa: str, size: tuple[int, int, int]) -> None:
    m, n, k = size
    a, b, scale = normal((m, k)), normal((k, n)), np.full((1, 1), 0.5, np.float32)
    for shape in ((n,), (m, 1), (m, n), ()):
        c = np.asarray(normal(shape, 5))
        y = np.full((m, n), np.nan, np.float32)
        params = {"epilogue": epilogue_codes("mul.add.relu")}
        _native.call(isa, "matmul_f32", [a, b, scale, c], [y], params, threads=2)
        want = finish(product(a, b), "mul.add.relu", [scale, c])
        np.testing.assert_allclose(y, want, rtol=1e-5, atol=tolerance(a, b))
