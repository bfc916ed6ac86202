"""rotary_f32 and rotary_bf16 against float64."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from zenith import _native

BF16 = np.dtype(ml_dtypes.bfloat16)
TYPES = [np.dtype(np.float32), BF16]
ISAS = _native.complete_isas()
Array = np.ndarray[Any, Any]


def draw(seed: int, *shape: int, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def reference(x: Array, cos: Array, sin: Array, interleaved: int) -> Array:
    """cos, sin: [B or 1, S, R/2]."""
    y = x.astype(np.float64)
    half = cos.shape[2]
    first, second = (
        (slice(0, 2 * half, 2), slice(1, 2 * half, 2))
        if interleaved
        else (slice(0, half), slice(half, 2 * half))
    )
    a, b = y[..., first].copy(), y[..., second].copy()
    c, s = cos[:, None].astype(np.float64), sin[:, None].astype(np.float64)
    y[..., first] = a * c - b * s
    y[..., second] = a * s + b * c
    return y


def run(
    isa: str, x: Array, cos: Array, sin: Array, ids: Array | None, interleaved: int, **how: Any
) -> Array:
    y = np.full(x.shape, 9, x.dtype)
    if ids is None:
        shape = (x.shape[0], x.shape[2], cos.shape[2])
        inputs = [x, np.broadcast_to(cos, shape), np.broadcast_to(sin, shape)]
    else:
        inputs = [x, cos, sin, np.broadcast_to(ids, (x.shape[0], x.shape[2]))]
    params = {"dim": 2 * cos.shape[-1], "interleaved": interleaved}
    halves = x.dtype == BF16
    tensors = [a.view(np.uint16) if a.dtype == BF16 else a for a in (*inputs, y)]
    name = "rotary_bf16" if halves else "rotary_f32"
    _native.call(isa, name, tensors[:-1], tensors[-1:], params, **how)
    return y


def check(got: Array, want: Array) -> None:
    """want: of float64; a bfloat16 is the nearest to it, or beside a float32 that is near it."""
    if got.dtype == BF16:
        error = np.abs(got.astype(np.float64) - want)
        assert np.all(error <= 2**-8 * np.abs(want) * (1 + 1e-4) + 1e-6)
        return
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("batch_of_caches", [0, 1])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("shape", "half"),
    [
        ((1, 1, 1, 2), 1),
        ((2, 3, 5, 64), 32),
        ((2, 4, 70, 64), 16),
        ((3, 2, 9, 10), 5),
        ((2, 2, 3, 17), 7),
        ((1, 12, 128, 64), 32),
        ((2, 2, 3, 6), 0),
    ],
)
def test_rotation(
    isa: str,
    dtype: Any,
    interleaved: int,
    batch_of_caches: int,
    threads: int,
    shape: tuple[int, ...],
    half: int,
) -> None:
    x = draw(1, *shape, dtype=dtype)
    batch = shape[0] if batch_of_caches else 1
    cos, sin = (draw(i, batch, shape[2], half, dtype=dtype) for i in (2, 3))
    got = run(isa, x, cos, sin, None, interleaved, threads=threads)
    check(got, reference(x, cos, sin, interleaved))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("interleaved", [0, 1])
def test_position_ids(isa: str, dtype: Any, interleaved: int) -> None:
    shapes = ((2, 3, 7, 20), (50, 8), (50, 8))
    x, cos, sin = (draw(i, *shape, dtype=dtype) for i, shape in enumerate(shapes))
    ids = np.random.default_rng(4).integers(0, 50, (2, 7))
    for chosen in (ids, ids[:1], ids[:, ::-1]):
        want = reference(x, cos[chosen], sin[chosen], interleaved)
        check(run(isa, x, cos, sin, chosen, interleaved), want)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bad", [-1, 50])
def test_position_outside_the_caches(isa: str, bad: int) -> None:
    x, cos, sin = draw(1, 2, 3, 7, 20), draw(2, 50, 8), draw(3, 50, 8)
    ids = np.zeros((2, 7), np.int64)
    ids[1, 6] = bad
    with pytest.raises(RuntimeError, match="position id"):
        run(isa, x, cos, sin, ids, 0)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("interleaved", [0, 1])
def test_views_of_one_fused_projection(isa: str, dtype: Any, interleaved: int) -> None:
    fused = draw(1, 2, 11, 3, 4, 32, dtype=dtype)
    cos, sin = draw(2, 1, 11, 40, dtype=dtype)[..., 3:19], draw(3, 1, 11, 16, dtype=dtype)
    for i in range(2):
        x = fused[:, :, i].transpose(0, 2, 1, 3)
        check(run(isa, x, cos, sin, None, interleaved), reference(x, cos, sin, interleaved))


@pytest.mark.parametrize("isa", ISAS)
def test_empty(isa: str) -> None:
    for shape in [(0, 2, 3, 4), (2, 0, 3, 4), (2, 2, 0, 4)]:
        x, cache = draw(1, *shape), draw(2, 1, shape[2], 2)
        assert run(isa, x, cache, cache, None, 0).shape == shape
