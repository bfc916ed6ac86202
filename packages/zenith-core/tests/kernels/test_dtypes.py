"""Every numeric dtype end to end and natively: integers wrap, doubles stay doubles, casts agree
with numpy and ml_dtypes."""

from __future__ import annotations

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

import zenith
from zenith import _native
from zenith.backends.cpu.kernels.pointwise_program import TYPES
from zenith.ir import OPSET, GraphIR

Array = np.ndarray[Any, Any]
ISAS = _native.complete_isas()
SIGNED = ("int8", "int16", "int32", "int64")
UNSIGNED = ("uint8", "uint16", "uint32", "uint64")
INTEGERS = (*SIGNED, *UNSIGNED)
WORDS = ("int32", "int64", "uint32", "uint64")


def run(op: str, *inputs: Array | None, consts: int = 0, out: Any = None, **attributes: Any) -> Any:
    """One node on the CPU; the last `consts` inputs are initializers."""
    values: list[ir.Value | None] = []
    for k, x in enumerate(inputs):
        if x is None:
            values.append(None)
            continue
        dtype = ir.DataType.from_numpy(x.dtype)
        value = ir.Value(name=f"x{k}", type=ir.TensorType(dtype), shape=ir.Shape(x.shape))
        if k >= len(inputs) - consts:
            value.const_value = ir.Tensor(x, name=value.name)
        values.append(value)
    node = ir.node(op, values, attributes, name="n")
    node.outputs[0].name = "y"
    given = [v for v in values if v is not None]
    free = [v for v in given if v.const_value is None]
    graph = ir.Graph(free, [node.outputs[0]], nodes=[node],
                     initializers=[v for v in given if v.const_value is not None],
                     opset_imports={"": OPSET}, name="g")  # fmt: skip
    compiled = zenith.compile(
        GraphIR(ir.Model(graph, ir_version=10)).infer_shapes(), target="cpu", fallback="error"
    )
    feeds = {str(v.name): inputs[int(str(v.name)[1:])] for v in free}
    (y,) = compiled.run(feeds).values()
    return y


def corners(dtype: str, seed: int, n: int = 259) -> Array:
    """Random bits of the type, with its extremes."""
    info = np.iinfo(dtype)
    raw = np.random.default_rng(seed).bytes(n * np.dtype(dtype).itemsize)
    x = np.frombuffer(raw, dtype).copy()
    x[:6] = [info.min, info.max, 0, 1, info.min, info.max]
    return x


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_wrap_around(dtype: str) -> None:
    a, b = corners(dtype, 1), corners(dtype, 2)[::-1].copy()
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(run("Add", a, b), a + b)
        np.testing.assert_array_equal(run("Sub", a, b), a - b)
        np.testing.assert_array_equal(run("Mul", a, b), a * b)
        np.testing.assert_array_equal(run("Abs", a), np.abs(a))
        np.testing.assert_array_equal(run("Sign", a), np.sign(a))
        np.testing.assert_array_equal(run("Max", a, b), np.maximum(a, b))
        np.testing.assert_array_equal(run("Clip", a, b[:1].reshape(())), np.maximum(a, b[0]))
        if dtype in SIGNED:
            np.testing.assert_array_equal(run("Neg", a), -a)
            np.testing.assert_array_equal(run("Relu", a), np.maximum(a, 0))
    for op, fn in (("Equal", np.equal), ("Less", np.less), ("GreaterOrEqual", np.greater_equal)):
        np.testing.assert_array_equal(run(op, a, b), fn(a, b))
    for op, fn in (("BitwiseAnd", np.bitwise_and), ("BitwiseXor", np.bitwise_xor)):
        np.testing.assert_array_equal(run(op, a, b), fn(a, b))
    np.testing.assert_array_equal(run("BitwiseNot", a), ~a)
    np.testing.assert_array_equal(run("Where", a > b, a, b), np.where(a > b, a, b))


@pytest.mark.parametrize("dtype", INTEGERS)
def test_division_truncates_and_never_traps(dtype: str) -> None:
    a, b = corners(dtype, 3), corners(dtype, 4)
    b[1::5] = 0
    b[2::5] = np.array(-1).astype(dtype)
    a[:20] = np.iinfo(dtype).min
    quotient, rest, mod = run("Div", a, b), run("Mod", a, b, fmod=1), run("Mod", a, b)
    for x, y, q, r, m in zip(a.tolist(), b.tolist(), quotient, rest, mod, strict=True):
        if y == 0:
            assert (q, r, m) == (0, 0, 0)
            continue
        exact = abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)
        assert q == np.array(exact).astype(dtype) or (x, y) == (np.iinfo(dtype).min, -1)
        assert r == x - exact * y
        assert m == x % y


@pytest.mark.parametrize("dtype", INTEGERS)
def test_shifts(dtype: str) -> None:
    bits = np.dtype(dtype).itemsize * 8
    a = corners(dtype, 5)
    count = np.resize(np.arange(bits + 3), a.shape).astype(dtype)
    wide = a.astype(object)
    right = [int(x) >> int(c) for x, c in zip(wide, count, strict=True)]
    left = [(int(x) << int(c)) % 2**bits for x, c in zip(wide, count, strict=True)]
    assert run("BitShift", a, count, direction="RIGHT").tolist() == right
    unsigned = run("BitShift", a, count, direction="LEFT").view(f"uint{bits}")
    assert unsigned.tolist() == left


def test_integer_powers() -> None:
    for dtype in ("int32", "int64"):
        a = np.array([-3, -1, 0, 1, 2, 7, -2, 5], dtype)
        e = np.array([3, -5, 0, -2, 10, 30, 31, -1], dtype)
        with np.errstate(over="ignore"):
            expected = [int(np.power(x, y, dtype=dtype)) if y >= 0 else int(float(x) ** float(y))
                        for x, y in zip(a, e, strict=True)]  # fmt: skip
        np.testing.assert_array_equal(run("Pow", a, e), expected)
        np.testing.assert_array_equal(run("Pow", a[4:6], np.array([0.5, 2.0])), [1, 49])


@pytest.mark.parametrize("dtype", WORDS)
def test_integer_products_and_sums(dtype: str) -> None:
    a, b = corners(dtype, 6, 7 * 70).reshape(7, 70), corners(dtype, 7, 70 * 83).reshape(70, 83)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(run("MatMul", a, b), a @ b)
        np.testing.assert_array_equal(run("MatMul", a[0], b), a[0] @ b)
        c = corners(dtype, 8, 83)
        np.testing.assert_array_equal(run("Gemm", a.T.copy(), b, c, transA=1), a @ b + c)
        axes = np.array([1])
        for name, fn in (("Sum", np.sum), ("Prod", np.prod), ("Max", np.max), ("Min", np.min)):
            expected = fn(a, axis=1, keepdims=True).astype(dtype)
            np.testing.assert_array_equal(run(f"Reduce{name}", a, axes, consts=1), expected)
        squares = (a * a).sum(1, keepdims=True).astype(dtype)
        np.testing.assert_array_equal(run("ReduceSumSquare", a, axes, consts=1), squares)
        axis = np.array(1)
        cumulated = np.cumsum(a, axis=1, dtype=dtype)
        np.testing.assert_array_equal(run("CumSum", a, axis, consts=1), cumulated)
        product = np.cumprod(a, axis=1, dtype=dtype)[:, ::-1]
        flipped = a[:, ::-1].copy()
        got = run("CumProd", a, axis, consts=1, reverse=0)
        np.testing.assert_array_equal(got[:, ::-1], product)
        assert run("CumProd", flipped, axis, consts=1, reverse=1).tolist() == product.tolist()
    small = np.arange(24).reshape(4, 6).astype(dtype)
    np.testing.assert_array_equal(
        run("ReduceMean", small, np.array([0]), consts=1, keepdims=0), small.mean(0).astype(dtype)
    )
    norm = np.sqrt((small.astype(float) ** 2).sum(0)).astype(dtype)
    np.testing.assert_array_equal(run("ReduceL2", small, np.array([0]), consts=1, keepdims=0), norm)
    np.testing.assert_array_equal(run("Gemm", small, small.T.copy(), alpha=0.5),
                                  (0.5 * (small @ small.T)).astype(dtype))  # fmt: skip


@pytest.mark.parametrize("dtype", INTEGERS)
def test_arg_reduce(dtype: str) -> None:
    a = corners(dtype, 9, 5 * 41).reshape(5, 41)
    np.testing.assert_array_equal(run("ArgMax", a, axis=1, keepdims=0), a.argmax(1))
    np.testing.assert_array_equal(run("ArgMin", a, axis=0, keepdims=0), a.argmin(0))


UNARY = {
    "Exp": np.exp, "Tanh": np.tanh, "Sin": np.sin, "Sqrt": lambda x: np.sqrt(x),
    "Log": lambda x: np.log(x), "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Softplus": lambda x: np.logaddexp(0, x), "Softsign": lambda x: x / (1 + np.abs(x)),
    "Mish": lambda x: x * np.tanh(np.logaddexp(0, x)),
    "HardSwish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "Celu": lambda x: np.where(x < 0, np.expm1(x), x),
    "Elu": lambda x: np.where(x < 0, np.expm1(x), x), "Reciprocal": lambda x: 1 / x,
    "LeakyRelu": lambda x: np.where(x < 0, np.float64(np.float32(0.01)) * x, x),
    "Swish": lambda x: x / (1 + np.exp(-x)), "ThresholdedRelu": lambda x: np.where(x > 1, x, 0),
    "Shrink": lambda x: np.where(np.abs(x) > 0.5, x, 0),
}  # fmt: skip


@pytest.mark.parametrize("op", UNARY)
def test_doubles_are_computed_in_double(op: str) -> None:
    x = np.random.default_rng(10).normal(0, 2, (3, 131))
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(run(op, x), UNARY[op](x), rtol=1e-14, atol=1e-15)


def test_double_normalisations_and_products() -> None:
    r = np.random.default_rng(11)
    x = r.normal(3, 2, (4, 6, 5, 7))
    s, b = r.normal(size=7), r.normal(size=7)
    e = np.exp(x - x.max(1, keepdims=True))
    soft = e / e.sum(1, keepdims=True)
    tight = {"rtol": 1e-13, "atol": 1e-14}
    np.testing.assert_allclose(run("Softmax", x, axis=1), soft, **tight)
    np.testing.assert_allclose(run("LogSoftmax", x, axis=1), np.log(soft), **tight)
    centred = x - x.mean(-1, keepdims=True)
    eps = np.float64(np.float32(1e-5))
    normal = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
    np.testing.assert_allclose(run("LayerNormalization", x, s, b), normal * s + b, **tight)
    rms = x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)
    np.testing.assert_allclose(run("RMSNormalization", x, s), rms * s, **tight)
    c, d = r.normal(size=6), r.normal(size=6)
    g = x.reshape(4, 2, -1)
    g = (g - g.mean(2, keepdims=True)) / np.sqrt(g.var(2, keepdims=True) + eps)
    grouped = g.reshape(x.shape) * c[:, None, None] + d[:, None, None]
    np.testing.assert_allclose(run("GroupNormalization", x, c, d, num_groups=2), grouped, **tight)
    mean, variance = r.normal(size=6), r.random(6) + 0.5
    whole = (x - mean[:, None, None]) / np.sqrt(variance + eps)[:, None, None]
    expected = whole * c[:, None, None] + d[:, None, None]
    np.testing.assert_allclose(run("BatchNormalization", x, c, d, mean, variance), expected,
                               **tight)  # fmt: skip
    v = x.var((0, 2, 3), keepdims=True)
    mvn = (x - x.mean((0, 2, 3), keepdims=True)) / (np.sqrt(v) + 1e-9)
    np.testing.assert_allclose(run("MeanVarianceNormalization", x), mvn, **tight)
    lp = x / np.abs(x).sum(2, keepdims=True)
    np.testing.assert_allclose(run("LpNormalization", x, axis=2, p=1), lp, **tight)
    a, w = r.normal(size=(3, 9, 150)), r.normal(size=(150, 77))
    np.testing.assert_allclose(run("MatMul", a, w), a @ w, rtol=1e-11, atol=1e-12)
    got = run("Gemm", w, a[0], None, transA=1, transB=1, alpha=0.5)
    np.testing.assert_allclose(got, 0.5 * w.T @ a[0].T, rtol=1e-11, atol=1e-12)
    total = np.log(np.exp(x).sum((1, 3)))
    got = run("ReduceLogSumExp", x, np.array([1, 3]), consts=1, keepdims=0)
    np.testing.assert_allclose(got, total, **tight)


def test_hardmax_takes_the_first_of_equals() -> None:
    x = np.array([[1, 3, 3], [5, 2, 5]], np.float32)
    np.testing.assert_array_equal(run("Hardmax", x), [[0, 1, 0], [1, 0, 0]])
    np.testing.assert_array_equal(run("Hardmax", x, axis=0), [[0, 1, 0], [1, 0, 1]])


def cast(isa: str, x: Array, to: str, p: float = 1.0, q: float = 0.0) -> Array:
    """By the kernel alone, along the path the program takes."""
    from zenith.backends.cpu.kernels.pointwise_program import Program
    from zenith.runtime.numpy_signature import numpy_dtype

    program = Program()
    value = program.input(x.dtype.name)
    program.finish([program.cast(value, to, p, q)])
    steps, args = program.encode()
    y = np.zeros(x.shape, numpy_dtype(to))
    plain = [a if a.dtype.num < 256 else a.view(f"uint{8 * a.itemsize}") for a in (x, y)]
    _native.call(isa, "pointwise", [plain[0]], [plain[1]], {"steps": steps, "args": args}, 1)
    return y


PLAIN = ("float32", "float64", *INTEGERS, "bool", "float16", "bfloat16")
SMALL = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float4_e2m1fn")


@pytest.mark.parametrize("isa", ISAS)
def test_casts_between_plain_types(isa: str) -> None:
    from zenith.runtime.numpy_signature import numpy_dtype

    numbers = np.array([0, 1, 2, 3, 100, 17, 5, 127] * 9, np.float64)
    for source, target in itertools.product(PLAIN, PLAIN):
        x = numbers.astype(numpy_dtype(source))
        expected = x.astype(numpy_dtype(target))
        np.testing.assert_array_equal(cast(isa, x, target).view(np.uint8), expected.view(np.uint8),
                                      err_msg=f"{source} {target}")  # fmt: skip


@pytest.mark.parametrize("isa", ISAS)
def test_no_value_is_rounded_twice(isa: str) -> None:
    r = np.random.default_rng(12)
    for target in (np.float16, ml_dtypes.bfloat16):
        half = r.normal(0, 100, 4000).astype(target)
        up = np.nextafter(half, np.array(np.inf, target))
        middle = (half.astype(np.float64) + up.astype(np.float64)) / 2
        x = np.concatenate([middle, np.nextafter(middle, np.inf), np.nextafter(middle, -np.inf)])
        got = cast(isa, x, np.dtype(target).name).astype(np.float64)
        low, high = (np.tile(v.astype(np.float64), 3) for v in (half, up))
        even = (half.view(np.uint16) & 1) == 0
        nearest = np.where(x < np.tile(middle, 3), low, high)
        tie = np.where(np.tile(even, 3), low, high)
        expected = np.where(x == np.tile(middle, 3), tie, nearest)
        down = np.tile(up.astype(np.float64) < half.astype(np.float64), 3)
        np.testing.assert_array_equal(got[~down], expected[~down])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", SMALL)
def test_small_floats(isa: str, name: str) -> None:
    kind = np.dtype(getattr(ml_dtypes, name))
    codes = np.arange(16 if "4_" in name else 256, dtype=np.uint8).view(kind)
    np.testing.assert_array_equal(cast(isa, codes, "float32"), codes.astype(np.float32))
    x = np.concatenate([
        np.random.default_rng(13).normal(0, 3, 3000), np.geomspace(1e-9, 1e6, 3000),
        codes.astype(np.float64), [0.0, -0.0, np.nan],
    ]).astype(np.float32)  # fmt: skip
    top = float(ml_dtypes.finfo(kind).max)
    clipped = np.clip(x, -top, top).astype(kind)
    got = cast(isa, x, name)
    finite = ~np.isnan(x) | ("4_" not in name)
    np.testing.assert_array_equal(got[finite].astype(float), clipped[finite].astype(float))
    signs = np.signbit(got[finite].astype(float)) == np.signbit(clipped[finite].astype(float))
    assert signs[~np.isnan(x[finite])].all()
    if "4_" not in name:
        with np.errstate(all="ignore"):
            loose = x.astype(kind)
        np.testing.assert_array_equal(cast(isa, x, name, p=0.0).astype(float), loose.astype(float))


@pytest.mark.parametrize("isa", ISAS)
def test_powers_of_two(isa: str) -> None:
    name = "float8_e8m0fnu"
    codes = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e8m0fnu)
    np.testing.assert_array_equal(cast(isa, codes, "float32"), codes.astype(np.float32))
    x = np.geomspace(1e-30, 1e30, 5000).astype(np.float32)
    for q, mode in enumerate(("up", "down", "nearest")):
        expected = onnx.numpy_helper.to_float8e8m0(x, True, mode)
        np.testing.assert_array_equal(cast(isa, x, name, q=float(q)).view(np.uint8),
                                      expected.view(np.uint8), err_msg=mode)  # fmt: skip


@pytest.mark.parametrize("isa", ISAS)
def test_types_of_a_few_bits(isa: str) -> None:
    for name in ("int4", "uint4", "int2", "uint2"):
        kind = np.dtype(getattr(ml_dtypes, name))
        x = np.arange(-8, 16, dtype=np.int64)
        expected = x.astype(kind)
        np.testing.assert_array_equal(cast(isa, x, name).view(np.uint8), expected.view(np.uint8))
        np.testing.assert_array_equal(cast(isa, expected, "int32"), expected.astype(np.int32))
        np.testing.assert_array_equal(cast(isa, expected, "float16"), expected.astype(np.float16))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["float64", "int32", "uint64"])
@pytest.mark.parametrize("threads", [1, 2])
def test_typed_products_of_any_strides(isa: str, dtype: str, threads: int) -> None:
    r = np.random.default_rng(14)
    for m, k, n in ((1, 1, 1), (5, 3, 64), (4, 70, 65), (9, 2, 131), (3, 0, 4), (0, 3, 4)):
        a = r.integers(0, 9, (2, k, m)).astype(dtype).transpose(0, 2, 1)
        b = r.integers(0, 9, (1, n, k)).astype(dtype).transpose(0, 2, 1)
        y = np.full((2, m, n), 7, dtype)
        _native.call(isa, "matmul_typed", [a, np.broadcast_to(b, (2, k, n))], [y], {}, threads)
        np.testing.assert_array_equal(y, a @ b)


def test_bit_cast_is_a_view() -> None:
    x = np.random.default_rng(15).normal(size=(3, 4)).astype(np.float32)
    got = run("BitCast", x, to=int(ir.DataType.INT32))
    np.testing.assert_array_equal(got, x.view(np.int32))


def test_every_type_has_a_number() -> None:
    assert len(set(TYPES.values())) == len(TYPES) == 23
