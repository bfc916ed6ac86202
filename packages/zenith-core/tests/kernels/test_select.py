"""NonZero, Compress, Unique and NonMaxSuppression against numpy and plain loops."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest

import zenith
from zenith import _native
from zenith.ir import OPSET, GraphIR

Array = np.ndarray[Any, Any]
DTYPES = [*(f"{u}int{b}" for u in ("", "u") for b in (8, 16, 32, 64)), "bool", "float16",
          "float32", "float64"]  # fmt: skip


def run(op: str, inputs: list[Array | None], outputs: int = 1, **attributes: Any) -> list[Array]:
    """What the compiled operator gives."""
    names = ["" if x is None else f"x{i}" for i, x in enumerate(inputs)]
    feeds = {n: x for n, x in zip(names, inputs, strict=True) if x is not None}
    infos = [
        onnx.helper.make_tensor_value_info(
            n,
            onnx.TensorProto.BFLOAT16
            if x.dtype.name == "bfloat16"
            else onnx.helper.np_dtype_to_tensor_dtype(x.dtype),
            x.shape,
        )
        for n, x in feeds.items()
    ]
    results = [f"y{i}" for i in range(outputs)]
    node = onnx.helper.make_node(op, names, results, **attributes)
    graph = onnx.helper.make_graph(
        [node], "g", infos, [onnx.ValueInfoProto(name=r) for r in results]
    )
    opset = onnx.helper.make_opsetid("", OPSET)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=12)
    compiled = zenith.compile(GraphIR.from_onnx(model).infer_shapes(), fallback="error")
    return list(compiled.run(feeds).values())


def numbers(dtype: str, shape: tuple[int, ...], seed: int = 0) -> Array:
    """Few different values, so that some repeat."""
    x = np.random.default_rng(seed).integers(0, 4, shape)
    if np.dtype(dtype).kind in "if":
        x = x - 2
    return x.astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (7,), (3, 4), (2, 3, 4), (0, 3), (2, 0)])
def test_nonzero(dtype: str, shape: tuple[int, ...]) -> None:
    x = numbers(dtype, shape)
    (got,) = run("NonZero", [x])
    wanted = np.stack(np.nonzero(x)) if shape else np.empty((0, int(bool(x))), np.int64)
    np.testing.assert_array_equal(got, wanted)
    assert got.dtype == np.int64


def test_nonzero_of_special_numbers() -> None:
    x = np.array([0.0, -0.0, np.nan, np.inf, 1e-45], np.float32)
    (got,) = run("NonZero", [x])
    np.testing.assert_array_equal(got, [[2, 3, 4]])
    (got,) = run("NonZero", [x.astype(ml_dtypes.bfloat16)])
    np.testing.assert_array_equal(got[:, :2], [[2, 3]])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_compress(dtype: str, axis: int | None) -> None:
    x = numbers(dtype, (3, 4, 5))
    size = x.size if axis is None else x.shape[axis]
    for mask in (np.arange(size) % 3 == 1, np.array([True, False]), np.zeros(size, bool)):
        attributes = {} if axis is None else {"axis": axis}
        (got,) = run("Compress", [x, mask], **attributes)
        np.testing.assert_array_equal(got, np.compress(mask, x, axis))
        assert got.dtype == x.dtype


def test_compress_of_bfloat16() -> None:
    x = numbers("float32", (3, 4)).astype(ml_dtypes.bfloat16)
    (got,) = run("Compress", [x, np.array([True, False, True])], axis=0)
    assert got.dtype == x.dtype
    np.testing.assert_array_equal(got.astype(np.float32), x[[0, 2]].astype(np.float32))


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d != "bool"])
@pytest.mark.parametrize("ordered", [0, 1])
def test_unique(dtype: str, ordered: int) -> None:
    for shape in [(17,), (4, 5), (0,), (1,)]:
        x = numbers(dtype, shape)
        got = run("Unique", [x], 4, sorted=ordered)
        check_unique(got, x.ravel(), None, ordered)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("ordered", [0, 1])
def test_unique_slices(axis: int, ordered: int) -> None:
    x = np.random.default_rng(3).integers(-1, 1, (6, 2, 9)).astype(np.float32)[:, :1]
    x = np.concatenate([x, x[:, :, ::-1]], 1)
    got = run("Unique", [x], 4, sorted=ordered, axis=axis)
    check_unique(got, x, axis, ordered)


def check_unique(got: list[Array], x: Array, axis: int | None, ordered: int) -> None:
    values, first, inverse, counts = np.unique(x, True, True, True, axis=axis)
    inverse = inverse.ravel()
    if not ordered:
        order = np.argsort(first)
        values = np.take(values, order, 0 if axis is None else axis)
        first, counts, inverse = first[order], counts[order], np.argsort(order)[inverse]
    for y, wanted in zip(got, (values, first, inverse, counts), strict=True):
        np.testing.assert_array_equal(y, wanted)
    assert got[0].dtype == x.dtype and all(y.dtype == np.int64 for y in got[1:])


def test_unique_of_special_numbers() -> None:
    x = np.array([np.nan, 1, -0.0, np.inf, 0.0, np.nan, -np.inf], np.float64)
    values, first, inverse, counts = run("Unique", [x], 4)
    np.testing.assert_array_equal(values, [-np.inf, 0, 1, np.inf, np.nan])
    np.testing.assert_array_equal(first, [6, 2, 1, 3, 0])
    np.testing.assert_array_equal(inverse, [4, 2, 1, 3, 1, 4, 0])
    np.testing.assert_array_equal(counts, [1, 2, 1, 1, 2])


def test_only_the_first_outputs_of_unique() -> None:
    x = numbers("int32", (9,))
    (values,) = run("Unique", [x])
    np.testing.assert_array_equal(values, np.unique(x))


def boxes_and_scores(n: int, seed: int, centers: bool) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    corner, size = rng.random((2, n, 2)), rng.random((2, n, 2)) * 0.4
    if centers:
        boxes = np.concatenate([corner, size], 2)
    else:
        boxes = np.concatenate([corner, corner + size], 2)
        flip = rng.random((2, n, 1)) < 0.2  # any diagonal is a box
        boxes = np.where(flip, boxes[..., [2, 3, 0, 1]], boxes)
    scores = np.round(rng.random((2, 3, n)), 2)  # some are equal
    return boxes.astype(np.float32), scores.astype(np.float32)


def suppressed(
    boxes: Array, scores: Array, most: int, overlap: float, score: float | None, centers: bool
) -> Array:
    """The definition, in plain loops."""
    found = []
    if centers:
        x, y, w, h = np.moveaxis(boxes, -1, 0)
        boxes = np.stack([y - h / 2, x - w / 2, y + h / 2, x + w / 2], -1)
    low, high = (
        np.minimum(boxes[..., :2], boxes[..., 2:]),
        np.maximum(boxes[..., :2], boxes[..., 2:]),
    )
    area = (high - low).prod(-1)
    for b, c in np.ndindex(scores.shape[:2]):
        kept: list[int] = []
        for i in np.argsort(-scores[b, c], kind="stable"):
            if len(kept) >= most or (score is not None and not scores[b, c, i] > score):
                break
            sides = np.minimum(high[b, i], high[b, kept]) - np.maximum(low[b, i], low[b, kept])
            both = np.maximum(sides, 0).prod(-1)
            if (both / (area[b, i] + area[b, kept] - both) <= overlap).all():
                kept.append(int(i))
        found += [[b, c, i] for i in kept]
    return np.array(found, np.int64).reshape(-1, 3)


@pytest.mark.parametrize("centers", [False, True])
@pytest.mark.parametrize("n", [1, 40, 300])
@pytest.mark.parametrize("most", [0, 1, 5, 1000])
@pytest.mark.parametrize("score", [None, 0.5])
def test_suppression(centers: bool, n: int, most: int, score: float | None) -> None:
    boxes, scores = boxes_and_scores(n, n, centers)
    for overlap in (0.0, 0.3, 0.9):
        got = _native.suppress(boxes, scores, most, overlap, score, centers)
        limit = float(np.float32(overlap))
        wanted = suppressed(boxes, scores, most, limit, score, centers)
        np.testing.assert_array_equal(got, wanted)


def test_suppression_by_the_operator() -> None:
    for centers in (False, True):
        boxes, scores = boxes_and_scores(40, 1, centers)
        limits = [np.array([7]), np.array([0.3], np.float32), np.array([0.25], np.float32)]
        (got,) = run("NonMaxSuppression", [boxes, scores, *limits], center_point_box=int(centers))
        wanted = suppressed(boxes, scores, 7, float(np.float32(0.3)), 0.25, centers)
        np.testing.assert_array_equal(got, wanted)
    with pytest.raises(ValueError, match="boxes"):
        _native.suppress(boxes[..., :3].copy(), scores, 1, 0.5, None, False)


def test_suppression_without_optional_inputs() -> None:
    boxes, scores = boxes_and_scores(5, 0, False)
    (got,) = run("NonMaxSuppression", [boxes, scores])
    assert got.shape == (0, 3)
    (got,) = run("NonMaxSuppression", [boxes, scores, np.array([2]), None, None])
    np.testing.assert_array_equal(got, suppressed(boxes, scores, 2, 0.0, None, False))


def test_what_follows_takes_any_size() -> None:
    """Gather of what NonZero found: sizes only the data tells, in one model."""
    text = f"""<ir_version: 10, opset_import: ["" : {OPSET}]>
        g (float[N] x) => (y) {{
            i = NonZero(x) j = Squeeze(i) k = Gather(x, j) y = Neg(k)
        }}"""
    graph = GraphIR.from_onnx(onnx.parser.parse_model(text)).infer_shapes()
    compiled = zenith.compile(graph, fallback="allow")
    for x in ([0, 1, 0, 3], [0, 0, 5, 0], [1, 2, 3]):
        array = np.array(x, np.float32)
        np.testing.assert_array_equal(compiled.run({"x": array})["y"], -array[array != 0])
