"""attention_f32 against the same formula in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from zenith import _native

ISAS = _native.complete_isas()
Array = np.ndarray[Any, Any]


def reference(
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None = None,
    *,
    scale: float | None = None,
    softcap: float = 0.0,
    causal: bool = False,
    offset: int = 0,
    left: int = -1,
    right: int = -1,
) -> Array:
    q, k, v = (a.astype(np.float64) for a in (q, k, v))
    rows, keys, group = q.shape[2], k.shape[2], q.shape[1] // max(k.shape[1], 1)
    k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
    scores = (q @ k.swapaxes(2, 3)) * (1 / np.sqrt(q.shape[3]) if scale is None else scale)
    if softcap:
        scores = softcap * np.tanh(scores / softcap)
    position = offset + np.arange(rows)[:, None]
    key = np.arange(keys)[None, :]
    hidden = np.zeros((rows, keys), bool)
    if causal:
        hidden |= key > position
    if left >= 0:
        hidden |= key < position - left
    if right >= 0:
        hidden |= key > position + right
    if mask is not None:
        beyond = np.arange(keys) >= mask.shape[-1]
        wide = np.zeros(mask.shape[:-1] + (keys,))
        wide[..., : mask.shape[-1]] = (
            np.where(mask, 0.0, -np.inf) if mask.dtype == bool else mask.astype(np.float64)
        )
        wide[..., beyond] = -np.inf
        scores = scores + wide
    scores = np.where(hidden, -np.inf, scores)
    top = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    p = np.exp(scores - np.where(np.isneginf(top), 0.0, top))
    total = p.sum(axis=-1, keepdims=True)
    return np.asarray((p / np.where(total == 0, 1.0, total)) @ v)


def run(
    isa: str,
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None = None,
    *,
    threads: int = 0,
    scale: float | None = None,
    softcap: float = 0.0,
    causal: bool = False,
    offset: int = 0,
    left: int = -1,
    right: int = -1,
) -> Array:
    batch, heads, rows, d = q.shape
    # As in the plan: heads beside each other in memory.
    y = np.full((batch, rows, heads, v.shape[3]), np.nan, np.float32).transpose(0, 2, 1, 3)
    if mask is not None:
        mask = np.broadcast_to(mask, (batch, heads, rows, mask.shape[-1]))
    _native.call(
        isa,
        "attention_f32",
        [q, k, v, mask],
        [y],
        {
            "scale": d**-0.5 if scale is None else scale,
            "softcap": softcap,
            "causal": int(causal),
            "offset": offset,
            "left": left,
            "right": right,
        },
        threads=threads,
    )
    return y


def draw(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def qkv(b: int, h: int, g: int, s: int, t: int, d: int, e: int) -> tuple[Array, Array, Array]:
    return draw(1, b, h, s, d), draw(2, b, g, t, d), draw(3, b, g, t, e)


def check(got: Array, want: Array) -> None:
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1, 1, 1, 1, 1),
        (2, 3, 3, 5, 7, 8, 8),
        (1, 2, 2, 6, 16, 64, 64),
        (1, 2, 2, 13, 33, 31, 17),
        (1, 3, 3, 15, 48, 40, 80),
        (2, 2, 2, 32, 31, 64, 63),
        (1, 12, 12, 128, 128, 64, 64),
        (1, 1, 1, 100, 17, 96, 5),
        (1, 1, 1, 29, 1, 3, 129),
        (1, 2, 2, 3, 70, 65, 66),
        (1, 4, 4, 1, 512, 64, 64),
        (1, 1, 1, 4, 1100, 24, 24),
        (1, 1, 1, 70, 1100, 24, 33),
        (1, 1, 1, 300, 1030, 16, 16),
    ],
)
def test_shapes(isa: str, shape: tuple[int, ...]) -> None:
    q, k, v = qkv(*shape)
    check(run(isa, q, k, v), reference(q, k, v))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("heads", [(6, 2), (8, 1), (4, 4)])
@pytest.mark.parametrize("rows", [1, 3, 21])
def test_grouped_heads(isa: str, heads: tuple[int, int], rows: int) -> None:
    q, k, v = qkv(2, *heads, rows, 45, 32, 24)
    check(run(isa, q, k, v), reference(q, k, v))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("rows", [3, 29])
@pytest.mark.parametrize("mask_shape", [(37,), (1, 37), (2, 1, 1, 37), (3, 0, 37), (2, 3, 0, 37)])
@pytest.mark.parametrize("kind", ["bool", "float", "-inf", "lowest"])
def test_masks(isa: str, rows: int, mask_shape: tuple[int, ...], kind: str) -> None:
    shape = tuple(rows if n == 0 else n for n in mask_shape)
    q, k, v = qkv(2, 3, 3, rows, 37, 20, 20)
    keep = np.random.default_rng(5).random(shape) < 0.6
    mask: Array = {
        "bool": keep,
        "float": draw(6, *shape),
        "-inf": np.where(keep, 0, -np.inf).astype(np.float32),
        "lowest": np.where(keep, 0, np.finfo(np.float32).min).astype(np.float32),
    }[kind]
    check(run(isa, q, k, v, mask), reference(q, k, v, mask))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("rows", [1, 7, 70])
@pytest.mark.parametrize("dtype", [np.bool_, np.float32])
@pytest.mark.parametrize("per_head", [False, True])
def test_keys_behind_the_last_shown_one(isa: str, rows: int, dtype: type, per_head: bool) -> None:
    """A cache with room for 1,100 keys of which each row (and head) sees another number."""
    q, k, v = qkv(2, 4, 2, rows, 1100, 16, 16)
    heads = 4 if per_head else 1
    shown = np.random.default_rng(8).integers(0, 90, (2, heads, rows, 1))
    mask: Array = np.arange(1100) < shown
    if dtype is np.float32:
        mask = np.where(mask, 0, -np.inf).astype(np.float32)
    check(run(isa, q, k, v, mask), reference(q, k, v, mask))
    check(run(isa, q, k, v, mask[:, :, :1]), reference(q, k, v, mask[:, :, :1]))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [np.bool_, np.float32])
def test_mask_of_any_strides_and_fewer_columns(isa: str, dtype: type) -> None:
    q, k, v = qkv(2, 2, 2, 19, 41, 16, 16)
    full = np.random.default_rng(7).random((2, 2, 41, 38)) < 0.7
    mask = full.astype(dtype).transpose(0, 1, 3, 2)[:, ::-1, ::2]  # 19 rows, 41 columns
    check(run(isa, q, k, v, mask), reference(q, k, v, mask))
    check(run(isa, q, k, v, mask[..., :30]), reference(q, k, v, mask[..., :30]))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("rows", [2, 25])
@pytest.mark.parametrize("keys", [11, 25, 1500])
@pytest.mark.parametrize("offset", [0, 3, 1400])
@pytest.mark.parametrize("window", [(-1, -1), (4, -1), (2, 1), (-1, 3), (600, 0)])
@pytest.mark.parametrize("causal", [False, True])
def test_windows(
    isa: str, rows: int, keys: int, offset: int, window: tuple[int, int], causal: bool
) -> None:
    q, k, v = qkv(1, 2, 1, rows, keys, 12, 12)
    how: dict[str, Any] = {"causal": causal, "offset": offset}
    how |= {"left": window[0], "right": window[1]}
    check(run(isa, q, k, v, **how), reference(q, k, v, **how))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("keys", [40, 1300])
def test_causal_with_masks_and_softcap(isa: str, keys: int) -> None:
    q, k, v = qkv(1, 4, 2, 40, keys, 16, 16)
    mask = np.random.default_rng(8).random((1, 4, 40, keys)) < 0.8
    how: dict[str, Any] = {"causal": True, "softcap": 2.5, "offset": keys - 40, "scale": 0.7}
    check(run(isa, q, k, v, mask, **how), reference(q, k, v, mask, **how))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("keys", [30, 1200])
@pytest.mark.parametrize("rows", [4, 20])
def test_fully_masked_rows_are_zero(isa: str, rows: int, keys: int) -> None:
    q, k, v = qkv(1, 2, 2, rows, keys, 16, 16)
    keep = np.ones((rows, keys), bool)
    keep[2] = False
    keep[3, : keys // 2] = False
    for mask in (keep, np.where(keep, 0, -np.inf).astype(np.float32)):
        y = run(isa, q, k, v, mask)
        assert (y[:, :, 2] == 0).all()
        check(y, reference(q, k, v, mask))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("rows", [2, 50])
def test_views_of_one_fused_projection(isa: str, rows: int) -> None:
    fused = draw(9, 2, rows, 3, 4, 32)
    q, k, v = (fused[:, :, i].transpose(0, 2, 1, 3) for i in range(3))
    check(run(isa, q, k, v), reference(q, k, v))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_give_the_same_bits(isa: str, threads: int) -> None:
    for shape in [
        (1, 3, 3, 130, 130, 32, 32),
        (1, 1, 1, 520, 1100, 16, 16),
        (1, 8, 1, 1, 99, 8, 8),
    ]:
        q, k, v = qkv(*shape)
        want = run(isa, q, k, v, causal=True, threads=1)
        np.testing.assert_array_equal(run(isa, q, k, v, causal=True, threads=threads), want)


@pytest.mark.parametrize("isa", ISAS)
def test_large_scores_and_nan(isa: str) -> None:
    q, k, v = qkv(1, 1, 1, 9, 20, 16, 16)
    check(run(isa, q * 100, k, v), reference(q * 100, k, v))
    q[0, 0, 4, 3] = np.nan
    y = run(isa, q, k, v)
    assert np.isnan(y[0, 0, 4]).all()
    assert np.isfinite(y[0, 0, :4]).all()
    assert np.isfinite(y[0, 0, 5:]).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("empty", range(7))
def test_empty(isa: str, empty: int) -> None:
    shape = [2, 2, 2, 5, 6, 7, 8]
    shape[empty] = 0
    if empty in (1, 2):
        shape[1] = shape[2] = 0
    q, k, v = qkv(*shape)
    check(run(isa, q, k, v, scale=1.0), reference(q, k, v, scale=1.0))
