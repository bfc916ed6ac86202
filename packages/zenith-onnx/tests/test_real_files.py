"""What ONNX files of published packages do: small models of the same make, against ONNX Runtime."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_ir.passes.common import InlinePass

import zenith
from zenith.errors import UnsupportedOperationError, ValidationError
from zenith.ir import GraphIR
from zenith_onnx.adapter import import_model

Shape = list[int | str]
Arrays = Mapping[str, np.ndarray]


def model_of(
    nodes: list[onnx.NodeProto], inputs: dict[str, Shape], outputs: dict[str, Shape | None],
    weights: Arrays | None = None, *, opset: int = 17, ir: int = 8,
) -> onnx.ModelProto:  # fmt: skip
    """A float32 model."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
        [numpy_helper.from_array(w, n) for n, w in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir)


def runtime(model: onnx.ModelProto, feeds: Arrays) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    results: list[np.ndarray] = session.run(None, dict(feeds))
    return results


def agree(
    model: onnx.ModelProto, compiled: zenith.CompiledModel, feeds: Arrays, tolerance: float = 1e-5
) -> None:
    for result, wanted in zip(compiled.run(feeds).values(), runtime(model, feeds), strict=True):
        assert result.dtype == wanted.dtype
        assert result.shape == wanted.shape
        np.testing.assert_allclose(result, wanted, rtol=tolerance, atol=tolerance)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_a_long_name_of_a_size_is_read_at_once() -> None:
    # Exporters write formulas such as this one on their outputs.
    size = "floor(height/2 - 1/2)"
    for _ in range(5):
        size = f"(floor({size}/2) + 1)*(floor(width/2 - 1/2) + 1)"
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": ["n", 4]}, {"y": ["n", size]})
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = f"{size}!"
    started = time.process_time()
    compiled = zenith.compile(model)
    assert time.process_time() - started < 20  # it took longer than the age of the universe
    agree(model, compiled, {"x": noise(3, 4)})


@pytest.mark.parametrize("op", ["LSTM", "GRU"])
def test_states_of_computed_zeros_stay_native(op: str) -> None:
    # How torch.onnx writes an LSTM of two layers whose batch is free.
    hidden, gates = 5, {"LSTM": 4, "GRU": 3}[op]
    states = ["h"] * {"LSTM": 2, "GRU": 1}[op]
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["batch"]),
        helper.make_node("Unsqueeze", ["batch", "zero"], ["batch1"]),
        helper.make_node("Concat", ["four", "batch1", "five"], ["sizes"], axis=0),
        helper.make_node("ConstantOfShape", ["sizes"], ["all"]),
        helper.make_node("Slice", ["all", "two", "four", "zero"], ["h"]),
        helper.make_node(
            op, ["x", "w", "r", "b", "", *states], ["y"],
            hidden_size=hidden, direction="bidirectional",
        ),
    ]  # fmt: skip
    weights = {
        "w": noise(2, gates * hidden, 3, seed=1),
        "r": noise(2, gates * hidden, hidden, seed=2),
        "b": noise(2, 2 * gates * hidden, seed=3),
        "one": np.array(1),
        **{n: np.array([v]) for n, v in {"zero": 0, "two": 2, "four": 4, "five": hidden}.items()},
    }
    model = model_of(nodes, {"x": ["time", "n", 3]}, {"y": ["time", 2, "n", hidden]}, weights)
    compiled = zenith.compile(model, fallback="error")
    for steps, batch in ((4, 1), (7, 3), (1, 2)):
        agree(model, compiled, {"x": noise(steps, batch, 3)})


def test_a_state_of_batch_one_and_an_input_of_any_batch() -> None:
    weights = {"w": noise(1, 12, 3, seed=1), "r": noise(1, 12, 4, seed=2)}
    node = helper.make_node("GRU", ["x", "w", "r", "", "", "h"], ["y"], hidden_size=4)
    inputs: dict[str, Shape] = {"x": ["time", "n", 3], "h": [1, 1, 4]}
    model = model_of([node], inputs, {"y": ["time", 1, "n", 4]}, weights)
    compiled = zenith.compile(model, fallback="error")
    agree(model, compiled, {"x": noise(5, 1, 3), "h": noise(1, 1, 4)})
    with pytest.raises(ValidationError, match="neither 1 nor that"):
        compiled.run({"x": noise(5, 2, 3), "h": noise(1, 1, 4)})


def test_padding_up_to_a_multiple() -> None:
    """How tf2onnx writes a convolution with dilation: x - x / 6 * 6 is a remainder, of a size that
    was rounded up before. Its quotient once was taken for exact."""
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[n,1,h,w] x) => (float[a,b,c,d] y) {
      half = MaxPool<kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1>(x)
      even = MaxPool<kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1>(half)
      two = Constant<value = int64[1] {2}>() nine = Constant<value_ints = [99]>()
      four = Constant<value = int64[1] {4}>() six = Constant<value = int64[1] {6}>()
      none = Constant<value = int64[4] {0, 0, 0, 0}>() shape = Shape(even)
      sizes = Slice(shape, two, nine) more = Mul(sizes, four) all = Add(more, six)
      times = Div(all, six) whole = Mul(times, six) rest = Sub(all, whole)
      pads = Concat<axis = 0>(none, two, two, rest) y = Pad(even, pads) }"""
    model = onnx.parser.parse_model(text)
    compiled = zenith.compile(model, fallback="error")
    for h, w in ((32, 33), (5, 64), (127, 130), (1, 2)):
        agree(model, compiled, {"x": noise(2, 1, h, w)})


def test_a_table_of_what_to_pad() -> None:
    """Rows of (before, behind) made one vector: its content is known, and the Pad stays native."""
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[h,w] x) => (float[a,b] y) {
      zero = Constant<value = int64[1] {0}>() one = Constant<value = int64[1] {1}>()
      two = Constant<value = int64[1] {2}>() back = Constant<value = int64[1] {-1}>()
      h = Shape<start = 0, end = 1>(x) w = Shape<start = 1>(x)
      first = Concat<axis = 0>(one, h) second = Concat<axis = 0>(w, two)
      row = Unsqueeze(first, zero) other = Unsqueeze(second, zero)
      table = Concat<axis = 0>(row, other) flat = Reshape(table, back)
      a, b, c, d = Split<axis = 0>(flat) pads = Concat<axis = 0>(a, c, b, d) y = Pad(x, pads) }"""
    model = onnx.parser.parse_model(text)
    compiled = zenith.compile(model, fallback="error")
    assert all(node.backend == "cpu" for node in compiled.explain().nodes)
    for h, w in ((3, 4), (1, 7)):
        agree(model, compiled, {"x": noise(h, w)})


def test_squeeze_without_axes_takes_what_is_one_in_this_call() -> None:
    nodes = [
        helper.make_node("Squeeze", ["x"], ["s"]),
        helper.make_node("Sigmoid", ["s"], ["y"]),
    ]
    model = model_of(nodes, {"x": ["n", 1, "k"]}, {"y": None})
    compiled = zenith.compile(model, fallback="error")
    for n, k in ((2, 3), (1, 3), (2, 1), (1, 1)):
        agree(model, compiled, {"x": noise(n, 1, k)})


def quantized_lstm(direction: str, *, steps: int = 6) -> tuple[onnx.ModelProto, int]:
    """What onnxruntime.quantization makes of an LSTM."""
    count, size, hidden = (2 if direction == "bidirectional" else 1), 7, 9
    rng = np.random.default_rng(5)
    # Not more than 60: before VNNI, the runtime's sums of two products saturate at 16 bits.
    names = ["x", "w", "r", "b", "", "h", "c", "", "ws", "wz", "rs", "rz"]
    weights = {
        "w": rng.integers(-60, 61, (count, size, 4 * hidden)).astype(np.int8),
        "r": rng.integers(-60, 61, (count, hidden, 4 * hidden)).astype(np.int8),
        "b": rng.standard_normal((count, 8 * hidden)).astype(np.float32),
        "ws": np.full(count, 0.004, np.float32),
        "rs": np.full(count, 0.005, np.float32),
        "wz": np.zeros(count, np.int8),
        "rz": np.zeros(count, np.int8),
    }
    node = helper.make_node(
        "DynamicQuantizeLSTM", names, ["y", "yh", "yc"], domain="com.microsoft",
        hidden_size=hidden, direction=direction,
    )  # fmt: skip
    state: Shape = [count, "n", hidden]
    inputs: dict[str, Shape] = {"x": ["time", "n", size], "h": state, "c": state}
    outputs: dict[str, Shape | None] = {"y": ["time", count, "n", hidden], "yh": state, "yc": state}
    return model_of([node], inputs, outputs, weights), count


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_lstm_of_dynamic_quantization(direction: str) -> None:
    model, count = quantized_lstm(direction)
    compiled = zenith.compile(model, fallback="error")
    for steps, batch in ((6, 1), (1, 1), (9, 2)):
        feeds = {"x": noise(steps, batch, 7), "h": noise(count, batch, 9) / 4}
        feeds["c"] = noise(count, batch, 9, seed=1)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1  # with more, the scale of a state is that of some rows
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        for result, wanted in zip(
            compiled.run(feeds).values(), session.run(None, feeds), strict=True
        ):
            np.testing.assert_allclose(result, wanted, rtol=1e-5, atol=1e-5)
    assert compiled.verify(feeds["x"], feeds["h"], feeds["c"]).worst < 1e-3


def test_body_of_the_quantized_lstm_is_its_meaning() -> None:
    model, _ = quantized_lstm("bidirectional")
    compiled = zenith.compile(model)
    source = import_model(model).graph.model
    InlinePass()(source)
    inlined = zenith.compile(GraphIR(source))
    assert any(n.op == "ai.onnx:Scan" for n in inlined.explain().nodes)
    feeds = {"x": noise(6, 3, 7), "h": noise(2, 3, 9), "c": noise(2, 3, 9, seed=1)}
    for result, wanted in zip(
        inlined.run(feeds).values(), compiled.run(feeds).values(), strict=True
    ):
        np.testing.assert_allclose(result, wanted, rtol=1e-5, atol=1e-5)


def test_expand_of_minus_one_and_a_size() -> None:
    # x.expand(-1, n, -1): sizes that are -1 become 1 by Equal and Where.
    one = numpy_helper.from_array(np.ones(1, np.int64))
    nodes = [
        helper.make_node("Shape", ["z"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["n"]),
        helper.make_node("Concat", ["minus", "n", "minus"], ["sizes"], axis=0),
        helper.make_node("ConstantOfShape", ["three"], ["ones"], value=one),
        helper.make_node("Mul", ["ones", "minus"], ["minuses"]),
        helper.make_node("Equal", ["sizes", "minuses"], ["free"]),
        helper.make_node("Where", ["free", "ones", "sizes"], ["target"]),
        helper.make_node("Expand", ["x", "target"], ["wide"]),
        helper.make_node("Concat", ["wide", "z"], ["y"], axis=2),
    ]  # fmt: skip
    weights = {"first": np.array([1]), "minus": np.array([-1]), "three": np.array([3])}
    inputs: dict[str, Shape] = {"x": ["b", 1, 4], "z": ["b", "n", 2]}
    model = model_of(nodes, inputs, {"y": None}, weights)
    compiled = zenith.compile(model, fallback="error")
    for b, n in ((1, 3), (2, 5), (2, 1)):
        agree(model, compiled, {"x": noise(b, 1, 4), "z": noise(b, n, 2)})


def test_a_size_of_minus_one_that_is_a_number() -> None:
    # [b, 4, n] -> [n, b, 4] -> [n, 1, -1] with b = 1 gone: the last size is 4 * b whatever n is.
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[2, 0, 1]),
        helper.make_node("Shape", ["t"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["n"]),
        helper.make_node("Add", ["n", "one"], ["n1"]),
        helper.make_node("Concat", ["n1", "one", "minus"], ["sizes"], axis=0),
        helper.make_node("Pad", ["t", "pads"], ["p"]),
        helper.make_node("Reshape", ["p", "sizes"], ["r"]),
        helper.make_node("GRU", ["r", "w", "h"], ["y"], hidden_size=3),
    ]
    weights = {
        "zero": np.array([0]), "one": np.array([1]), "minus": np.array([-1]),
        "pads": np.array([0, 0, 0, 1, 0, 0]),
        "w": noise(1, 9, 4), "h": noise(1, 9, 3, seed=1),
    }  # fmt: skip
    model = model_of(nodes, {"x": [1, 4, "n"]}, {"y": None}, weights)
    compiled = zenith.compile(model, fallback="error")
    for n in (1, 5):
        agree(model, compiled, {"x": noise(1, 4, n)})


def test_an_input_with_a_value_of_its_own() -> None:
    model = model_of(
        [helper.make_node("Mul", ["x", "w"], ["y"])],
        {"x": ["n", 3], "w": [3]},
        {"y": ["n", 3]},
        {"w": np.array([1, 2, 3], np.float32)},
    )
    feeds = {"x": noise(2, 3)}
    compiled = zenith.compile(model)
    agree(model, compiled, feeds)
    for call in (compiled.run, lambda given: compiled(**given)):
        with pytest.raises(ValidationError, match=r'dynamic=\{"w": \{\}\}'):
            call({**feeds, "w": noise(3)})
    compiled = zenith.compile(model, dynamic={"w": {}})
    agree(model, compiled, {**feeds, "w": noise(3, seed=1)})
    with pytest.raises(ValidationError, match="the model takes x, w"):
        compiled.run(feeds)


def test_maps_are_refused_by_name() -> None:
    nodes = [
        helper.make_node("ZipMap", ["x"], ["z"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])
    ]
    model = model_of(nodes, {"x": ["n", 2]}, {"z": None})
    kind = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(1, []))
    info = helper.make_value_info("z", helper.make_sequence_type_proto(kind))
    model.graph.output[0].CopyFrom(info)
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    with pytest.raises(UnsupportedOperationError, match="zipmap=False"):
        zenith.compile(model)


def test_a_long_filter_of_one_channel() -> None:
    # Resampling as TensorFlow writes it. The depthwise kernel works on channels side by side.
    weights = {"w": noise(1, 1, 1, 256, seed=1)}
    node = helper.make_node("Conv", ["x", "w"], ["y"], strides=[1, 2])
    model = model_of([node], {"x": ["n", 1, 1, "t"]}, {"y": None}, weights)
    compiled = zenith.compile(model, fallback="error")
    assert "depthwise" not in compiled.explain().nodes[0].kernel
    for n, t in ((1, 900), (2, 256)):
        agree(model, compiled, {"x": noise(n, 1, 1, t)}, 1e-4)


def test_quantized_lstm_goes_back_to_a_file() -> None:
    model, _ = quantized_lstm("bidirectional")
    compiled = zenith.compile(model)
    written = compiled.graph.to_onnx(inline=True, opset=21)
    feeds = {"x": noise(4, 2, 7), "h": noise(2, 2, 9), "c": noise(2, 2, 9, seed=1)}
    for result, wanted in zip(compiled.run(feeds).values(), runtime(written, feeds), strict=True):
        np.testing.assert_allclose(result, wanted, rtol=1e-5, atol=1e-5)


def test_the_last_n_of_n_rows() -> None:
    # T5 takes the last rows of its position bias, as many as the sequence has: all of them.
    nodes = [
        helper.make_node("Shape", ["x"], ["n"], start=1, end=2),
        helper.make_node("Neg", ["n"], ["start"]),
        helper.make_node("MatMul", ["x", "t"], ["all"]),
        helper.make_node("Slice", ["all", "start", "end", "axis"], ["last"]),
        helper.make_node("Add", ["last", "all"], ["sum"]),
        helper.make_node("Softmax", ["sum"], ["y"]),
    ]
    weights = {"end": np.array([2**63 - 1]), "axis": np.array([1])}
    inputs: dict[str, Shape] = {"x": ["b", "n", 4], "t": ["b", 4, "n"]}
    model = model_of(nodes, inputs, {"y": None}, weights)
    compiled = zenith.compile(model, fallback="error")
    assert str(compiled.graph.outputs[0].shape) == "[b,n,n]"
    for b, n in ((1, 3), (2, 5)):
        agree(model, compiled, {"x": noise(b, n, 4), "t": noise(b, 4, n, seed=1)})
