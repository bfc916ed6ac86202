"""Run by `nox -s build` in a clean environment: what the built wheels give a user.

usage: python smoke.py core | onnx | torch | jax | tf
"""

from __future__ import annotations

import subprocess
import sys

ADD = """
<
  ir_version: 13,
  opset_import: ["" : 28]
>
tiny (float[N,3] x) => (float[N,3] y) {
  y = Relu (x)
}
"""


def core() -> None:
    code = "import sys, zenith; print(*sorted(m for m in sys.modules if '.' not in m))"
    run = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    heavy = {"torch", "onnx", "onnx_ir", "onnxscript", "numpy", "sympy"} & set(run.stdout.split())
    assert not heavy, f"import zenith loads {heavy}"

    import numpy as np

    import zenith
    from zenith.ir import GraphIR

    compiled = zenith.compile(GraphIR.from_text(ADD), fallback="error")
    x = np.array([[-1.0, 0.0, 2.0]], dtype=np.float32)
    np.testing.assert_array_equal(compiled(x), np.maximum(x, 0))
    assert {row.name for row in zenith.backends()} >= {"cpu", "reference"}
    subprocess.run([sys.executable, "-I", "-m", "zenith.cli", "doctor"], check=True)


def torch() -> None:
    import torch as t

    import zenith

    model = t.nn.Sequential(t.nn.Linear(8, 16), t.nn.ReLU(), t.nn.Linear(16, 4)).eval()
    x = t.randn(3, 8)
    with t.no_grad():
        wanted = model(x)
    compiled = zenith.compile(model, sample_input=x, fallback="error")
    t.testing.assert_close(compiled(x), wanted, rtol=1e-5, atol=1e-6)


def onnx() -> None:
    import numpy as np
    import onnx as o

    import zenith

    text = """<ir_version: 3, opset_import: ["" : 9]>
    old (float[N,3] x) => (float[N,3] y) { y = Clip <min = 0.0, max = 1.0> (x) }"""
    compiled = zenith.compile(o.parser.parse_model(text), fallback="error")
    x = np.array([[-1.0, 0.5, 2.0]], dtype=np.float32)
    np.testing.assert_array_equal(compiled(x), np.clip(x, 0, 1))


def jax() -> None:
    import jax.numpy as jnp
    import numpy as np

    import zenith

    x = jnp.array([[-1.0, 0.5, 2.0]])
    compiled = zenith.compile(lambda v: jnp.tanh(v) + 1, sample_input=x, fallback="error")
    np.testing.assert_allclose(compiled(x), jnp.tanh(x) + 1, rtol=1e-6)


def tf() -> None:
    import keras
    import numpy as np

    import zenith

    source = keras.Input((8,))
    model = keras.Model(source, keras.layers.Dense(4, activation="relu")(source))
    x = np.ones((3, 8), np.float32)
    compiled = zenith.compile(model, sample_input=x, fallback="error")
    np.testing.assert_allclose(compiled(x), model(x), rtol=1e-5, atol=1e-6)


if __name__ == "__main__":
    tests = {"core": core, "onnx": onnx, "torch": torch, "jax": jax, "tf": tf}
    tests[sys.argv[1]]()
    sys.stdout.write(f"smoke test '{sys.argv[1]}' passed\n")
