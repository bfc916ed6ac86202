"""Whole networks with random weights and statistics, and that NHWC costs them nothing."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from tf_oracle import assert_same, check, kernels, randomise

import zenith

L = keras.layers


def image(size: int, batch: int = 2) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(batch, size, size, 3)).astype(np.float32)


def copies(compiled: Any) -> list[str]:
    """Kernels that move memory only."""
    names = ("transpose", "concat", "reshape", "copy", "slice", "pad")
    found = [n.kernel for n in compiled.explain().nodes]
    return [k for k in found if k.startswith(names) and "_view" not in k]


def application(name: str, size: int = 64) -> Any:
    build = getattr(keras.applications, name)
    model = build(weights=None, input_shape=(size, size, 3), classifier_activation=None)
    return randomise(model)


def test_mobilenet_v2() -> None:
    """Batch norm, relu6 and the residuals are inside the convolutions: nothing is left between."""
    compiled = check(application("MobileNetV2"), image(64))
    found = kernels(compiled)
    count = lambda name: sum(n for op, n in found.items() if op.startswith(name))  # noqa: E731
    convolutions = sum(
        n * (1 + op.count("__"))
        for op, n in found.items()
        if op.startswith(("ConvBiasAct", "Bottleneck"))
    )
    assert count("Bottleneck") == 3 and convolutions == 52
    assert not any(op.startswith(("Pointwise", "BatchNorm", "Add", "Mul", "Clip")) for op in found)
    assert not copies(compiled) and found["Transpose"] <= 2
    larger = image(64, batch=3)
    assert compiled(larger).shape == (3, 1000)


def test_mobilenet_v3() -> None:
    check(application("MobileNetV3Small"), image(64))


def residual_block(x: Any, channels: int, strides: int) -> Any:
    y = L.Conv2D(channels, 3, strides=strides, padding="same", use_bias=False)(x)
    y = L.ReLU()(L.BatchNormalization()(y))
    y = L.BatchNormalization()(L.Conv2D(channels, 3, padding="same")(y))
    if strides > 1:
        x = L.BatchNormalization()(L.Conv2D(channels, 1, strides=strides)(x))
    return L.ReLU()(L.Add()([x, y]))


def test_residual_network_has_no_copies() -> None:
    x = keras.Input((32, 32, 3))
    y = L.MaxPooling2D(2)(L.Conv2D(8, 3, padding="same", activation="relu")(x))
    for channels, strides in ((8, 1), (16, 2), (16, 1)):
        y = residual_block(y, channels, strides)
    y = L.Dense(5)(L.GlobalAveragePooling2D()(y))
    compiled = check(randomise(keras.Model(x, y)), image(32))
    found = kernels(compiled)
    assert not copies(compiled)
    allowed = ("ConvBiasAct", "Transpose", "MaxPool", "ReduceMean", "Linear")
    assert all(op.startswith(allowed) for op in found), found
    assert found["ConvBiasAct.bias.add.relu"] == 3


def test_images_of_any_size() -> None:
    """Strided "same" convolutions and pooling round sizes up, transposed ones multiply them."""
    x = keras.Input((None, None, 3))
    y = L.Conv2D(4, 3, strides=2, padding="same", activation="relu")(x)
    y = L.MaxPooling2D(3, strides=2, padding="same")(y)
    y = L.Conv2DTranspose(4, 3, strides=2, padding="same")(y)
    y = L.Conv2D(4, 2, strides=3, padding="same")(y)
    model = randomise(keras.Model(x, y))
    compiled = check(model, image(16))
    for height, width in ((17, 9), (8, 1)):
        data = image(20, batch=1)[:, :height, :width]
        assert_same(model(data), compiled(data))


def test_unet_joins_channels() -> None:
    x = keras.Input((16, 16, 3))
    down = L.Conv2D(8, 3, padding="same", activation="relu")(x)
    deep = L.Conv2D(16, 3, padding="same", activation="swish")(L.MaxPooling2D(2)(down))
    up = L.Conv2DTranspose(8, 2, strides=2)(deep)
    y = L.Conv2D(2, 1, activation="sigmoid")(L.Concatenate()([down, up]))
    compiled = check(randomise(keras.Model(x, y)), image(16))
    assert not [k for k in copies(compiled) if "concat" not in k]


def test_convnext_normalises_channels() -> None:
    """It normalises over channels, between convolutions: one kernel each, nothing moved."""
    x = keras.Input((8, 8, 6))
    y = L.Conv2D(8, 3, padding="same")(x)
    z = L.LayerNormalization(epsilon=1e-6)(L.DepthwiseConv2D(7, padding="same")(y))
    z = L.Dense(8)(L.Dense(16, activation="gelu")(z))
    y = L.LayerNormalization(epsilon=1e-6)(L.Add()([y, z]))
    y = L.Conv2D(8, 2, strides=2)(y)
    data = np.random.default_rng(4).normal(size=(2, 8, 8, 6)).astype(np.float32)
    compiled = check(randomise(keras.Model(x, y)), data)
    found = kernels(compiled)
    assert sum(n for op, n in found.items() if "LayerNorm" in op) == 2
    assert not copies(compiled) and not any(op.startswith("Reduce") for op in found)


def encoder_block(x: Any) -> Any:
    y = L.MultiHeadAttention(2, 8)(x, x)
    x = L.LayerNormalization(epsilon=1e-6)(L.Add()([x, y]))
    y = L.Dense(16)(L.Dense(32, activation="gelu")(x))
    return L.LayerNormalization(epsilon=1e-6)(L.Add()([x, y]))


def test_transformer() -> None:
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    x = L.Embedding(50, 16)(tokens)
    for _ in range(2):
        x = encoder_block(x)
    model = randomise(keras.Model(tokens, L.Dense(50)(x)))
    rng = np.random.default_rng(2)
    compiled = check(model, rng.integers(0, 50, (2, 9)).astype(np.int32))
    found = kernels(compiled)
    assert found["Attention"] == 2 and not any(op.startswith("ReduceMean") for op in found)
    longer = rng.integers(0, 50, (3, 13)).astype(np.int32)
    assert_same(model(longer), compiled(longer))


def test_the_source_may_change() -> None:
    """The compiled model owns its weights."""
    model = randomise(keras.Sequential([keras.Input((4,)), L.Dense(3)]))
    x = np.ones((1, 4), np.float32)
    compiled = zenith.compile(model)
    before = np.asarray(compiled(x))
    for weight in model.weights:
        weight.assign(weight * 0)
    np.testing.assert_array_equal(before, np.asarray(compiled(x)))


@pytest.mark.parametrize("layer", [L.LSTM, L.GRU])
def test_stacked_recurrence(layer: Any) -> None:
    x = keras.Input((None, 6))
    y = L.Bidirectional(layer(5, return_sequences=True))(x)
    model = randomise(keras.Model(x, L.Dense(2)(layer(4)(y))))
    check(model, np.random.default_rng(3).normal(size=(2, 7, 6)).astype(np.float32))
