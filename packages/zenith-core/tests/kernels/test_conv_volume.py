"""Convolutions of 1 to 3 axes, transposed ones, and computed weights, against torch in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from zenith import _native
from zenith.backends.cpu.kernels import conv, views

torch = pytest.importorskip("torch", reason="torch is the oracle here")

CONV = {spec.name: spec for spec in conv.SPECS if spec.op == "ai.onnx:Conv"}
TRANSPOSE = next(spec for spec in conv.SPECS if spec.op == "ai.onnx:ConvTranspose")


def _draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape, dtype=np.float32)


def _conv(x: np.ndarray, w: np.ndarray, b: np.ndarray | None, **kw: Any) -> np.ndarray:
    axes = x.ndim - 2
    pads = kw.get("pads", [0] * 2 * axes)
    padded = np.pad(
        x.astype(np.float64), [(0, 0), (0, 0), *zip(pads[:axes], pads[axes:], strict=True)]
    )
    run = (torch.conv1d, torch.conv2d, torch.conv3d)[axes - 1]
    return run(
        torch.from_numpy(padded),
        torch.from_numpy(w.astype(np.float64)),
        None if b is None else torch.from_numpy(b.astype(np.float64)),
        stride=kw.get("strides", [1] * axes),
        dilation=kw.get("dilations", [1] * axes),
        groups=kw.get("group", 1),
    ).numpy()


def _transposed(
    x: np.ndarray, w: np.ndarray, b: np.ndarray | None, pads: Sequence[int], **kw: Any
) -> np.ndarray:
    """Without pads, then cropped."""
    axes = x.ndim - 2
    run = (
        torch.nn.functional.conv_transpose1d,
        torch.nn.functional.conv_transpose2d,
        torch.nn.functional.conv_transpose3d,
    )[axes - 1]
    y = run(
        torch.from_numpy(x.astype(np.float64)),
        torch.from_numpy(w.astype(np.float64)),
        stride=kw.get("strides", [1] * axes),
        dilation=kw.get("dilations", [1] * axes),
        groups=kw.get("group", 1),
    ).numpy()
    extra = kw.get("output_padding", [0] * axes)
    y = np.pad(y, [(0, 0), (0, 0), *((0, n) for n in extra)])
    crop = [
        slice(begin, n - end)
        for begin, end, n in zip(pads[:axes], pads[axes:], y.shape[2:], strict=True)
    ]
    y = y[(slice(None), slice(None), *crop)]
    return y if b is None else y + b.reshape(1, -1, *[1] * axes)


def _check(row: Any, wanted: np.ndarray) -> None:
    assert row.reason() is None, row.reason()
    for isa in _native.complete_isas():
        for threads in (1, 2):
            (y,), _ = row.run(isa, threads)
            assert y.shape == wanted.shape
            scale = np.sqrt(np.mean(wanted**2)) if wanted.size else 1.0
            np.testing.assert_allclose(y, wanted, rtol=0, atol=1e-5 * scale)


VOLUMES: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "1x1x1": ((2, 17, 3, 4, 5), (20, 17, 1, 1, 1), {}),
    "3x3x3": ((1, 18, 5, 6, 7), (33, 18, 3, 3, 3), {"pads": [1] * 6}),
    "strided": ((2, 16, 7, 8, 9), (7, 16, 3, 2, 3), {"strides": [2, 1, 3], "pads": [1, 0, 2] * 2}),
    "dilated": ((1, 5, 7, 9, 8), (6, 5, 2, 3, 2), {"dilations": [2, 1, 3], "pads": [1] * 6}),
    "stem": ((2, 3, 6, 11, 12), (20, 3, 3, 7, 7), {"strides": [1, 2, 2], "pads": [1, 3, 3] * 2}),
    "one channel": ((1, 1, 6, 6, 6), (4, 1, 3, 3, 3), {"pads": [1, 1, 1, 0, 1, 2]}),
    "groups": ((1, 24, 4, 5, 6), (12, 8, 3, 3, 3), {"group": 3, "pads": [1] * 6}),
    "depthwise": ((1, 20, 4, 5, 6), (20, 1, 3, 3, 3), {"group": 20, "pads": [1] * 6}),
    "uneven": ((1, 16, 2, 3, 4), (5, 16, 3, 3, 3), {"pads": [4, 0, 1, 0, 2, 3]}),
}


@pytest.mark.parametrize("name", VOLUMES)
@pytest.mark.parametrize("constant", [(1, 2), ()])
def test_volumes(make_row: Callable[..., Any], name: str, constant: tuple[int, ...]) -> None:
    shape, weights, attributes = VOLUMES[name]
    x, w, b = _draw(*shape), _draw(*weights), _draw(weights[0])
    row = make_row([CONV["conv_volume_f32"]], "Conv", [x, w, b], constant=constant, **attributes)
    _check(row, _conv(x, w, b, **attributes))


@pytest.mark.parametrize("kernel", ["conv_direct_f32", "conv_few_channels_f32", "conv_volume_f32"])
@pytest.mark.parametrize(
    ("shape", "weights", "attributes"),
    [
        ((2, 5, 9, 8), (35, 5, 3, 3), {"pads": [1, 1, 1, 1]}),
        ((2, 5, 11), (9, 5, 4), {"strides": [3], "pads": [1, 2]}),
        ((1, 24, 9, 9), (30, 4, 3, 2), {"group": 6}),
    ],
)
def test_computed_weights(
    make_row: Callable[..., Any],
    kernel: str,
    shape: tuple[int, ...],
    weights: tuple[int, ...],
    attributes: dict[str, Any],
) -> None:
    """Weights that come from another node, as a strided view."""
    x, w = _draw(*shape), _draw(*weights)
    perm = {1: list(reversed(range(w.ndim)))}
    row = make_row([CONV[kernel], *views.SPECS], "Conv", [x, w], permuted=perm, **attributes)
    if kernel == "conv_few_channels_f32" and "group" in attributes:
        assert row.reason() is not None
        return
    _check(row, _conv(x, w, None, **attributes))


TRANSPOSED: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "4x4 stride 2": ((2, 18, 5, 6), (18, 33, 4, 4), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "2x2 stride 2": ((1, 7, 5, 6), (7, 5, 2, 2), {"strides": [2, 2]}),
    "3x3": ((1, 7, 5, 6), (7, 20, 3, 3), {}),
    "kernel below stride": ((2, 3, 4, 4), (3, 5, 2, 1), {"strides": [3, 4]}),
    "output padding": (
        (1, 8, 5, 6),
        (8, 9, 3, 3),
        {"strides": [2, 3], "pads": [1, 0, 1, 2], "output_padding": [1, 2]},
    ),
    "dilated": ((1, 4, 5, 6), (4, 9, 3, 2), {"strides": [2, 3], "dilations": [3, 2]}),
    "dilated by the stride": ((1, 4, 5, 6), (4, 9, 3, 3), {"strides": [2, 2], "dilations": [2, 4]}),
    "groups": ((2, 12, 5, 4), (12, 5, 3, 3), {"strides": [2, 1], "group": 3}),
    "depthwise": ((2, 12, 5, 4), (12, 1, 4, 4), {"strides": [2, 2], "group": 12}),
    "signal": ((2, 12, 9), (12, 7, 5), {"strides": [3], "pads": [2, 1]}),
    "volume": ((1, 6, 3, 4, 3), (6, 19, 3, 2, 3), {"strides": [2, 1, 2], "pads": [1, 0, 1] * 2}),
    "one pixel": ((3, 40, 1, 1), (40, 70, 4, 4), {}),
    "cropped away": ((1, 3, 2, 2), (3, 4, 5, 5), {"pads": [4, 3, 1, 2], "strides": [2, 2]}),
}


@pytest.mark.parametrize("name", TRANSPOSED)
@pytest.mark.parametrize("constant", [(1, 2), ()])
def test_transposed(make_row: Callable[..., Any], name: str, constant: tuple[int, ...]) -> None:
    shape, weights, attributes = TRANSPOSED[name]
    x, w = _draw(*shape), _draw(*weights)
    b = _draw(weights[1] * attributes.get("group", 1))
    given = {"pads": [0] * 2 * (x.ndim - 2)} | attributes
    row = make_row([TRANSPOSE], "ConvTranspose", [x, w, b], constant=constant, **attributes)
    _check(row, _transposed(x, w, b, **given))


@pytest.mark.parametrize("auto_pad", ["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"])
def test_transposed_auto_pad(make_row: Callable[..., Any], auto_pad: str) -> None:
    """ONNX: the larger half of the padding goes in front unless SAME_UPPER."""
    x, w = _draw(1, 4, 5, 6), _draw(4, 5, 4, 3)
    common: dict[str, Any] = {"strides": [2, 2], "auto_pad": auto_pad}
    row = make_row([TRANSPOSE], "ConvTranspose", [x, w], constant=(1,), **common)
    same = {"SAME_UPPER": [1, 0, 1, 1], "SAME_LOWER": [1, 1, 1, 0]}
    pads = same.get(auto_pad, [0] * 4)
    _check(row, _transposed(x, w, None, pads, strides=[2, 2]))
    if auto_pad == "VALID":
        return
    row = make_row(
        [TRANSPOSE], "ConvTranspose", [x, w], constant=(1,), output_shape=[9, 10], **common
    )
    pads = [1, 1, 2, 2] if auto_pad == "SAME_UPPER" else [2, 2, 1, 1]
    _check(row, _transposed(x, w, None, pads, strides=[2, 2]))


def test_transposed_dynamic(make_row: Callable[..., Any]) -> None:
    x, w = _draw(2, 8, 5, 7), _draw(8, 6, 4, 4)
    attributes: dict[str, Any] = {"strides": [2, 2], "pads": [1, 1, 1, 1]}
    dynamic = {0: ["N", 8, "H", "W"]}
    row = make_row(
        [TRANSPOSE], "ConvTranspose", [x, w], constant=(1,), dynamic=dynamic, **attributes
    )
    _check(row, _transposed(x, w, None, **attributes))


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_auto_pad_of_dynamic_sizes(make_row: Callable[..., Any], auto_pad: str) -> None:
    x, w = _draw(2, 16, 9, 8), _draw(6, 16, 3, 4)
    row = make_row(
        [CONV["conv_direct_f32"]],
        "Conv",
        [x, w],
        constant=(1,),
        dynamic={0: ["N", 16, "H", "W"]},
        auto_pad=auto_pad,
        strides=[2, 2],
    )
    pads = {"SAME_UPPER": [1, 1, 1, 1], "SAME_LOWER": [1, 1, 1, 1], "VALID": [0] * 4}[auto_pad]
    _check(row, _conv(x, w, None, pads=pads, strides=[2, 2]))


def test_empty(make_row: Callable[..., Any]) -> None:
    row = make_row([TRANSPOSE], "ConvTranspose", [_draw(0, 4, 3, 3), _draw(4, 5, 2, 2)])
    assert row.run(_native.complete_isas()[0])[0][0].shape == (0, 5, 4, 4)


@pytest.mark.parametrize("isa", _native.complete_isas())
def test_transposed_weights_unpack(isa: str) -> None:
    for shape, group in (((12, 5, 3, 2), 3), ((6, 70, 3), 1), ((6, 9, 2, 3, 2), 2)):
        w = _draw(*shape)
        packed = _native.pack(isa, "conv_transpose_weights_f32", w, {"group": group})
        back = np.empty_like(w)
        _native.unpack(isa, "conv_transpose_weights_f32", packed, back, {"group": group})
        np.testing.assert_array_equal(back, w)
