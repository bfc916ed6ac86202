"""lower_gradient against central differences in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import zenith
from zenith.errors import UnsupportedOperationError, ValidationError
from zenith.ir import GraphIR

HEAD = '<ir_version: 12, opset_import: ["" : 28, "ai.onnx.preview.training" : 1]>\n'
Array = np.ndarray[Any, Any]
UNARY = ("Exp", "Log", "Sqrt", "Reciprocal", "Sigmoid", "Tanh", "Relu", "Abs", "Sin", "Cos")
UNARY += ("Softplus", "Erf", "Neg")


def model(body: str, result: str, names: str, given: str = "") -> str:
    """A graph of x[2,3], w[3,4], b[4] (float64) that gives `result` and its slopes."""
    xs = ", ".join(f'"{n}"' for n in names.split())
    outs = ", ".join(f"d{n}" for n in names.split())
    return f"""{HEAD} g (double[2,3] x, double[3,4] w, double[4] b) => ({result}, {outs}) {{
        {body}
        {outs} = ai.onnx.preview.training.Gradient
            <xs = [{xs}], y = "{result}"> ({given or ", ".join(names.split())})
    }}"""


def draw(seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {n: rng.uniform(0.4, 1.6, s) for n, s in (("x", (2, 3)), ("w", (3, 4)), ("b", (4,)))}


def check(body: str, result: str, names: str, inputs: dict[str, Array]) -> None:
    compiled = zenith.compile(GraphIR.from_text(model(body, result, names)))
    got = compiled.run(inputs)
    for name in names.split():
        wanted = np.zeros_like(inputs[name])
        for at in np.ndindex(wanted.shape):
            sums = []
            for step in (1e-6, -1e-6):
                moved = inputs[name].copy()
                moved[at] += step
                sums.append(compiled.run({**inputs, name: moved})[result].sum())
            wanted[at] = (sums[0] - sums[1]) / 2e-6
        np.testing.assert_allclose(got[f"d{name}"], wanted, rtol=2e-6, atol=1e-8)


@pytest.mark.parametrize(
    "body",
    [
        *(
            f"s = {f} (x) y = Mul (s, x)"
            for f in ["Exp", "Log", "Sqrt", "Reciprocal", "Sigmoid", "Tanh"]
        ),
        *(
            f"s = {f} (x) y = Mul (s, x)"
            for f in ["Relu", "Abs", "Sin", "Cos", "Softplus", "Erf", "Neg"]
        ),
        "s = Identity (x) y = Mul (s, s)",
        "s = Softmax <axis = 0> (x) y = Mul (s, x)",
        "s = LogSoftmax (x) y = Mul (s, x)",
        "s = Transpose (x) y = MatMul (s, x)",
        "s = Flatten <axis = 0> (x) t = Softmax (s) y = Mul (t, s)",
        "axes = Constant <value_ints = [1]> () s = Unsqueeze (x, axes) t = Tanh (s) "
        "y = Squeeze (t, axes)",
        "axes = Constant <value_ints = [0]> () s = ReduceMean <keepdims = 0> (x, axes) "
        "y = Mul (s, s)",
        "s = ReduceSum (x) y = Mul (s, s)",
        "s = Exp (x) t = Concat <axis = -1> (x, s, x) y = Mul (t, t)",
        "zero = Constant <value = double {1}> () c = Greater (x, zero) n = Neg (x) s = Exp (x) "
        "y = Where (c, s, n)",
        "n = Constant <value_ints = [4, 2, 3]> () s = Expand (x, n) y = Mul (s, s)",
    ],
)
def test_one_input(body: str) -> None:
    check(body, "y", "x", {"x": draw()["x"], "w": draw()["w"], "b": draw()["b"]})


@pytest.mark.parametrize(
    "body",
    [
        "m = MatMul (x, w) s = Add (m, b) y = Tanh (s)",
        "m = MatMul (x, w) s = Sub (b, m) y = Mul (s, b)",
        "m = MatMul (x, w) s = Div (m, b) y = Div (b, s)",
        "m = MatMul (x, w) y = Pow (m, b)",
        "m = Gemm <alpha = 0.5, beta = 2.0> (x, w, b) y = Sigmoid (m)",
        "t = Transpose (w) m = Gemm <transB = 1> (x, t, b) y = Sum (m, b, m)",
        "t = Transpose (x) m = Gemm <transA = 1> (t, w, b) y = Tanh (m)",
        "t = Transpose (x) u = Transpose (w) m = Gemm <transA = 1, transB = 1> (t, u) "
        "y = Mul (m, b)",
        "c = Greater (b, b) m = MatMul (x, w) y = Where (c, m, b)",
    ],
)
def test_several_inputs(body: str) -> None:
    check(body, "y", "x w b", draw(1))


def test_batches_of_matrices_are_summed() -> None:
    body = """n = Constant <value_ints = [5, 2, 3]> () e = Expand (x, n) s = Tanh (e)
        m = MatMul (s, w) y = Mul (m, m)"""
    check(body, "y", "x w", draw(2))


def test_second_derivatives() -> None:
    text = f"""{HEAD} g (double[2,3] x) => (dx, ddx) {{
        s = Mul (x, x) y = Mul (s, x)
        dx = ai.onnx.preview.training.Gradient <xs = ["x"], y = "y"> (x)
        ddx = ai.onnx.preview.training.Gradient <xs = ["x"], y = "dx"> (x)
    }}"""
    x = draw()["x"]
    got = zenith.compile(GraphIR.from_text(text), fallback="error").run({"x": x})
    np.testing.assert_allclose(got["dx"], 3 * x**2, rtol=1e-14)
    np.testing.assert_allclose(got["ddx"], 6 * x, rtol=1e-14)


def test_at_other_values_than_the_named_ones() -> None:
    text = f"""{HEAD} g (double[2,3] x, double[2,3] w, double[2,3] h1) => (y, dh, dw) {{
        h = Exp (x) s = Mul (h, w) y = Tanh (s)
        dh, dw = ai.onnx.preview.training.Gradient <xs = ["h", "w"], y = "y"> (h1, w)
    }}"""
    rng = np.random.default_rng(3)
    x, w, h1 = (rng.standard_normal((2, 3)) for _ in range(3))
    got = zenith.compile(GraphIR.from_text(text)).run({"x": x, "w": w, "h1": h1})
    slope = 1 - np.tanh(h1 * w) ** 2
    np.testing.assert_allclose(got["y"], np.tanh(np.exp(x) * w), rtol=1e-14)
    np.testing.assert_allclose(got["dh"], slope * w, rtol=1e-13)
    np.testing.assert_allclose(got["dw"], slope * h1, rtol=1e-13)


def test_what_y_does_not_depend_on_has_slope_zero() -> None:
    got = zenith.compile(GraphIR.from_text(model("y = Exp (x)", "y", "x b"))).run(draw())
    np.testing.assert_array_equal(got["db"], np.zeros(4))


def test_operators_without_a_rule_are_named_together() -> None:
    body = "s = Floor (x) t = Round (s) y = Exp (t)"
    with pytest.raises(
        UnsupportedOperationError, match=r"(?s)gradient of Floor.*gradient of Round"
    ):
        zenith.compile(GraphIR.from_text(model(body, "y", "x")))


def test_wrong_nodes_are_named() -> None:
    with pytest.raises(ValidationError, match="names 'q', which does not exist"):
        zenith.compile(GraphIR.from_text(model("y = Exp (x)", "y", "q", "x")))
    with pytest.raises(ValidationError, match=r"2 input\(s\) for 1 names"):
        zenith.compile(GraphIR.from_text(model("y = Exp (x)", "y", "x", "x, w")))
