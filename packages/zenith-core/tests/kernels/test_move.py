"""Copy, pad, trilu, eye, range and dims against numpy, and the rows made of them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from zenith import _native
from zenith.backends.cpu.kernels import generate, move, views

ISAS = _native.complete_isas()
ITEMS = ["uint8", "float16", "float32", "int64"]
SPECS = [*views.SPECS, *move.SPECS, *generate.SPECS]
Array = np.ndarray[Any, Any]


def numbers(shape: tuple[int, ...], dtype: str = "float32") -> Array:
    """Distinct values wherever the dtype has enough of them."""
    count = int(np.prod(shape))
    return (np.arange(count) % 2039 + 1).astype(dtype).reshape(shape)


def copied(isa: str, source: Array, target: Array, threads: int = 2) -> None:
    """copy writes the source and nothing beside it."""
    _native.call(isa, "copy", [source], [target], {}, threads=threads)
    np.testing.assert_array_equal(target, source)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ITEMS)
def test_copy_transposes_of_every_remainder(isa: str, dtype: str) -> None:
    for rows, columns in itertools.product([1, 2, 3, 4, 5, 7, 8, 9, 16, 19, 33], repeat=2):
        x = numbers((rows, columns), dtype)
        copied(isa, x.T, np.zeros((columns, rows), dtype))
        # A strided target keeps what lies between its elements.
        memory = np.full((columns, rows + 3), 77, dtype)
        copied(isa, x.T, memory[:, 1:-2])
        assert (memory[:, [0, -2, -1]] == 77).all()


def random_view(rng: random.Random, shape: tuple[int, ...], dtype: str) -> tuple[Array, Array]:
    """Memory full of 99 and a view of it: permuted axes, gaps, reversed axes."""
    perm = rng.sample(range(len(shape)), len(shape))
    gaps = [rng.choice([1, 1, 1, 2, 3]) for _ in perm]
    store = np.full([shape[p] * g for p, g in zip(perm, gaps)], 99, dtype)
    inner = store[tuple(slice(None, None, g) for g in gaps)]
    flips = tuple(slice(None, None, rng.choice([1, 1, -1])) for _ in perm)
    return store, inner[flips].transpose(np.argsort(perm))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ITEMS)
def test_copy_of_random_views(isa: str, dtype: str) -> None:
    rng = random.Random(5)
    for _ in range(150):
        shape = tuple(rng.choice([1, 2, 3, 5, 8, 9]) for _ in range(rng.randint(1, 5)))
        _, source = random_view(rng, shape, dtype)
        source[...] = numbers(shape, dtype)
        if rng.random() < 0.4:
            cut = tuple(slice(0, rng.choice([1, None, None])) for _ in shape)
            source = np.broadcast_to(source[cut], shape)
        store, target = random_view(rng, shape, dtype)
        copied(isa, source, target, threads=rng.choice([1, 2]))
        target[...] = 99
        assert (store == 99).all()  # nothing beside the target was written


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [1, 2])
def test_copy_of_big_layout_changes(isa: str, threads: int) -> None:
    x = numbers((2, 3, 57, 131))
    copied(isa, x.transpose(0, 2, 3, 1), np.empty((2, 57, 131, 3), np.float32), threads)
    copied(isa, x, np.empty((2, 57, 131, 3), np.float32).transpose(0, 3, 1, 2), threads)
    x = numbers((2, 65, 12, 64))
    copied(isa, x.transpose(0, 2, 1, 3), np.empty((2, 12, 65, 64), np.float32), threads)
    copied(isa, x.transpose(0, 2, 3, 1), np.empty((2, 12, 64, 65), np.float32), threads)
    x = numbers((3, 300, 257))
    copied(isa, x.transpose(0, 2, 1), np.empty((3, 257, 300), np.float32), threads)
    copied(isa, x, np.empty((3, 300, 257), np.float32), threads)
    copied(isa, np.broadcast_to(x[:, :1], x.shape), np.empty(x.shape, np.float32), threads)
    copied(isa, np.broadcast_to(x[:, :, :1], x.shape), np.empty(x.shape, np.float32), threads)
    copied(isa, np.broadcast_to(np.float32(3), x.shape), np.empty(x.shape, np.float32), threads)


@pytest.mark.parametrize("isa", ISAS)
def test_copy_of_nothing_and_of_scalars(isa: str) -> None:
    copied(isa, np.zeros((0, 4), np.float32), np.zeros((0, 4), np.float32))
    copied(isa, np.zeros((3, 0), np.float32).T, np.zeros((0, 3), np.float32))
    copied(isa, np.array(3.5, np.float32), np.zeros((), np.float32))
    copied(isa, numbers((1, 1, 1)), np.zeros((1, 1, 1), np.float32))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ITEMS)
@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
def test_pad(isa: str, dtype: str, mode: str) -> None:
    rng = random.Random(3)
    for _ in range(40):
        rank = rng.randint(1, 4)
        x = numbers(tuple(rng.choice([1, 2, 3, 7]) for _ in range(rank)), dtype)
        x = x.transpose(rng.sample(range(rank), rank))
        pads = [(rng.randint(0, 9), rng.randint(0, 9)) for _ in range(rank)]
        kwargs: dict[str, Any] = {"constant_values": 5} if mode == "constant" else {}
        expected = np.pad(x, pads, mode=mode, **kwargs)  # type: ignore[call-overload]
        out = np.empty(expected.shape[::-1], dtype).T
        params = {"begin": [b for b, _ in pads], "mode": move.PAD_MODES[mode]}
        _native.call(isa, "pad", [x, np.array(5, dtype)], [out], params)
        np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("isa", ISAS)
def test_pad_without_a_value_fills_zero_and_negative_pads_crop(isa: str) -> None:
    x = numbers((5, 6))
    out = np.full((5, 3), 9, np.float32)
    _native.call(isa, "pad", [x, None], [out], {"begin": [-2, -4], "mode": 0})
    np.testing.assert_array_equal(out, np.pad(x[2:, 4:], ((0, 2), (0, 1))))
    out = np.full((2, 3), 9, np.float32)
    _native.call(isa, "pad", [x, None], [out], {"begin": [-9, 4], "mode": 0})
    assert (out == 0).all()
    with pytest.raises(RuntimeError, match="empty axis"):
        _native.call(isa, "pad", [x[:, :0], None], [out], {"begin": [0, 1], "mode": 1})


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ITEMS)
def test_trilu_and_eye(isa: str, dtype: str) -> None:
    for shape in [(4, 4), (3, 7), (7, 3), (2, 3, 5, 6), (0, 3), (3, 0)]:
        x = numbers(shape, dtype)
        for k in [-9, -2, -1, 0, 1, 3, 9, 2**62, -(2**62)]:
            clamped = max(min(k, 99), -99)
            for upper in (0, 1):
                out = np.full(shape, 9, dtype)
                _native.call(isa, "trilu", [x], [out], {"k": k, "upper": upper})
                expected = np.triu(x, clamped) if upper else np.tril(x, clamped)
                np.testing.assert_array_equal(out, expected)
            if len(shape) == 2:
                out = np.full(shape, 9, dtype)
                _native.call(isa, "eye", [np.array(1, dtype)], [out], {"k": k})
                np.testing.assert_array_equal(out, np.eye(*shape, k=clamped, dtype=dtype))


@pytest.mark.parametrize("isa", ISAS)
def test_range_and_dims(isa: str) -> None:
    for dtype, start, delta in [
        ("int64", 5, -3),
        ("int32", -7, 2),
        ("float32", 0.25, 0.1),
        ("float64", 1.0, -0.3),
    ]:
        out = np.empty(1001, dtype)
        given = [np.array(start, dtype), np.array(delta, dtype)]
        _native.call(isa, "range", given, [out], {})
        wide = "int64" if out.dtype.kind == "i" else "float64"
        exact = given[0].astype(wide) + np.arange(1001, dtype=wide) * given[1].astype(wide)
        np.testing.assert_allclose(out, exact.astype(dtype), rtol=2e-7 if wide != "int64" else 0)
    memory = np.zeros(6, np.int32)
    _native.call(isa, "dims", [], [memory[::2]], {"values": [3, -1, 8]})
    assert memory.tolist() == [3, 0, -1, 0, 8, 0]
    scalar = np.zeros((), np.int64)
    _native.call(isa, "dims", [], [scalar], {"values": [2**40]})
    assert scalar == 2**40


# Rows.

Maker = Callable[..., Any]
I64 = np.int64
NHWC = [0, 3, 1, 2]  # of a channels-last input seen as NCHW


def ints(*values: int) -> Array:
    return np.array(values, I64)


@pytest.mark.parametrize("dtype", [*ITEMS, "bool", "float64"])
def test_view_rows_run_no_step_of_their_own(make_row: Maker, dtype: str) -> None:
    x = numbers((2, 3, 4, 5), dtype)
    for op, extra, attributes in [
        ("Reshape", [ints(6, -1)], {}),
        ("Reshape", [ints(0, 12, 5)], {}),
        ("Flatten", [], {"axis": 2}),
        ("Transpose", [], {"perm": [0, 2, 1, 3]}),
        ("Transpose", [], {}),
        ("Unsqueeze", [ints(0, -1, 3)], {}),
        ("Expand", [ints(7, 2, 3, 4, 5)], {}),
        ("Slice", [ints(1, 0), ints(99, -1), ints(1, -1)], {}),
        ("Slice", [ints(-1, 3), ints(-99, 0), ints(2, 3), ints(-1, -2)], {}),
    ]:
        kernels = make_row(
            SPECS, op, [x, *extra], constant=range(1, 1 + len(extra)), **attributes
        ).check()
        assert kernels == ["copy"]  # into the caller's memory


def test_squeeze_and_split_rows(make_row: Maker) -> None:
    x = numbers((1, 6, 1, 5))
    make_row(SPECS, "Squeeze", [x]).check()
    make_row(SPECS, "Squeeze", [x, ints(-2)], constant=[1]).check()
    make_row(SPECS, "Split", [x, ints(1, 3, 2)], constant=[1], axis=1, outputs=3).check()
    make_row(SPECS, "Split", [x], axis=3, num_outputs=2, outputs=2).check()


@pytest.mark.parametrize(
    ("starts", "ends", "steps"),
    [(0, 99, 1), (-3, 2**63 - 1, 1), (-99, 3, 1), (5, 2, 1), (-1, -(2**63), -1), (6, 1, -2),
     (99, -99, -3), (1, -1, 2), (7, 99, 1)],
)  # fmt: skip
def test_slice_rows_clamp(make_row: Maker, starts: int, ends: int, steps: int) -> None:
    extra = [ints(starts), ints(ends), ints(1), ints(steps)]
    make_row(SPECS, "Slice", [numbers((2, 7)), *extra], constant=[1, 2, 3, 4]).check()


def test_slice_rows_with_a_dynamic_axis(make_row: Maker) -> None:
    x = numbers((2, 7))

    def row(starts: int, ends: int, steps: int = 1) -> Any:
        extra = [ints(starts), ints(ends), ints(1), ints(steps)]
        return make_row(SPECS, "Slice", [x, *extra], constant=[1, 2, 3, 4], dynamic={0: ("N", "S")})

    for starts, ends, steps in [(0, -1, 1), (1, 2**63 - 1, 1), (2, -2, 2)]:
        row(starts, ends, steps).check()
    last = 2**63 - 1
    row(last, -last - 1, -1).check()
    row(0, 5).check()  # ends where the axis ends


def test_reshape_row_copies_only_what_is_no_view(make_row: Maker) -> None:
    x = numbers((2, 4, 5, 3))

    def kernels(shape: Array, perm: list[int]) -> list[str]:
        row = make_row(SPECS, "Reshape", [x, shape], constant=[1], permuted={0: perm})
        plan: list[str] = row.check()
        return plan

    # The one copy is into the caller's memory, be it of a view or of what is none.
    assert kernels(ints(2, 4, 15), NHWC) == ["copy"]
    assert kernels(ints(2, 20, 3), [0, 2, 1, 3]) == ["copy"]
    assert kernels(ints(-1), [3, 2, 1, 0]) == ["copy"]


@pytest.mark.parametrize("dtype", [*ITEMS, "bool"])
@pytest.mark.parametrize("permuted", [None, NHWC])
def test_concat_and_tile_rows(make_row: Maker, dtype: str, permuted: list[int] | None) -> None:
    parts = [numbers((2, n, 3, 5), dtype) for n in (1, 4, 0, 3)]
    given = {i: permuted for i in range(4)} if permuted else None
    make_row(SPECS, "Concat", parts, axis=1, permuted=given).check()
    make_row(SPECS, "Concat", [parts[1], parts[1]], axis=-1, permuted=given).check()
    first = {0: permuted} if permuted else None
    for repeats in [(1, 1, 1, 1), (2, 3, 1, 2), (1, 0, 2, 1)]:
        make_row(SPECS, "Tile", [parts[1], ints(*repeats)], constant=[1], permuted=first).check()
    make_row(SPECS, "Tile", [parts[0], ints(1, 5, 1, 2)], constant=[1], permuted=first).check()


@pytest.mark.parametrize("permuted", [None, {0: NHWC}])
def test_pad_rows(make_row: Maker, permuted: Any) -> None:
    x = numbers((2, 3, 4, 5))
    pads = ints(0, 0, 1, 2, 0, 0, 3, 1)
    for mode in ("constant", "reflect", "edge", "wrap"):
        make_row(SPECS, "Pad", [x, pads], constant=[1], mode=mode, permuted=permuted).check()
    value = np.array(2.5, np.float32)
    make_row(SPECS, "Pad", [x, pads, value], constant=[1, 2], permuted=permuted).check()
    extra = [ints(1, 2), None, ints(-1)]
    make_row(SPECS, "Pad", [x, *extra], constant=[1, 3], permuted=permuted).check()
    dynamic = {0: ("N", 3, "H", "W")}
    make_row(SPECS, "Pad", [x, pads], constant=[1], dynamic=dynamic).check()
    assert "data" in make_row(SPECS, "Pad", [x, pads]).reason()


@pytest.mark.parametrize("permuted", [None, {0: NHWC}])
def test_depth_and_space_rows(make_row: Maker, permuted: Any) -> None:
    x = numbers((2, 12, 4, 6))
    for mode in ("DCR", "CRD"):
        make_row(SPECS, "DepthToSpace", [x], blocksize=2, mode=mode, permuted=permuted).check()
    make_row(SPECS, "SpaceToDepth", [x], blocksize=2, permuted=permuted).check()
    dynamic = {0: ("N", 12, "H", "W")}
    make_row(SPECS, "DepthToSpace", [x], blocksize=2, dynamic=dynamic).check()


def test_trilu_rows(make_row: Maker) -> None:
    x = numbers((2, 4, 5))
    make_row(SPECS, "Trilu", [x], upper=0, permuted={0: [0, 2, 1]}).check()
    make_row(SPECS, "Trilu", [x, np.array(1, I64)], constant=[1]).check()


def test_generating_rows(make_row: Maker) -> None:
    x = numbers((2, 3, 4))
    dynamic = {0: ("N", 3, "S")}
    make_row(SPECS, "Shape", [x], dynamic=dynamic).check()
    make_row(SPECS, "Shape", [x], dynamic=dynamic, start=-2, end=-1).check()
    make_row(SPECS, "Size", [x], dynamic=dynamic).check()
    make_row(SPECS, "ConstantOfShape", [ints(2, 3)], constant=[0]).check()
    scalars = [np.array(v, I64) for v in (2, 20, 3)]
    make_row(SPECS, "Range", scalars, constant=[0, 1, 2]).check()
    make_row(SPECS, "EyeLike", [x[0]], k=1, dtype=7).check()
    assert "data" in make_row(SPECS, "Range", scalars).reason()
    assert "data" in make_row(SPECS, "ConstantOfShape", [ints(2, 3)]).reason()
