"""GraphIR: validity, shapes, identity, text."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import zenith
from zenith import ops
from zenith.errors import ValidationError
from zenith.ir import SOURCE_KEY, GraphIR

HEAD = '<ir_version: 10, opset_import: ["" : 28, "zenith" : 1]>\n'
SMALL = (
    HEAD
    + """g (float[B,4] x) => (float[B,2] y)
<float[4,2] w = {1,2,3,4,5,6,7,8}, float[2] b = {0.5,-1}> {
  h = MatMul(x, w)
  s = Add(h, b)
  y = Relu(s)
}"""
)


def graph(body: str, signature: str = "(float[B,4] x) => (y)") -> GraphIR:
    return GraphIR.from_text(f"{HEAD}g {signature} {{ {body} }}")


def test_state_pairs_go_with_the_graph() -> None:
    g = GraphIR.from_text(SMALL)
    assert g.state == {}
    g.state = {"x": "y"}
    assert g.clone().state == GraphIR.from_onnx(g.to_onnx()).state == {"x": "y"}


def test_views() -> None:
    g = GraphIR.from_text(SMALL)
    assert [v.name for v in g.inputs] == ["x"]
    assert [v.name for v in g.outputs] == ["y"]
    assert sorted(g.initializers) == ["b", "w"]
    assert [n.op_type for n in g.nodes] == ["MatMul", "Add", "Relu"]
    assert len(g) == 3


def test_infer_shapes_and_verify() -> None:
    g = GraphIR.from_text(SMALL)
    with pytest.raises(ValidationError, match="has no type"):
        g.verify()
    g.infer_shapes().verify()
    assert [str(d) for d in g.nodes[0].outputs[0].shape or ()] == ["B", "2"]


def test_shapes_that_are_numbers_become_ints() -> None:
    g = graph("a = Reshape(x, s) y = Relu(a)", "(float[2,4] x) => (y) <int64[1] s = {-1}>")
    g.infer_shapes()
    for node in g.nodes:
        assert all(isinstance(d, int) for d in node.outputs[0].shape or ()), node


def test_symbolic_expressions_survive() -> None:
    g = graph("y = Concat<axis=0>(x, x)").infer_shapes()
    assert [str(getattr(d, "value", d)) for d in g.outputs[0].shape or ()] == ["2*B", "4"]


def test_wrong_node_is_named_with_its_source() -> None:
    g = graph("y = MatMul(x, x)", "(float[3,4] x) => (y)")
    g.nodes[0].metadata_props[SOURCE_KEY] = "model.py:7"
    with pytest.raises(ValidationError, match=r"MatMul\(.*model\.py:7"):
        g.infer_shapes()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("y = Nonsense(x)", "no operator 'Nonsense'"),
        ("y = Relu<alpha = 1.0>(x)", "no attribute alpha"),
        ("y = Concat(x, x)", "needs attribute axis"),
        ("y = Add(x)", "takes 2 to 2 inputs"),
        ("y = Relu(z) z = Relu(x)", "used before it is defined"),
        ("y = Relu(z) z = Relu(y)", "used before it is defined"),
        ("y = zenith.Linear(x, x)", "no function in the model"),
        ("y, z = Relu(x)", "gives 1 to 1 outputs"),
    ],
)
def test_verify_rejects(body: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        graph(body).verify(types=False)


def test_verify_rejects_other_opset() -> None:
    g = graph("y = Relu(x)")
    g.model.graph.opset_imports[""] = 17
    with pytest.raises(ValidationError, match="opset 17"):
        g.verify(types=False)
    with pytest.raises(ValidationError, match="opset 17"):
        GraphIR.from_onnx(g.to_onnx())


def test_a_proto_that_onnx_ir_cannot_read() -> None:
    """What went wrong and what to do, not the library's own error."""
    proto = GraphIR.from_text(SMALL).to_onnx()
    proto.graph.input[0].type.map_type.key_type = onnx.TensorProto.INT64
    with pytest.raises(ValidationError, match="cannot be read: .*Map types.*\n *next "):
        GraphIR.from_onnx(proto)


def test_constants_of_text_hold_any_letter() -> None:
    body = """k = Constant<value_strings = ["q", "ü"]>() s = Constant<value_string = "ß">()
      i = ArgMax<axis = 1, keepdims = 0>(x) w = Gather(k, i) y = StringConcat(w, s)"""
    g = graph(body, "(float[B,4] x) => (string[B] y)").infer_shapes().verify()
    stored = [n.attributes["value"].as_tensor() for n in g.nodes if n.op_type == "Constant"]
    words = [word.decode() for tensor in stored for word in tensor.string_data()]
    assert words == ["q", "ü", "ß"]


def test_verify_walks_into_subgraphs() -> None:
    text = """c = Constant<value = bool {1}>()
      y = If(c) <then_branch = g1 () => (float[B,4] t) { t = Relu(x) },
                 else_branch = g2 () => (float[B,4] e) { e = Relu<bad = 1>(x) }>"""
    with pytest.raises(ValidationError, match="no attribute bad"):
        graph(text).verify(types=False)


def test_zenith_node_needs_its_function_and_all_inputs() -> None:
    g = GraphIR.from_text(SMALL)
    x, w = g.inputs[0], g.initializers["w"]
    node = ir.node("Linear", [x, w], domain="zenith", overload="bias.relu")
    g.model.graph.append(node)
    node.outputs[0].name = "z"
    ops.ensure(g.model, "Linear", "bias.relu")
    with pytest.raises(ValidationError, match="takes 3 inputs"):
        g.verify(types=False)
    node.resize_inputs(3)
    node.replace_input_with(2, g.initializers["b"])
    g.verify(types=False)
    g.infer_shapes().verify()
    assert g.nodes[-1].outputs[0].shape is not None


def test_text_round_trip() -> None:
    g = GraphIR.from_text(SMALL)
    text = g.to_text()
    again = GraphIR.from_text(text)
    assert again.to_text() == text
    assert again.fingerprint() == g.fingerprint()


def test_text_elides_big_weights() -> None:
    g = GraphIR.from_text(SMALL)
    text = g.to_text(limit=4)
    assert "# weight w FLOAT[4,2] " in text
    assert list(g.initializers) == ["w", "b"], "printing leaves the graph alone"
    with pytest.raises(ValidationError, match="leaves out the data of weight 'w'"):
        GraphIR.from_text(text)
    w = np.arange(1, 9, dtype=np.float32).reshape(4, 2)
    again = GraphIR.from_text(text, weights={"w": w})
    assert again.fingerprint() == g.fingerprint()
    with pytest.raises(ValidationError, match="not the one"):
        GraphIR.from_text(text, weights={"w": w + 1})


def test_text_of_overloads() -> None:
    g = GraphIR.from_text(SMALL)
    node = ir.node(
        "Linear",
        [g.inputs[0], g.initializers["w"], g.initializers["b"]],
        domain="zenith",
        overload="bias.gelu_tanh",
    )
    node.outputs[0].name = "z"
    g.model.graph.append(node)
    ops.ensure(g.model, "Linear", "bias.gelu_tanh")
    again = GraphIR.from_text(g.to_text())
    assert again.nodes[-1].overload == "bias.gelu_tanh"
    assert list(again.model.functions) == [("zenith", "Linear", "bias.gelu_tanh")]
    assert again.fingerprint() == g.fingerprint()


def test_bad_text() -> None:
    with pytest.raises(ValidationError, match="not a graph's text"):
        GraphIR.from_text("hello")


def test_fingerprint_sees_what_matters_only() -> None:
    base = GraphIR.from_text(SMALL).fingerprint()
    assert GraphIR.from_text(SMALL.replace("h", "hh")).fingerprint() == base
    for old, new in [("Relu", "Tanh"), ("0.5", "0.25"), ("B,4", "C,4"), ("(h, b)", "(b, h)")]:
        assert GraphIR.from_text(SMALL.replace(old, new)).fingerprint() != base, (old, new)


def test_clone_is_independent() -> None:
    g = GraphIR.from_text(SMALL)
    copy = g.clone()
    copy.model.graph.remove(copy.nodes[-1])
    assert len(g) == 3
    assert copy.initializers["w"].const_value is g.initializers["w"].const_value


def test_onnx_round_trip() -> None:
    g = GraphIR.from_text(SMALL).infer_shapes()
    proto = g.to_onnx()
    onnx.checker.check_model(proto)
    assert GraphIR.from_onnx(proto).fingerprint() == g.fingerprint()


LOOP = """
  y = Loop(n, c, x) <body = b (int64 i, bool d, float[B,4] v) => (e, w) {
    e = Identity(d)
    w = Relu(v)
  }>
"""
SCAN = """
  y, z = Scan<num_scan_inputs = 1, scan_input_axes = [1],
    body = b (float[4] v, float[B] s) => (w, t)
  { w = Relu(v) t = Relu(s) }>(v0, x)
"""
CONTROL = {
    "Loop": (LOOP, "(float[B,4] x, int64 n, bool c) => (y)"),
    "Scan": (SCAN, "(float[B,4] x, float[4] v0) => (y, z)"),
}
WRONG = [
    ("Loop", ir.AttrInt64("body", 3), "is not a graph"),
    ("Scan", ir.AttrInt64("body", 3), "is not a graph"),
    ("Scan", ir.AttrInt64("num_scan_inputs", 3), "are scanned"),
    ("Scan", ir.AttrInt64("num_scan_inputs", 0), "are scanned"),
    ("Scan", ir.AttrInt64s("scan_input_axes", [0, 0]), "has 2 items, not 1"),
    ("Scan", ir.AttrInt64s("scan_input_axes", [5]), "has no axis 5"),
    ("Scan", ir.AttrInt64s("scan_output_axes", [9]), "has no axis 9"),
    ("Scan", ir.AttrInt64s("scan_output_directions", []), "has 0 items, not 1"),
]


@pytest.mark.parametrize(("op", "attribute", "message"), WRONG)
def test_control_flow_that_does_not_fit_its_node(op: str, attribute: ir.Attr, message: str) -> None:
    g = graph(*CONTROL[op])
    g.verify(types=False)
    g.nodes[0].attributes[attribute.name] = attribute
    with pytest.raises(ValidationError, match=message):
        zenith.compile(g)


def test_bodies_with_too_few_values() -> None:
    for body, signature in CONTROL.values():
        g = graph(body, signature)
        g.nodes[0].attributes["body"].as_graph().outputs.pop()
        with pytest.raises(ValidationError, match="must take"):
            g.verify(types=False)


def test_an_input_without_element_type() -> None:
    g = graph("y = Relu(x)")
    g.inputs[0].type = ir.TensorType(ir.DataType.UNDEFINED)
    with pytest.raises(ValidationError, match="no element type"):
        g.verify(types=False)
