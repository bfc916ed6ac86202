"""Matrix products, convolutions, pooling, normalisations and attention."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from zenith.testing.cases import Case, array, make, random

MATMUL = {
    "matrices": ((7, 5), (5, 9)),
    "batch": ((3, 7, 5), (3, 5, 9)),
    "broadcast": ((3, 1, 7, 5), (4, 5, 9)),
    "vector right": ((7, 5), (5,)),
    "vector left": ((5,), (5, 9)),
    "vectors": ((5,), (5,)),
    "no rows": ((0, 5), (5, 9)),
    "no sum": ((3, 0), (0, 4)),
    "large": ((65, 130), (130, 67)),
    "one row": ((1, 257), (257, 33)),
}


def cases() -> Iterator[Case]:
    yield from _products()
    yield from _convolutions()
    yield from _pools()
    yield from _norms()
    yield from _attention()


def _products() -> Iterator[Case]:
    for what, (left, right) in MATMUL.items():
        pair = [random(left), random(right, seed=1)]
        yield make("MatMul", what, pair)
        yield make("MatMul", f"{what}, constant", pair, constants=(1,))
    for dtype in ("float64", "float16", "bfloat16", "int32", "int64"):
        inputs = [random((7, 5), dtype, -2, 2), random((5, 9), dtype, -2, 2, 1)]
        yield make("MatMul", "matrices", inputs)
        yield make("Gemm", "matrices", inputs)
    for ta in (0, 1):
        for tb in (0, 1):
            a, b = random((5, 7) if ta else (7, 5)), random((9, 5) if tb else (5, 9), seed=1)
            for held in ((), (1,), (1, 2)):
                name = f"transA={ta}, transB={tb}, constants {list(held)}"
                c = random((9,), seed=2)
                yield make("Gemm", name, [a, b, c], constants=held, transA=ta, transB=tb)
    a, b = random((7, 5)), random((5, 9), seed=1)
    yield make("Gemm", "alpha and beta", [a, b, random((7, 1), seed=2)], alpha=0.5, beta=2.0)
    yield make("Gemm", "scalar C", [a, b, random((), seed=2)])
    yield make("Gemm", "no C", [a, b])
    yield make("Einsum", "matrices", [a, b], equation="ij,jk->ik")
    yield make(
        "Einsum", "batch", [random((2, 3, 4)), random((2, 4, 5), seed=1)], equation="bij,bjk->bik"
    )
    yield make("Einsum", "transpose", [a], equation="ij->ji")
    yield make("Einsum", "sum", [a], equation="ij->i")
    inputs = [random((4, 3), "uint8", 0, 99), random((3, 2), "uint8", 0, 99, 1)]
    yield make("MatMulInteger", "plain", inputs)
    yield make("MatMulInteger", "zero points", [*inputs, array([12], "uint8"), array([0], "uint8")])
    x = random((3, 5), low=-4, high=4)
    scale, zero = array(0.05, "float32"), array(100, "uint8")
    yield make("QuantizeLinear", "one scale", [x, scale, zero], constants=(1, 2))
    yield make("DynamicQuantizeLinear", "plain", [x], outputs=3)
    q = random((3, 5), "uint8", 0, 255)
    yield make("DequantizeLinear", "one scale", [q, scale, zero], constants=(1, 2))


def _convolutions() -> Iterator[Case]:
    x, w, b = random((2, 4, 9, 8)), random((6, 4, 3, 3), seed=1), random((6,), seed=2)
    variants: dict[str, dict[str, Any]] = {
        "plain": {},
        "pads": {"pads": [1, 1, 1, 1]},
        "uneven pads": {"pads": [0, 1, 2, 1]},
        "strides": {"strides": [2, 3], "pads": [1, 1, 1, 1]},
        "dilations": {"dilations": [2, 1]},
        "same upper": {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        "same lower": {"auto_pad": "SAME_LOWER"},
    }
    for what, attributes in variants.items():
        yield make("Conv", what, [x, w, b], constants=(1, 2), **attributes)
        yield make("Conv", f"{what}, computed weights", [x, w, b], **attributes)
    yield make("Conv", "no bias", [x, w], constants=(1,))
    yield make("Conv", "group", [x, w[:, :2].copy(), b], constants=(1, 2), group=2)
    yield make(
        "Conv", "depthwise", [x, w[:4, :1].copy()], constants=(1,), group=4, pads=[1, 1, 1, 1]
    )
    yield make("Conv", "pointwise", [x, w[:, :, :1, :1].copy(), b], constants=(1, 2))
    yield make("Conv", "1-D", [x[:, :, 0].copy(), w[:, :, 0].copy(), b], constants=(1, 2))
    yield make(
        "Conv", "3-D", [random((1, 2, 4, 5, 4)), random((3, 2, 2, 3, 2), seed=1)], constants=(1,)
    )
    yield make("Conv", "batch 0", [x[:0], w, b], constants=(1, 2))
    for dtype in ("float64", "float16"):
        inputs = [random((1, 2, 5, 5), dtype), random((3, 2, 3, 3), dtype, seed=1)]
        yield make("Conv", "plain", inputs, constants=(1,))
    w = random((4, 3, 3, 3), seed=1)
    yield make("ConvTranspose", "plain", [x, w], constants=(1,))
    yield make(
        "ConvTranspose",
        "strides",
        [x, w, random((3,))],
        constants=(1, 2),
        strides=[2, 2],
        pads=[1, 1, 1, 1],
    )
    yield make(
        "ConvTranspose",
        "output padding",
        [x, w],
        constants=(1,),
        strides=[2, 2],
        output_padding=[1, 1],
    )


def _pools() -> Iterator[Case]:
    x = random((2, 3, 9, 8))
    for op in ("MaxPool", "AveragePool", "LpPool"):
        yield make(op, "plain", [x], kernel_shape=[3, 3])
        yield make(op, "strides", [x], kernel_shape=[3, 2], strides=[2, 2])
        yield make(op, "pads", [x], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 1])
        yield make(op, "1-D", [x[:, :, 0].copy()], kernel_shape=[3])
        yield make(op, "dilations", [x], kernel_shape=[2, 2], dilations=[2, 3])
        yield make(op, "float64", [x.astype("float64")], kernel_shape=[3, 3])
    for op in ("MaxPool", "AveragePool"):
        yield make(op, "ceil", [x], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
    yield make(
        "AveragePool",
        "count pads",
        [x],
        kernel_shape=[3, 3],
        pads=[1, 1, 1, 1],
        count_include_pad=1,
    )
    yield make("MaxPool", "indices", [x], kernel_shape=[2, 2], strides=[2, 2], outputs=2)
    reductions: dict[str, Any] = {"GlobalAveragePool": np.mean, "GlobalMaxPool": np.max}
    for op, reduce in reductions.items():
        for given in (x[:, :, 0].copy(), x, random((1, 2, 3, 4, 5))):
            wanted = reduce(
                given.astype("float64"), axis=tuple(range(2, given.ndim)), keepdims=True
            )
            yield make(op, f"{given.ndim - 2}-D", [given], expected=[wanted])


def _norms() -> Iterator[Case]:
    x, row = random((2, 3, 7)), random((7,), seed=1)
    for axis in (-1, 1):
        shape = x.shape[axis:]
        scale, bias = random(shape, seed=1), random(shape, seed=2)
        yield make("LayerNormalization", f"axis {axis}", [x, scale, bias], axis=axis)
        yield make("RMSNormalization", f"axis {axis}", [x, scale], axis=axis)
    yield make("LayerNormalization", "constant", [x, row, row], constants=(1, 2), epsilon=1e-3)
    yield make("LayerNormalization", "no bias", [x, row])
    yield make("LayerNormalization", "large", [random((3, 1025)), random((1025,), seed=1)])
    x = random((2, 4, 5, 3))
    four = [random((4,), low=0.5, seed=s) for s in range(1, 5)]
    yield make("BatchNormalization", "2-D", [x, *four])
    yield make("BatchNormalization", "constant", [x, *four], constants=(1, 2, 3, 4))
    yield make("BatchNormalization", "rank 2", [random((3, 4)), *four])
    yield make("InstanceNormalization", "2-D", [x, *four[:2]])
    yield make("GroupNormalization", "two groups", [x, *four[:2]], num_groups=2)
    yield make("LRN", "3", [x], size=3, alpha=0.01, beta=0.7, bias=1.1)
    wide, over = x.astype("float64"), (0, 2, 3)
    centred = wide - wide.mean(over, keepdims=True)
    wanted = centred / (np.sqrt(np.mean(centred**2, over, keepdims=True)) + 1e-9)
    yield make("MeanVarianceNormalization", "default", [x], expected=[wanted])


def _attention() -> Iterator[Case]:
    q, k, v = random((2, 3, 5, 8)), random((2, 3, 6, 8), seed=1), random((2, 3, 6, 4), seed=2)
    yield make("Attention", "plain", [q, k, v])
    yield make("Attention", "causal", [q, k, v], is_causal=1)
    yield make("Attention", "scale", [q, k, v], scale=0.3)
    yield make("Attention", "mask", [q, k, v, random((5, 6), seed=3)])
    yield make(
        "Attention", "bool mask", [q, k, v, random((5, 6), "bool", seed=3) | (random((5, 6)) > 1)]
    )
    yield make(
        "Attention",
        "rank 3",
        [random((2, 5, 24)), random((2, 6, 24), seed=1), random((2, 6, 24), seed=2)],
        q_num_heads=3,
        kv_num_heads=3,
    )
    few = [q, k[:, :1].copy(), v[:, :1].copy()]
    yield make("Attention", "grouped", few)
    cache = [random((10, 4), seed=1), random((10, 4), seed=2)]
    positions = array([[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]])
    yield make("RotaryEmbedding", "positions", [q, *cache, positions])
    yield make("RotaryEmbedding", "interleaved", [q, *cache, positions], interleaved=1)
    x = random((1, 2, 4, 5))
    for mode in ("nearest", "linear", "cubic"):
        scales = array([1, 1, 2, 1.5], "float32")
        yield make("Resize", mode, [x, None, scales], constants=(2,), mode=mode)
    yield make(
        "Resize", "sizes", [x, None, None, array([1, 2, 8, 3])], constants=(3,), mode="linear"
    )
    yield make("GridSample", "linear", [x, random((1, 3, 2, 2), low=-1, high=1)])
    yield make("Dropout", "inference", [x])
