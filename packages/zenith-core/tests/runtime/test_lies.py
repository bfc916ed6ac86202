"""A graph from outside may say wrong things about its values: kernels never see them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import zenith
from zenith.errors import ValidationError

POOL = "y = MaxPool<kernel_shape = [3, 3], pads = [2, 2, 2, 2]>(x) z = Relu(y)"


@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (1, 3, 90, 90), (9,)])
def test_sizes_of_results_are_not_believed(
    shape: tuple[int, ...], graph_of: Any, array: Any
) -> None:
    graph = graph_of("(float[1,3,8,8] x) => (z)", POOL)
    for node in graph.nodes:
        node.outputs[0].shape = ir.Shape(shape)
    x = array(1, 3, 8, 8)
    padded = np.pad(x, ((0, 0), (0, 0), (2, 2), (2, 2)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    want = np.maximum(windows.max((-2, -1)), 0)
    np.testing.assert_array_equal(zenith.compile(graph, fallback="error")(x), want)


def test_types_of_results_are_not_believed(graph_of: Any, array: Any) -> None:
    graph = graph_of("(float[n] x) => (z)", "y = Abs(x) z = Relu(y)")
    for node in graph.nodes:
        node.outputs[0].type = ir.TensorType(ir.DataType.INT8)
    x = array(5)
    np.testing.assert_array_equal(zenith.compile(graph)(x), np.abs(x))


def test_weights_are_what_their_data_is(graph_of: Any, array: Any) -> None:
    graph = graph_of(
        "(float[2,3] x) => (y)", "y = Add(x, w)", {"w": np.arange(3, dtype=np.float32)}
    )
    graph.initializers["w"].type = ir.TensorType(ir.DataType.DOUBLE)
    graph.initializers["w"].shape = ir.Shape((300,))
    x = array(2, 3)
    np.testing.assert_array_equal(zenith.compile(graph)(x), x + np.arange(3, dtype=np.float32))


def test_inputs_of_types_that_do_not_go_together(graph_of: Any) -> None:
    signature = "(int8[3,4,5] a, float[3,2,5] b, int64[3] i) => (y)"
    graph = graph_of(signature, "y = TensorScatter(a, b, i)", infer=False)
    with pytest.raises(ValidationError, match=r"tensor\(int8\) and tensor\(float\)"):
        zenith.compile(graph)
    graph = graph_of("(int64[3] x) => (y)", "y = Sigmoid(x)", infer=False)
    with pytest.raises(ValidationError, match="which it does not take"):
        zenith.compile(graph)
