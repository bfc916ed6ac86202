"""Operand views against numpy: what numpy says is a view must be one here, and show the same."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import sympy

from zenith.backends.cpu.operand import Operand, channels_last_order, dense_strides
from zenith.ir.dims import Dim, symbol

N, S, C = symbol("N"), symbol("S"), symbol("C")


def dense(*shape: Dim) -> Operand:
    return Operand(0, "int64", tuple(shape), dense_strides(shape))


def show(memory: np.ndarray, operand: Operand) -> np.ndarray:
    """The elements an operand with known sizes names in `memory`."""
    return np.lib.stride_tricks.as_strided(
        memory[operand.offset :],
        tuple(operand.shape),
        tuple(8 * s for s in operand.strides),
        writeable=False,
    )


def bound(operand: Operand, **sizes: int) -> Operand:
    """The operand with its symbols replaced."""
    table = {symbol(name): value for name, value in sizes.items()}

    def value(dim: Dim) -> int:
        return int(sympy.sympify(dim).xreplace(table))

    return Operand(
        operand.storage,
        operand.dtype,
        tuple(value(d) for d in operand.shape),
        tuple(value(d) for d in operand.strides),
        value(operand.offset),
    )


def numpy_view(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """array.reshape(shape) when numpy can do it without a copy."""
    view = array.view()
    try:
        view.shape = shape
    except AttributeError:
        return None
    return view


def factorizations(size: int, rank: int) -> list[tuple[int, ...]]:
    if rank == 0:
        return [()] if size == 1 else []
    divisors = [d for d in range(1, size + 1) if size % d == 0]
    return [(d, *rest) for d in divisors for rest in factorizations(size // d, rank - 1)]


def strided_views(rank: int, seed: int) -> list[Operand]:
    """Transposed, sliced, stepped and reversed views of small dense tensors."""
    rng = random.Random(seed)
    views = []
    for _ in range(60):
        operand = dense(*(rng.choice([1, 2, 3, 4]) for _ in range(rank)))
        operand = operand.transpose(rng.sample(range(rank), rank))
        for axis in range(rank):
            kind, n = rng.randrange(5), operand.shape[axis]
            if kind == 0 and n > 2:
                operand = operand.slice(axis, 1, n - 1)
            elif kind == 1 and n > 2:
                operand = operand.slice(axis, 0, (n + 1) // 2, 2)
            elif kind == 2:
                operand = operand.slice(axis, n - 1, n, -1)
        views.append(operand)
    return views


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_reshape_is_a_view_exactly_when_numpy_says_so(rank: int) -> None:
    memory = np.arange(4**4)
    views = 0
    for operand in strided_views(rank, seed=rank):
        array = show(memory, operand)
        for new_rank in range(5):
            for shape in factorizations(array.size, new_rank):
                expected, got = numpy_view(array, shape), operand.reshape(shape)
                assert (got is None) == (expected is None), (operand, shape)
                if got is not None and expected is not None:
                    views += 1
                    assert got.shape == shape
                    np.testing.assert_array_equal(show(memory, got), expected)
    assert views > 50


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_dense_reshape_is_always_a_view(rank: int) -> None:
    memory = np.arange(24)
    for shape, new in itertools.product(factorizations(24, rank), factorizations(24, 3)):
        got = dense(*shape).reshape(new)
        assert got is not None
        np.testing.assert_array_equal(show(memory, got), memory.reshape(new))


def test_empty_reshape_is_a_view() -> None:
    got = dense(2, 0, 3).transpose([2, 0, 1]).reshape([0, 7])
    assert got is not None and got.shape == (0, 7)


@pytest.mark.parametrize(
    ("operand", "shape", "is_view"),
    [
        (dense(N, S, 768), (N, S, 12, 64), True),
        (dense(N, S, 768), (N * S, 768), True),
        (dense(N * S, 768), (N, S, 768), True),
        (dense(N, S, 768).reshape((N, S, 12, 64)).transpose((0, 2, 1, 3)), (N, S, 768), False),
        (dense(N, 12, S, 64), (N * 12, S, 64), True),
        (dense(N, 12, S, 64).transpose((0, 2, 1, 3)), (N, S, 768), False),
        (dense(N, S, 12, 64).transpose((0, 2, 1, 3)), (N, 12, S, 64), True),
        (dense(N, S, 12, 64).transpose((0, 2, 1, 3)), (N * 12, S, 64), False),
        (dense(N, 14, 14, C).transpose((0, 3, 1, 2)), (N, C, 196), True),
        (dense(N, 14, 14, C).transpose((0, 3, 1, 2)), (N, C * 196), False),
        (dense(N, 14, 14, C).transpose((0, 3, 1, 2)), (N, C, 196, 1), True),
        (dense(N, S, S).transpose((0, 2, 1)), (N, S * S), False),
        (dense(N, S, 2304).slice(2, 768, 768), (N, S, 12, 64), True),
        (dense(N, S, 2304).slice(2, 768, 768), (N * S, 768), True),
        (dense(N, S, 2304).slice(2, 768, 768), (N, S * 768), False),
        (dense(N, 1, S).expand((N, 4, S)), (N, 4, S, 1), True),
        (dense(N, 1, S).expand((N, 4, S)), (4 * N, S), False),
        (dense(N, 2 * S + 2), (N, S + 1, 2), True),
    ],
)
def test_symbolic_reshape(operand: Operand, shape: tuple[Dim, ...], is_view: bool) -> None:
    got = operand.reshape(shape)
    assert (got is not None) == is_view
    if got is None:
        return
    sizes = {"N": 3, "S": 5, "C": 4}
    small = bound(operand, **sizes)
    memory = np.arange(3 * 14 * 14 * 2304)
    view = show(memory, bound(got, **sizes))
    np.testing.assert_array_equal(view, show(memory, small).reshape(view.shape))


@pytest.mark.parametrize("seed", range(20))
def test_chains_of_views_follow_numpy(seed: int) -> None:
    rng = random.Random(seed)
    memory = np.arange(2 * 3 * 4 * 5)
    operand, array = dense(2, 3, 4, 5), memory.reshape(2, 3, 4, 5)
    for _ in range(8):
        axis = rng.randrange(operand.rank)
        n = array.shape[axis]
        kind = rng.randrange(6)
        if kind == 0:
            perm = rng.sample(range(operand.rank), operand.rank)
            operand, array = operand.transpose(perm), array.transpose(perm)
        elif kind == 1 and n > 1:
            operand = operand.slice(axis, n - 1, n, -1)
            array = np.flip(array, axis)
        elif kind == 2 and n > 2:
            operand = operand.slice(axis, 1, (n - 1) // 2, 2)
            array = array[(slice(None),) * axis + (slice(1, 1 + 2 * ((n - 1) // 2), 2),)]
        elif kind == 3 and operand.rank < 6:
            operand, array = operand.unsqueeze(axis), np.expand_dims(array, axis)
        elif kind == 4 and n == 1 and operand.rank > 1:
            operand, array = operand.squeeze(axis), np.squeeze(array, axis)
        elif kind == 5 and operand.rank < 6:
            shape = (3, *(2 if k == 1 else k for k in array.shape))
            operand, array = operand.expand(shape), np.broadcast_to(array, shape)
        assert operand.shape == array.shape
        np.testing.assert_array_equal(show(memory, operand), array)


def test_order_and_density() -> None:
    assert dense(N, 3, 8, 8).order() == (0, 1, 2, 3)
    nhwc = dense(N, 8, 8, C).transpose((0, 3, 1, 2))
    assert nhwc.order() == channels_last_order(4) == (0, 2, 3, 1)
    assert nhwc.is_dense((0, 2, 3, 1)) and not nhwc.is_dense()
    assert nhwc.slice(1, 0, 4).order() is None
    assert dense(N, 1, 8, 8).order() == (0, 1, 2, 3)
    assert dense(N, 8).slice(0, 0, 1).is_dense()
    assert not dense(N, 8).slice(1, 7, 8, -1).is_dense()
    assert dense().order() == () and dense(5).order() == (0,)
    assert dense(4, 0, 3).transpose((2, 0, 1)).is_dense()
    assert dense(N, S).size == N * S and dense().size == 1


def test_a_size_that_may_be_one_has_a_stride_that_says_so() -> None:
    assert dense(S).expand((N, S)).strides == (0, 1)
    view = dense(S).expand((N, 4))
    assert view.guards == ((S, 4),)
    assert [view.strides[1].subs(S, n) for n in (1, 4)] == [0, 1]
    with pytest.raises(ValueError, match="3 does not broadcast to 4"):
        dense(3).expand((N, 4))


def test_dense_strides_in_any_order() -> None:
    for order in itertools.permutations(range(3)):
        sizes = (2, 3, 4)
        expected = np.empty([sizes[a] for a in order]).transpose(np.argsort(order))
        assert [8 * s for s in dense_strides(sizes, order)] == list(expected.strides)
