"""LinearAttention and CausalConvWithState against float64 written from the operators' text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from zenith import _native
from zenith.backends.cpu.kernels import recurrent, views

Array = np.ndarray[Any, Any]
ISAS = _native.complete_isas()
SPECS = [*recurrent.SPECS, *views.SPECS]


def normal(rng: np.random.Generator, *shape: int) -> Array:
    return np.asarray(rng.standard_normal(shape) * 0.5, np.float32)


def check(row: Any, want: list[Array]) -> None:
    assert row.reason() is None
    for isa in ISAS:
        for threads in (1, 2):
            got, _ = row.run(isa, threads)
            for y, w in zip(got, want, strict=True):
                assert y.shape == w.shape
                np.testing.assert_allclose(y, w, rtol=3e-6, atol=3e-6)


def attention(
    query: Array, key: Array, value: Array, past: Array | None, decay: Array | None,
    beta: Array | None, query_heads: int, heads: int, scale: float,
) -> list[Array]:  # fmt: skip
    batch, steps, _ = query.shape
    depth, width = key.shape[2] // heads, value.shape[2] // heads
    state = np.zeros((batch, heads, depth, width)) if past is None else past.astype(np.float64)
    y = np.zeros((batch, steps, query_heads, width))
    for b in range(batch):
        for t in range(steps):
            for h in range(heads):
                k = key[b, t].reshape(heads, depth)[h].astype(np.float64)
                v = value[b, t].reshape(heads, width)[h].astype(np.float64)
                s = state[b, h]
                if decay is not None:
                    s = s * np.exp(decay[b, t].reshape(heads, -1)[h].astype(np.float64))[:, None]
                if beta is not None:
                    v = float(beta[b, t, h % beta.shape[2]]) * (v - s.T @ k)
                state[b, h] = s + np.outer(k, v)
                for q in range(h * query_heads // heads, (h + 1) * query_heads // heads):
                    x = query[b, t].reshape(query_heads, depth)[q].astype(np.float64)
                    y[b, t, q] = scale * (x @ state[b, h])
    return [y.reshape(batch, steps, query_heads * width), state]


@pytest.mark.parametrize("rule", ["linear", "gated", "delta", "gated_delta"])
@pytest.mark.parametrize(
    ("batch", "steps", "query_heads", "heads", "depth", "width"),
    [(2, 3, 2, 2, 5, 9), (1, 6, 4, 2, 8, 8), (2, 1, 3, 1, 4, 17), (0, 2, 1, 1, 4, 4),
     (1, 0, 2, 1, 3, 5)],
)  # fmt: skip
def test_attention(
    make_row: Any, rule: str, batch: int, steps: int, query_heads: int, heads: int, depth: int,
    width: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng([batch, steps, heads])
    query, key, value = (
        normal(rng, batch, steps, n) for n in (query_heads * depth, heads * depth, heads * width)
    )
    for past in (None, normal(rng, batch, heads, depth, width)):
        for per_row in (False, True):
            decay = -abs(normal(rng, batch, steps, heads * depth if per_row else heads))
            beta = abs(normal(rng, batch, steps, heads if per_row else 1))
            given_decay, given_beta = (
                decay if "gated" in rule else None,
                beta if "delta" in rule else None,
            )
            inputs = [query, key, value, past, given_decay, given_beta]
            while inputs[-1] is None:
                inputs.pop()
            for scale in (0.0, 0.7):
                row = make_row(
                    SPECS, "LinearAttention", inputs, outputs=2, update_rule=rule, scale=scale,
                    q_num_heads=query_heads, kv_num_heads=heads,
                )  # fmt: skip
                want = attention(
                    query, key, value, past, given_decay, given_beta, query_heads, heads,
                    scale or depth**-0.5,
                )  # fmt: skip
                check(row, want)


@pytest.mark.parametrize(
    ("batch", "channels", "length", "taps"),
    [(2, 3, 20, 4), (1, 1, 1, 4), (2, 5, 2, 5), (1, 4, 9, 1), (3, 2, 17, 2),
     (0, 2, 3, 3), (1, 2, 0, 3)],
)  # fmt: skip
@pytest.mark.parametrize("activation", ["none", "silu"])
def test_causal_conv(
    make_row: Any, batch: int, channels: int, length: int, taps: int, activation: str
) -> None:
    rng = np.random.default_rng([batch, channels, length, taps])
    x, w = normal(rng, batch, channels, length), normal(rng, channels, 1, taps)
    for bias in (None, normal(rng, channels)):
        for past in (None, normal(rng, batch, channels, taps - 1)):
            before = np.zeros((batch, channels, taps - 1)) if past is None else past
            padded = np.concatenate([before.astype(np.float64), x], axis=2)
            y = np.zeros((batch, channels, length))
            for k in range(taps):
                y += padded[:, :, k : k + length] * w[:, :, k]
            if bias is not None:
                y += bias[:, None]
            if activation == "silu":
                y = y / (1 + np.exp(-y))
            inputs = [x, w, bias, past]
            while inputs[-1] is None:
                inputs.pop()
            row = make_row(SPECS, "CausalConvWithState", inputs, outputs=2, activation=activation)
            check(row, [y, padded[:, :, length:]])


def test_strided_inputs(make_row: Any) -> None:
    rng = np.random.default_rng(1)
    x, w = normal(rng, 3, 4, 10), normal(rng, 4, 1, 2)
    plain = make_row(SPECS, "CausalConvWithState", [x, w], outputs=2)
    turned = make_row(
        SPECS, "CausalConvWithState", [x, w], outputs=2, permuted={0: (1, 0, 2), 1: (2, 1, 0)}
    )
    check(turned, plain.run(ISAS[0])[0])
    query, key, value = (normal(rng, 2, 3, 8) for _ in range(3))
    how: dict[str, Any] = {"q_num_heads": 2, "kv_num_heads": 2, "update_rule": "linear"}
    want = attention(query, key, value, None, None, None, 2, 2, 0.5)
    permuted = {0: (1, 0, 2), 2: (2, 1, 0)}
    row = make_row(
        SPECS, "LinearAttention", [query, key, value], outputs=2, permuted=permuted, **how
    )
    check(row, want)
