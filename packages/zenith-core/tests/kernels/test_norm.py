"""Normalisation kernels against float64."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from zenith import _native
from zenith.backends.cpu.epilogue import epilogue_codes

ISAS = _native.complete_isas()
Array = np.ndarray[Any, Any]
EPSILON = 1e-5
BF16 = np.dtype(ml_dtypes.bfloat16)


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
@pytest.mark.parametrize("n", [5, 32, 40, 144, 300, 1024])
def test_a_row_does_not_depend_on_its_place(isa: str, n: int) -> None:
    x, scale, bias = draw(1, 700, n), draw(2, n), draw(3, n)
    whole = run(isa, "layer_norm_f32", [x, scale, bias], 1, threads=3)[0]
    order = np.random.default_rng(4).permutation(700)
    moved = run(isa, "layer_norm_f32", [x[order], scale, bias], 1, threads=1)[0]
    np.testing.assert_array_equal(moved, whole[order])
    for row in (0, 699):
        alone = run(isa, "layer_norm_f32", [x[row : row + 1], scale, bias], 1)[0]
        np.testing.assert_array_equal(alone[0], whole[row])


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


def laid_out(x: Array, channels_last: bool) -> Array:
    """A copy of [N, C, P] in this order of memory."""
    return x.transpose(0, 2, 1).copy().transpose(0, 2, 1) if channels_last else x.copy()


def group_norm(isa: str, x: Array, scale: Array, bias: Array, groups: int, **how: Any) -> Array:
    """In the type and layout of x; `epilogue` is an overload."""
    y = np.empty_like(x)  # keeps the order of memory
    codes = epilogue_codes(how.pop("epilogue", ""))
    params = {"epsilon": EPSILON, "groups": groups, "epilogue": codes}
    kind = "bf16" if x.dtype == BF16 else "f32"
    operands = [a.view(np.uint16) if kind == "bf16" else a for a in (x, scale, bias, y)]
    _native.call(isa, f"group_norm_{kind}", operands[:3], operands[3:], params, **how)
    return y


GROUPS = [
    (1, 1, 1, 1),
    (2, 6, 5, 3),
    (2, 6, 5, 6),
    (1, 64, 49, 32),
    (3, 40, 70, 40),
    (1, 96, 130, 3),
    (2, 35, 66, 5),
    (1, 129, 64, 1),
    (2, 7, 1, 1),
    (2, 40, 1003, 8),  # several parts, the last one short
    (2, 4, 9001, 2),  # several parts of a group
    (1, 600, 21, 4),
]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("batch", "channels", "positions", "groups"), GROUPS)
def test_groups(
    isa: str,
    channels_last: bool,
    threads: int,
    batch: int,
    channels: int,
    positions: int,
    groups: int,
) -> None:
    x = laid_out(draw(1, batch, channels, positions), channels_last)
    scale, bias = draw(2, channels), draw(3, channels)
    want = group_reference(x, scale, bias, groups)
    check(group_norm(isa, x, scale, bias, groups, threads=threads), want)
    silu = group_norm(isa, x, scale, bias, groups, epilogue="silu", threads=threads)
    check(silu, want / (1 + np.exp(-want)))
    low = [a.astype(BF16) for a in (x, scale, bias)]
    want = np.maximum(group_reference(*(a.astype(np.float64) for a in low), groups), 0)
    got = group_norm(isa, *low, groups, epilogue="relu", threads=threads)
    # One rounding of the result, and of a SiLU a tenth of that.
    np.testing.assert_allclose(got.astype(np.float64), want, rtol=2**-8, atol=4e-6)
    want = group_reference(*(a.astype(np.float64) for a in low), groups)
    got = group_norm(isa, *low, groups, epilogue="silu", threads=threads)
    silu = want / (1 + np.exp(-want))
    np.testing.assert_allclose(got.astype(np.float64), silu, rtol=2**-8 + 4e-4, atol=4e-6)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_an_image_does_not_depend_on_its_place(isa: str, channels_last: bool) -> None:
    x = laid_out(draw(1, 5, 24, 4099), channels_last)  # more than what is normalised together
    scale, bias = draw(2, 24), draw(3, 24)
    whole = group_norm(isa, x, scale, bias, 6, threads=3)
    for image in (0, 4):
        alone = laid_out(x[image : image + 1], channels_last)
        got = group_norm(isa, alone, scale, bias, 6, threads=1)
        np.testing.assert_array_equal(got[0], whole[image])


@pytest.mark.parametrize("isa", ISAS)
def test_strided_positions(isa: str) -> None:
    base, scale, bias = draw(1, 2, 300, 50), draw(2, 45), draw(3, 45)
    x = base[:, :, 2:47].transpose(0, 2, 1)
    y = np.zeros((2, 300, 60), np.float32)
    params = {"epsilon": EPSILON, "groups": 5, "epilogue": epilogue_codes("relu")}
    out = y[:, :, 7:52].transpose(0, 2, 1)
    _native.call(isa, "group_norm_f32", [x, scale, bias], [out], params)
    check(out, np.maximum(group_reference(x, scale, bias, 5), 0))
    assert not y[:, :, :7].any() and not y[:, :, 52:].any()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_large_mean_keeps_the_variance_of_groups(isa: str, channels_last: bool) -> None:
    x = laid_out(draw(1, 1, 8, 20000) + np.float32(3000), channels_last)
    one, zero = np.ones(8, np.float32), np.zeros(8, np.float32)
    got = group_norm(isa, x, one, zero, 2)
    np.testing.assert_allclose(got, group_reference(x, one, zero, 2), atol=1e-3)


@pytest.mark.parametrize("isa", ISAS)
def test_empty(isa: str) -> None:
    for shape in [(0, 4), (4, 0)]:
        x, scale = draw(1, *shape), draw(2, shape[1])
        assert run(isa, "layer_norm_f32", [x, scale, scale], 1)[0].shape == shape
        assert run(isa, "add_rms_norm_f32", [x, x, scale], 1)[0].shape == shape
    for shape3 in [(0, 4, 5), (2, 4, 0)]:
        x, scale = draw(1, *shape3), draw(2, 4)
        assert group_norm(isa, x, scale, scale, 2).shape == shape3
        assert group_norm(isa, *(a.astype(BF16) for a in (x, scale, scale)), 2).shape == shape3
