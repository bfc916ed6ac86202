"""Elementary functions against float64, over dense sweeps, on every ISA of this machine."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from zenith import _native
from zenith.backends.cpu.kernels.pointwise_program import OPS, TYPES

torch = pytest.importorskip("torch", reason="torch is the oracle here")

ISAS = _native.complete_isas()
Array = np.ndarray


def apply(isa: str, op: str, x: Array, p: float = 0.0, q: float = 0.0) -> Array:
    """One f32 operation through the pointwise kernel."""
    y = np.empty_like(x)
    code = OPS.index(op) | TYPES["float32"] << 8 | 1 << 16
    _native.call(isa, "pointwise", [x], [y], {"steps": [code], "args": [p, q]})
    return y


def by_torch(f: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Array], Array]:
    return lambda x: f(torch.from_numpy(x)).numpy()


def spread(low: float, high: float, n: int = 60_000) -> Array:
    """Both signs, evenly in the exponent."""
    x = np.geomspace(low, high, n).astype(np.float32)
    return np.concatenate([x, -x])


def line(low: float, high: float, n: int = 200_001) -> Array:
    return np.linspace(low, high, n).astype(np.float32)


F = torch.nn.functional
RELATIVE = {
    "exp": (np.exp, line(-87, 88), 1.2e-7),
    "tanh": (np.tanh, np.concatenate([line(-12, 12), spread(1e-30, 20)]), 3.5e-7),
    "erf": (by_torch(torch.erf), np.concatenate([line(-6, 6), spread(1e-30, 10)]), 4e-7),
    "log": (np.log, np.abs(np.concatenate([line(0.1, 4), spread(1e-44, 3e38)])), 1.2e-7),
    "sqrt": (np.sqrt, np.abs(spread(1e-44, 3e38)), 6.1e-8),
    "reciprocal": (lambda x: 1 / x, spread(1e-30, 1e30), 6.1e-8),
    "sigmoid": (by_torch(torch.sigmoid), line(-80, 80), 2e-7),
    "silu": (by_torch(F.silu), line(-80, 80), 2.5e-7),
    "softplus": (lambda x: np.logaddexp(0, x), line(-80, 80), 2.5e-7),
    "mish": (lambda x: x * np.tanh(np.logaddexp(0, x)), line(-80, 80), 4e-7),
}
ABSOLUTE = {  # error over 1 + |x|
    "sin": (np.sin, np.concatenate([line(-1e5, 1e5), spread(1e-10, 1e8)]), 1.2e-7),
    "cos": (np.cos, np.concatenate([line(-1e5, 1e5), spread(1e-10, 1e8)]), 1.2e-7),
    "gelu": (by_torch(F.gelu), line(-12, 12), 2.5e-7),
    "gelu_tanh": (by_torch(lambda x: F.gelu(x, approximate="tanh")), line(-12, 12), 2.5e-7),
    "erf": (by_torch(torch.erf), line(-6, 6), 4e-7),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("op", RELATIVE)
def test_relative_error(isa: str, op: str) -> None:
    f, x, bound = RELATIVE[op]
    x = x[x != 0]
    y, exact = apply(isa, op, x), f(x.astype(np.float64))
    normal = (np.abs(exact) > 1.2e-38) & (np.abs(exact) < 3.4e38)
    error = np.abs(y - exact)[normal] / np.abs(exact[normal])
    assert error.max() <= bound, f"{error.max():.3g} at x = {x[normal][error.argmax()]}"


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("op", ABSOLUTE)
def test_absolute_error(isa: str, op: str) -> None:
    f, x, bound = ABSOLUTE[op]
    exact = f(x.astype(np.float64))
    scale = 1 if op in ("sin", "cos", "erf") else 1 + np.abs(x)
    error = np.abs(apply(isa, op, x) - exact) / scale
    assert error.max() <= bound, f"{error.max():.3g} at x = {x[error.argmax()]}"


@pytest.mark.parametrize("isa", ISAS)
def test_elu_uses_expm1(isa: str) -> None:
    x = -np.abs(np.concatenate([spread(1e-30, 80), line(-20, 0)]))
    x = x[x != 0]
    exact = np.expm1(x.astype(np.float64))
    assert (np.abs(apply(isa, "elu", x, p=1.0) - exact) / np.abs(exact)).max() <= 2e-7


INF = np.float32(np.inf)
EDGES = {  # at -inf, -0, 0, inf
    "exp": (0, 1, 1, INF),
    "log": (np.nan, -INF, -INF, INF),
    "erf": (-1, -0.0, 0, 1),
    "tanh": (-1, -0.0, 0, 1),
    "sin": (np.nan, -0.0, 0, np.nan),
    "cos": (np.nan, 1, 1, np.nan),
    "sigmoid": (0, 0.5, 0.5, 1),
    "softplus": (0, np.log(2), np.log(2), INF),
    "sqrt": (np.nan, -0.0, 0, INF),
    "reciprocal": (-0.0, -INF, INF, 0),
    "relu": (0, -0.0, 0, INF),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("op", EDGES)
def test_special_values(isa: str, op: str) -> None:
    x = np.array([-INF, -0.0, 0.0, INF, np.nan], np.float32)
    expected = np.array([*EDGES[op], np.nan], np.float32)
    for n in (5, 40):  # inside one vector, and beyond
        y = apply(isa, op, np.resize(x, n))
        np.testing.assert_allclose(y, np.resize(expected, n), rtol=2e-7)
        assert (
            np.signbit(y[:4][expected[:4] == 0]) == np.signbit(expected[:4][expected[:4] == 0])
        ).all()


@pytest.mark.parametrize("isa", ISAS)
def test_functions_keep_nan_in_its_lane(isa: str) -> None:
    x = np.linspace(0.1, 0.9, 67, dtype=np.float32)
    x[[3, 20, 66]] = np.nan
    for op in OPS[OPS.index("floor") :]:
        if op in ("acosh", "thresholdedrelu"):
            continue
        y = apply(isa, op, x, p=1.0, q=0.5)
        np.testing.assert_array_equal(np.isnan(y), np.isnan(x), err_msg=op)


@pytest.mark.parametrize("isa", ISAS)
def test_exp_overflows_and_underflows_where_it_should(isa: str) -> None:
    x = np.array([88.7, 88.73, 200, -87.4, -103, -105, -1e30], np.float32)
    with np.errstate(over="ignore"):
        expected = np.exp(x.astype(np.float64)).astype(np.float32)
    np.testing.assert_allclose(apply(isa, "exp", x), expected, rtol=2e-7, atol=1.5e-45)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("op", sorted({*RELATIVE, *ABSOLUTE}))
def test_a_lane_changes_no_bit_of_its_neighbours(isa: str, op: str) -> None:
    """Alone, among others, and beside numbers that take another way."""
    x = np.abs(np.random.default_rng(8).standard_normal(31).astype(np.float32))
    wanted = np.concatenate([apply(isa, op, x[i : i + 1]) for i in range(x.size)])
    np.testing.assert_array_equal(apply(isa, op, x), wanted)
    for other in (np.inf, -np.inf, np.nan, 1e30, -1e30, 0.0):
        mixed = np.full(2 * x.size, other, np.float32)
        mixed[::2] = x
        with np.errstate(all="ignore"):
            np.testing.assert_array_equal(apply(isa, op, mixed)[::2], wanted)
