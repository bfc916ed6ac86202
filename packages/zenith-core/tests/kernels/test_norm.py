"""Normalisation kernels against float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from zenith import _native

ISAS = _native.complete_isas()
Array = np.ndarray[Any, Any]
EPSILON = 1e-5


def draw(seed: int, *shape: int) -> Array:
    return (np.random.default_rng(seed).standard_normal(shape) + 0.5).astype(np.float32)


def reference(x: Array, scale: Array, bias: Array | None, axes: int, center: bool) -> Array:
    x = x.astype(np.float64)
    over = tuple(range(x.ndim - axes, x.ndim))
    if center:
        x = x - x.mean(axis=over, keepdims=True)
    y = x / np.sqrt((x * x).mean(axis=over, keepdims=True) + EPSILON) * scale
    return np.asarray(y if bias is None else y + bias)


def check(got: Array, want: Array) -> None:
    np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-6)


def run(isa: str, kernel: str, inputs: list[Array | None], axes: int, **how: Any) -> list[Array]:
    first = inputs[0]
    assert first is not None
    outputs = [np.zeros(first.shape, np.float32) for _ in range(2 if "add" in kernel else 1)]
    _native.call(isa, kernel, inputs, outputs, {"epsilon": EPSILON, "axes": axes}, **how)
    return outputs


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((1,), 1),
        ((5, 3), 1),
        ((4, 31), 1),
        ((3, 2, 33), 2),
        ((2, 3, 4, 5), 3),
        ((128, 768), 1),
        ((300, 7), 1),
        ((2, 1025), 1),
        ((3, 4, 5), 3),
    ],
)
def test_rows(isa: str, threads: int, shape: tuple[int, ...], axes: int) -> None:
    a, b = draw(1, *shape), draw(2, *shape)
    scale, bias = (draw(s, *shape[len(shape) - axes :]) for s in (3, 4))
    total = a + b
    for center in (True, False):
        kind = "layer" if center else "rms"
        operands = [[scale, bias], [scale]] if center else [[scale]]
        for weights in operands:
            shift = bias if len(weights) == 2 else None
            want = reference(a, scale, shift, axes, center)
            check(run(isa, f"{kind}_norm_f32", [a, *weights], axes, threads=threads)[0], want)
            y, s = run(isa, f"add_{kind}_norm_f32", [a, b, *weights], axes, threads=threads)
            np.testing.assert_array_equal(s, total)
            check(y, reference(total, scale, shift, axes, center))


@pytest.mark.parametrize("isa", ISAS)
def test_missing_bias(isa: str) -> None:
    x, scale = draw(1, 4, 20), draw(2, 20)
    got = run(isa, "layer_norm_f32", [x, scale, None], 1)[0]
    check(got, reference(x, scale, None, 1, True))


@pytest.mark.parametrize("isa", ISAS)
def test_strided_rows(isa: str) -> None:
    base, scale, bias = draw(1, 4, 6, 50), draw(2, 45), draw(3, 45)
    for x in (base[:, :, 2:47], base.swapaxes(0, 1)[::2, :, :45]):
        want = reference(x, scale, bias, 1, True)
        check(run(isa, "layer_norm_f32", [x, scale, bias], 1)[0], want)
        y, s = run(isa, "add_layer_norm_f32", [x, x[::-1], scale, bias], 1)
        np.testing.assert_array_equal(s, x + x[::-1])
        check(y, reference(x + x[::-1], scale, bias, 1, True))


@pytest.mark.parametrize("isa", ISAS)
def test_large_mean_keeps_the_variance(isa: str) -> None:
    x = draw(1, 5, 512) + np.float32(3000)
    scale, bias = np.ones(512, np.float32), np.zeros(512, np.float32)
    got = run(isa, "layer_norm_f32", [x, scale, bias], 1)[0]
    np.testing.assert_allclose(got, reference(x, scale, bias, 1, True), atol=1e-3)


def group_reference(x: Array, scale: Array, bias: Array, groups: int) -> Array:
    batch, channels, positions = x.shape
    y = x.astype(np.float64).reshape(batch, groups, -1)
    y = y - y.mean(axis=2, keepdims=True)
    y = y / np.sqrt((y * y).mean(axis=2, keepdims=True) + EPSILON)
    return np.asarray(y.reshape(x.shape) * scale[:, None] + bias[:, None])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("batch", "channels", "positions", "groups"),
    [
        (1, 1, 1, 1),
        (2, 6, 5, 3),
        (2, 6, 5, 6),
        (1, 64, 49, 32),
        (3, 40, 70, 40),
        (1, 96, 130, 3),
        (2, 35, 66, 5),
        (1, 129, 64, 1),
        (2, 7, 1, 1),
    ],
)
def test_groups(
    isa: str,
    channels_last: bool,
    threads: int,
    batch: int,
    channels: int,
    positions: int,
    groups: int,
) -> None:
    x, y = draw(1, batch, channels, positions), np.zeros((batch, channels, positions), np.float32)
    if channels_last:
        x, y = (np.ascontiguousarray(t.transpose(0, 2, 1)).transpose(0, 2, 1) for t in (x, y))
    scale, bias = draw(2, channels), draw(3, channels)
    params = {"epsilon": EPSILON, "groups": groups}
    _native.call(isa, "group_norm_f32", [x, scale, bias], [y], params, threads=threads)
    check(y, group_reference(x, scale, bias, groups))


@pytest.mark.parametrize("isa", ISAS)
def test_empty(isa: str) -> None:
    for shape in [(0, 4), (4, 0)]:
        x, scale = draw(1, *shape), draw(2, shape[1])
        assert run(isa, "layer_norm_f32", [x, scale, scale], 1)[0].shape == shape
        assert run(isa, "add_rms_norm_f32", [x, x, scale], 1)[0].shape == shape
    for shape3 in [(0, 4, 5), (2, 4, 0)]:
        x, y, scale = draw(1, *shape3), np.zeros(shape3, np.float32), draw(2, 4)
        params = {"epsilon": EPSILON, "groups": 2}
        _native.call(isa, "group_norm_f32", [x, scale, scale], [y], params)
