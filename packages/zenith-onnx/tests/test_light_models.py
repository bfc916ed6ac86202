"""The nine convolutional networks that come with onnx, with random weights, against ONNX Runtime.

As they come, their weights are constant and every output is the same: no wrong kernel would show.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

import zenith

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
NAMES = sorted(p.stem.removeprefix("light_") for p in LIGHT.glob("*.onnx"))


def randomize_light(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """`model` with random weights of a sensible size in place of constants, final Softmax cut.

    Weights are small networks of their own there: ConstantOfShape nodes over shape initializers.
    """
    rng = np.random.default_rng(seed)
    graph = model.graph
    shapes = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    roles = {
        name: (node.op_type, index) for node in graph.node for index, name in enumerate(node.input)
    }
    kept = []
    for node in graph.node:
        if node.op_type != "ConstantOfShape":
            kept.append(node)
            continue
        shape = shapes[node.input[0]]
        op_type, index = roles.get(node.output[0], ("", 0))
        array = rng.standard_normal(tuple(shape)).astype(np.float32)
        if op_type == "BatchNormalization" and index == 4:
            array = np.abs(array) + 0.5
        elif len(shape) > 1:
            array *= np.sqrt(2 / max(1, np.prod(shape[1:])))
        else:
            array *= 0.1
            array += op_type == "BatchNormalization" and index == 1
        graph.initializer.append(numpy_helper.from_array(array, node.output[0]))
    if kept[-1].op_type == "Softmax":
        last = kept.pop()
        graph.output[0].name = last.input[0]
    del graph.node[:]
    graph.node.extend(kept)
    return model


@functools.cache
def _input(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_random_weights_agree_with_onnxruntime(name: str) -> None:
    model = randomize_light(onnx.load(LIGHT / f"light_{name}.onnx"), seed=0)
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    weights = {t.name for t in model.graph.initializer}
    data = next(v for v in model.graph.input if v.name not in weights)
    x = _input(tuple(d.dim_value for d in data.type.tensor_type.shape.dim))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    wanted = session.run(None, {data.name: x})[0]
    compiled = zenith.compile(model, fallback="error")
    result = compiled(x)
    assert wanted.std() > 1e-3
    np.testing.assert_allclose(result, wanted, rtol=2e-4, atol=2e-4 * float(np.abs(wanted).max()))


def test_there_are_nine() -> None:
    assert len(NAMES) == 9
