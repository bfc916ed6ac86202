"""Fourier transforms and determinants against numpy in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from zenith import _native
from zenith.backends.cpu.kernels.signal import SPECS

Array = np.ndarray[Any, Any]
Maker = Callable[..., Any]
ISAS = _native.complete_isas()
LENGTHS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 16, 25, 30, 31, 32, 37, 49, 60, 64, 74, 97, 100, 121,
           128, 210, 243, 256, 331, 400, 512, 961, 1000, 1009, 1024, 2049]  # fmt: skip


def parts(z: Array) -> Array:
    return np.stack([z.real, z.imag], -1)


def complexes(shape: tuple[int, ...], seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((*shape, 2))


def dft(isa: str, x: Array, out: Array, length: int, **params: Any) -> Array:
    options = {"axis": 1, "inverse": 0, "length": length, **params}
    _native.call(isa, "dft", [x, None], [out], options, threads=2)
    return out


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("n", LENGTHS)
def test_any_length(isa: str, n: int) -> None:
    x = complexes((3, n))
    z = x[..., 0] + 1j * x[..., 1]
    scale = 1e-15 * np.sqrt(n) * 8
    wanted = np.fft.fft(z, axis=1)
    np.testing.assert_allclose(dft(isa, x, np.empty_like(x), n), parts(wanted), atol=scale * 8)
    back = dft(isa, x, np.empty_like(x), n, inverse=1)
    np.testing.assert_allclose(back, parts(np.fft.ifft(z, axis=1)), atol=scale)
    real = np.ascontiguousarray(x[..., :1])
    half = np.empty((3, n // 2 + 1, 2))
    wanted = np.fft.rfft(real[..., 0], axis=1)
    np.testing.assert_allclose(dft(isa, real, half, n), parts(wanted), atol=scale * 8)
    again = dft(isa, half, np.empty((3, n, 1)), n, inverse=2)
    np.testing.assert_allclose(again, real, atol=scale)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("n", "length"), [(10, 16), (16, 10), (7, 1), (1, 5)])
def test_lines_are_cut_or_filled(isa: str, n: int, length: int) -> None:
    x = complexes((2, n))
    wanted = np.fft.fft(x[..., 0] + 1j * x[..., 1], length, axis=1)
    got = dft(isa, x, np.empty((2, length, 2)), length)
    np.testing.assert_allclose(got, parts(wanted), atol=1e-13)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_any_axis_and_strides(isa: str, axis: int) -> None:
    x = complexes((6, 4, 10)).transpose(2, 0, 1, 3)[::2, ::-1]
    wanted = np.fft.fft(x[..., 0] + 1j * x[..., 1], axis=axis)
    out = np.empty((*x.shape[:3][::-1], 2)).transpose(2, 1, 0, 3)
    dft(isa, x, out, x.shape[axis], axis=axis)
    np.testing.assert_allclose(out, parts(wanted), atol=1e-13)


@pytest.mark.parametrize("isa", ISAS)
def test_narrow_types_and_windows(isa: str) -> None:
    x, window = complexes((2, 20)), np.hanning(20)
    for dtype, tolerance in (("float32", 2e-6), ("float16", 2e-3)):
        narrow, w = x.astype(dtype), window.astype(dtype)
        out = np.empty_like(narrow)
        options = {"axis": 1, "inverse": 0, "length": 20}
        _native.call(isa, "dft", [narrow, w], [out], options)
        z = (narrow[..., 0] + 1j * narrow[..., 1].astype(np.float64)) * w
        np.testing.assert_allclose(out, parts(np.fft.fft(z)), rtol=tolerance, atol=tolerance * 4)
    with pytest.raises(RuntimeError, match="window"):
        _native.call(isa, "dft", [x, window[:3]], [np.empty_like(x)], options)
    with pytest.raises(RuntimeError, match="length"):
        dft(isa, x, np.empty((2, 21, 2)), 20)


def test_empty(isa: str = ISAS[0]) -> None:
    assert dft(isa, np.empty((0, 5, 2)), np.empty((0, 5, 2)), 5).shape == (0, 5, 2)


DFTS: list[tuple[list[int], dict[str, int], int | None, int | None]] = [
    ([2, 10, 3, 1], {}, None, None),
    ([2, 10, 3, 2], {}, None, 1),
    ([2, 10, 2], {"inverse": 1}, None, None),
    ([2, 10, 1], {"onesided": 1}, None, None),
    ([2, 6, 2], {"onesided": 1, "inverse": 1}, None, None),
    ([2, 6, 2], {"onesided": 1, "inverse": 1}, 11, None),
    ([2, 10, 1], {"onesided": 1}, 16, -2),
    ([2, 10, 2], {}, 7, 1),
]


@pytest.mark.parametrize(("shape", "attributes", "length", "axis"), DFTS)
def test_dft_rows(
    make_row: Maker, shape: list[int], attributes: dict[str, int], length: Any, axis: Any
) -> None:
    x = np.random.default_rng(1).standard_normal(shape)
    inputs = [x, None if length is None else np.array(length), None]
    if axis is not None:
        inputs[2] = np.array(axis)
    row = make_row(SPECS, "DFT", inputs, constant=[1, 2], **attributes)
    assert row.reason() is None
    got, at = row.run(ISAS[0])[0][0], -2 if axis is None else axis
    along = at % len(shape)  # the axis of parts is the last one, numpy has none
    z = x[..., 0] + (1j * x[..., 1] if shape[-1] == 2 else 0)
    if attributes == {"onesided": 1, "inverse": 1}:
        wanted = np.fft.irfft(z, length, axis=along)[..., None]
    elif "inverse" in attributes:
        wanted = parts(np.fft.ifft(z, length, axis=along))
    elif "onesided" in attributes:
        wanted = parts(np.fft.rfft(z.real, length, axis=along))
    else:
        wanted = parts(np.fft.fft(z, length, axis=along))
    np.testing.assert_allclose(got, wanted, atol=1e-12)


@pytest.mark.parametrize("complex_signal", [False, True])
@pytest.mark.parametrize("windowed", [False, True])
@pytest.mark.parametrize("onesided", [0, 1])
@pytest.mark.parametrize("batch", ["B", 2])
def test_stft_rows(
    make_row: Maker, complex_signal: bool, windowed: bool, onesided: int, batch: Any
) -> None:
    if complex_signal and onesided:
        pytest.skip("a complex spectrum has two sides")
    x = complexes((2, 50))[..., : 2 if complex_signal else 1]
    window = np.hamming(16) if windowed else None
    inputs = [x, np.array(5), window, None if windowed else np.array(16)]
    row = make_row(SPECS, "STFT", inputs, constant=[1, 3], onesided=onesided,
                   dynamic={0: (batch, 50, x.shape[2])})  # fmt: skip
    assert row.reason() is None
    got = row.run(ISAS[0])[0][0]
    frames = np.stack([x[:, at : at + 16, :] for at in range(0, 35, 5)], 1)
    z = frames[..., 0] + (1j * frames[..., 1] if complex_signal else 0)
    wanted = np.fft.fft(z * (1 if window is None else window), axis=2)
    np.testing.assert_allclose(got, parts(wanted)[:, :, : got.shape[2]], atol=1e-12)
    assert got.shape[2] == (9 if onesided else 16)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("n", [0, 1, 2, 3, 5, 8, 20])
def test_det(isa: str, n: int) -> None:
    x = np.random.default_rng(n).standard_normal((3, 4, n, n))
    for view in (x, x.transpose(1, 0, 3, 2), x[::2, 1:]):
        out = np.empty(view.shape[:2])
        _native.call(isa, "det", [view], [out], {}, threads=2)
        np.testing.assert_allclose(out, np.linalg.det(view), rtol=1e-10)


def test_det_of_singular_and_narrow_matrices() -> None:
    x = np.array([[[1, 2], [2, 4]], [[0, 1], [1, 0]], [[0, 0], [0, 1]]], np.float32)
    out = np.empty(3, np.float32)
    _native.call(ISAS[0], "det", [x], [out], {})
    np.testing.assert_array_equal(out, [0, -1, 0])
    half = np.empty(3, np.float16)
    _native.call(ISAS[0], "det", [x.astype(np.float16)], [half], {})
    np.testing.assert_array_equal(half, [0, -1, 0])


def test_det_row(make_row: Maker) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32)
    make_row(SPECS, "Det", [x]).check(exact=False)
