"""TensorFlow operations against TensorFlow; and the page that lists them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tf_operations import OPERATIONS, Case
from tf_oracle import assert_same

import zenith
from zenith_tf.coverage import coverage, markdown
from zenith_tf.handlers import GAPS, REPLACED

PAGE = Path(__file__).parents[3] / "docs/TENSORFLOW.md"


@pytest.mark.parametrize("case", OPERATIONS, ids=[case[0] for case in OPERATIONS])
def test_operation(case: Case) -> None:
    _, function, inputs = case
    traced = tf.function(function, autograph=False)
    compiled = zenith.compile(traced, sample_input=inputs, fallback="allow")
    assert_same(traced(*inputs), compiled(*inputs), close=2e-5)


def test_a_switch_of_many_ways() -> None:
    """An index that no branch has means the last; branches read what lies around them."""
    weight = tf.Variable([1.0, -2.0, 3.0])

    def inner(i: Any, x: Any) -> Any:
        return tf.switch_case(i, [lambda: x * weight, lambda: tf.nn.relu(x)])

    def step(i: Any, x: Any) -> Any:
        return i + 1, tf.switch_case(i, [lambda: x * 2, lambda: x - 1, lambda: x * x])

    @tf.function(autograph=False)
    def function(i: Any, x: Any) -> Any:
        ways = [lambda: x * 2, lambda: inner(i, x), lambda: x - 1, lambda: inner(i - 3, x)]
        last = tf.while_loop(lambda n, _: n < 4, step, [0, x])[1]
        return tf.switch_case(i, ways), tf.switch_case(i, [lambda: x + weight]), last

    x = np.array([1.0, -2.0, 0.5], np.float32)
    compiled = zenith.compile(function, sample_input=(np.int32(0), x), fallback="error")
    for i in (0, 1, 2, 3, 4, 9, -1):
        assert_same(function(np.int32(i), x), compiled(np.int32(i), x), close=1e-6)


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == markdown(), "run: python -m zenith_tf.coverage > docs/TENSORFLOW.md"


def test_own_handlers_are_needed_and_not_registered() -> None:
    from tf2onnx import constants, handler

    known = handler.tf_op.create_mapping(18, None)
    assert not set(GAPS) & set(known), "tf2onnx has learned these"
    assert set(REPLACED) <= set(known)
    assert set(coverage()) >= {*GAPS, *REPLACED}
    standard = handler.tf_op.get_opsets()[constants.ONNX_DOMAIN]
    assert not any(name in rules for rules in standard for name in GAPS)
