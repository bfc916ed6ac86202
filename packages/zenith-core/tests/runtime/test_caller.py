"""Calls from tensors to tensors: what is read in place, and that a call's sizes are its own."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

import zenith
from zenith.errors import ValidationError


def test_sizes_change_between_calls(mlp: Any, array: Any) -> None:
    compiled = zenith.compile(mlp())
    inputs = [array(*shape) for shape in ((2, 5, 24), (1, 5, 24), (2, 5, 24), (3, 5, 24))]
    results = [compiled(x) for x in inputs]
    for x, y in zip(inputs, results, strict=True):
        assert y.shape[:2] == x.shape[:2]
        np.testing.assert_array_equal(y, compiled.run({compiled.input_names[0]: x}).popitem()[1])
    assert "plans bound to sizes: 3" in str(compiled.explain())


def test_every_call_has_results_of_its_own(mlp: Any, array: Any) -> None:
    compiled = zenith.compile(mlp())
    x = array(1, 5, 24)
    first, second = compiled(x), compiled(x)
    assert not np.shares_memory(first, second) and not np.shares_memory(first, x)
    np.testing.assert_array_equal(first, second)


def test_a_type_of_the_other_byte_order_is_another_type(mlp: Any, array: Any) -> None:
    compiled = zenith.compile(mlp())
    x = array(1, 5, 24)
    compiled(x)
    with pytest.raises(ValidationError, match=">f4"):
        compiled(x.astype(">f4"))
    with pytest.raises(ValidationError, match="float64"):
        compiled(x.astype(np.float64))
    with pytest.raises(ValidationError, match="shape"):
        compiled(x[0])


def test_threads_with_sizes_of_their_own(mlp: Any, array: Any) -> None:
    compiled = zenith.compile(mlp(), threads=1)
    inputs = [array(n, 5, 24) for n in (1, 2, 3, 4)]
    wanted = [compiled(x) for x in inputs]
    wrong: list[int] = []

    def calls(index: int) -> None:
        for _ in range(200):
            if not np.array_equal(compiled(inputs[index]), wanted[index]):
                wrong.append(index)

    threads = [threading.Thread(target=calls, args=(i,)) for i in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
