"""Every Keras layer that means something in inference, alone in a model, against Keras."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from tf_oracle import assert_same, check, functional, kernels

L = keras.layers
RNG = np.random.default_rng(3)
IMAGE, SEQUENCE, OPEN, ROW = (8, 9, 4), (7, 8), (None, 8), (8,)

# (input shape, layer): a function, since a layer belongs to one model
CASES: dict[str, tuple[tuple[int | None, ...], Any]] = {
    "dense": (ROW, lambda x: L.Dense(3)(x)),
    "dense of sequences": (OPEN, lambda x: L.Dense(4, activation="gelu")(x)),
    "einsum dense": (
        SEQUENCE,
        lambda x: L.EinsumDense("abc,cd->abd", (None, 5), bias_axes="d")(x),
    ),
    "spectral": (ROW, lambda x: L.SpectralNormalization(L.Dense(4))(x)),
    "conv1d": ((9, 4), lambda x: L.Conv1D(5, 3, padding="same", dilation_rate=2)(x)),
    "conv1d causal": ((9, 4), lambda x: L.Conv1D(5, 3, padding="causal")(x)),
    "conv2d": (IMAGE, lambda x: L.Conv2D(5, 3, strides=2, padding="same", activation="relu")(x)),
    "conv2d valid": (IMAGE, lambda x: L.Conv2D(5, (3, 2), strides=(1, 2))(x)),
    "conv2d dilated": (IMAGE, lambda x: L.Conv2D(5, 3, dilation_rate=2, padding="same")(x)),
    "conv2d groups": (IMAGE, lambda x: L.Conv2D(8, 3, groups=2)(x)),
    "conv3d": ((6, 6, 6, 2), lambda x: L.Conv3D(5, 3, padding="same", strides=2)(x)),
    "transposed 1d": ((6, 2), lambda x: L.Conv1DTranspose(5, 3, padding="same", strides=2)(x)),
    "transposed 2d": (IMAGE, lambda x: L.Conv2DTranspose(5, 3, padding="same", strides=2)(x)),
    "transposed 3d": ((4, 3, 4, 2), lambda x: L.Conv3DTranspose(3, 3, strides=2)(x)),
    "depthwise 1d": ((8, 4), lambda x: L.DepthwiseConv1D(3, depth_multiplier=2)(x)),
    "depthwise 2d": (IMAGE, lambda x: L.DepthwiseConv2D(3, padding="same", strides=2)(x)),
    "separable 1d": ((8, 4), lambda x: L.SeparableConv1D(5, 3)(x)),
    "separable 2d": (IMAGE, lambda x: L.SeparableConv2D(5, 3, padding="same")(x)),
    "max pool 1d": ((8, 3), lambda x: L.MaxPooling1D(2)(x)),
    "max pool 2d": (IMAGE, lambda x: L.MaxPooling2D(3, strides=2, padding="same")(x)),
    "average pool 2d": (IMAGE, lambda x: L.AveragePooling2D(3, strides=2, padding="same")(x)),
    "average pool 3d": ((8, 8, 8, 3), lambda x: L.AveragePooling3D(2)(x)),
    "global average": (IMAGE, lambda x: L.GlobalAveragePooling2D()(x)),
    "global max": (IMAGE, lambda x: L.GlobalMaxPooling2D(keepdims=True)(x)),
    "upsampling nearest": (IMAGE, lambda x: L.UpSampling2D(2)(x)),
    "upsampling bilinear": (IMAGE, lambda x: L.UpSampling2D(2, interpolation="bilinear")(x)),
    "resizing nearest": (IMAGE, lambda x: L.Resizing(5, 12, interpolation="nearest")(x)),
    "resizing bilinear": (IMAGE, lambda x: L.Resizing(5, 12)(x)),
    "resizing lanczos": (IMAGE, lambda x: L.Resizing(5, 12, interpolation="lanczos3")(x)),
    "resizing smoothed": (
        IMAGE,
        lambda x: L.Resizing(5, 12, interpolation="bicubic", antialias=True)(x),
    ),
    "spectrogram": ((64, 1), lambda x: L.STFTSpectrogram("log", 16, 8, 32)(x)),
    "mel spectrogram": ((64,), lambda x: L.MelSpectrogram(32, 8, num_mel_bins=10)(x)),
    "cropping": (IMAGE, lambda x: L.Cropping2D(((1, 2), (0, 3)))(x)),
    "zero padding": (IMAGE, lambda x: L.ZeroPadding2D(2)(x)),
    "batch norm": (IMAGE, lambda x: L.BatchNormalization()(x)),
    "layer norm": (SEQUENCE, lambda x: L.LayerNormalization()(x)),
    "layer norm, two axes": (IMAGE, lambda x: L.LayerNormalization(axis=(2, 3))(x)),
    "rms norm": (SEQUENCE, lambda x: L.RMSNormalization()(x)),
    "group norm": (IMAGE, lambda x: L.GroupNormalization(2)(x)),
    "unit norm": (ROW, lambda x: L.UnitNormalization()(x)),
    "normalization": (ROW, lambda x: L.Normalization(mean=[1.0] * 8, variance=[2.0] * 8)(x)),
    "rescaling": (IMAGE, lambda x: L.Rescaling(1 / 255.0, offset=-1.0)(x)),
    "prelu": (IMAGE, lambda x: L.PReLU(shared_axes=[1, 2])(x)),
    "dropout": (ROW, lambda x: L.GaussianNoise(0.5)(L.Dropout(0.5)(x))),
    "permute": (IMAGE, lambda x: L.Permute((3, 1, 2))(x)),
    "repeat": (ROW, lambda x: L.RepeatVector(3)(x)),
    "reshape": (SEQUENCE, lambda x: L.Reshape((4, 14))(L.Flatten()(x))),
    "time distributed": (SEQUENCE, lambda x: L.TimeDistributed(L.Dense(3))(x)),
    "attention": (SEQUENCE, lambda x: L.MultiHeadAttention(2, 4)(x, x)),
    "causal attention": (OPEN, lambda x: L.MultiHeadAttention(2, 4)(x, x, use_causal_mask=True)),
    "grouped attention": (SEQUENCE, lambda x: L.GroupQueryAttention(4, 4, 2)(x, x)),
    "luong attention": (SEQUENCE, lambda x: L.Attention(use_scale=True)([x, x])),
    "lstm": (OPEN, lambda x: L.LSTM(4, return_sequences=True)(x)),
    "lstm backwards": (SEQUENCE, lambda x: L.LSTM(4, go_backwards=True, return_state=True)(x)),
    "gru": (OPEN, lambda x: L.GRU(4)(x)),
    "bidirectional": (SEQUENCE, lambda x: L.Bidirectional(L.LSTM(4, return_sequences=True))(x)),
    "conv lstm": ((3, 6, 6, 2), lambda x: L.ConvLSTM2D(3, 3, padding="same")(x)),
    "masking": (SEQUENCE, lambda x: L.LSTM(4)(L.Masking()(x))),
    "merge": (ROW, lambda x: L.Concatenate()([L.Add()([x, x]), L.Dot(1)([x, x]), x])),
}


@pytest.mark.parametrize("name", CASES)
def test_layer(name: str) -> None:
    shape, layer = CASES[name]
    model = functional(shape, layer)
    compiled = None
    for batch, steps in ((2, 5), (3, 7)):
        x = RNG.normal(size=(batch, *[s or steps for s in shape])).astype(np.float32)
        if compiled is None:
            compiled = check(model, x)
        else:
            assert_same(model(x), compiled(x))


RECURRENT: dict[str, tuple[str, Any]] = {
    "gru": ("GRU", lambda x: L.GRU(4, return_sequences=True, return_state=True)(x)),
    "gru backwards": ("GRU", lambda x: L.GRU(4, go_backwards=True, return_sequences=True)(x)),
    "gru from a state": ("GRU", lambda x: L.GRU(4)(x, initial_state=L.Dense(4)(x[:, 0]))),
    "plain": ("RNN", lambda x: L.SimpleRNN(4, return_sequences=True)(x)),
    "plain relu": ("RNN", lambda x: L.SimpleRNN(4, activation="relu", use_bias=False)(x)),
    "gru with reset before": ("GRU", lambda x: L.GRU(4, reset_after=False)(x)),
    "gru relu": ("Loop", lambda x: L.GRU(4, activation="relu")(x)),
    "lstm": ("LSTM", lambda x: L.LSTM(4, return_sequences=True, return_state=True)(x)),
    "lstm without bias": ("LSTM", lambda x: L.LSTM(4, use_bias=False, go_backwards=True)(x)),
    "lstm of cells": ("LSTM", lambda x: L.RNN(L.LSTMCell(4))(x)),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_layers_are_one_kernel(name: str) -> None:
    expected, layer = RECURRENT[name]
    x = RNG.normal(size=(2, *SEQUENCE)).astype(np.float32)
    model = functional(SEQUENCE, layer)
    found = kernels(check(model, x, close=1e-5))
    assert found[expected] == 1
    assert expected == "Loop" or not found["Loop"]
    assert all("inner_loop" not in vars(part) for part in model.layers)


@pytest.mark.parametrize(
    ("kind", "layer"),
    [
        ("LSTM", lambda: L.LSTM(4, return_sequences=True, return_state=True)),
        ("LSTM", lambda: L.Bidirectional(L.LSTM(4, return_sequences=True))),
        ("GRU", lambda: L.GRU(4, return_state=True)),
        ("GRU", lambda: L.GRU(4, reset_after=False, return_sequences=True, go_backwards=True)),
        ("RNN", lambda: L.SimpleRNN(4, return_sequences=True)),
        ("GRU", lambda: L.RNN(L.GRUCell(4), return_sequences=True, zero_output_for_mask=True)),
    ],
)
def test_masked_recurrent_layers_are_one_kernel(kind: str, layer: Any) -> None:
    """Rows masked at the end, at the start, in between, everywhere and nowhere."""
    model = functional((None, 3), lambda x: layer()(L.Masking()(x)))
    x = RNG.normal(size=(5, 6, 3)).astype(np.float32)
    for row, steps in enumerate([[4, 5], [0, 1, 2], [1, 3, 4], range(6)]):
        x[row, list(steps)] = 0
    compiled = check(model, x, close=1e-5)
    found = kernels(compiled)
    assert found[kind] >= 1 and not found["Loop"]
    assert_same(model(x[1:, :4]), compiled(x[1:, :4]), 1e-5)


ACTIVATIONS = """celu elu exponential gelu glu hard_sigmoid hard_silu hard_tanh leaky_relu linear
    log_sigmoid log_softmax mish relu relu6 selu sigmoid silu softmax softplus softsign squareplus
    tanh tanh_shrink"""


@pytest.mark.parametrize("name", ACTIVATIONS.split())
def test_activation(name: str) -> None:
    x = RNG.normal(size=(2, 5, 8)).astype(np.float32) * 3
    check(functional((5, 8), L.Activation(name)), x)


def test_embedding_with_mask() -> None:
    x = keras.Input((None,), dtype="int32")
    y = L.GlobalAveragePooling1D()(L.Embedding(11, 6, mask_zero=True)(x))
    check(keras.Model(x, y), np.array([[1, 4, 10, 0], [2, 0, 0, 0]], np.int32))


def test_bicubic() -> None:
    """TensorFlow reads its cubic weights from a table of 1024: that near and no nearer."""
    layer = L.Resizing(12, 13, interpolation="bicubic")
    check(functional(IMAGE, layer), RNG.normal(size=(1, *IMAGE)).astype(np.float32), close=4e-3)


def test_bfloat16_is_not_float16() -> None:
    """Numbers that float16 does not have; weights of a convolution are constants of the type."""
    policy = "mixed_bfloat16"
    layers = lambda x: L.GlobalAveragePooling2D(dtype=policy)(  # noqa: E731
        L.BatchNormalization(dtype=policy)(L.Conv2D(4, 3, dtype=policy)(x))
    )
    x = RNG.normal(size=(2, *IMAGE)).astype(np.float32) * 1e6
    compiled = check(functional(IMAGE, layers), x, close=2e-2)
    assert compiled(x).dtype == "bfloat16"


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([lambda: L.Conv2D(6, 3)], "ConvBiasAct.bias.relu"),
        ([lambda: L.Conv2D(6, 3, use_bias=False, padding="same")], "ConvBiasAct.bias.relu"),
        ([lambda: L.DepthwiseConv2D(3, strides=2, padding="same")], "ConvBiasAct.bias.relu"),
    ],
)
def test_batch_norm_goes_into_the_convolution(layers: Any, expected: str) -> None:
    model = functional(IMAGE, lambda x: L.ReLU()(L.BatchNormalization()(layers[0]()(x))))
    compiled = check(model, RNG.normal(size=(2, *IMAGE)).astype(np.float32))
    assert kernels(compiled) == {expected: 1, "Transpose": 2}


def test_what_layers_become() -> None:
    """The kernels that matter: one node where Keras computes in many."""
    x = RNG.normal(size=(2, 7, 8)).astype(np.float32)
    norm = check(functional(SEQUENCE, L.LayerNormalization()), x)
    assert kernels(norm) == {"LayerNormalization": 1}
    dense = check(functional(OPEN, L.Dense(4, activation="gelu")), x)
    assert kernels(dense) == {"Linear.bias.gelu": 1}
    attention = kernels(check(functional(SEQUENCE, lambda v: L.MultiHeadAttention(2, 4)(v, v)), x))
    assert attention["Attention"] == 1 and "Softmax" not in attention
    assert kernels(check(functional(OPEN, L.LSTM(4)), x))["LSTM"] == 1


@pytest.mark.parametrize("length", [6, None])
@pytest.mark.parametrize("kind", ["multi-head", "grouped"])
def test_causal_attention_is_one_kernel(kind: str, length: int | None) -> None:
    def layer(x: Any) -> Any:
        if kind == "grouped":
            made = L.GroupQueryAttention(8, num_query_heads=4, num_key_value_heads=2)
        else:
            made = L.MultiHeadAttention(2, 8)
        return made(x, x, use_causal_mask=True)

    model = functional((length, 16), layer)
    ran = kernels(check(model, RNG.normal(size=(2, 6, 16)).astype(np.float32)))
    assert ran["Attention"] == 1 and not ran["Softmax"] and not ran["Tile"]
