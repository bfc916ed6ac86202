"""Images read between their pixels, against torch, ONNX Runtime and ONNX's reference."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from zenith import _native
from zenith.backends.cpu.kernels import sample, views

torch = pytest.importorskip("torch", reason="torch is the oracle here")

SPECS = [*sample.SPECS, *views.SPECS]


def _draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape, dtype=np.float32)


def _check(row: Any, *wanted: np.ndarray, tolerance: float = 1e-5) -> None:
    assert row.reason() is None, row.reason()
    for isa, threads in itertools.product(_native.complete_isas(), (1, 2)):
        got, _ = row.run(isa, threads)
        for y, w in zip(got, wanted, strict=True):
            assert y.shape == w.shape
            np.testing.assert_allclose(y, w, rtol=tolerance, atol=tolerance)


def _ort(op: str, inputs: list[np.ndarray], opset: int = 21, **attributes: Any) -> np.ndarray:
    names = [f"x{i}" for i in range(len(inputs))]
    node = onnx.helper.make_node(op, names, ["y"], **attributes)
    infos = [
        onnx.helper.make_tensor_value_info(
            n, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape
        )
        for n, a in zip(names, inputs, strict=True)
    ]
    graph = onnx.helper.make_graph([node], "g", infos, [onnx.ValueInfoProto(name="y")])
    graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("y", 1, None))
    opsets = [onnx.helper.make_opsetid("", opset)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, dict(zip(names, inputs, strict=True)))[0])


@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("align", [0, 1])
def test_grid_sample(make_row: Callable[..., Any], mode: str, padding: str, align: int) -> None:
    x = _draw(2, 19, 7, 6)
    grid = np.random.default_rng(1).uniform(-1.6, 1.6, (2, 5, 4, 2)).astype(np.float32)
    name = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    wanted = torch.nn.functional.grid_sample(
        torch.from_numpy(x), torch.from_numpy(grid), name, padding, bool(align)
    ).numpy()
    options: dict[str, Any] = {"mode": mode, "padding_mode": padding, "align_corners": align}
    _check(make_row(SPECS, "GridSample", [x, grid], **options), wanted, tolerance=1e-4)
    permuted = {0: [0, 3, 1, 2], 1: [0, 2, 1, 3]}
    row = make_row(SPECS, "GridSample", [x, grid], permuted=permuted, **options)
    _check(row, wanted, tolerance=1e-4)


@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("align", [0, 1])
def test_grid_sample_of_volumes(
    make_row: Callable[..., Any], mode: str, padding: str, align: int
) -> None:
    x = _draw(2, 3, 4, 5, 6)
    grid = np.random.default_rng(1).uniform(-1.6, 1.6, (2, 2, 3, 4, 3)).astype(np.float32)
    name = "bilinear" if mode == "linear" else mode
    wanted = torch.nn.functional.grid_sample(
        torch.from_numpy(x), torch.from_numpy(grid), name, padding, bool(align)
    ).numpy()
    options: dict[str, Any] = {"mode": mode, "padding_mode": padding, "align_corners": align}
    _check(make_row(SPECS, "GridSample", [x, grid], **options), wanted, tolerance=1e-4)


def test_grid_sample_survives_any_grid(make_row: Callable[..., Any]) -> None:
    x = _draw(1, 3, 4, 5)
    grid = np.array([np.nan, np.inf, -np.inf, 3e38, 1e30, 0], np.float32).reshape(1, 1, 3, 2)
    for mode, padding in itertools.product(("linear", "cubic"), ("zeros", "border", "reflection")):
        row = make_row(SPECS, "GridSample", [x, grid], mode=mode, padding_mode=padding)
        assert row.run(_native.complete_isas()[0])[0][0].shape == (1, 3, 1, 3)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("coordinates", ["half_pixel", "output_half_pixel"])
@pytest.mark.parametrize("ratio", [0, 2])
def test_roi_align(make_row: Callable[..., Any], mode: str, coordinates: str, ratio: int) -> None:
    x = _draw(2, 21, 9, 8)
    rois = np.array(
        [[0, 0, 7, 7], [1.3, 2.1, 6.7, 5.2], [-4, -3, 20, 30], [5, 5, 5.5, 5.2]], np.float32
    )
    batch = np.array([0, 1, 1, 0])
    row = make_row(
        SPECS, "RoiAlign", [x, rois, batch], mode=mode, sampling_ratio=ratio, spatial_scale=0.7,
        output_height=3, output_width=2, coordinate_transformation_mode=coordinates,
    )  # fmt: skip
    _check(row, *row.expected(), tolerance=2e-5)


def test_roi_align_refuses_images_that_are_not_there(make_row: Callable[..., Any]) -> None:
    rois = np.zeros((1, 4), np.float32)
    row = make_row(SPECS, "RoiAlign", [_draw(1, 1, 4, 4), rois, np.array([1])])
    with pytest.raises(Exception, match="no such image"):
        row.run(_native.complete_isas()[0])


def test_max_roi_pool(make_row: Callable[..., Any]) -> None:
    x = _draw(2, 19, 9, 8)
    rois = np.array([[0, 0, 0, 7, 7], [1, 1, 2, 6, 5], [1, 4, 4, 15, 16], [0, 9, 9, 9, 9]])
    rois = rois.astype(np.float32)
    options: dict[str, Any] = {"pooled_shape": [3, 2], "spatial_scale": 0.6}
    row = make_row(SPECS, "MaxRoiPool", [x, rois], **options)
    _check(row, _ort("MaxRoiPool", [x, rois], **options))


def _deformed(
    x: np.ndarray, w: np.ndarray, shift: np.ndarray, mask: np.ndarray, groups: int, parts: int
) -> np.ndarray:
    """Stride 2, pads 1, dilation 1, by its formula in float64."""
    n, channels, height, width = x.shape
    results, _, kh, kw = w.shape
    _, _, oh, ow = shift.shape
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 2), (1, 2)))
    columns = np.zeros((n, channels, kh * kw, oh, ow))
    for b, c, t, i, j in np.ndindex(columns.shape):
        g = c // (channels // parts)
        at = g * kh * kw + t
        y = i * 2 - 1 + t // kw + float(shift[b, 2 * at, i, j])
        z = j * 2 - 1 + t % kw + float(shift[b, 2 * at + 1, i, j])
        if not (-1 < y < height and -1 < z < width):
            continue
        top, left = int(np.floor(y)), int(np.floor(z))
        dy, dz = y - top, z - left
        corner = padded[b, c, top + 1 : top + 3, left + 1 : left + 3]
        value = np.array([1 - dy, dy]) @ corner @ np.array([1 - dz, dz])
        columns[b, c, t, i, j] = value * float(mask[b, at, i, j])
    split = columns.reshape(n, groups, channels // groups, kh * kw, oh, ow)
    weights = w.reshape(groups, results // groups, channels // groups, kh * kw).astype(np.float64)
    return np.einsum("ngctij,gmct->ngmij", split, weights).reshape(n, results, oh, ow)


@pytest.mark.parametrize(("groups", "parts"), [(1, 1), (2, 1), (1, 2), (2, 4)])
@pytest.mark.parametrize("constant", [(1,), ()])
def test_deform_conv(
    make_row: Callable[..., Any], groups: int, parts: int, constant: tuple[int, ...]
) -> None:
    x, w, b = _draw(2, 8, 7, 6), _draw(10, 8 // groups, 3, 2), _draw(10)
    shift, mask = _draw(2, parts * 12, 4, 4) * 2, _draw(2, parts * 6, 4, 4)
    options: dict[str, Any] = {"strides": [2, 2], "pads": [1, 1, 1, 1]}
    options |= {"group": groups, "offset_group": parts}
    wanted = _deformed(x, w, shift, mask, groups, parts)
    inputs = [x, w, shift, b, mask]
    row = make_row(SPECS, "DeformConv", inputs, constant=constant, **options)
    _check(row, wanted + b.reshape(1, -1, 1, 1), tolerance=1e-4)
    row = make_row(SPECS, "DeformConv", [x, w, shift], constant=constant, **options)
    _check(row, _deformed(x, w, shift, np.ones_like(mask), groups, parts), tolerance=1e-4)


@pytest.mark.parametrize(
    ("image", "block", "options"),
    [
        ([5, 6], [2, 3], {}),
        ([5, 6], [3, 3], {"pads": [1, 0, 1, 2], "strides": [2, 1]}),
        ([7], [3], {"dilations": [2]}),
        ([4, 5, 6], [2, 1, 3], {"strides": [1, 2, 1], "pads": [0, 1, 0, 1, 0, 0]}),
    ],
)
def test_col2im(
    make_row: Callable[..., Any], image: list[int], block: list[int], options: dict[str, Any]
) -> None:
    axes = len(image)
    pads = np.array(options.get("pads", [0] * 2 * axes)).reshape(2, axes).sum(0)
    reach = np.array(options.get("dilations", [1] * axes)) * (np.array(block) - 1) + 1
    windows = (np.array(image) + pads - reach) // np.array(options.get("strides", [1] * axes)) + 1
    x = _draw(2, 3 * int(np.prod(block)), int(np.prod(windows)))
    inputs = [x, np.array(image), np.array(block)]
    row = make_row(SPECS, "Col2Im", inputs, constant=(1, 2), **options)
    _check(row, *row.expected())


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("beta", [0.75, 0.6])
def test_lrn(make_row: Callable[..., Any], size: int, beta: float) -> None:
    x = _draw(2, 21, 4, 5)
    squares = np.pad(x.astype(np.float64) ** 2, ((0, 0), ((size - 1) // 2, size), (0, 0), (0, 0)))
    total = sum(squares[:, k : k + 21] for k in range(size))
    wanted = x / (1.5 + 0.2 / size * total) ** beta
    row = make_row(SPECS, "LRN", [x], size=size, alpha=0.2, beta=beta, bias=1.5)
    _check(row, wanted, tolerance=2e-6)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_lp_normalization(make_row: Callable[..., Any], p: int, axis: int) -> None:
    x = _draw(3, 5, 7)
    x[:, 2] = 0
    x[:, :, 3] = 0
    norm = np.linalg.norm(x.astype(np.float64), p, axis, keepdims=True)
    wanted = np.divide(x, norm, out=np.zeros(x.shape), where=norm != 0)
    _check(make_row(SPECS, "LpNormalization", [x], p=p, axis=axis), wanted)


@pytest.mark.parametrize("training", [0, 1])
@pytest.mark.parametrize("shape", [(4, 5), (2, 3, 7), (2, 3, 4, 5), (2, 3, 2, 3, 2)])
def test_batch_norm(make_row: Callable[..., Any], training: int, shape: tuple[int, ...]) -> None:
    c = shape[1]
    inputs = [_draw(*shape), _draw(c), _draw(c), _draw(c), _draw(c) ** 2]
    options: dict[str, Any] = {"training_mode": training, "momentum": 0.7}
    row = make_row(
        SPECS, "BatchNormalization", inputs, outputs=3 if training else 1, epsilon=1e-3, **options
    )
    _check(row, *row.expected())
