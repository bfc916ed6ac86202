"""A small convolutional net with batch norm: the same weights in torch, JAX, Keras and ONNX.

torch and ONNX take [N, C, H, W], JAX and Keras [N, H, W, C].
"""

from __future__ import annotations

from typing import Any

import numpy as np

CHANNELS, CLASSES, SIZE, EPSILON = (3, 8, 16), 5, 12, 1e-3
Weights = dict[str, np.ndarray[Any, Any]]


def weights(rng: np.random.Generator) -> Weights:
    """Kernels are [out, in, 3, 3]; of every batch norm scale, shift, mean and variance."""
    found: Weights = {}
    for i, (inner, outer) in enumerate(zip(CHANNELS, CHANNELS[1:], strict=False)):
        found[f"k{i}"] = 0.3 * rng.standard_normal((outer, inner, 3, 3))
        for n in ("g", "s", "m"):
            found[f"{n}{i}"] = rng.standard_normal(outer)
        found[f"v{i}"] = rng.uniform(0.5, 2, outer)
    found["w"] = rng.standard_normal((CHANNELS[-1], CLASSES))
    found["b"] = rng.standard_normal(CLASSES)
    return {n: a.astype(np.float32) for n, a in found.items()}


def example(rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """[N, C, H, W]."""
    return rng.standard_normal((2, CHANNELS[0], SIZE, SIZE)).astype(np.float32)


def in_torch(p: Weights) -> Any:
    import torch
    from torch import nn

    def layer(i: int) -> list[nn.Module]:
        conv = nn.Conv2d(CHANNELS[i], CHANNELS[i + 1], 3, padding=1, bias=False)
        norm = nn.BatchNorm2d(CHANNELS[i + 1], eps=EPSILON)
        parts = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        with torch.no_grad():
            conv.weight.copy_(torch.from_numpy(p[f"k{i}"]))
            for n, tensor in zip("gsmv", parts, strict=True):
                assert tensor is not None
                tensor.copy_(torch.from_numpy(p[f"{n}{i}"]))
        return [conv, norm, nn.ReLU(), nn.MaxPool2d(2)]

    head = nn.Linear(CHANNELS[-1], CLASSES)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(p["w"].T))
        head.bias.copy_(torch.from_numpy(p["b"]))
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layer(0), *layer(1), *pool, head).eval()


def in_jax(p: Weights) -> Any:
    import jax
    from jax import lax

    def model(x: Any) -> Any:
        for i in range(2):
            kernel = p[f"k{i}"].transpose(2, 3, 1, 0)
            numbers = ("NHWC", "HWIO", "NHWC")
            x = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)
            factor = lax.rsqrt(p[f"v{i}"] + EPSILON) * p[f"g{i}"]
            x = jax.nn.relu((x - p[f"m{i}"]) * factor + p[f"s{i}"])
            x = lax.reduce_window(x, -np.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        return x.mean((1, 2)) @ p["w"] + p["b"]

    return model


def in_keras(p: Weights) -> Any:
    import keras
    from keras import layers as kl

    model = keras.Sequential([keras.Input((SIZE, SIZE, CHANNELS[0]))])
    for i in range(2):
        conv = kl.Conv2D(CHANNELS[i + 1], 3, padding="same", use_bias=False)
        norm = kl.BatchNormalization(epsilon=EPSILON)
        for layer in (conv, norm, kl.ReLU(), kl.MaxPooling2D()):
            model.add(layer)
        conv.set_weights([p[f"k{i}"].transpose(2, 3, 1, 0)])
        norm.set_weights([p[f"{n}{i}"] for n in "gsmv"])
    head = kl.Dense(CLASSES)
    model.add(kl.GlobalAveragePooling2D())
    model.add(head)
    head.set_weights([p["w"], p["b"]])
    return model


def in_onnx(p: Weights) -> Any:
    import onnx

    layers = "".join(
        f"""c{i} = Conv <pads = [1, 1, 1, 1]> ({x}, k{i})
            n{i} = BatchNormalization <epsilon = {EPSILON}> (c{i}, g{i}, s{i}, m{i}, v{i})
            r{i} = Relu (n{i})
            p{i} = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r{i})
        """
        for i, x in enumerate(("x", "p0"))
    )
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 20]>
        convnet (float[2, {CHANNELS[0]}, {SIZE}, {SIZE}] x) => (float[2, {CLASSES}] y) {{
            {layers}
            a = GlobalAveragePool (p1)
            f = Flatten (a)
            y = Gemm (f, w, b)
        }}"""
    )
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in p.items())
    return model
