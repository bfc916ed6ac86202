"""Reductions, arg_reduce and cumsum against numpy in float64: axes, strides, threads, parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from zenith import _native
from zenith.backends.cpu.kernels.reduce import REDUCTIONS, SPECS
from zenith.backends.cpu.operand import Operand, dense_strides
from zenith.runtime.op_view import OpView

ISAS = _native.complete_isas()
Array = np.ndarray
NUMPY = {
    "ReduceSum": np.sum,
    "ReduceMean": np.mean,
    "ReduceMax": np.max,
    "ReduceMin": np.min,
    "ReduceProd": np.prod,
    "ReduceL1": lambda x, **k: np.abs(x).sum(**k),
    "ReduceL2": lambda x, **k: np.sqrt((x * x).sum(**k)),
    "ReduceSumSquare": lambda x, **k: (x * x).sum(**k),
    "ReduceLogSum": lambda x, **k: np.log(x.sum(**k)),
}


def floats(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(0.3, 1, shape).astype(np.float32)


def reduce(isa: str, name: str, x: Array, axes: tuple[int, ...], keep: bool = False,
           threads: int = 2) -> Array:  # fmt: skip
    shape = np.empty(x.shape, bool).any(axis=axes, keepdims=keep).shape if 0 not in x.shape else (
        np.zeros(x.shape).sum(axis=axes, keepdims=keep).shape)  # fmt: skip
    y = np.full(shape, 7, x.dtype)
    params = {"op": REDUCTIONS[name], "axes": list(axes)}
    _native.call(isa, "reduce", [x], [y], params, threads)
    return y


CASES: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((5, 37), (1,)), ((5, 37), (0,)), ((5, 37), (0, 1)), ((3, 4, 5), (1,)), ((3, 4, 5), (0, 2)),
    ((2, 3, 7, 9), (2, 3)), ((2, 9, 7, 33), (1, 2)), ((130, 768), (1,)), ((3, 5000), (1,)),
    ((70_001,), (0,)), ((4000, 70), (0,)), ((3, 300, 300), (1, 2)), ((40, 9, 50, 8), (0, 2)),
    ((7, 1, 1), (1,)), ((1, 1), (0, 1)), ((2, 2, 3, 2, 2, 3, 2, 2), (1, 3, 6)), ((600, 1), (0,)),
    ((2, 3000, 300), (1,)),
]  # fmt: skip


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("shape", "axes"), CASES, ids=str)
def test_sums(isa: str, shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    x = floats(*shape)
    for name in ("ReduceSum", "ReduceMean", "ReduceL1", "ReduceL2", "ReduceSumSquare"):
        wide = x.astype(np.float64)
        expected = NUMPY[name](wide, axis=axes, keepdims=True)
        scale = np.abs(wide).max() ** 2 * max(1, wide.size / expected.size) ** 0.5
        y = reduce(isa, name, x, axes, keep=True)
        np.testing.assert_allclose(y, expected, rtol=2e-7, atol=6e-8 * scale, err_msg=name)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("shape", "axes"), CASES, ids=str)
def test_exact_reductions(isa: str, shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    r = np.random.default_rng(1)
    for dtype in ("float32", "int64", "int32", "bool"):
        x = (r.normal(0, 30, shape) if dtype != "bool" else r.random(shape) > 0.9).astype(dtype)
        for name in ("ReduceMax", "ReduceMin", "ReduceSum", "ReduceProd"):
            if name in ("ReduceSum", "ReduceProd") and not dtype.startswith("int"):
                continue
            y = reduce(isa, name, x, axes)
            with np.errstate(over="ignore"):
                expected = NUMPY[name](
                    x, axis=axes, **({"dtype": dtype} if "S" in name or "P" in name else {})
                )
            np.testing.assert_array_equal(y, expected, err_msg=f"{name} {dtype}")


@pytest.mark.parametrize("isa", ISAS)
def test_long_sums_stay_accurate(isa: str) -> None:
    x = np.full(3_000_000, 0.1, np.float32)
    exact = float(np.float64(np.float32(0.1)) * x.size)
    assert abs(reduce(isa, "ReduceSum", x, (0,)) - exact) <= 3e-7 * exact
    columns = x.reshape(-1, 6)
    np.testing.assert_allclose(reduce(isa, "ReduceSum", columns, (0,)), exact / 6, rtol=1e-6)
    np.testing.assert_allclose(reduce(isa, "ReduceLogSum", x, (0,)), np.log(exact), rtol=2e-7)
    np.testing.assert_allclose(reduce(isa, "ReduceProd", x[:20], (0,)), 0.1**20, rtol=1e-6)


@pytest.mark.parametrize("isa", ISAS)
def test_results_do_not_depend_on_threads(isa: str) -> None:
    for shape, axes in CASES:
        x = floats(*shape, seed=4)
        one = reduce(isa, "ReduceSum", x, axes, threads=1)
        np.testing.assert_array_equal(one, reduce(isa, "ReduceSum", x, axes, threads=2))


@pytest.mark.parametrize("isa", ISAS)
def test_random_strides(isa: str) -> None:
    r = np.random.default_rng(5)
    for _ in range(80):
        rank = int(r.integers(1, 5))
        shape = tuple(int(n) for n in r.integers(1, 12, rank))
        perm, steps = r.permutation(rank), r.integers(1, 3, rank)
        base = floats(*(shape[p] * steps[p] for p in perm), seed=int(r.integers(99)))
        x = base.transpose(np.argsort(perm))[tuple(slice(None, None, int(s)) for s in steps)]
        x = x[: shape[0], ...] if r.random() < 0.5 else np.broadcast_to(x[:1], x.shape)
        axes = tuple(int(a) for a in range(rank) if r.random() < 0.6) or (0,)
        y = reduce(isa, "ReduceSum", x, axes)
        np.testing.assert_allclose(y, x.astype(np.float64).sum(axis=axes), rtol=1e-6, atol=2e-5)
        np.testing.assert_array_equal(reduce(isa, "ReduceMax", x, axes), x.max(axis=axes))


@pytest.mark.parametrize("isa", ISAS)
def test_nan_wins_and_empty_has_identities(isa: str) -> None:
    x = floats(40, 300)
    x[3, 7], x[5, 299], x[0, 0] = np.nan, np.nan, np.inf
    for name in ("ReduceMax", "ReduceMin", "ReduceSum"):
        for axes in ((0,), (1,), (0, 1)):
            y = reduce(isa, name, x, axes)
            expected = NUMPY[name](x, axis=axes)
            np.testing.assert_array_equal(np.isnan(y), np.isnan(expected))
    empty = np.zeros((3, 0, 5), np.float32)
    for name, value in (
        ("ReduceSum", 0),
        ("ReduceProd", 1),
        ("ReduceMax", -np.inf),
        ("ReduceMin", np.inf),
    ):
        np.testing.assert_array_equal(reduce(isa, name, empty, (1,)), np.full((3, 5), value))
    assert np.isnan(reduce(isa, "ReduceMean", empty, (1,))).all()
    assert reduce(isa, "ReduceSum", empty, (0,)).shape == (0, 5)
    ints = np.zeros((0, 4), np.int64)
    assert (reduce(isa, "ReduceMax", ints, (0,)) == np.iinfo(np.int64).min).all()
    assert (reduce(isa, "ReduceMin", ints, (0,)) == np.iinfo(np.int64).max).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["float32", "int64", "int32", "uint8"])
def test_arg_reduce(isa: str, dtype: str) -> None:
    x = np.random.default_rng(6).integers(0, 20, (6, 9, 301)).astype(dtype)
    for axis in range(3):
        for view in (x, x.transpose(2, 0, 1), x[:, ::-1, ::2]):
            for largest in (0, 1):
                for last in (0, 1):
                    f = np.argmax if largest else np.argmin
                    expected = f(view, axis) if not last else (
                        view.shape[axis] - 1 - f(np.flip(view, axis), axis))  # fmt: skip
                    y = np.empty(expected.shape, np.int64)
                    _native.call(isa, "arg_reduce", [view], [y],
                                 {"axis": axis, "largest": largest, "last": last})  # fmt: skip
                    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("isa", ISAS)
def test_arg_reduce_takes_nan(isa: str) -> None:
    x = floats(3, 200)
    x[1, [50, 120]] = np.nan
    y = np.empty((3, 1), np.int64)
    _native.call(isa, "arg_reduce", [x], [y], {"axis": 1, "largest": 1, "last": 0})
    assert y[1, 0] == 50 and y[0, 0] == x[0].argmax()
    _native.call(isa, "arg_reduce", [x], [y], {"axis": 1, "largest": 0, "last": 1})
    assert y[1, 0] == 120
    with pytest.raises(RuntimeError, match="empty axis"):
        _native.call(isa, "arg_reduce", [x[:, :0]], [y], {"axis": 1, "largest": 1, "last": 0})


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["float32", "int64", "int32"])
def test_cumsum(isa: str, dtype: str) -> None:
    base = (np.random.default_rng(7).normal(0, 9, (5, 40, 33))).astype(dtype)
    for x in (base, base.transpose(2, 0, 1), base[:, ::2], base[:0]):
        for axis in range(3):
            for exclusive in (0, 1):
                for reverse in (0, 1):
                    wide = np.flip(x, axis) if reverse else x
                    expected = wide.astype(np.float64).cumsum(axis)
                    if exclusive:
                        expected -= wide
                    expected = np.flip(expected, axis) if reverse else expected
                    y = np.empty(x.shape, dtype)
                    _native.call(isa, "cumsum", [x], [y], {"axis": axis, "largest": 0, "last": 0,
                                 "exclusive": exclusive, "reverse": reverse})  # fmt: skip
                    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-5)


class Recorder:
    """Just enough of `Emit` to run a row: every operand is a numpy array."""

    def __init__(self, op: OpView, inputs: list[Array]) -> None:
        self.op, self.arrays, self.result = op, list(inputs), np.empty(0)

    def _operand(self, array: Array) -> Operand:
        self.arrays.append(array)
        shape = array.shape
        return Operand(len(self.arrays) - 1, array.dtype.name, shape, dense_strides(shape))

    def _array(self, o: Operand) -> Array:
        array = self.arrays[o.storage]
        strides = [s * array.itemsize for s in o.strides]
        return np.lib.stride_tricks.as_strided(array, o.shape, strides)

    def operand(self, index: int) -> Operand | None:
        array = self.arrays[index]
        return Operand(index, array.dtype.name, array.shape, dense_strides(array.shape))

    def output(self, index: int, order: Any = None) -> Operand:
        value = self.op.outputs[index]
        self.result = np.empty(value.shape, value.dtype)
        return self._operand(self.result)

    def temp(self, dtype: str, shape: tuple[int, ...]) -> Operand:
        return self._operand(np.empty(shape, dtype))

    def const(self, array: Array) -> Operand:
        return self._operand(np.array(array))

    def alias(self, index: int, operand: Operand) -> None:
        self.result = self._array(operand)

    def step(
        self, kernel: str, inputs: list[Operand], outputs: list[Operand], **params: Any
    ) -> None:
        _native.call(ISAS[0], kernel, [self._array(o) for o in inputs],
                     [self._array(o) for o in outputs], params)  # fmt: skip


def emit(name: str, x: Array, shape: tuple[int, ...], given: list[int] | None,
         **attributes: Any) -> Array:  # fmt: skip
    kind = ir.DataType.from_numpy(x.dtype)
    values = [ir.Value(name="x", type=ir.TensorType(kind), shape=ir.Shape(x.shape))]
    if given is not None:
        array = np.array(given, np.int64)
        values.append(ir.Value(name="axes", type=ir.TensorType(ir.DataType.INT64),
                               shape=ir.Shape(array.shape),
                               const_value=ir.tensor(array)))  # fmt: skip
    node = ir.node(name, values, attributes)
    out = ir.DataType.INT64 if name.startswith("Arg") else kind
    node.outputs[0].type, node.outputs[0].shape = ir.TensorType(out), ir.Shape(shape)
    op = OpView(node)
    spec = next(s for s in SPECS if s.op == f"ai.onnx:{name}")
    assert spec.reason_against(op) is None
    recorder = Recorder(op, [x])
    spec.run(recorder)
    return recorder.result


def test_rows_read_axes_and_attributes() -> None:
    x = floats(4, 6, 10)
    for name, f in NUMPY.items():
        y = np.abs(x) if name == "ReduceLogSum" else x
        wide = y.astype(np.float64)
        got = emit(name, y, (4, 10), [-2], keepdims=0)
        np.testing.assert_allclose(got, f(wide, axis=1), rtol=1e-5, atol=1e-5, err_msg=name)
        got = emit(name, y, (1, 1, 1), None)
        np.testing.assert_allclose(
            got, f(wide, axis=(0, 1, 2), keepdims=True), rtol=1e-5, atol=1e-5
        )
        got = emit(name, y, (4, 1, 1), None, axes=[1, 2])
        np.testing.assert_allclose(got, f(wide, axis=(1, 2), keepdims=True), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(emit("ReduceSum", x, x.shape, [], noop_with_empty_axes=1), x)
    np.testing.assert_allclose(
        emit("ReduceL1", x, x.shape, [], noop_with_empty_axes=1), np.abs(x), rtol=1e-6
    )


def test_log_sum_exp_row() -> None:
    x = floats(5, 7, 30) * 60
    x[0], x[1, 2] = -np.inf, np.inf
    wide = x.astype(np.float64)
    expected = np.logaddexp.reduce(wide, axis=2)
    np.testing.assert_allclose(
        emit("ReduceLogSumExp", x, (5, 7), [2], keepdims=0), expected, rtol=1e-6
    )
    expected = np.logaddexp.reduce(wide, axis=0, keepdims=True)
    np.testing.assert_allclose(emit("ReduceLogSumExp", x, (1, 7, 30), [0]), expected, rtol=1e-6)


def test_arg_and_cumsum_rows() -> None:
    x = floats(4, 6, 10)
    np.testing.assert_array_equal(emit("ArgMax", x, (4, 6), None, axis=-1, keepdims=0), x.argmax(2))
    np.testing.assert_array_equal(emit("ArgMin", x, (1, 6, 10), None), x.argmin(0, keepdims=True))
    ties = np.array([[1, 3, 3, 0]], np.float32)
    assert emit("ArgMax", ties, (1, 1), None, axis=1, select_last_index=1)[0, 0] == 2
    y = emit("CumSum", x, x.shape, [-2], exclusive=1)
    np.testing.assert_allclose(y, x.cumsum(1) - x, rtol=1e-5, atol=1e-5)
