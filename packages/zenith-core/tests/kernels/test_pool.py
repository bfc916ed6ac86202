"""Pooling kernels against float64, on every instruction set of this machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from zenith import _native

torch = pytest.importorskip("torch", reason="torch is the oracle here")

ISAS = _native.complete_isas()
CASES: dict[str, dict[str, Any]] = {
    "2x2": {"x": (2, 16, 8, 9), "kernel": (2, 2), "strides": (2, 2)},
    "3x3 padded": {"x": (1, 37, 15, 14), "kernel": (3, 3), "strides": (2, 2), "pads": (1, 1)},
    "wide": {"x": (1, 130, 6, 7), "kernel": (2, 3), "strides": (1, 2), "pads": (1, 1)},
    "ceil": {"x": (2, 5, 8, 8), "kernel": (3, 3), "strides": (2, 2), "pads": (1, 1), "ceil": True},
    "1-D": {"x": (2, 33, 1, 20), "kernel": (1, 4), "strides": (1, 3), "pads": (0, 2)},
    "no batch": {"x": (0, 4, 6, 6), "kernel": (2, 2), "strides": (2, 2)},
}


def _run(
    isa: str, kernel: str, x: np.ndarray, shape: tuple[int, ...], threads: int, **params: Any
) -> np.ndarray:
    n, c, h, w = shape
    memory = np.full(n * c * h * w + 32, 777, np.float32)
    y = memory[16:-16].reshape(n, h, w, c)
    pixels = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    given = _params({"kernel": (1, 1), "strides": (1, 1)}) | params
    _native.call(isa, kernel, [pixels[:, None]], [y[:, None]], given, threads=threads)
    assert (memory[:16] == 777).all() and (memory[-16:] == 777).all()
    return y.transpose(0, 3, 1, 2)


def _params(
    case: dict[str, Any], include_pad: int = 0, dilations: tuple[int, int] = (1, 1)
) -> dict[str, Any]:
    return {
        "kernel_shape": (1, *case["kernel"]),
        "strides": (1, *case["strides"]),
        "pads": (0, *case.get("pads", (0, 0))) * 2,
        "dilations": (1, *dilations),
        "include_pad": include_pad,
        "p": 2,
        "column_major": 0,
    }


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("threads", [1, 2])
def test_max_pool(isa: str, name: str, threads: int) -> None:
    case = CASES[name]
    x = np.random.default_rng(0).standard_normal(case["x"], dtype=np.float32) - 2
    pads = case.get("pads", (0, 0))
    for dilations in ((1, 1), (1, 2)):
        wanted = torch.nn.functional.max_pool2d(
            torch.from_numpy(x), case["kernel"], case["strides"], pads, dilations,
            ceil_mode=case.get("ceil", False),
        ).numpy()  # fmt: skip
        y = _run(isa, "max_pool_f32", x, wanted.shape, threads, **_params(case, 0, dilations))
        np.testing.assert_array_equal(y, wanted)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("include_pad", [0, 1])
def test_average_pool(isa: str, name: str, include_pad: int) -> None:
    case = CASES[name]
    x = np.random.default_rng(1).standard_normal(case["x"], dtype=np.float32)
    wanted = torch.nn.functional.avg_pool2d(
        torch.from_numpy(x.astype(np.float64)), case["kernel"], case["strides"],
        case.get("pads", (0, 0)), case.get("ceil", False), bool(include_pad),
    ).numpy()  # fmt: skip
    y = _run(isa, "average_pool_f32", x, wanted.shape, 2, **_params(case, include_pad))
    np.testing.assert_allclose(y, wanted, rtol=1e-6, atol=3e-7)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", [(2, 70, 7, 7), (1, 3, 40, 1), (3, 64, 1, 1), (0, 8, 2, 2)])
@pytest.mark.parametrize(("kernel", "reduce"), [("average", np.mean), ("max", np.max)])
def test_global_pool(
    isa: str, shape: tuple[int, ...], kernel: str, reduce: Callable[..., np.ndarray]
) -> None:
    x = np.random.default_rng(2).standard_normal(shape, dtype=np.float32) + 3
    wanted = reduce(x.astype(np.float64), axis=(2, 3), keepdims=True)
    y = _run(isa, f"global_{kernel}_pool_f32", x, wanted.shape, 2)
    np.testing.assert_allclose(y, wanted, rtol=1e-6)


@pytest.mark.parametrize("isa", ISAS)
def test_nan_spreads(isa: str) -> None:
    x = np.random.default_rng(3).standard_normal((1, 21, 6, 6), dtype=np.float32)
    x[0, :, 2, 3] = np.nan
    case = {"kernel": (3, 3), "strides": (1, 1)}
    wanted = torch.nn.functional.max_pool2d(torch.from_numpy(x), 3, 1).numpy()
    assert np.isnan(wanted).any() and not np.isnan(wanted).all()
    y = _run(isa, "max_pool_f32", x, wanted.shape, 1, **_params(case))
    np.testing.assert_array_equal(y, wanted)
    assert np.isnan(_run(isa, "global_max_pool_f32", x, (1, 21, 1, 1), 1)).all()
