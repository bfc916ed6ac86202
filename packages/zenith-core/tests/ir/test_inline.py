"""Bodies of functions in the place of their calls."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from zenith.ir.inline import inline_calls

TEXT = """
<ir_version: 10, opset_import: ["": 21, "own": 1]>
agraph (float[3] x, float[3] z, float low, bool c) => (float[3] y, float[3] w, float[3] v)
{
    a = own.scaled <by = 3.0> (x, low)
    b = own.scaled (a)
    y = own.twice (b)
    w, t = own.both (x, z)
    v = If (c) <
        then_branch = g () => (float[3] p) { p = own.twice (t) },
        else_branch = h () => (float[3] q) { q = Neg (t) }
    >
}
<opset_import: ["": 21], domain: "own">
scaled <by: float = 2.0> (p, q) => (r)
{
    factor = Constant <value_float: float = @by> ()
    m = Mul (p, factor)
    r = Clip (m, q)
}
<opset_import: ["": 21, "own": 1], domain: "own">
twice (p) => (r)
{
    s = own.scaled (p)
    r = own.scaled <by = 0.5> (s)
}
<opset_import: ["": 21], domain: "own">
both (p, q) => (r, q)
{
    r = Add (p, q)
}
"""
FEEDS = {"x": np.float32([1, -2, 3]), "z": np.float32([2, 2, 2]), "low": np.float32(-1)}


def check(model: ir.Model) -> None:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    x, z = FEEDS["x"], FEEDS["z"]
    for c in (True, False):
        y, w, v = ReferenceEvaluator(proto).run(None, {**FEEDS, "c": np.array(c)})
        np.testing.assert_equal(y, 2 * np.maximum(3 * x, -1))
        np.testing.assert_equal(w, x + z)
        np.testing.assert_equal(v, z if c else -z)


def test_calls_are_inlined() -> None:
    """Defaults, inputs left out, calls of calls, results that are arguments, bodies."""
    model = ir.from_proto(onnx.parser.parse_model(TEXT))
    inline_calls(model)
    assert not model.functions
    kinds = [n.op_type for n in model.graph.all_nodes()]
    assert kinds.count("Clip") == 6 and kinds.count("Add") == 1
    assert [v.name for v in model.graph.inputs] == ["x", "z", "low", "c"]
    names = [v.name for n in model.graph.all_nodes() for v in n.outputs]
    assert len(set(names)) == len(names)
    check(model)


def test_only_calls_that_are_wanted() -> None:
    model = ir.from_proto(onnx.parser.parse_model(TEXT))
    inline_calls(model, lambda call: call.outputs[0].name in "ab")
    kinds = [n.op_type for n in model.graph]
    assert kinds == ["Constant", "Mul", "Clip"] * 2 + ["twice", "both", "If"]
    assert {name for _, name, _ in model.functions} == {"scaled", "twice", "both"}
