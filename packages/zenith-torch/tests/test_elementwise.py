"""Element by element operators against PyTorch, with its type promotion."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch_oracle import check_cases

FLOAT_UNARY = [
    "abs",
    "acos",
    "asin",
    "asinh",
    "atan",
    "ceil",
    "cos",
    "cosh",
    "erf",
    "erfc",
    "erfinv",
    "exp",
    "exp2",
    "expm1",
    "floor",
    "frac",
    "log1p",
    "neg",
    "reciprocal",
    "round",
    "sigmoid",
    "sign",
    "sin",
    "sinh",
    "square",
    "tan",
    "tanh",
    "trunc",
    "isnan",
    "isinf",
    "isfinite",
    "logical_not",
]


def test_float_unary() -> None:
    x = torch.linspace(-0.97, 0.95, 24).reshape(4, 6)
    check_cases((x,), {0: {0: "n"}}, **{n: getattr(torch, n) for n in FLOAT_UNARY})


def test_positive_unary() -> None:
    x = torch.rand(3, 5) * 4 + 1.01
    names = ["log", "log2", "log10", "log1p", "sqrt", "rsqrt", "acosh", "expm1"]
    names += ["lgamma", "digamma"]
    check_cases((x,), **{n: getattr(torch, n) for n in names})
    check_cases((x / 8,), atanh=torch.atanh)


def test_small_arguments_keep_their_digits() -> None:
    x = torch.tensor([1e-7, -3e-6, 1e-3, 0.3, -0.4])
    program = check_cases((x,), expm1=torch.expm1, log1p=torch.log1p)
    got = program(x)
    torch.testing.assert_close(got["expm1"], torch.expm1(x), rtol=1e-6, atol=0)
    torch.testing.assert_close(got["log1p"], torch.log1p(x), rtol=1e-6, atol=0)


def test_int_unary() -> None:
    x = torch.tensor([[-3, 0, 2], [5, -1, 7]])
    names = [
        "abs",
        "neg",
        "sign",
        "ceil",
        "floor",
        "round",
        "trunc",
        "sqrt",
        "sin",
        "exp",
        "sigmoid",
        "reciprocal",
    ]
    with_nan = {n: getattr(torch, n) for n in names if n not in ("sqrt", "reciprocal")}
    check_cases((x,), **with_nan, bitwise_not=torch.bitwise_not, logical_not=torch.logical_not)


@pytest.mark.parametrize("left", [torch.float32, torch.int64, torch.int32, torch.bool])
@pytest.mark.parametrize("right", [torch.float32, torch.int64, torch.uint8])
def test_arithmetic_promotes(left: torch.dtype, right: torch.dtype) -> None:
    x = torch.tensor([[1, 0, 3], [4, 5, 0]]).to(left)
    y = torch.tensor([2, 3, 4]).to(right)
    cases = {
        "add": lambda x, y: x + y,
        "add_alpha": lambda x, y: torch.add(x, y, alpha=2),
        "sub": lambda x, y: y - x if left is not torch.bool else y,
        "mul": lambda x, y: x * y,
        "div": lambda x, y: x / y,
        "add_float": lambda x, y: x + 1.5,
        "add_int": lambda x, y: x + 2,
        "rsub": lambda x, y: 1 - y,
        "mul_float": lambda x, y: x * 0.5,
        "div_int": lambda x, y: x / 2,
        "zero_d": lambda x, y: x + y[0],
        "eq": lambda x, y: x == y,
        "lt": lambda x, y: x < y,
        "ge_float": lambda x, y: x >= 1.5,
        "gt_int": lambda x, y: y > 2,
        "ne": lambda x, y: x != 1,
        "where": lambda x, y: torch.where(x > 0, x, y),
        "maximum": torch.maximum,
        "minimum": torch.minimum,
        "to_float": lambda x, y: x.float(),
        "to_int": lambda x, y: y.int(),
        "to_bool": lambda x, y: x.bool(),
        "type_as": lambda x, y: x.type_as(y),
    }
    check_cases((x, y), **cases)


def test_division_rounds_as_python_does() -> None:
    x = torch.tensor([7, -7, 6, -6, 5])
    y = torch.tensor([2, 2, -4, -4, 5])
    cases = {
        "floor_divide": lambda x, y: x // y,
        "floor": lambda x, y: torch.div(x, y, rounding_mode="floor"),
        "trunc": lambda x, y: torch.div(x, y, rounding_mode="trunc"),
        "remainder": lambda x, y: x % y,
        "fmod": torch.fmod,
        "by_scalar": lambda x, y: x // 3,
        "remainder_scalar": lambda x, y: x % 3,
    }
    check_cases((x, y), **cases)
    check_cases((x.float() + 0.25, y.float()), **cases)


def test_power() -> None:
    x = torch.rand(2, 3) + 0.5
    k = torch.tensor([[1, 2, 3], [4, 0, 2]])
    check_cases(
        (x, k),
        square=lambda x, k: x**2,
        cube=lambda x, k: x**3,
        root=lambda x, k: x**0.5,
        inverse_root=lambda x, k: x**-0.5,
        one=lambda x, k: x**1,
        tensor=lambda x, k: x**k,
        base=lambda x, k: 2.0**x,
        ints=lambda x, k: k**2,
        int_base=lambda x, k: 2**k,
        int_half=lambda x, k: k**0.5,
    )


def test_clamp() -> None:
    x = torch.randn(3, 4) * 3
    low, high = torch.tensor([-1.0, 0.0, -0.5, 0.5]), torch.tensor(0.75)
    check_cases(
        (x, low, high),
        both=lambda x, a, b: x.clamp(-1, 1.5),
        low=lambda x, a, b: x.clamp(min=0.1),
        high=lambda x, a, b: x.clamp(max=0.1),
        tensors=lambda x, a, b: torch.clamp(x, a, b),
        tensor_low=lambda x, a, b: torch.clamp(x, min=a),
        hardtanh=lambda x, a, b: F.hardtanh(x),
    )
    check_cases((torch.arange(6),), ints=lambda x: x.clamp(1, 4), mixed=lambda x: x.clamp(0.5, 4.5))


def test_logic() -> None:
    x, y = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False])
    names = ["logical_and", "logical_or", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_xor"]
    check_cases((x, y), **{n: getattr(torch, n) for n in names}, invert=lambda x, y: ~x)
    a, b = torch.tensor([12, 10, 0]), torch.tensor([10, 3, 7])
    check_cases((a, b), **{n: getattr(torch, n) for n in names}, shift=lambda a, b: a << 2)
    check_cases((a, b), scalar=lambda a, b: a & 6, invert=lambda a, b: ~b)


def test_activations() -> None:
    x = torch.randn(3, 8) * 4
    weight = torch.rand(8)
    check_cases(
        (x, weight),
        {0: {0: "n"}},
        others=[(torch.randn(5, 8), weight)],
        relu=lambda x, w: F.relu(x),
        relu6=lambda x, w: F.relu6(x),
        gelu=lambda x, w: F.gelu(x),
        gelu_tanh=lambda x, w: F.gelu(x, approximate="tanh"),
        silu=lambda x, w: F.silu(x),
        mish=lambda x, w: F.mish(x),
        elu=lambda x, w: F.elu(x, 0.7),
        celu=lambda x, w: F.celu(x, 0.7),
        selu=lambda x, w: F.selu(x),
        leaky=lambda x, w: F.leaky_relu(x, 0.2),
        prelu=lambda x, w: F.prelu(x, w),
        softplus=lambda x, w: F.softplus(x),
        softplus_beta=lambda x, w: F.softplus(x, beta=2.0, threshold=5.0),
        hardswish=lambda x, w: F.hardswish(x),
        hardsigmoid=lambda x, w: F.hardsigmoid(x),
        logsigmoid=lambda x, w: F.logsigmoid(x),
        threshold=lambda x, w: F.threshold(x, 0.1, 2.0),
        glu=lambda x, w: F.glu(x, -1),
        softsign=lambda x, w: F.softsign(x),
        tanhshrink=lambda x, w: F.tanhshrink(x),
        softmax=lambda x, w: F.softmax(x, -1),
        softmax_first=lambda x, w: F.softmax(x, 0),
        softmax_float64=lambda x, w: F.softmax(x, -1, dtype=torch.float64),
        log_softmax=lambda x, w: F.log_softmax(x, 1),
        dropout=lambda x, w: F.dropout(x, 0.5, training=False),
    )


def test_mixed_helpers() -> None:
    x, y, m = torch.randn(3, 4), torch.randn(4), torch.rand(3, 4) > 0.5
    check_cases(
        (x, y, m),
        lerp=lambda x, y, m: torch.lerp(x, y, 0.3),
        addcmul=lambda x, y, m: torch.addcmul(x, y, y, value=0.5),
        addcdiv=lambda x, y, m: torch.addcdiv(x, y, y + 3, value=2.0),
        masked_fill=lambda x, y, m: x.masked_fill(m, float("-inf")),
        masked_fill_tensor=lambda x, y, m: x.masked_fill(m, y[0]),
        where_scalar=lambda x, y, m: torch.where(m, x, 0.0),
        where_scalars=lambda x, y, m: torch.where(m, 1.0, 0.0),
        nan_to_num=lambda x, y, m: torch.nan_to_num(x),
        half=lambda x, y, m: (x.half() * 2).float(),
        bfloat=lambda x, y, m: (x.bfloat16() + 1).float(),
    )


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64])
def test_shifts_and_signs_of_every_integer(dtype: torch.dtype) -> None:
    bits, low = 8 * dtype.itemsize, torch.iinfo(dtype).min
    x = torch.tensor([low, low + 1, 3, 0, 1, 97, 5, torch.iinfo(dtype).max]).to(dtype)
    y = torch.tensor([1, 2, 1, 3, 0, 5, bits - 1, bits - 1]).to(dtype)
    check_cases(
        (x, y),
        right=lambda x, y: x >> y,
        right_by_two=lambda x, y: x >> 2,
        left=lambda x, y: x << y,
        negative=lambda x, y: -x,
    )
