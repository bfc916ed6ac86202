"""Hostile models: files, structure, versions, attributes, functions and inner graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
from hostile_kit import CASES, Source, broken, case, model_of, node, small, weight
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

# --- files that are no models ------------------------------------------------------------------


@case("ok")
def the_valid_model() -> Source:
    return small()


@case("ValidationError", "empty")
def empty_bytes() -> Source:
    return b""


@case("ValidationError", "no ONNX model")
def text() -> Source:
    return b"hello, I am a text file\n" * 10


@case("ValidationError")
def truncated() -> Source:
    data = small().SerializeToString()
    return data[: len(data) // 2]


@case("ValidationError", "no graph")
def only_a_header() -> Source:
    return ModelProto(ir_version=8, opset_import=small().opset_import).SerializeToString()


@case("ValidationError", "no ONNX model")
def list_longer_than_the_file() -> Source:
    ints = AttributeProto(name="axes", type=AttributeProto.INTS, ints=[7])
    data = ints.SerializeToString().replace(b"\x42\x01\x07", b"\x42\xff\xff\xff\xff\x03\x07")
    inside = small()
    inside.graph.node[0].doc_string = "X" * len(data)
    return inside.SerializeToString().replace(b"X" * len(data), data)[:-40]


@case("ValidationError", "no ONNX model")
def deep_protobuf() -> Source:
    graph = GraphProto()
    inner = graph
    for _ in range(300):
        attribute = inner.node.add(op_type="If").attribute.add(name="then_branch")
        attribute.type = AttributeProto.GRAPH
        inner = attribute.g
    model = small()
    model.graph.CopyFrom(graph)
    return model.SerializeToString()


# --- structure ---------------------------------------------------------------------------------


@broken("no outputs")
def no_outputs(model: ModelProto) -> None:
    del model.graph.output[:]


@broken("never computed")
def output_of_nobody(model: ModelProto) -> None:
    model.graph.output[0].name = "nobody"


@broken("no type")
def untyped_input(model: ModelProto) -> None:
    model.graph.input[0].ClearField("type")


@broken("element type number 0")
def input_without_element_type(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.ClearField("elem_type")


@broken("element type number 999")
def input_of_unknown_type(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = 999


@broken("'x' is a map")
def input_of_maps(model: ModelProto) -> None:
    of_maps = model.graph.input[0].type.sequence_type.elem_type.map_type
    of_maps.key_type = TensorProto.INT64
    of_maps.value_type.tensor_type.elem_type = TensorProto.FLOAT


@broken("size -2 at axis 1")
def negative_input_size(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = -2


@broken("64 bits")
def input_beyond_64_bits(model: ModelProto) -> None:
    for dim in model.graph.input[0].type.tensor_type.shape.dim:
        dim.dim_value = 1 << 40


@broken("no input, initializer or result")
def lost_initializer(model: ModelProto) -> None:
    del model.graph.initializer[0]


@broken("no input, initializer or result")
def input_of_nobody(model: ModelProto) -> None:
    model.graph.node[1].input[1] = "nobody"


@broken("cycle")
def cycle(model: ModelProto) -> None:
    model.graph.node[0].input[0] = "a"


@broken("cycle")
def node_of_itself(model: ModelProto) -> None:
    model.graph.node[1].input[1] = "a"


@broken("not in order")
def out_of_order(model: ModelProto) -> None:
    first = NodeProto()
    first.CopyFrom(model.graph.node[0])
    del model.graph.node[0]
    model.graph.node.append(first)


@broken("second time")
def two_results_of_one_name(model: ModelProto) -> None:
    model.graph.node[1].output[0] = "m"


@broken("second time")
def result_named_as_an_input(model: ModelProto) -> None:
    model.graph.node[0].output[0] = "x"


@broken("second time")
def two_inputs_of_one_name(model: ModelProto) -> None:
    model.graph.input.append(model.graph.input[0])


@broken("second time")
def two_initializers_of_one_name(model: ModelProto) -> None:
    model.graph.initializer.append(model.graph.initializer[0])


@broken("does not name an operator")
def no_operator(model: ModelProto) -> None:
    model.graph.node[0].ClearField("op_type")


@broken("2 inputs, not 3")
def too_many_inputs(model: ModelProto) -> None:
    model.graph.node[0].input.append("x")


@broken("must not be left out")
def input_left_out(model: ModelProto) -> None:
    model.graph.node[0].input[0] = ""


@broken("outputs, not 0")
def no_result(model: ModelProto) -> None:
    del model.graph.node[2].output[:]


@broken("10001 inputs")
def ten_thousand_inputs(model: ModelProto) -> None:
    model.graph.node[1].op_type = "Sum"
    model.graph.node[1].input.extend(["b"] * 9999)


@broken("control character")
def name_with_nul(model: ModelProto) -> None:
    model.graph.node[0].name = "a\0b"


@broken("control character")
def name_with_newline(model: ModelProto) -> None:
    model.graph.node[2].output[0] = model.graph.output[0].name = "y\n[Z000] all is well"


@broken("characters")
def name_of_a_megabyte(model: ModelProto) -> None:
    model.graph.node[0].name = "n" * (1 << 20)


@case("ValidationError", "UTF-8")
def name_not_utf8() -> Source:
    model = small()
    model.graph.node[0].name = "QQQQ"
    return model.SerializeToString().replace(b"QQQQ", b"\xff\xfe\xfd\xfc")


@case("UnsupportedOperationError", "com.example.Magic")
def unknown_operators() -> Source:
    model = small()
    model.graph.node[0].op_type, model.graph.node[0].domain = "Magic", "com.example"
    model.graph.node[2].op_type = "Rulu"
    return model


@case("UnsupportedOperationError ValidationError", "Linear")
def our_operator_without_a_body() -> Source:
    model = small()
    model.graph.node[0].op_type, model.graph.node[0].domain = "Linear", "zenith"
    return model


# --- versions ----------------------------------------------------------------------------------


def _opset(version: int) -> Callable[[ModelProto], None]:
    def spoil(model: ModelProto) -> None:
        model.opset_import[0].version = version

    return spoil


for _version in (0, -3, 1_000_000_000):
    CASES[f"opset_{_version}"] = (
        lambda v=_version: (m := small(), _opset(v)(m))[0],
        "ValidationError",
        f"version {_version}",
    )


@broken("operator set")
def no_opset(model: ModelProto) -> None:
    del model.opset_import[:]


@broken("IR version 99")
def ir_version_of_the_future(model: ModelProto) -> None:
    model.ir_version = 99


@broken("IR version -1")
def negative_ir_version(model: ModelProto) -> None:
    model.ir_version = -1


# --- attributes --------------------------------------------------------------------------------


def _soft(**attributes: Any) -> ModelProto:
    return model_of([node("Softmax", "x", "y", **attributes)])


@case("ValidationError", "no attribute 'axes'")
def unknown_attribute() -> Source:
    return _soft(axes=[1])


@case("ValidationError", "is FLOAT, Softmax takes INT")
def attribute_of_wrong_type() -> Source:
    return _soft(axis=1.5)


@case("ValidationError", "no type")
def attribute_without_type() -> Source:
    model = _soft(axis=1)
    model.graph.node[0].attribute[0].ClearField("type")
    return model


@case("ValidationError", "holds f")
def attribute_of_two_values() -> Source:
    model = _soft(axis=1)
    model.graph.node[0].attribute[0].f = 1.0
    return model


@case("ValidationError", "second time")
def attribute_twice() -> Source:
    model = _soft(axis=1)
    model.graph.node[0].attribute.append(model.graph.node[0].attribute[0])
    return model


@case("ValidationError", "is missing")
def required_attribute_missing() -> Source:
    return model_of([node("Cast", "x", "y")])


@case("ValidationError", "outside a function")
def reference_outside_a_function() -> Source:
    model = _soft(axis=1)
    attribute = model.graph.node[0].attribute[0]
    attribute.ClearField("i")
    attribute.ref_attr_name = "axis"
    return model


@case("ValidationError", "too long")
def attribute_of_a_million_items() -> Source:
    return model_of([node("Transpose", "x", "y", perm=[0] * 1_000_000)])


@case("ValidationError CompilationError")
def axis_beyond_the_rank() -> Source:
    return _soft(axis=1 << 62)


@case("ValidationError CompilationError")
def cast_to_nothing() -> Source:
    return model_of([node("Cast", "x", "y", to=12345)])


@case("ValidationError", "holds nothing")
def constant_without_tensor() -> Source:
    model = model_of([node("Constant", "", "y", value=weight("v", 2))], {})
    model.graph.node[0].attribute[0].ClearField("t")
    return model


@case("ValidationError", "exactly one attribute")
def constant_without_value() -> Source:
    return model_of([node("Constant", "", "y")], {})


# --- functions and inner graphs ----------------------------------------------------------------


def _function(name: str, nodes: list[NodeProto], **fields: Any) -> onnx.FunctionProto:
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("f", 1)]
    return helper.make_function("f", name, ["x"], ["y"], nodes, opsets, **fields)


def _call(name: str, source: str, target: str) -> NodeProto:
    return helper.make_node(name, [source], [target], domain="f", name=f"call_{name}")


@case("ValidationError", "calls itself")
def function_that_calls_itself() -> Source:
    return model_of([_call("f", "x", "y")], functions=(_function("f", [_call("f", "x", "y")]),))


@case("ValidationError", "a -> b -> c -> a")
def functions_in_a_ring() -> Source:
    ring = [_function(a, [_call(b, "x", "y")]) for a, b in ("ab", "bc", "ca")]
    return model_of([_call("a", "x", "y")], functions=tuple(ring))


@case("ValidationError", "when its functions are inlined")
def a_billion_laughs() -> Source:
    levels = [_function("f0", [node("Relu", "x", "y")])]
    for level in range(1, 41):
        below = f"f{level - 1}"
        levels.append(_function(f"f{level}", [_call(below, "x", "m"), _call(below, "m", "y")]))
    return model_of([_call("f40", "x", "y")], functions=tuple(levels))


@case("ValidationError", "64 deep")
def ten_thousand_functions_deep() -> Source:
    chain = [_function("f0", [node("Relu", "x", "y")])]
    chain += [_function(f"f{i}", [_call(f"f{i - 1}", "x", "y")]) for i in range(1, 10_000)]
    return model_of([_call("f9999", "x", "y")], functions=tuple(chain))


@case("ValidationError", "there twice")
def function_twice() -> Source:
    one = _function("f", [node("Relu", "x", "y")])
    return model_of([_call("f", "x", "y")], functions=(one, one))


@case("ValidationError", "replace a standard operator")
def function_named_relu() -> Source:
    one = _function("Relu", [node("Neg", "x", "y")])
    one.domain = ""
    return model_of([node("Relu", "x", "y")], functions=(one,))


@case("ValidationError", "never computed")
def function_without_result() -> Source:
    return model_of([_call("f", "x", "y")], functions=(_function("f", [node("Relu", "x", "z")]),))


@case("ValidationError", "does not declare")
def function_refers_to_nothing() -> Source:
    inner = node("Softmax", "x", "y", axis=1)
    inner.attribute[0].ClearField("i")
    inner.attribute[0].ref_attr_name = "nothing"
    return model_of([_call("f", "x", "y")], functions=(_function("f", [inner]),))


@case("ValidationError", "inputs and")
def function_called_with_too_much() -> Source:
    call = _call("f", "x", "y")
    call.input.append("x")
    return model_of([call], functions=(_function("f", [node("Relu", "x", "y")]),))


def _nested(levels: int) -> ModelProto:
    """`levels` Ifs in each other; built in place, for a copy would not parse."""
    model = model_of([], {"c": []})
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.BOOL
    graph = model.graph
    for _ in range(levels):
        inner = graph.node.add(op_type="If", input=["c"], output=["y"])
        attribute = inner.attribute.add(name="then_branch", type=AttributeProto.GRAPH)
        graph = attribute.g
        graph.output.add(name="y")
    return model


def _info(name: str) -> onnx.ValueInfoProto:
    return onnx.ValueInfoProto(name=name)


@case("ValidationError", "nested more than 32 deep")
def thousand_graphs_deep() -> Source:
    return _nested(1000)


@case("ValidationError", "exponential|nested")
def inner_output_of_nobody() -> Source:
    graph = helper.make_graph([node("Identity", "x", "z")], "inner nested", [], [_info("q")])
    model = model_of(
        [node("If", "c", "y", then_branch=graph, else_branch=graph)], {"c": [], "x": [2]}
    )
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.BOOL
    return model
