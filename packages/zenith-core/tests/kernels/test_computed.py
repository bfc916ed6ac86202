"""Parameters that reach a kernel as operands, and index kernels of every dtype."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

import zenith
from zenith import _native
from zenith.backends.cpu.kernels import computed, gather, move, views
from zenith.ir import GraphIR

Array = np.ndarray[Any, Any]
Maker = Callable[..., Any]
ISAS = _native.complete_isas()
NUMBERS = [*(f"{u}int{b}" for u in ("", "u") for b in (8, 16, 32, 64)), "float16", "float32",
           "float64"]  # fmt: skip
X = np.arange(2 * 5 * 7, dtype=np.float32).reshape(2, 5, 7)
MAX = 2**63 - 1


def call(isa: str, kernel: str, inputs: list[Any], out: Array, **params: Any) -> Array:
    _native.call(isa, kernel, inputs, [out], params, threads=2)
    return out


SLICES: list[tuple[list[int], list[int], list[int] | None, list[int] | None]] = [
    ([0, 1], [2, 4], None, None),
    ([1], [-1], [2], None),
    ([-3, -1], [MAX, MAX], [-1, 1], None),
    ([MAX], [-MAX - 1], [1], [-1]),
    ([-1, 5], [-MAX, 1], [1, 2], [-2, -3]),
    ([1], [100], [2], [3]),
    ([4], [2], [1], None),
    ([-100, 0], [100, 1], [2, 0], [2, MAX]),
    ([6], [-100], [2], [-MAX - 1]),
]


def slices(x: Array, starts: list[int], ends: list[int], axes: Any, steps: Any) -> Array:
    index = [slice(None)] * x.ndim
    axes, steps = axes or range(len(starts)), steps or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        index[axis] = slice(start, None if step < 0 and end < -x.shape[axis] else end, step)
    return x[tuple(index)]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("starts", "ends", "axes", "steps"), SLICES)
def test_slice(isa: str, starts: list[int], ends: list[int], axes: Any, steps: Any) -> None:
    for x in (X, X.transpose(0, 2, 1).copy().transpose(0, 2, 1), X.astype(np.int8)):
        wanted = slices(x, starts, ends, axes, steps)
        inputs = [x, np.array(starts), axes and np.array(axes), steps and np.array(steps)]
        out = call(isa, "slice", inputs, np.empty(wanted.shape, x.dtype))
        np.testing.assert_array_equal(out, wanted)


WRONG = [
    ([4], [1], [1], (2, 5, 7)),  # beyond the end
    ([0], [1], [2], (2, 5, 7)),
    ([0], [1], [1], (1, 2, 7)),  # an axis that is not sliced
    ([0], [3], [1], (2, 5, 7)),  # no such axis
    ([0], [1], [0], (2, 5, 7)),
]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("starts", "axes", "steps", "shape"), WRONG)
def test_slice_that_contradicts_its_output(
    isa: str, starts: list[int], axes: list[int], steps: list[int], shape: tuple[int, ...]
) -> None:
    inputs = [X, np.array(starts), np.array(axes), np.array(steps)]
    with pytest.raises(RuntimeError):
        call(isa, "slice", inputs, np.empty(shape, np.float32))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["int8", "float16", "float32", "float64"])
@pytest.mark.parametrize("repeats", [(1, 1, 1), (2, 3, 1), (1, 1, 4), (3, 1, 2), (0, 1, 1)])
def test_tile(isa: str, dtype: str, repeats: tuple[int, ...]) -> None:
    for x in (X, X[:1, :, :1], X[:, ::2, ::-1]):
        x = x.astype(dtype)
        wanted = np.tile(x, repeats)
        np.testing.assert_array_equal(call(isa, "tile", [x], np.empty_like(wanted)), wanted)
    with pytest.raises(RuntimeError, match="contradict"):
        call(isa, "tile", [X], np.empty((2, 6, 7), np.float32))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("mode", list(move.PAD_MODES))
def test_pads_from_an_operand(isa: str, mode: str) -> None:
    pads, axes = np.array([2, -1, 1, 3]), np.array([-1, 1], np.int32)
    width = ((0, 0), (0, 3), (2, 1))
    numpy_mode: Any = mode
    wanted = np.pad(X[:, 1:], width, numpy_mode)
    if mode != "constant":  # numpy crops first, the operator knows what it cropped
        wanted = np.pad(X, ((0, 0), (0, 3), (2, 1)), numpy_mode)[:, 1:]
    params = {"begin": [0, 0, 0], "mode": move.PAD_MODES[mode]}
    out = call(isa, "pad", [X, None, pads, axes], np.empty(wanted.shape, np.float32), **params)
    np.testing.assert_array_equal(out, wanted)
    with pytest.raises(RuntimeError, match="contradict"):
        call(isa, "pad", [X, None, pads + 1, axes], out, **params)
    with pytest.raises(RuntimeError, match="axis"):
        call(isa, "pad", [X, None, pads, axes + 5], out, **params)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("k", [0, 2, -3, 100, -(2**62)])
def test_diagonal_from_an_operand(isa: str, k: int) -> None:
    for upper in (0, 1):
        wanted = (np.triu if upper else np.tril)(X, max(min(k, 50), -50))
        out = call(isa, "trilu", [X, np.array(k)], np.empty_like(X), k=0, upper=upper)
        np.testing.assert_array_equal(out, wanted)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["bool", *NUMBERS])
@pytest.mark.parametrize(("batch", "time"), [(1, 0), (0, 1), (0, 2), (2, 0), (2, 1), (1, 2)])
def test_reverse_sequence(isa: str, dtype: str, batch: int, time: int) -> None:
    x = (X % 120).astype(dtype).transpose(2, 0, 1)
    lengths = np.random.default_rng(0).integers(0, x.shape[time] + 1, x.shape[batch])
    wanted = np.moveaxis(x.copy(), (batch, time), (0, 1))
    for b, n in enumerate(lengths):
        wanted[b, :n] = wanted[b, :n][::-1].copy()
    wanted = np.moveaxis(wanted, (0, 1), (batch, time))
    params = {"batch_axis": batch, "time_axis": time}
    out = call(isa, "reverse_sequence", [x, lengths], np.empty(x.shape, x.dtype), **params)
    np.testing.assert_array_equal(out, wanted)
    for bad in (-1, x.shape[time] + 1):
        with pytest.raises(RuntimeError, match="longer"):
            wrong = np.full_like(lengths, bad)
            call(isa, "reverse_sequence", [x, wrong], np.empty(x.shape, x.dtype), **params)


def topk_reference(x: Array, k: int, largest: bool) -> tuple[Array, Array]:
    """By the definition: NaN is the greatest number, ties go to the lower index."""
    wide = x.astype(np.float64 if x.dtype.kind == "f" else object)
    rows = []
    for row in wide.reshape(-1, x.shape[-1]):

        def rank(i: int, row: Any = row) -> Any:
            nan = row[i] != row[i]
            key = (1, 0) if nan else (0, row[i])
            return (tuple(-v for v in key) if largest else key, i)

        rows.append(sorted(range(len(row)), key=rank)[:k])
    at = np.array(rows, np.int64).reshape(*x.shape[:-1], k)
    return np.take_along_axis(x, at, -1), at


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("largest", [0, 1])
def test_topk(isa: str, dtype: str, largest: int) -> None:
    rng = np.random.default_rng(4)
    for n, k in [(1, 1), (7, 7), (40, 3), (40, 17), (300, 40), (900, 20), (700, 700), (5, 0)]:
        if dtype[0] == "f":
            x = rng.standard_normal((3, n)).round(1).astype(dtype)
            x[0, :: max(n // 3, 1)] = [np.nan, np.inf, -0.0, -np.nan][n % 4]
        else:
            info = np.iinfo(dtype)
            x = rng.integers(info.min, info.max, (3, n), dtype, endpoint=True)
            x[:, ::2] = rng.integers(0, 3, x[:, ::2].shape)
        values, at = np.empty((3, k), dtype), np.empty((3, k), np.int64)
        _native.call(isa, "topk", [x], [values, at], {"largest": largest}, threads=2)
        wanted_values, wanted = topk_reference(x, k, bool(largest))
        np.testing.assert_array_equal(at, wanted)
        np.testing.assert_array_equal(values, wanted_values)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("reduction", ["add", "mul", "min", "max"])
@pytest.mark.parametrize("dtype", ["bool", *NUMBERS])
def test_scatter_reductions(isa: str, reduction: str, dtype: str) -> None:
    rng = np.random.default_rng(5)
    x, updates = rng.integers(0, 5, (6, 4)).astype(dtype), rng.integers(0, 5, (9, 4)).astype(dtype)
    at = rng.integers(0, 6, (9, 4))
    wanted = x.copy()
    by = {"add": np.add, "mul": np.multiply, "min": np.minimum, "max": np.maximum}[reduction]
    for i, j in np.ndindex(9, 4):
        wanted[at[i, j], j] = by(wanted[at[i, j], j], updates[i, j])
    params = {"axis": 0, "reduction": gather.REDUCTIONS[reduction]}
    np.testing.assert_array_equal(call(isa, "scatter_elements", [at, updates], x.copy(), **params),
                                  wanted)  # fmt: skip


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", NUMBERS)
def test_one_hot_indices_of_every_type(isa: str, dtype: str) -> None:
    at = np.array([0, 3, 2, 9, 1]).astype(dtype)
    out = call(isa, "one_hot", [at, np.array([2, 7])], np.empty((5, 4), np.int64))
    np.testing.assert_array_equal(out, np.where(np.arange(4) == at[:, None], 7, 2))
    if np.dtype(dtype).kind in "if":
        out = call(isa, "one_hot", [-at, np.array([2, 7])], np.empty((5, 4), np.int64))
        wanted = np.where(np.arange(4) == np.where(at == 0, 0, 4 - at)[:, None], 7, 2)
        np.testing.assert_array_equal(out, wanted)


@pytest.mark.parametrize("isa", ISAS)
def test_range_of_half(isa: str) -> None:
    start, delta = np.array(0.5, np.float16), np.array(0.25, np.float16)
    out = call(isa, "range", [start, delta], np.empty(9, np.float16))
    np.testing.assert_array_equal(out, np.arange(9) * 0.25 + 0.5)


ROWS: list[tuple[str, list[Any], dict[str, Any], tuple[int, ...]]] = [
    ("Slice", [X, np.array([1]), np.array([4]), np.array([1])], {}, (2, 3, 7)),
    ("Slice", [X, np.array([6]), np.array([0]), np.array([2]), np.array([-2])], {}, (2, 5, 3)),
    ("Pad", [X, np.array([0, 0, 1, 0, 2, 0])], {}, (2, 7, 8)),
    ("Pad", [X, np.array([1, 1]), None, np.array([2])], {"mode": "edge"}, (2, 5, 9)),
    ("Tile", [X, np.array([1, 2, 3])], {}, (2, 10, 21)),
    ("Unsqueeze", [X, np.array([0, 3])], {}, (1, 2, 5, 1, 7)),
    ("Squeeze", [X[:1], np.array([0])], {}, (5, 7)),
]


@pytest.mark.parametrize(("op", "inputs", "attributes", "shape"), ROWS)
@pytest.mark.parametrize("permuted", [None, {0: [2, 0, 1]}])
def test_rows(
    make_row: Maker, op: str, inputs: list[Any], attributes: Any, shape: Any, permuted: Any
) -> None:
    row = make_row(computed.SPECS, op, inputs, permuted=permuted, **attributes)
    row.specs |= {s.op: s for s in _transposes()}
    value = row.graph.nodes[-1].outputs[0]
    value.shape = ir.Shape(shape)
    value.type = ir.TensorType(ir.DataType.FLOAT)
    assert row.reason() is None
    for threads in (1, 2):
        got = row.run(ISAS[0], threads)[0][0]
        np.testing.assert_array_equal(got, row.expected()[0])


def _transposes() -> list[Any]:
    return [s for s in views.SPECS if s.op == "ai.onnx:Transpose"]


def test_reverse_sequence_and_trilu_rows(make_row: Maker) -> None:
    lengths = np.array([1, 3, 0, 5, 2])
    x = X.transpose(2, 1, 0).copy()
    make_row(gather.SPECS, "ReverseSequence", [x, lengths]).check()
    make_row(move.SPECS, "Trilu", [X, np.array(1)]).check()
    make_row(move.SPECS, "Trilu", [X, np.array(-2)], upper=0).check()


def test_bfloat16_is_a_number(make_row: Maker) -> None:
    """Keys and rounding of bfloat16, which numpy cannot hand to a kernel by itself."""
    text = """<ir_version: 12, opset_import: ["" : 28]>
        g (bfloat16[2,9] x, int64[1,9] i, bfloat16[1,9] u) => (v, k, s) <int64[1] three = {3}> {
            v, k = TopK(x, three)
            s = ScatterElements<axis = 0, reduction = "add">(x, i, x0) x0 = Slice(x, a, b)
        }"""
    text = (
        text.replace("x0 = Slice(x, a, b)", "")
        .replace("i, x0)", "i, u)")
        .replace("int64[1,9] i)", "int64[1,9] i, bfloat16[1,9] u)")
    )
    graph = GraphIR.from_onnx(onnx.parser.parse_model(text)).infer_shapes()
    compiled = zenith.compile(graph, fallback="error")
    x = (np.random.default_rng(0).standard_normal((2, 9))).astype(ml_dtypes.bfloat16)
    i, u = np.zeros((1, 9), np.int64), np.ones((1, 9), ml_dtypes.bfloat16)
    got = compiled.run({"x": x, "i": i, "u": u})
    wide = x.astype(np.float32)
    order = np.argsort(-wide, -1, kind="stable")[:, :3]
    np.testing.assert_array_equal(got["k"], order)
    wanted = np.take_along_axis(wide, order, -1)
    np.testing.assert_array_equal(np.asarray(got["v"]).astype(np.float32), wanted)
    wide[0] = (wide[0] + 1).astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(np.asarray(got["s"]).astype(np.float32), wide)
