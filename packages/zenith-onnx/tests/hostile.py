"""Models that are wrong in every way we could think of, and a runner that bounds each.

Run as a script it compiles (and calls, where that works) the named cases under a memory limit and
prints one JSON line each; `test_untrusted.py` starts it and reads what happened.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

GIB = 1 << 30
MEMORY = 6 * GIB  # of address space: libraries and thread stacks take the first part of it
SECONDS = 30

Source = ModelProto | bytes
CASES: dict[str, tuple[Callable[[], Source], str, str]] = {}


def case(errors: str, words: str = "") -> Callable[[Callable[[], Source]], Callable[[], Source]]:
    """Register a case: names of the errors it may raise (or "ok"), words of the message."""

    def register(make: Callable[[], Source]) -> Callable[[], Source]:
        CASES[make.__name__] = (make, errors, words)
        return make

    return register


def broken(words: str) -> Callable[[Callable[[ModelProto], Any]], Any]:
    """Register a case that spoils the small valid model; it must be a ValidationError."""

    def register(spoil: Callable[[ModelProto], Any]) -> Any:
        def make() -> Source:
            model = small()
            spoil(model)
            return model

        CASES[spoil.__name__] = (make, "ValidationError", words)
        return spoil

    return register


def weight(name: str, *shape: int, dtype: Any = np.float32) -> TensorProto:
    return onnx.numpy_helper.from_array(np.ones(shape, dtype), name)


def vector(name: str, *items: int) -> TensorProto:
    return onnx.numpy_helper.from_array(np.array(items, np.int64), name)


def model_of(
    nodes: list[NodeProto],
    inputs: dict[str, Any] | None = None,
    outputs: tuple[str, ...] = ("y",),
    weights: tuple[TensorProto, ...] = (),
    functions: tuple[onnx.FunctionProto, ...] = (),
    opset: int = 21,
) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
            for n, s in ({"x": ["N", 4]} if inputs is None else inputs).items()
        ],
        [onnx.ValueInfoProto(name=n) for n in outputs],
        list(weights),
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("f", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=list(functions))


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> NodeProto:
    split = [x.strip() for x in inputs.split(",")] if inputs else []
    return helper.make_node(op, split, outputs.split(), name=f"the_{op}", **attributes)


def small() -> ModelProto:
    return model_of(
        [node("MatMul", "x,w", "m"), node("Add", "m,b", "a"), node("Relu", "a", "y")],
        weights=(weight("w", 4, 3), weight("b", 3)),
    )


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


# --- tensors -----------------------------------------------------------------------------------


def _weight(spoil: Callable[[TensorProto], Any]) -> Callable[[], Source]:
    def make() -> Source:
        model = small()
        spoil(model.graph.initializer[0])
        return model

    return make


def _set(**fields: Any) -> Callable[[TensorProto], None]:
    def spoil(tensor: TensorProto) -> None:
        for name, value in fields.items():
            tensor.ClearField(name)
            field = getattr(tensor, name)
            if isinstance(field, int | bytes):
                setattr(tensor, name, value)
            else:
                field.extend(value)

    return spoil


_TENSORS: dict[str, tuple[dict[str, Any], str]] = {
    "raw_data_too_short": ({"raw_data": b"1234"}, "48 bytes are needed, 4 are there"),
    "raw_data_too_long": ({"raw_data": b"1" * 52}, "48 bytes are needed, 52 are there"),
    "no_data": ({"raw_data": b""}, "are needed, 0 are there"),
    "exabytes": ({"dims": [1 << 20, 1 << 20, 1 << 18]}, "bytes are needed"),
    "dims_overflow": ({"dims": [1 << 32, 1 << 32, 0]}, "64 bits"),
    "dims_wrap_to_12": ({"dims": [(1 << 62) + 3, 4]}, "64 bits"),
    "negative_dim": ({"dims": [-4, -3]}, "size -4 at axis 0"),
    "hundred_axes": ({"dims": [1] * 100}, "100 axes"),
    "undefined_type": ({"data_type": 0}, "element type number 0"),
    "unknown_type": ({"data_type": 77}, "element type number 77"),
    "two_kinds_of_data": ({"float_data": [1.0] * 12}, "several kinds"),
    "raw_strings": ({"data_type": TensorProto.STRING}, "strings"),
    "wrong_list": ({"raw_data": b"", "int64_data": [1] * 12}, "must be in|instead of"),
    "list_too_short": ({"raw_data": b"", "float_data": [1.0] * 11}, "11 are there"),
    "half_a_complex": (
        {"raw_data": b"", "data_type": TensorProto.COMPLEX64, "float_data": [1.0] * 12},
        "24 items",
    ),
    "bools_of_7": (
        {"raw_data": b"\7" * 12, "data_type": TensorProto.BOOL},
        "other than 0 and 1",
    ),
    "text_not_utf8": (
        {"raw_data": b"", "data_type": TensorProto.STRING, "string_data": [b"\xff"] * 12},
        "UTF-8",
    ),
    "external_without_a_place": ({"raw_data": b"", "data_location": 1}, "in other files"),
}
for _name, (_fields, _words) in _TENSORS.items():
    CASES[f"tensor_{_name}"] = (_weight(_set(**_fields)), "ValidationError", _words)


@case("ValidationError", "several kinds|segment")
def tensor_segment() -> Source:
    model = small()
    model.graph.initializer[0].segment.begin = 3
    return model


def _sparse(dims: list[int], indices: list[int], values: int = 1) -> Source:
    model = small()
    del model.graph.initializer[0]
    sparse = model.graph.sparse_initializer.add()
    sparse.dims.extend(dims)
    sparse.values.CopyFrom(weight("w", values))
    sparse.indices.CopyFrom(vector("", *indices))
    return model


@case("ok")
def sparse_weight() -> Source:
    return _sparse([4, 3], [11])


@case("ValidationError", "too large to be made dense")
def sparse_exabytes() -> Source:
    return _sparse([1 << 30, 1 << 30], [5])


@case("ValidationError", "outside")
def sparse_index_outside() -> Source:
    return _sparse([4, 3], [12])


@case("ValidationError", "need indices")
def sparse_counts_differ() -> Source:
    return _sparse([4, 3], [1, 2], values=3)


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


# --- sizes that constants ask for --------------------------------------------------------------

HUGE = 1 << 40
_ANY = "ok ValidationError CompilationError DeviceOutOfMemoryError NoKernelFoundError KernelError"


def _constants(nodes: list[NodeProto], *weights: TensorProto) -> Callable[[], Source]:
    """`big` is what the constants make; only its sizes are read, so that no test sums it up."""
    tail = [
        node("Slice", "big,start,end", "s"),
        node("ReduceMax", "s", "r"),
        node("Add", "x,r", "y"),
    ]
    ends = (vector("start", 0), vector("end", 2))
    return lambda: model_of([*nodes, *tail], weights=(*weights, *ends))


def _range(start: float, limit: float, step: float, dtype: Any) -> list[TensorProto]:
    parts = {"a": start, "b": limit, "c": step}
    return [onnx.numpy_helper.from_array(np.array(v, dtype), n) for n, v in parts.items()]


_ONE = weight("one", 1)
_BOMBS: dict[str, Callable[[], Source]] = {
    "expand": _constants([node("Expand", "one,n", "big")], _ONE, vector("n", HUGE)),
    "expand_and_add": _constants(
        [node("Expand", "one,n", "e"), node("Add", "e,one", "big")], _ONE, vector("n", HUGE)
    ),
    "expand_and_reshape": _constants(
        [node("Expand", "one,n", "e"), node("Reshape", "e,m", "big")],
        _ONE,
        vector("n", 1 << 20, 1 << 20),
        vector("m", HUGE),
    ),
    "constant_of_shape": _constants([node("ConstantOfShape", "n", "big")], vector("n", HUGE)),
    "constant_of_negative_shape": _constants(
        [node("ConstantOfShape", "n", "big")], vector("n", -5)
    ),
    "constant_of_shape_overflow": _constants(
        [node("ConstantOfShape", "n", "big")], vector("n", 1 << 32, 1 << 32, 1 << 32)
    ),
    "tile": _constants([node("Tile", "one,n", "big")], _ONE, vector("n", HUGE)),
    "tile_chain": _constants(
        [
            node("Tile", "one,n", "t0"),
            *(node("Tile", f"t{i},n", f"t{i + 1}") for i in range(8)),
            node("Identity", "t8", "big"),
        ],
        _ONE,
        vector("n", 1 << 5),
    ),
    "range": _constants(
        [node("Range", "a,b,c", "r"), node("Cast", "r", "big", to=1)],
        *_range(0, HUGE, 1, np.int64),
    ),
    "range_of_float": _constants(
        [node("Range", "a,b,c", "big")],
        *_range(0, 1e30, 1e-30, np.float32),
    ),
    "range_of_step_0": _constants(
        [node("Range", "a,b,c", "r"), node("Cast", "r", "big", to=1)],
        *_range(0, 9, 0, np.int64),
    ),
    "pad": _constants([node("Pad", "one,n", "big")], _ONE, vector("n", HUGE, HUGE)),
    "negative_pad": _constants([node("Pad", "one,n", "big")], _ONE, vector("n", -5, -5)),
    "resize": _constants(
        [node("Resize", "w,,,n", "big")],
        weight("w", 1, 1, 2, 2),
        vector("n", 1, 1, 1 << 20, 1 << 20),
    ),
    "resize_by_scales": _constants(
        [node("Resize", "w,,s1", "big")],
        weight("w", 1, 1, 2, 2),
        onnx.numpy_helper.from_array(np.array([1, 1, 1e6, 1e6], np.float32), "s1"),
    ),
    "eye": _constants(
        [node("ConstantOfShape", "n", "z"), node("EyeLike", "z", "big", dtype=1)],
        vector("n", 1 << 20, 1 << 20),
    ),
    "one_hot": _constants(
        [node("OneHot", "i,d,v", "big")],
        vector("i", 3),
        vector("d", HUGE),
        onnx.numpy_helper.from_array(np.array([0, 1], np.float32), "v"),
    ),
    "many_constants": _constants(
        [
            *(node("ConstantOfShape", "n", f"c{i}") for i in range(300)),
            node("Sum", ",".join(f"c{i}" for i in range(300)), "big"),
        ],
        vector("n", 1 << 22),
    ),
    "window": _constants(
        [node("HannWindow", "n", "big")], onnx.numpy_helper.from_array(np.array(HUGE), "n")
    ),
    "einsum": _constants(
        [node("Einsum", "w,w,w,w,w,w", "big", equation="ab,cd,ef,gh,ij,kl->")],
        weight("w", 100, 100),
    ),
    "outer_product": _constants(
        [node("MatMul", "p,q", "big")], weight("p", 1 << 20, 1), weight("q", 1, 1 << 20)
    ),
    "gather": _constants(
        [node("Gather", "w,i", "big")], weight("w", 4, 1 << 16), vector("i", *[0] * (1 << 16))
    ),
    "conv_of_constants": _constants(
        [node("Conv", "i,k", "big")], weight("i", 1, 16, 256, 256), weight("k", 64, 16, 3, 3)
    ),
    "reshape_to_overflow": _constants(
        [node("Reshape", "one,n", "big")], _ONE, vector("n", 1 << 32, 1 << 32)
    ),
    "split_into_many": lambda: model_of(
        [node("Split", "x,n", "y z")], outputs=("y", "z"), weights=(vector("n", -3, 1 << 62),)
    ),
}
for _name, _make in _BOMBS.items():
    CASES[f"bomb_{_name}"] = (_make, _ANY, "")


@case("DeviceOutOfMemoryError ValidationError", "")
def run_time_expand() -> Source:
    """As large as an input says, at run time: the call below gives 2^45."""
    model = model_of(
        [node("ConstantOfShape", "n", "c"), node("ReduceSum", "c", "s"), node("Add", "x,s", "y")],
        {"x": [4], "n": [1]},
    )
    model.graph.input[1].type.tensor_type.elem_type = TensorProto.INT64
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, [4]))
    return model


@case("DeviceOutOfMemoryError ValidationError", "")
def run_time_product() -> Source:
    """An outer product of the call's input with itself, cubed: more than 64 bits of bytes."""
    return model_of(
        [
            node("Reshape", "x,column", "c"),
            node("Reshape", "x,row", "r"),
            node("Mul", "c,r", "m"),
            node("Reshape", "m,column", "mc"),
            node("Reshape", "m,row", "mr"),
            node("Mul", "mc,mr", "big"),
            node("Relu", "big", "y"),
        ],
        {"x": ["N"]},
        weights=(vector("column", -1, 1), vector("row", 1, -1)),
    )


@case("ok ValidationError", "")
def size_named_by_a_bomb() -> Source:
    return model_of([node("Relu", "x", "y")], {"x": ["9999999999**9999999", "((" * 200]})


@case("ok ValidationError", "")
def size_that_divides_by_zero() -> Source:
    return model_of([node("Relu", "x", "y")], {"x": ["a/0", "a"]})


@case("ok", "")
def sizes_of_any_name() -> Source:
    return model_of([node("Relu", "x", "y")], {"x": ["batch size", "?", "import", "a.b", "size_"]})


@case("ok ValidationError", "")
def lies_about_inner_shapes() -> Source:
    """Declared types of values are not believed: they are smaller than the truth."""
    model = model_of(
        [node("NonZero", "x", "n"), node("Cast", "n", "f", to=1), node("Relu", "f", "y")],
        {"x": [4, 4]},
    )
    model.graph.value_info.append(helper.make_tensor_value_info("n", TensorProto.INT64, [2, 1]))
    model.graph.value_info.append(helper.make_tensor_value_info("f", TensorProto.FLOAT, [2, 1]))
    return model


@case("ok ValidationError", "")
def notes_that_lie() -> Source:
    model = model_of(
        [node("Shape", "x", "n"), node("Reshape", "x,n", "r"), node("Relu", "r", "y")],
        {"x": ["A", "B"]},
    )
    info = helper.make_tensor_value_info("n", TensorProto.INT64, [2])
    for key in ("onnx_shape_inference.sym_data", "pkg.onnx_shape_inference.sym_data"):
        info.metadata_props.add(key=key, value="[1000000, 1000000]")
    model.graph.value_info.append(info)
    return model


# --- running -----------------------------------------------------------------------------------


def feeds_of(compiled: Any) -> dict[str, np.ndarray]:
    """Inputs of the sizes the model asks for; free sizes are 3, integers are huge."""
    feeds = {}
    for spec in compiled.plan.inputs:
        shape = [d if isinstance(d, int) else 3 for d in spec.shape]
        if spec.dtype == "int64":
            feeds[spec.name] = np.full(shape, 1 << 45, np.int64)
        elif len(shape) == 1 and not isinstance(spec.shape[0], int):
            feeds[spec.name] = np.ones([1 << 16], spec.dtype)
        else:
            feeds[spec.name] = np.ones(shape, spec.dtype)
    return feeds


def outcome(source: Any) -> tuple[str, str]:
    """The name of what was raised, with its message; "ok" when all went well."""
    import zenith
    from zenith.errors import ZenithError

    try:
        compiled = zenith.compile(source, fallback="allow")
        compiled.run(feeds_of(compiled))
    except ZenithError as error:
        return type(error).__name__, str(error)
    except BaseException as error:  # noqa: BLE001  the point of the exercise
        return f"dirty {type(error).__name__}", str(error)
    return "ok", ""


def main() -> None:
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for name in sys.argv[1:]:
        print(json.dumps({"start": name}), flush=True)  # noqa: T201
        signal.alarm(SECONDS)
        source = CASES[name][0]()
        started = time.perf_counter()
        kind, message = outcome(source)
        seconds = time.perf_counter() - started
        signal.alarm(0)
        line = {"case": name, "kind": kind, "message": message[:2000], "seconds": seconds}
        print(json.dumps(line), flush=True)  # noqa: T201


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "2")
    main()
