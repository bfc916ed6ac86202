"""Loops, branches, sequences and dynamic sizes against ONNX Runtime; how a model is called."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest

import zenith
from zenith.errors import ConfigurationError, ValidationError

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\ng '


def runtime(model: onnx.ModelProto, **feeds: object) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    results: list[np.ndarray] = session.run(None, feeds)
    return results


def check(model: onnx.ModelProto, compiled: zenith.CompiledModel, **feeds: object) -> None:
    results = compiled.run(feeds)
    for result, wanted in zip(results.values(), runtime(model, **feeds), strict=True):
        np.testing.assert_allclose(result, wanted, rtol=1e-5, atol=1e-6)


def test_loop_whose_count_is_an_input() -> None:
    text = """(int64 n, float[2,K] x) => (float[2,K] y, float[S,2,K] all) <bool yes = {1}> {
      y, all = Loop (n, yes, x) <body = b
        (int64 i, bool c, float[2,K] before) => (bool go, float[2,K] after, float[2,K] seen) {
          go = Identity (c)
          step = Cast <to = 1> (i)
          t = Add (before, step)
          after = Tanh (t)
          seen = Mul (after, x)
        }>
    }"""
    model = onnx.parser.parse_model(HEADER + text)
    compiled = zenith.compile(model, fallback="allow")
    for n, k in ((0, 3), (1, 3), (5, 4), (7, 1)):
        x = np.random.default_rng(k).standard_normal((2, k)).astype(np.float32)
        check(model, compiled, n=np.array(n), x=x)


def test_loop_that_ends_by_its_condition() -> None:
    text = """(float x) => (float y) <int64 n = {100}, bool yes = {1}, float top = {50}> {
      y = Loop (n, yes, x) <body = b (int64 i, bool c, float v) => (bool go, float w) {
          w = Add (v, v)
          go = Less (w, top)
        }>
    }"""
    model = onnx.parser.parse_model(HEADER + text)
    compiled = zenith.compile(model, fallback="allow")
    for x in (1.0, 3.0, 60.0):
        check(model, compiled, x=np.array(x, np.float32))


def test_branches_of_different_sizes() -> None:
    text = """(bool c, float[N,4] x) => (float[A,B] y) { t = If (c) <
      then_branch = a () => (float[C,D] p) { p = Concat <axis = 0> (x, x) },
      else_branch = b () => (float[E,F] q) { q = Relu (x) }> y = Exp (t) }"""
    model = onnx.parser.parse_model(HEADER + text)
    compiled = zenith.compile(model, fallback="allow")
    for flag, n in ((True, 1), (False, 3), (True, 5)):
        x = np.random.default_rng(n).standard_normal((n, 4)).astype(np.float32)
        check(model, compiled, c=np.array(flag), x=x)


def test_scan_both_ways() -> None:
    text = """(float[3] s, float[T,3] x) => (float[3] last, float[T,3] y) {
      last, y = Scan <num_scan_inputs = 1, scan_input_directions = [1], body = b
        (float[3] before, float[3] item) => (float[3] after, float[3] out) {
          t = Mul (before, item) after = Sigmoid (t) out = Add (after, item) }> (s, x) }"""
    model = onnx.parser.parse_model(HEADER + text)
    compiled = zenith.compile(model, fallback="allow")
    for length in (1, 4, 9):
        x = np.random.default_rng(length).standard_normal((length, 3)).astype(np.float32)
        check(model, compiled, s=np.ones(3, np.float32), x=x)


def test_sizes_from_data() -> None:
    text = """(float[N,M] x) => (int64[A,B] where, float[C] found) {
      where = NonZero (x) t = Transpose (where) found = GatherND (x, t) }"""
    model = onnx.parser.parse_model(HEADER + text)
    compiled = zenith.compile(model, fallback="allow")
    for shape in ((2, 3), (5, 1), (4, 4)):
        x = np.random.default_rng(1).standard_normal(shape).clip(0).astype(np.float32)
        check(model, compiled, x=x)


def test_reshape_by_the_shape_of_another() -> None:
    text = """(float[N,M] x, float[K,N,M] z) => (float[K,A] y) <int64[1] rest = {-1}> {
      s = Shape <start = 0, end = 1> (z) to = Concat <axis = 0> (s, rest) y = Reshape (z, to) }"""
    model = onnx.parser.parse_model(HEADER + text)
    compiled = zenith.compile(model, fallback="allow")
    for n, m, k in ((1, 1, 1), (2, 3, 4), (5, 2, 3)):
        z = np.random.default_rng(n).standard_normal((k, n, m)).astype(np.float32)
        check(model, compiled, x=z[0], z=z)


def test_sequences_cross_the_edge() -> None:
    text = """(seq(float[N]) s, float[N] x) => (seq(float[N]) t, float[A,B] y) {
      t = SequenceInsert (s, x) y = ConcatFromSequence <axis = 0, new_axis = 1> (t) }"""
    model = onnx.parser.parse_model(HEADER + text)
    compiled = zenith.compile(model, fallback="allow")
    parts = [np.full(3, i, np.float32) for i in range(3)]
    sequence, stacked = compiled(parts[:2], parts[2])
    assert isinstance(sequence, list)
    np.testing.assert_array_equal(np.stack(sequence), np.stack(parts))
    np.testing.assert_array_equal(stacked, np.stack(parts))
    with pytest.raises(ValidationError, match="list"):
        compiled(parts[0], parts[2])


def test_every_kind_of_source(tmp_path: object) -> None:
    proto = onnx.parser.parse_model(HEADER + "(float[N] x) => (float[N] y) { y = Relu (x) }")
    path = f"{tmp_path}/m.onnx"
    onnx.save(proto, path)
    x = np.float32([-1, 2])
    for source in (proto, proto.SerializeToString(), path, onnx_ir.from_proto(proto)):
        np.testing.assert_array_equal(zenith.compile(source)(x), [0, 2])


def test_calls_by_position_and_name_and_two_outputs() -> None:
    text = "(float[N] a, float[N] b) => (float[N] s, float[N] d) { s = Add (a, b) d = Sub (a, b) }"
    compiled = zenith.compile(onnx.parser.parse_model(HEADER + text))
    a, b = np.float32([1, 2]), np.float32([3, 5])
    for s, d in (compiled(a, b), compiled(a, b=b), compiled(b=b, a=a)):
        np.testing.assert_array_equal(s, a + b)
        np.testing.assert_array_equal(d, a - b)
    with pytest.raises(ValidationError, match="missing: b"):
        compiled(a)


def test_sizes_as_declared_and_overridden() -> None:
    text = HEADER + "(float[2,3] x) => (float[2,3] y) { y = Relu (x) }"
    model = onnx.parser.parse_model(text)
    with pytest.raises(ValidationError):
        zenith.compile(model)(np.zeros((4, 3), np.float32))
    free = zenith.compile(model, dynamic={"x": {0: "batch"}})
    assert free(np.zeros((4, 3), np.float32)).shape == (4, 3)
    with pytest.raises(ConfigurationError, match="no input 'z'"):
        zenith.compile(model, dynamic={"z": {0: "batch"}})


def test_stale_sizes_inside_do_not_count() -> None:
    """The file says 1 for the batch of an inner value and of the output; the input is dynamic."""
    text = "(float[N,3] x) => (float[1,3] y) <float[1,3] t> { t = Relu (x) y = Exp (t) }"
    compiled = zenith.compile(onnx.parser.parse_model(HEADER + text))
    assert compiled(np.zeros((4, 3), np.float32)).shape == (4, 3)


def test_odd_names_of_sizes() -> None:
    model = onnx.parser.parse_model(HEADER + "(float[N,3] x) => (float[N,3] y) { y = Relu (x) }")
    for name in ("batch size", "?", "lambda", "a-b", "1x", "N/A", "-1"):
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = name
        model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = name
        assert zenith.compile(model)(np.zeros((4, 3), np.float32)).shape == (4, 3)
