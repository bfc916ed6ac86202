"""Gather, scatter, one-hot and top-k against numpy, and the rows made of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from zenith import _native
from zenith.backends.cpu.kernels import gather, views

ISAS = _native.complete_isas()
ITEMS = ["uint8", "float16", "float32", "int64"]
SPECS = [*views.SPECS, *gather.SPECS]
Array = np.ndarray[Any, Any]
Maker = Callable[..., Any]


def numbers(shape: tuple[int, ...], dtype: str = "float32", seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 100, shape).astype(dtype)


def strided(array: Array) -> Array:
    """The same values in permuted memory with gaps."""
    store = np.full([n * 2 for n in array.shape[::-1]], 99, array.dtype)
    view = store[tuple(slice(None, None, 2) for _ in array.shape)].T
    view[...] = array
    return view


def indices(shape: tuple[int, ...], limit: int, dtype: str = "int64", seed: int = 1) -> Array:
    return np.random.default_rng(seed).integers(-limit, limit, shape).astype(dtype)


def call(isa: str, kernel: str, inputs: list[Any], outputs: list[Array], **params: int) -> None:
    _native.call(isa, kernel, inputs, outputs, params, threads=2)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ITEMS)
def test_gather_on_every_axis(isa: str, dtype: str) -> None:
    for shape, index_shape in itertools.product(
        [(7,), (5, 3), (2, 7, 4), (2, 3, 4, 5)], [(), (1,), (4,), (2, 3), (0,)]
    ):
        x = numbers(shape, dtype)
        for axis, index_type in itertools.product(range(x.ndim), ["int32", "int64"]):
            at = np.asarray(indices(index_shape, shape[axis], index_type))
            expected = np.take(x, at, axis)
            out = np.empty(expected.shape, dtype)
            call(isa, "gather", [x, at], [out], axis=axis)
            np.testing.assert_array_equal(out, expected)
            if at.ndim:
                target = strided(np.zeros(expected.shape, dtype))
                call(isa, "gather", [strided(x), strided(at)], [target], axis=axis)
                np.testing.assert_array_equal(target, expected)


@pytest.mark.parametrize("isa", ISAS)
def test_gather_of_many_rows_and_of_one_big_slice(isa: str) -> None:
    table, ids = numbers((1000, 96)), indices((8, 300), 1000, "int32")
    out = np.empty((8, 300, 96), np.float32)
    call(isa, "gather", [table, ids], [out], axis=0)
    np.testing.assert_array_equal(out, table[ids])
    columns = numbers((300, 500))
    at = indices((700,), 500)
    out = np.empty((300, 700), np.float32)
    call(isa, "gather", [columns, at], [out], axis=1)
    np.testing.assert_array_equal(out, columns[:, at])
    call(isa, "gather", [columns.T, np.array(-3)], [out := np.empty(300, np.float32)], axis=0)
    np.testing.assert_array_equal(out, columns[:, -3])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bad", [5, -6, 2**40])
def test_an_index_outside_is_an_error(isa: str, bad: int) -> None:
    x, at = numbers((5, 4)), np.array([[0, bad]])
    two = np.empty((1, 2, 4), np.float32)
    same = np.empty((1, 2), np.float32)
    for kernel, inputs, out, params in [
        ("gather", [x, at], two, {"axis": 0}),
        ("gather_nd", [x, at.reshape(1, 2, 1)], two, {"batch_dims": 0}),
        ("gather_elements", [x, at], same, {"axis": 0}),
        ("scatter_elements", [at, same], x, {"axis": 0, "reduction": 0}),
        ("scatter_nd", [at.reshape(2, 1), two[0]], x, {"reduction": 0}),
    ]:
        with pytest.raises(RuntimeError, match="an index lies outside its axis"):
            call(isa, kernel, inputs, [out], **params)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ITEMS)
def test_gather_elements(isa: str, dtype: str) -> None:
    for shape, axis in [((7,), 0), ((5, 6), 0), ((5, 6), 1), ((3, 4, 50), 1), ((90, 4, 90), 2)]:
        x = numbers(shape, dtype)
        for n in (0, 1, 9):
            picked = list(shape)
            picked[axis] = n
            at = indices(tuple(picked), shape[axis], "int32")
            expected = np.take_along_axis(x, at, axis)
            for make in (np.ascontiguousarray, strided):
                out = make(np.zeros(expected.shape, dtype))
                call(isa, "gather_elements", [make(x), make(at)], [out], axis=axis)
                np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ITEMS)
def test_gather_nd(isa: str, dtype: str) -> None:
    x = numbers((3, 4, 5, 6), dtype)
    for batch, depth, lead in itertools.product([0, 1, 2], [1, 2], [(), (7,), (2, 3), (0,)]):
        sizes = x.shape[batch : batch + depth]
        at = np.stack([indices((*x.shape[:batch], *lead), n, seed=n) for n in sizes], axis=-1)
        flat_x = x.reshape(-1, *x.shape[batch:])
        flat_at = at.reshape(len(flat_x), -1, depth)
        rows = [[part[tuple(row)] for row in ats] for part, ats in zip(flat_x, flat_at)]
        shape = (*x.shape[:batch], *lead, *x.shape[batch + depth :])
        expected = np.array(rows, dtype).reshape(shape)
        for make in (np.ascontiguousarray, strided):
            out = make(np.zeros(shape, dtype)) if shape else np.zeros(shape, dtype)
            call(isa, "gather_nd", [make(x), make(at)], [out], batch_dims=batch)
            np.testing.assert_array_equal(out, expected)


REDUCE: dict[str, Callable[[Any, Any], Any]] = {
    "none": lambda a, b: b,
    "add": lambda a, b: a + b,
    "mul": lambda a, b: a * b,
    "min": np.minimum,
    "max": np.maximum,
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "int8", "uint8"])
@pytest.mark.parametrize("reduction", list(REDUCE))
def test_scatter_elements(isa: str, dtype: str, reduction: str) -> None:
    for shape, axis in [((7,), 0), ((5, 6), 0), ((5, 6), 1), ((3, 4, 5), 1), ((0, 4), 1)]:
        x, picked = numbers(shape, dtype), list(shape)
        picked[axis] = 9
        at, updates = indices(tuple(picked), max(shape[axis], 1)), numbers(tuple(picked), dtype, 2)
        expected = x.copy()
        with np.errstate(over="ignore"):
            for place in np.ndindex(*picked):
                target = list(place)
                target[axis] = at[place]
                to = tuple(target)
                expected[to] = REDUCE[reduction](expected[to], updates[place])
        for make in (np.ascontiguousarray, strided):
            out = make(x.copy())
            params = {"axis": axis, "reduction": gather.REDUCTIONS[reduction]}
            call(isa, "scatter_elements", [make(at), make(updates)], [out], **params)
            np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("reduction", ["none", "add"])
def test_scatter_of_whole_rows(isa: str, reduction: str) -> None:
    """One index for a row: what a list of places on an inner axis expands to."""
    for dtype in ("float32", "uint8"):
        places, updates = np.array([4, -1, 0, 4]), numbers((2, 4, 7), dtype, 2)
        out, expected = numbers((2, 5, 7), dtype), numbers((2, 5, 7), dtype)
        for j, place in enumerate(places):
            expected[:, place] = REDUCE[reduction](expected[:, place], updates[:, j])
        at, outside = (np.broadcast_to(i[:, None], updates.shape) for i in (places, places + 5))
        params = {"axis": 1, "reduction": gather.REDUCTIONS[reduction]}
        call(isa, "scatter_elements", [at, updates], [out], **params)
        np.testing.assert_array_equal(out, expected)
        with pytest.raises(RuntimeError, match="outside"):
            call(isa, "scatter_elements", [outside, updates], [out], **params)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["float32", "int64", "uint8"])
@pytest.mark.parametrize("reduction", list(REDUCE))
def test_scatter_nd(isa: str, dtype: str, reduction: str) -> None:
    for shape, depth, lead in [
        ((9,), 1, (20,)),
        ((4, 5), 1, (3, 3)),
        ((4, 5), 2, (30,)),
        ((6, 7, 300), 2, (90,)),
        ((6, 7, 30), 1, ()),
        ((6, 7), 1, (0,)),
    ]:
        x = numbers(shape, dtype)
        at = np.stack([indices(lead, n, seed=n) for n in shape[:depth]], axis=-1)
        updates = numbers((*lead, *shape[depth:]), dtype, 2)
        expected = x.copy()
        with np.errstate(over="ignore"):
            for place in np.ndindex(*lead):
                to = tuple(at[place])
                expected[to] = REDUCE[reduction](expected[to], updates[place])
        for make in (np.ascontiguousarray, strided):
            out = make(x.copy())
            params = {"reduction": gather.REDUCTIONS[reduction]}
            call(isa, "scatter_nd", [make(at), make(updates)], [out], **params)
            np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("isa", ISAS)
def test_scatter_keeps_nan(isa: str) -> None:
    out, at = np.array([np.nan, 1.0, 2.0], np.float32), np.array([0, 1, 2])
    updates = np.array([5.0, np.nan, 7.0], np.float32)
    call(isa, "scatter_elements", [at, updates], [out], axis=0, reduction=3)
    np.testing.assert_array_equal(out, np.array([np.nan, np.nan, 2.0], np.float32))


@pytest.mark.parametrize("isa", ISAS)
def test_scatter_rejects_a_reduction_it_lacks(isa: str) -> None:
    half = np.zeros(3, np.float16)
    with pytest.raises(RuntimeError, match="no such reduction"):
        call(isa, "scatter_elements", [np.zeros(3, int), half], [half.copy()], axis=0, reduction=9)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("circular", [0, 1])
def test_tensor_scatter(isa: str, axis: int, circular: int) -> None:
    cache, size = numbers((3, 6, 8, 5)), [3, 6, 8, 5]
    size[axis] = 4
    update, room = numbers(tuple(size), seed=2), cache.shape[axis]
    at = np.array([0, room - 4, room + 3 if circular else 1], np.int64)
    expected = cache.copy()
    for b, i in itertools.product(range(3), range(4)):
        to, take = [b, slice(None), slice(None)], [b, slice(None), slice(None)]
        to[axis], take[axis] = (int(at[b]) + i) % room, i
        expected[tuple(to)] = update[tuple(take)]
    out = cache.copy()
    call(isa, "tensor_scatter", [update, at], [out], axis=axis, circular=circular)
    np.testing.assert_array_equal(out, expected)
    for bad in [-1] if circular else [-1, room - 3]:
        with pytest.raises(RuntimeError, match="outside its axis"):
            at[1] = bad
            call(isa, "tensor_scatter", [update, at], [out], axis=axis, circular=circular)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ITEMS)
def test_one_hot(isa: str, dtype: str) -> None:
    at = np.array([[0, 3, -1], [4, -5, 2]], np.int32)
    off_on = np.array([2, 7], dtype)
    out = np.empty((2, 3, 4), dtype)
    call(isa, "one_hot", [at, off_on], [out])
    expected = np.full((2, 3, 4), 2, dtype)
    for i, j in np.ndindex(2, 3):
        if -4 <= at[i, j] < 4:
            expected[i, j, at[i, j]] = 7
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "int8", "uint8"])
@pytest.mark.parametrize("largest", [0, 1])
def test_topk(isa: str, dtype: str, largest: int) -> None:
    for shape in [(1,), (17,), (4, 100), (3, 5, 64), (300, 70), (0, 5)]:
        x = numbers(shape, dtype)  # many equal values: ties go to the lower index
        wide = x.astype(np.float64)
        order = np.argsort(-wide if largest else wide, axis=-1, kind="stable")
        for k in {0, 1, 2, 5, shape[-1]}:
            if k > shape[-1]:
                continue
            values, places = np.empty((*shape[:-1], k), dtype), np.empty((*shape[:-1], k), np.int64)
            call(isa, "topk", [strided(x)], [values, places], largest=largest)
            np.testing.assert_array_equal(places, order[..., :k])
            np.testing.assert_array_equal(values, np.take_along_axis(x, places, -1))
    with pytest.raises(RuntimeError, match="k is above"):
        call(isa, "topk", [x[:, :2]], [values[:, :3], places[:, :3]], largest=1)


@pytest.mark.parametrize("isa", ISAS)
def test_topk_ranks_nan_as_the_greatest(isa: str) -> None:
    x = np.array([1.0, np.nan, np.inf, -2.0], np.float32)
    for largest, expected in [(1, [1, 2, 0, 3]), (0, [3, 0, 2, 1])]:
        values, places = np.empty(4, np.float32), np.empty(4, np.int64)
        call(isa, "topk", [x], [values, places], largest=largest)
        assert places.tolist() == expected


# Rows.


@pytest.mark.parametrize("dtype", [*ITEMS, "bool"])
@pytest.mark.parametrize("permuted", [None, {0: [2, 0, 1]}])
def test_gather_rows(make_row: Maker, dtype: str, permuted: Any) -> None:
    x = numbers((3, 4, 5), dtype)
    for axis in (-1, 0, 1):
        at = indices((2, 2), x.shape[axis])
        make_row(SPECS, "Gather", [x, at], axis=axis, permuted=permuted).check()
        wide = indices(x.shape, x.shape[axis], "int32")
        make_row(SPECS, "GatherElements", [x, wide], axis=axis, permuted=permuted).check()
    at = np.stack([indices((3, 2), 4), indices((3, 2), 5)], axis=-1)
    make_row(SPECS, "GatherND", [x, at], batch_dims=1, permuted=permuted).check()


def test_gather_of_a_known_position_is_a_view(make_row: Maker) -> None:
    x = numbers((3, 4, 5))

    def kernels(at: int, dynamic: Any = None) -> list[str]:
        row = make_row(SPECS, "Gather", [x, np.array(at)], constant=[1], dynamic=dynamic, axis=1)
        plan: list[str] = row.check()
        return plan

    dynamic = {0: ("N", "S", 5)}
    assert kernels(2) == kernels(-1) == ["copy"]  # into the caller's memory
    assert kernels(0, dynamic) == kernels(-1, dynamic) == ["copy"]
    assert kernels(3, dynamic) == ["gather"]  # the axis may be too short: the kernel checks


@pytest.mark.parametrize("reduction", list(REDUCE))
@pytest.mark.parametrize("permuted", [None, {0: [1, 0], 2: [1, 0]}])
def test_scatter_rows(make_row: Maker, reduction: str, permuted: Any) -> None:
    x, updates = numbers((4, 5)), numbers((3, 5), seed=2)
    at = np.array([[0, 1, 2, 3, 0], [1, 1, -1, 0, 2], [1, 0, 3, 3, 3]])
    inputs = [x, at, updates]
    attributes = {"axis": 0, "reduction": reduction}
    make_row(SPECS, "ScatterElements", inputs, permuted=permuted, **attributes).check()
    inputs = [x, np.array([[3], [0], [3]]), updates]
    if reduction != "none":  # duplicates have no defined result without one
        make_row(SPECS, "ScatterND", inputs, permuted=permuted, reduction=reduction).check()
    make_row(SPECS, "ScatterND", [x, np.array([[3], [0], [1]]), updates]).check()
    halves = [x.astype(np.float16), at, updates.astype(np.float16)]
    make_row(SPECS, "ScatterElements", halves, **attributes).check()


def test_tensor_scatter_one_hot_and_topk_rows(make_row: Maker) -> None:
    cache, update = numbers((2, 3, 6, 4)), numbers((2, 3, 2, 4), seed=2)
    at = np.array([1, 4])
    make_row(SPECS, "TensorScatter", [cache, update, at]).check()
    make_row(SPECS, "TensorScatter", [cache, update, at + 1], mode="circular").check()
    make_row(SPECS, "TensorScatter", [cache, update]).check()
    ids, values = np.array([[0, 5], [-1, 2]]), np.array([0.0, 2.0], np.float32)
    for axis in (-1, 0, 1):
        inputs = [ids, np.array(4), values]
        make_row(SPECS, "OneHot", inputs, constant=[1], axis=axis).check()
    x = np.random.default_rng(0).standard_normal((4, 9, 3)).astype(np.float32)
    for axis, largest in itertools.product((-1, 0, 1), (0, 1)):
        attributes = {"axis": axis, "largest": largest, "outputs": 2}
        make_row(SPECS, "TopK", [x, np.array([3])], constant=[1], **attributes).check()
    assert "data" in make_row(SPECS, "TopK", [x, np.array([3])], outputs=2).reason()
