"""A transformer block, post-norm, twice: the same weights in torch, JAX, Keras and ONNX."""

from __future__ import annotations

from typing import Any

import numpy as np

WIDTH, HEADS, HIDDEN, LAYERS, LENGTH = 32, 4, 64, 2, 6
EPSILON = 1e-5
Weights = dict[str, np.ndarray[Any, Any]]

_SHAPES = {
    **{f"w{n}": (WIDTH, WIDTH) for n in "qkvo"},
    **{f"b{n}": (WIDTH,) for n in "qkvo"},
    **{n: (WIDTH,) for n in ("g1", "s1", "g2", "s2", "c2")},
    "w1": (WIDTH, HIDDEN),
    "c1": (HIDDEN,),
    "w2": (HIDDEN, WIDTH),
}


def weights(rng: np.random.Generator) -> list[Weights]:
    """One dict per layer; matrices are [in, out]."""
    return [
        {n: (0.2 * rng.standard_normal(s)).astype(np.float32) for n, s in _SHAPES.items()}
        for _ in range(LAYERS)
    ]


def example(rng: np.random.Generator) -> np.ndarray[Any, Any]:
    return rng.standard_normal((2, LENGTH, WIDTH)).astype(np.float32)


def in_numpy(layers: list[Weights], x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The same in float64."""
    from math import erf

    def norm(v: Any, g: Any, s: Any) -> Any:
        centred = v - v.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + EPSILON) * g + s

    def heads(v: Any) -> Any:
        return v.reshape(*v.shape[:2], HEADS, -1).transpose(0, 2, 1, 3)

    x = x.astype(np.float64)
    for p in ({n: a.astype(np.float64) for n, a in layer.items()} for layer in layers):
        q, k, v = (heads(x @ p[f"w{n}"] + p[f"b{n}"]) for n in "qkv")
        scores = np.exp(q @ k.swapaxes(-1, -2) / np.sqrt(WIDTH / HEADS))
        mixed = (scores / scores.sum(-1, keepdims=True) @ v).transpose(0, 2, 1, 3).reshape(x.shape)
        x = norm(x + (mixed @ p["wo"] + p["bo"]), p["g1"], p["s1"])
        hidden = x @ p["w1"] + p["c1"]
        hidden = hidden * 0.5 * (1 + np.vectorize(erf)(hidden / np.sqrt(2)))
        x = norm(x + (hidden @ p["w2"] + p["c2"]), p["g2"], p["s2"])
    return x


def in_torch(layers: list[Weights]) -> Any:
    import torch
    from torch import nn
    from torch.nn import functional as F

    def parameter(array: np.ndarray[Any, Any]) -> nn.Parameter:
        return nn.Parameter(torch.from_numpy(array.copy()))

    class Block(nn.Module):
        def __init__(self, p: Weights) -> None:
            super().__init__()
            self.p = nn.ParameterDict({n: parameter(a) for n, a in p.items()})

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            p = self.p

            def heads(n: str) -> torch.Tensor:
                y = F.linear(x, p[f"w{n}"].T, p[f"b{n}"])
                return y.view(*x.shape[:2], HEADS, -1).transpose(1, 2)

            mixed = F.scaled_dot_product_attention(heads("q"), heads("k"), heads("v"))
            mixed = mixed.transpose(1, 2).reshape(x.shape)
            x = x + F.linear(mixed, p["wo"].T, p["bo"])
            x = F.layer_norm(x, (WIDTH,), p["g1"], p["s1"], EPSILON)
            hidden = F.gelu(F.linear(x, p["w1"].T, p["c1"]))
            x = x + F.linear(hidden, p["w2"].T, p["c2"])
            return F.layer_norm(x, (WIDTH,), p["g2"], p["s2"], EPSILON)

    return nn.Sequential(*[Block(p) for p in layers]).eval()


def in_jax(layers: list[Weights]) -> Any:
    import jax

    def norm(x: Any, g: Any, s: Any) -> Any:
        mean = x.mean(-1, keepdims=True)
        variance = ((x - mean) ** 2).mean(-1, keepdims=True)
        return (x - mean) * jax.lax.rsqrt(variance + EPSILON) * g + s

    def model(x: Any) -> Any:
        for p in layers:
            q, k, v = (
                (x @ p[f"w{n}"] + p[f"b{n}"]).reshape(*x.shape[:2], HEADS, -1) for n in "qkv"
            )
            mixed = jax.nn.dot_product_attention(q, k, v).reshape(x.shape)
            x = norm(x + (mixed @ p["wo"] + p["bo"]), p["g1"], p["s1"])
            hidden = jax.nn.gelu(x @ p["w1"] + p["c1"], approximate=False)
            x = norm(x + (hidden @ p["w2"] + p["c2"]), p["g2"], p["s2"])
        return x

    return model


def in_keras(layers: list[Weights]) -> Any:
    import keras
    from keras import layers as kl

    def norm(x: Any, g: Any, s: Any) -> Any:
        layer = kl.LayerNormalization(epsilon=EPSILON)
        y = layer(x)
        layer.set_weights([g, s])
        return y

    def dense(x: Any, w: Any, b: Any, activation: str | None = None) -> Any:
        layer = kl.Dense(w.shape[1], activation=activation)
        y = layer(x)
        layer.set_weights([w, b])
        return y

    source = x = keras.Input((LENGTH, WIDTH))
    for p in layers:
        attention = kl.MultiHeadAttention(HEADS, WIDTH // HEADS)
        mixed = attention(x, x)
        matrix = (WIDTH, HEADS, -1)
        split = [(p[f"w{n}"].reshape(matrix), p[f"b{n}"].reshape(HEADS, -1)) for n in "qkv"]
        joined = (p["wo"].reshape(HEADS, -1, WIDTH), p["bo"])
        attention.set_weights([a for pair in (*split, joined) for a in pair])
        x = norm(x + mixed, p["g1"], p["s1"])
        x = norm(x + dense(dense(x, p["w1"], p["c1"], "gelu"), p["w2"], p["c2"]), p["g2"], p["s2"])
    return keras.Model(source, x)


def in_onnx(layers: list[Weights]) -> Any:
    import onnx
    from onnx import TensorProto, helper

    nodes: list[Any] = []
    inits: dict[str, Any] = {
        "heads": np.array([0, 0, HEADS, WIDTH // HEADS]),
        "joined": np.array([0, 0, WIDTH]),
        "root": np.array(np.sqrt(WIDTH / HEADS), np.float32),
    }

    def op(kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{kind}_{len(nodes)}"
        nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    x = "x"
    for index, layer in enumerate(layers):
        p = {n: f"{n}_{index}" for n in layer}
        inits.update({p[n]: a for n, a in layer.items()})

        def linear(value: str, w: str, b: str, p: dict[str, str] = p) -> str:
            return op("Add", op("MatMul", value, p[w]), p[b])

        def norm(value: str, g: str, s: str, p: dict[str, str] = p) -> str:
            return op("LayerNormalization", value, p[g], p[s], epsilon=EPSILON)

        split = [op("Reshape", linear(x, f"w{n}", f"b{n}"), "heads") for n in "qkv"]
        perms = ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
        q, k, v = (op("Transpose", s, perm=t) for s, t in zip(split, perms, strict=True))
        scores = op("Softmax", op("Div", op("MatMul", q, k), "root"))
        mixed = op("Transpose", op("MatMul", scores, v), perm=[0, 2, 1, 3])
        x = norm(op("Add", x, linear(op("Reshape", mixed, "joined"), "wo", "bo")), "g1", "s1")
        hidden = op("Gelu", linear(x, "w1", "c1"))
        x = norm(op("Add", x, linear(hidden, "w2", "c2")), "g2", "s2")
    graph = helper.make_graph(
        nodes,
        "transformer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, LENGTH, WIDTH])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(a, n) for n, a in inits.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
