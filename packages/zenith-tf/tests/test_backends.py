"""Keras models that another framework computes; each backend is a process of its own."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

MODEL = """
import os
os.environ["KERAS_BACKEND"] = "{backend}"
import sys
import keras, numpy as np, zenith
L = keras.layers
x = keras.Input((8, 8, 3))
y = L.ReLU()(L.BatchNormalization()(L.Conv2D(4, 3)(x)))
model = keras.Model(x, L.Dense(2)(L.GlobalAveragePooling2D()(y)))
model.save("{path}")
data = keras.ops.convert_to_tensor(np.ones((2, 8, 8, 3), np.float32))
for source in (model, "{path}"):
    compiled = zenith.compile(source, sample_input=data, fallback="error")
    found, expected = compiled(data), model(data, training=False)
    assert type(found).__module__.startswith({module!r}), type(found)
    both = [keras.ops.convert_to_numpy(t) for t in (found, expected)]
    np.testing.assert_allclose(*both, 1e-4, 1e-4)
assert "zenith_tf.adapter" not in sys.modules  # the way by TensorFlow was not gone
"""


def run(backend: str, module: str, path: Path) -> subprocess.CompletedProcess[str]:
    text = MODEL.format(backend=backend, module=module, path=path / "model.keras")
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=200)


def installed(*names: str) -> bool:
    return all(importlib.util.find_spec(name) for name in names)


@pytest.mark.skipif(not installed("torch", "zenith_torch"), reason="needs zenith-torch")
def test_torch(tmp_path: Path) -> None:
    done = run("torch", "torch", tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not installed("jax", "zenith_jax"), reason="needs zenith-jax")
def test_jax(tmp_path: Path) -> None:
    done = run("jax", "jax", tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not installed("jax") or installed("zenith_jax"), reason="needs jax alone")
def test_jax_without_its_adapter_says_what_to_install(tmp_path: Path) -> None:
    done = run("jax", "jax", tmp_path)
    assert "pip install zenith-jax" in done.stderr
