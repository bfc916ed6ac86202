"""The way back: what `to_onnx` and `zenith export` write runs in ONNX Runtime, same answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from typer.testing import CliRunner

import zenith
from zenith.cli import app
from zenith.errors import ValidationError

MODEL = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N,8] x) => (float[N,4] y) <float[8,4] w, float[4] b> {
  h = MatMul (x, w)
  a = Add (h, b)
  r = Relu (a)
  y = Softmax <axis = -1> (r)
}"""


@pytest.fixture
def model() -> onnx.ModelProto:
    rng = np.random.default_rng(3)
    proto = onnx.parser.parse_model(MODEL)
    del proto.graph.initializer[:]
    for name, shape in (("w", (8, 4)), ("b", (4,))):
        array = rng.standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return proto


def answers(model: bytes | str, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model)
    result: np.ndarray = session.run(None, {"x": x})[0]
    return result


@pytest.mark.parametrize("inline", [False, True])
def test_to_onnx(model: onnx.ModelProto, inline: bool) -> None:
    compiled = zenith.compile(model, fallback="error")
    written = compiled.graph.to_onnx(inline=inline, opset=26)
    onnx.checker.check_model(written, full_check=True)
    assert bool(written.functions) is not inline
    assert ("zenith" in {o.domain for o in written.opset_import}) is not inline
    x = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    result = answers(written.SerializeToString(), x)
    np.testing.assert_allclose(result, compiled(x), rtol=1e-6, atol=1e-7)


def test_it_compiles_again(model: onnx.ModelProto) -> None:
    compiled = zenith.compile(model, fallback="error")
    x = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    again = zenith.compile(compiled.graph.to_onnx(), fallback="error")
    np.testing.assert_allclose(again(x), compiled(x), rtol=1e-6)


def test_an_opset_that_has_no_words_for_it() -> None:
    text = """<ir_version: 13, opset_import: ["" : 28]>
    g (float[2,4] x) => (float[2,4] y, float[2,4] z) { y = Swish (x) z = Relu (x) }"""
    compiled = zenith.compile(onnx.parser.parse_model(text), fallback="allow", opt_level=0)
    with pytest.raises(ValidationError, match="Swish"):
        compiled.graph.to_onnx(inline=True, opset=23)


def test_command_line(model: onnx.ModelProto, tmp_path: Path) -> None:
    source, target = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(model, source)
    result = CliRunner().invoke(app, ["export", str(source), "-o", str(target), "--opset", "24"])
    assert result.exit_code == 0, result.output
    assert onnx.load(target).opset_import[0].version == 24
    x = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    wanted = zenith.compile(source)(x)
    np.testing.assert_allclose(answers(str(target), x), wanted, rtol=1e-6, atol=1e-7)


def test_command_line_says_what_is_wrong(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["export", str(tmp_path / "no.onnx"), "-o", "out.onnx"])
    assert result.exit_code == 1
    assert "no.onnx" in result.output
