"""TensorFlow operations against TensorFlow; and the page that lists them."""

from __future__ import annotations

from pathlib import Path

import pytest
import tensorflow as tf
from tf_operations import OPERATIONS, Case
from tf_oracle import assert_same

import zenith
from zenith_tf.coverage import coverage, markdown
from zenith_tf.handlers import GAPS, HANDLERS, REPLACED

PAGE = Path(__file__).parents[3] / "docs/TENSORFLOW.md"


@pytest.mark.parametrize("case", OPERATIONS, ids=[case[0] for case in OPERATIONS])
def test_operation(case: Case) -> None:
    _, function, inputs = case
    traced = tf.function(function, autograph=False)
    compiled = zenith.compile(traced, sample_input=inputs, fallback="allow")
    assert_same(traced(*inputs), compiled(*inputs), close=2e-5)


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == markdown(), "run: python -m zenith_tf.coverage > docs/TENSORFLOW.md"


def test_own_handlers_are_needed_and_not_registered() -> None:
    from tf2onnx import constants, handler

    known = handler.tf_op.create_mapping(18, None)
    assert not set(GAPS) & set(known), "tf2onnx has learned these"
    assert set(REPLACED) <= set(known)
    assert set(coverage()) >= set(HANDLERS)
    standard = handler.tf_op.get_opsets()[constants.ONNX_DOMAIN]
    assert not any(name in rules for rules in standard for name in GAPS)
