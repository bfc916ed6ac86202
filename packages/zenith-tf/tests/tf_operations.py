"""TensorFlow operations with inputs that tell right from nearly right: (name, function, inputs)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

__all__ = ["OPERATIONS"]

RNG = np.random.default_rng(1)
raw = tf.raw_ops
Case = tuple[str, Callable[..., Any], tuple[np.ndarray, ...]]


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def unit(*shape: int) -> np.ndarray:
    return RNG.uniform(0.1, 0.9, shape).astype(np.float32)


def whole(*shape: int, low: int = -9, high: int = 9) -> np.ndarray:
    return RNG.integers(low, high, shape).astype(np.int32)


def of_x(name: str) -> Callable[..., Any]:
    return lambda x: getattr(raw, name)(x=x)


def of_features(name: str) -> Callable[..., Any]:
    return lambda x: getattr(raw, name)(features=x)


def of_xy(name: str) -> Callable[..., Any]:
    return lambda x, y: getattr(raw, name)(x=x, y=y)


def reduced(name: str, axis: int | None) -> Callable[..., Any]:
    found = getattr(tf, f"reduce_{name}", None) or getattr(tf.math, f"reduce_{name}")
    return lambda x: found(x, axis=axis)


UNARY = """Abs Acos Asin Asinh Atan Atanh Ceil Cos Cosh Erf Erfc Exp Expm1 Floor Inv Log Log1p Neg
    Reciprocal Rint Round Rsqrt Sigmoid Sign Sin Sinh Sqrt Square Tan Tanh IsNan IsInf IsFinite"""
BINARY = """AddV2 Sub Mul RealDiv Maximum Minimum Pow SquaredDifference DivNoNan MulNoNan Xdivy
    Xlogy Xlog1py
    FloorDiv FloorMod TruncateMod Mod Equal NotEqual Less LessEqual Greater GreaterEqual"""


def definite(*shape: int) -> np.ndarray:
    x = normal(*shape)
    return x @ np.swapaxes(x, -1, -2) + 3 * np.eye(shape[-1], dtype=np.float32)


def resized(old: tuple[int, int], new: tuple[int, int], method: str, **how: Any) -> Case:
    name = f"{method} from {old} to {new} {how or ''}"
    return name, lambda x: tf.image.resize(x, new, method, **how), (normal(1, *old, 2),)


SIGNED = np.array([-3, 2, 5, -7], np.int32)
FRACTIONS = np.array([-0.3, 0.2, 0.5, -0.7], np.float32)
NEAR_ZERO = np.array([1e-6, -1e-6, 20, 0, 0.7], np.float32)

OPERATIONS: list[Case] = [
    *[(name, of_x(name), (unit(3, 4),)) for name in UNARY.split()],
    *[(n, of_features(n), (normal(3, 4),)) for n in ["Elu", "Relu", "Relu6", "Selu", "Softplus"]],
    *[(name, of_xy(name), (unit(3, 4), unit(4))) for name in BINARY.split()],
    *[
        (f"{n} of integers", of_xy(n), (whole(5, 4), SIGNED))
        for n in ["FloorDiv", "FloorMod", "TruncateDiv", "TruncateMod", "Mod", "Maximum", "Mul"]
    ],
    *[
        (f"{n} of signs", of_xy(n), (normal(5, 4), FRACTIONS))
        for n in ["FloorMod", "TruncateMod", "FloorDiv"]
    ],
    ("Expm1 near 0", tf.math.expm1, (NEAR_ZERO,)),
    (
        "Log1p near 0",
        tf.math.log1p,
        (np.append(NEAR_ZERO, np.float32([1e30, np.inf]))[[0, 2, 5, 6]],),
    ),
    *[
        (
            f"Cast by {kind}",
            lambda x, kind=kind: tf.cast(tf.cast(x, kind), tf.float32),
            (np.array([-3.7, 0.3, 1e-3, 16777217], np.float64),),
        )
        for kind in ("float16", "float32", "bfloat16", "int32", "uint8")
    ],
    ("Select of not chosen NaN", lambda x: tf.where(x > 0, tf.math.log(x), x), (normal(3, 4),)),
    (
        "Select of rows",
        lambda c, x, y: raw.Select(condition=c > 0, x=x, y=y),
        (normal(3), normal(3, 4), normal(3, 4)),
    ),
    ("Select of infinities", lambda x: tf.where(x > 0, x / 0.0, x), (normal(3, 4),)),
    *[
        (n, of_xy(n), (whole(5, low=0).astype(np.uint32), whole(5, low=0).astype(np.uint32)))
        for n in ["BitwiseAnd", "BitwiseOr", "BitwiseXor", "LeftShift", "RightShift"]
    ],
    *[
        (f"reduce {n} {axis}", reduced(n, axis), (normal(3, 4, 2),))
        for n in ["sum", "mean", "max", "min", "prod", "logsumexp", "euclidean_norm", "std"]
        for axis in (1, None)
    ],
    ("reduce any", reduced("any", 1), (normal(3, 4) > 1,)),
    ("arg max", lambda x: (tf.argmax(x, 1), tf.argmin(x, 0, tf.int32)), (normal(3, 4),)),
    *[
        (f"cumsum {e} {r}", lambda x, e=e, r=r: tf.cumsum(x, 1, e, r), (normal(3, 4),))
        for e in (False, True)
        for r in (False, True)
    ],
    ("top k", lambda x: tuple(tf.math.top_k(x, 2)), (normal(3, 4),)),
    ("sort", lambda x: tf.sort(x, direction="DESCENDING"), (normal(3, 4),)),
    ("unique", lambda x: tuple(tf.unique(x)), (whole(9),)),
    ("where", lambda x: (tf.where(x > 0), tf.where(x > 0, x, -x)), (normal(3, 4),)),
    ("boolean mask", lambda x: tf.boolean_mask(x, x[:, 0] > 0), (normal(5, 4),)),
    ("gather", lambda x, i: tf.gather(x, i, axis=1), (normal(3, 4), whole(2, low=0, high=4))),
    (
        "gather by rows",
        lambda x, i: tf.gather(x, i, batch_dims=1, axis=1),
        (normal(3, 4), whole(3, 2, low=0, high=4)),
    ),
    ("gather nd", tf.gather_nd, (normal(3, 4), whole(5, 2, low=0, high=3))),
    (
        "scatter, twice to one place",
        lambda i, u: tf.scatter_nd(i, u, [6]),
        (np.array([[1], [3], [1]], np.int32), normal(3)),
    ),
    *[
        (
            f"tensor scatter {n}",
            lambda x, u, n=n: getattr(tf, f"tensor_scatter_nd_{n}")(x, [[1], [3]], u),
            (normal(5, 2), normal(2, 2)),
        )
        for n in ["update", "add", "max"]
    ],
    *[
        (
            f"segment {n}, one empty, one dropped",
            lambda x, n=n: getattr(tf.math, f"unsorted_segment_{n}")(x, [0, -1, 0, 1], 3),
            (normal(4, 3),),
        )
        for n in ["sum", "max", "min", "prod"]
    ],
    *[
        (
            f"sorted segment {n}, one empty",
            lambda x, n=n: getattr(tf.math, f"segment_{n}")(x, [0, 0, 1, 3]),
            (normal(4, 3),),
        )
        for n in ["sum", "mean", "max", "min", "prod"]
    ],
    *[
        (
            f"sparse segment {n}",
            lambda x, n=n: (
                getattr(tf.sparse, f"segment_{n}")(x, [0, 2, 1, 3], [0, 0, 1, 3]),
                getattr(tf.sparse, f"segment_{n}")(x, [0, 2, 1], [0, 0, 2], num_segments=5),
            ),
            (normal(4, 3),),
        )
        for n in ["sum", "mean", "sqrt_n"]
    ],
    (
        "bins",
        lambda x, w: (
            tf.math.bincount(x, w, minlength=4, maxlength=4),
            tf.math.bincount(tf.reshape(x, [2, 5]), minlength=4, maxlength=4, axis=-1),
            tf.math.bincount(
                tf.reshape(x, [2, 5]), minlength=4, maxlength=4, axis=-1, binary_output=True
            ),
            tf.histogram_fixed_width(w, [-1.0, 1.0], 5),
        ),
        (whole(10, low=0, high=5), normal(10)),
    ),
    (
        "selection",
        lambda x, i, y: (
            tf.math.in_top_k(i, x, 2),
            raw.NthElement(input=x, n=1),
            *tf.math.approx_max_k(x, 2),
            *raw.ListDiff(x=i, y=y),
        ),
        (normal(4, 5), whole(4, low=0, high=5), whole(2, low=0, high=5)),
    ),
    ("roll", lambda x: tf.reverse(tf.roll(x, 2, 1), [0]), (normal(3, 4),)),
    (
        "reverse sequence",
        lambda x: tf.reverse_sequence(x, [2, 3, 4], seq_axis=1),
        (normal(3, 4),),
    ),
    ("diagonal", lambda x: (tf.linalg.diag_part(x), tf.linalg.trace(x)), (normal(2, 4, 3),)),
    ("to diagonal", tf.linalg.diag, (normal(3, 4),)),
    ("set diagonal", tf.linalg.set_diag, (normal(2, 3, 3), normal(2, 3))),
    *[
        (
            f"band {low} {high}",
            lambda x, k=(low, high): tf.linalg.band_part(x, *k),
            (normal(2, 4, 5),),
        )
        for low, high in [(1, 0), (-1, 1), (0, -1), (-1, -1)]
    ],
    *[
        (
            f"diagonals {k}",
            lambda x, k=k: (
                tf.linalg.diag_part(x, k=k, padding_value=3.0),
                tf.linalg.set_diag(x, tf.linalg.diag_part(x * 2, k=k), k=k),
            ),
            (normal(2, 4, 5),),
        )
        for k in (1, -2, (-1, 1), (-2, 0))
    ],
    (
        "tensor diagonal",
        lambda x: tf.linalg.tensor_diag_part(tf.linalg.tensor_diag(x)),
        (normal(3),),
    ),
    (
        "determinant",
        lambda x: (tf.linalg.det(x), *tf.linalg.slogdet(x)),
        (normal(2, 3, 3),),
    ),
    (
        "factors",
        lambda x: (
            tf.linalg.cholesky(x),
            *tf.linalg.qr(x[:, :, :3]),
            *tf.linalg.qr(x[0, :, :3], full_matrices=True),
            *tf.linalg.lu(x),
        ),
        (definite(2, 4, 4),),
    ),
    (
        "solvers",
        lambda a, x: (
            tf.linalg.inv(a),
            tf.linalg.solve(a, x),
            tf.linalg.solve(a, x, adjoint=True),
            tf.linalg.triangular_solve(a, x),
            tf.linalg.triangular_solve(a, x, lower=False, adjoint=True),
            tf.linalg.cholesky_solve(tf.linalg.cholesky(a), x),
        ),
        (definite(2, 4, 4), normal(2, 4, 3)),
    ),
    ("solver in a branch", tf.linalg.expm, (unit(3, 3),)),
    (
        "rows of diagonals",
        lambda d, x: tf.linalg.tridiagonal_matmul(d, x, diagonals_format="compact"),
        (normal(3, 5), normal(5, 2)),
    ),
    ("cross", tf.linalg.cross, (normal(2, 3), normal(2, 3))),
    *[
        (
            f"running products {e} {r}",
            lambda x, e=e, r=r: (
                tf.math.cumprod(x, -1, e, r),
                tf.math.cumulative_logsumexp(x, 0, e, r),
            ),
            (normal(3, 4),),
        )
        for e in (False, True)
        for r in (False, True)
    ],
    (
        "bits",
        lambda x: (
            tf.bitcast(x, tf.int32),
            tf.bitcast(x, tf.uint16),
            tf.bitcast(tf.bitcast(x, tf.uint8), tf.float32),
        ),
        (normal(3, 4),),
    ),
    ("bits of a place", lambda x: keras.ops.argmax(x, 1), (np.float32([[0, -0.0], [-1, -1]]),)),
    ("one hot", lambda i: tf.one_hot(i, 5, 2.0, -1.0), (whole(3, low=0, high=5),)),
    *[
        (f"pad {mode}", lambda x, m=mode: tf.pad(x, [[1, 0], [0, 2]], m), (normal(3, 4),))
        for mode in ("CONSTANT", "REFLECT", "SYMMETRIC")
    ],
    ("tile", lambda x: tf.repeat(tf.tile(x, [2, 3]), 2, axis=1), (normal(3, 4),)),
    ("stack", lambda x, y: tf.unstack(tf.stack([x, y], 1), axis=2), (normal(3, 4), normal(3, 4))),
    ("split", lambda x: tuple(tf.split(x, [1, 3], 1)), (normal(3, 4),)),
    ("slices", lambda x: (x[1:, ::-1], x[..., tf.newaxis, 1], x[:, ::2]), (normal(3, 4),)),
    ("range", lambda x: tf.range(tf.shape(x)[0]), (normal(3, 4),)),
    ("norm", lambda x: (tf.norm(x, axis=1), tf.nn.l2_normalize(x, 1)), (normal(3, 4),)),
    ("l2 loss", tf.nn.l2_loss, (normal(3, 4),)),
    (
        "cross entropy",
        lambda x: tf.nn.sparse_softmax_cross_entropy_with_logits([1, 0, 2], x),
        (normal(3, 4),),
    ),
    ("einsum", lambda x, y: tf.einsum("bij,bkj->bik", x, y), (normal(2, 3, 4), normal(2, 5, 4))),
    ("space and depth", lambda x: tf.nn.space_to_depth(x, 2), (normal(1, 4, 4, 3),)),
    (
        "a row added behind a convolution, as long as there are channels",
        lambda x: (
            tf.nn.conv2d(x, np.ones((1, 1, 4, 8), "f4"), 1, "SAME")
            + np.arange(8, dtype="f4").reshape(1, 8, 1, 1)
        ),
        (normal(1, 8, 5, 4),),
    ),
    (
        "convolution with its own pads",
        lambda x: tf.nn.conv2d(
            x, np.ones((3, 2, 4, 8), "f4"), [1, 2, 1, 1], [[0, 0], [1, 0], [2, 1], [0, 0]]
        ),
        (normal(1, 8, 5, 4),),
    ),
    ("area", lambda x: tf.image.resize(x, [3, 2], method="area"), (normal(1, 6, 6, 2),)),
    *[
        (
            f"{method} to 5",
            lambda x, m=method: tf.image.resize(x, [5, 13], m),
            (normal(1, 6, 6, 2),),
        )
        for method in ("nearest", "bilinear")
    ],
    *[
        resized((6, 7), new, method, **how)
        for method, how in [
            ("bicubic", {}),
            ("area", {}),
            ("bilinear", {"antialias": True}),
            ("bicubic", {"antialias": True}),
            ("lanczos3", {}),
            ("lanczos5", {"antialias": True}),
            ("gaussian", {}),
            ("mitchellcubic", {"antialias": True}),
        ]
        for new in [(13, 3), (4, 7)]
    ],
    *[
        (
            f"crops, {method}",
            lambda x, m=method: (
                tf.image.crop_and_resize(
                    x, [[0.1, 0.2, 0.8, 0.9], [-0.2, 0.1, 1.3, 0.5]], [1, 0], [4, 5], m, -7.0
                ),
                tf.image.crop_and_resize(x, [[0.1, 0.2, 0.8, 0.9]], [1], [1, 1], m),
            ),
            (normal(2, 6, 7, 3),),
        )
        for method in ("bilinear", "nearest")
    ],
    (
        "colours",
        lambda x: (
            tf.image.rgb_to_hsv(x),
            tf.image.hsv_to_rgb(x),
            tf.image.adjust_hue(x, 0.3),
            tf.image.adjust_saturation(x, 1.7),
        ),
        (np.concatenate([unit(1, 4, 4, 3), np.full((1, 1, 4, 3), 0.5, np.float32)], 1),),
    ),
    (
        "resize of TensorFlow 1",
        lambda x: (
            tf.compat.v1.image.resize_bilinear(x, [5, 9], align_corners=True),
            tf.compat.v1.image.resize_nearest_neighbor(x, [5, 9], align_corners=True),
            tf.compat.v1.image.resize_nearest_neighbor(x, [5, 9]),
        ),
        (normal(1, 6, 6, 2),),
    ),
    ("casts", lambda x: (tf.cast(x, tf.int32), tf.cast(x, tf.float64)), (normal(3, 4) * 5,)),
    ("inverse permutation", tf.math.invert_permutation, (np.array([2, 0, 1], np.int32),)),
    (
        "search",
        lambda x: (
            tf.searchsorted([0.0, 1.0, 1.0], x),
            tf.searchsorted([0.0, 1.0, 1.0], x, "right"),
        ),
        (np.array([0, 1, 2, -1], np.float32),),
    ),
    ("buckets", lambda x: raw.Bucketize(input=x, boundaries=[-0.5, 0.0, 0.5]), (normal(5),)),
    ("quantised", lambda x: tf.quantization.fake_quant_with_min_max_args(x, -1, 1), (normal(9),)),
    (
        "quantised by 4 bits",
        lambda x: tf.quantization.fake_quant_with_min_max_vars(x, -0.7, 1.2, num_bits=4),
        (normal(9),),
    ),
    ("branch", lambda x: tf.cond(tf.reduce_sum(x) > 0, lambda: x * 2, lambda: x - 1), (normal(3),)),
    (
        "loop",
        lambda x: tf.while_loop(lambda i, y: i < 5, lambda i, y: (i + 1, y * 1.5), [0, x])[1],
        (normal(3),),
    ),
    ("map", lambda x: tf.map_fn(lambda row: row * tf.reduce_sum(row), x), (normal(6, 3),)),
    ("spectrum", lambda x: tf.abs(tf.signal.rfft(x)), (normal(2, 8),)),
    (
        "spectra",
        lambda x: (
            tf.signal.rfft(x),
            tf.signal.rfft(x, [5]),
            tf.signal.rfft(x, [10]),
            tf.signal.irfft(tf.signal.rfft(x), [7]),
            tf.signal.irfft2d(tf.signal.rfft2d(x)),
            tf.signal.dct(x),
            tf.signal.idct(x, norm="ortho"),
            tf.math.imag(tf.signal.ifft2d(tf.complex(x, 2 * x))),
        ),
        (normal(2, 4, 8),),
    ),
    (
        "a spectrogram and back",
        lambda x: (
            tf.signal.inverse_stft(tf.signal.stft(x, 16, 8), 16, 8),
            tf.math.angle(tf.signal.stft(x, 16, 8)),
            tf.signal.mfccs_from_log_mel_spectrograms(
                tf.math.log(tf.abs(tf.signal.stft(x, 16, 8, pad_end=True)) + 0.1)
            ),
        ),
        (normal(2, 64),),
    ),
    (
        "complex arithmetic",
        lambda x, y, z: (
            tf.exp(tf.complex(x, y)) / tf.math.conj(tf.complex(y, x)),
            tf.math.log(z) - tf.cast(x, tf.complex64),
            tf.matmul(z, tf.transpose(z), adjoint_a=True),
            tf.math.reciprocal(z) * z[::-1],
            tf.concat([z, tf.zeros_like(z)], 1),
            tf.math.angle(tf.complex([-2.0, 0.0, 0.0], [1.0, -1.0, 0.0])),
        ),
        (normal(3, 3), normal(3, 3), (normal(3, 3) + 1j * normal(3, 3)).astype(np.complex64)),
    ),
    ("float64", lambda x: tf.sqrt(x) @ tf.transpose(x), (unit(3, 4).astype(np.float64),)),
    ("float16", lambda x: x * 2 + 1, (unit(3, 4).astype(np.float16),)),
    ("int64", lambda x: x * 2 + 1, (whole(3, 4).astype(np.int64),)),
    ("bool", tf.logical_not, (normal(3) > 0,)),
]
