"""Text: constants are what inputs are, `str`, whatever runs them."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

import zenith
from zenith.errors import KernelError, ValidationError

TEXT = np.array(["a", "B", "c"], object)
MODELS = {
    "compared": (
        "(string[n] x) => (bool[n] y)",
        'k = Constant<value_string = "a">() y = Equal(x, k)',
    ),
    "joined": (
        "(string[n] x) => (string[m] y)",
        'k = Constant<value_strings = ["q", "ü"]>() y = Concat<axis = 0>(x, k)',
    ),
    "picked": (
        "(string[n] x) => (string[n] y)",
        """k = Constant<value_strings = ["q", "ü"]>() t = Constant<value_string = "B">()
        e = Equal(x, t) i = Cast<to = 7>(e) y = Gather(k, i)""",
    ),
    "of a branch": (
        "(string[n] x) => (string[n] y)",
        """t = Constant<value_string = "B">() e = Equal(x, t) c = Constant<value_string = "-">()
        y = Where(e, c, x)""",
    ),
}


def proto(signature: str, body: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 21]>\nagraph {signature} {{ {body} }}'
    )


@pytest.mark.parametrize("level", [0, 2])
@pytest.mark.parametrize("name", MODELS)
def test_constants(name: str, level: int) -> None:
    model = proto(*MODELS[name])
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (want,) = session.run(None, {"x": TEXT})
    got = zenith.compile(model, fallback="allow", opt_level=level)(TEXT)
    assert got.tolist() == want.tolist()


def test_text_that_two_constants_make() -> None:
    """Folding knows how large text is."""
    body = """a = Constant<value_strings = ["p"]>() b = Constant<value_string = "q">()
              c = StringConcat(a, b) y = Concat<axis = 0>(x, c)"""
    model = proto("(string[n] x) => (string[m] y)", body)
    assert zenith.compile(model, fallback="allow")(TEXT).tolist() == ["a", "B", "c", "pq"]


def test_what_is_no_sequence_no_order_and_no_limit() -> None:
    """Found by fuzzing: a wrong model or call ends in an error of its own."""
    text = proto("(float[n,m] x) => (float[a,b] y)", "y = Transpose<perm = [0, 0]>(x)")
    with pytest.raises(ValidationError, match="is no order of axes"):
        zenith.compile(text)
    body = """t = Constant<value = bool {1}>() y = Loop(m, t, x) <body = b
        (int64 i, bool g, float[n] v) => (bool go, float[n] w) { go = Identity(g) w = Neg(v) }>"""
    loop = zenith.compile(proto("(float[n] x, int64[k] m) => (float[n] y)", body))
    x = np.zeros(2, np.float32)
    for count in (0, 2):
        with pytest.raises(KernelError, match=f"limit of node .* has {count} elements"):
            loop(x, np.ones(count, np.int64))
    np.testing.assert_array_equal(loop(x + 1, np.array([3])), -x - 1)
