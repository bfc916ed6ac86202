"""Convolution and pooling of bfloat16 against float64 of the rounded operands: sums are float32, so
only the last rounding shows."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from zenith import _native
from zenith.backends.cpu.epilogue import epilogue_codes, epilogue_steps
from zenith.backends.cpu.kernels import conv as rows

torch = pytest.importorskip("torch", reason="torch is the oracle here")

Array = np.ndarray[Any, Any]
ISAS = _native.isas()
CONV = {spec.name: spec for spec in rows.SPECS}
BF16 = np.dtype(ml_dtypes.bfloat16)
FUNCTIONS = {
    "relu": torch.relu,
    "relu6": torch.nn.functional.relu6,
    "gelu": torch.nn.functional.gelu,
    "silu": torch.nn.functional.silu,
    "tanh": torch.tanh,
    "hardswish": torch.nn.functional.hardswish,
}


def draw(*shape: int) -> Array:
    return np.random.default_rng([7, *shape]).standard_normal(shape).astype(BF16)


def pixels(a: Array) -> Array:
    """Channels-last bits."""
    return np.ascontiguousarray(np.moveaxis(a, 1, -1)).view(np.uint16)


class Conv:
    """Operands of one convolution and its float64 result."""

    def __init__(
        self,
        x: tuple[int, int, int, int],
        m: int,
        kernel: tuple[int, int],
        strides: tuple[int, int] = (1, 1),
        pads: tuple[int, int, int, int] = (0, 0, 0, 0),
        dilations: tuple[int, int] = (1, 1),
        group: int = 1,
        epilogue: str = "bias",
    ) -> None:
        self.x, self.w = draw(*x), draw(m, x[1] // group, *kernel)
        self.params: dict[str, Any] = {
            "kernel_shape": kernel,
            "strides": strides,
            "pads": pads[:2],
            "dilations": dilations,
            "group": group,
            "epilogue": epilogue_codes(epilogue),
        }
        top, left, bottom, right = pads
        wide = torch.from_numpy(self.x.astype(np.float64))
        y = torch.nn.functional.conv2d(
            torch.nn.functional.pad(wide, (left, right, top, bottom)),
            torch.from_numpy(self.w.astype(np.float64)),
            stride=strides, dilation=dilations, groups=group,
        )  # fmt: skip
        self.operands: list[Array] = []
        for step in epilogue_steps(epilogue):
            if step in FUNCTIONS:
                y = FUNCTIONS[step](y)
                continue
            self.operands.append(draw(m) if step == "bias" else draw(*y.shape))
            other = torch.from_numpy(self.operands[-1].astype(np.float64))
            other = other.reshape(1, -1, 1, 1) if step == "bias" else other
            y = y * other if step == "mul" else y + other
        self.y = y.numpy()

    def run(self, isa: str, kernel: str, packed: Array, threads: int, x: Any = None) -> Array:
        n, m, h, w = self.y.shape
        y = np.full((n, h, w, m), 0x7FC0, np.uint16)
        operands = [o.view(np.uint16) if o.ndim == 1 else pixels(o) for o in self.operands]
        x = pixels(self.x) if x is None else x
        _native.call(isa, kernel, [x, packed, *operands], [y], self.params, threads)
        return np.moveaxis(y.view(BF16), -1, 1)

    def check(self, y: Array) -> None:
        """Within one rounding, and float32's error on sums of this many terms."""
        depth = np.prod(self.w.shape[1:])
        error = np.abs(y.astype(np.float64) - self.y)
        assert np.all(error <= 2.0**-8 * 1.01 * np.abs(self.y) + 1e-5 * (np.sqrt(depth) + 1))


DIRECT = {
    "1x1": Conv((2, 18, 5, 7), 33, (1, 1)),
    "1x1 odd": Conv((2, 17, 5, 7), 33, (1, 1)),
    "1x1 steps of 24": Conv((1, 144, 6, 7), 24, (1, 1), epilogue="bias.add"),
    "1x1 filled up": Conv((1, 184, 5, 5), 40, (1, 1)),
    "1x1 few channels": Conv((1, 3, 9, 7), 20, (1, 1)),
    "1x1 one pixel": Conv((1, 96, 1, 1), 130, (1, 1), epilogue="bias.relu"),
    "1x1 stride 2": Conv((2, 64, 9, 8), 24, (1, 1), (2, 2), epilogue="bias.relu"),
    "1x1 many rows": Conv((2, 32, 21, 21), 100, (1, 1), epilogue="bias.add.relu"),
    "3x3": Conv((1, 19, 13, 11), 40, (3, 3), pads=(1, 1, 1, 1), epilogue="bias.relu"),
    "3x3 batch": Conv((3, 32, 14, 14), 70, (3, 3), pads=(1, 1, 1, 1), epilogue="bias.relu"),
    "3x3 deep": Conv((1, 130, 7, 7), 270, (3, 3), pads=(1, 1, 1, 1)),
    "3x3 small images": Conv((5, 32, 7, 7), 200, (3, 3), pads=(1,) * 4, epilogue="bias.add.relu"),
    "3x3 many small images": Conv((70, 16, 5, 6), 33, (3, 3), pads=(1, 1, 1, 1)),
    "3x3 stride 2, narrow lines": Conv((3, 32, 11, 5), 33, (3, 3), (2, 2), (1, 1, 1, 1)),
    "3x3 groups of small images": Conv((5, 64, 7, 9), 64, (3, 3), pads=(1,) * 4, group=2),
    "3x3 no pads": Conv((2, 64, 8, 9), 40, (3, 3)),
    "3x3 stride 2": Conv((2, 40, 14, 15), 17, (3, 3), (2, 2), (1, 1, 1, 1)),
    "3x3 dilated": Conv((1, 20, 15, 17), 9, (3, 3), (1, 2), (2, 3, 1, 0), (2, 3)),
    "3x3 dilated, few channels": Conv((1, 6, 15, 17), 9, (3, 3), (1, 2), (2, 3, 1, 0), (2, 3)),
    "uneven pads": Conv((1, 21, 6, 9), 7, (2, 4), (1, 3), (0, 3, 2, 1), epilogue="relu"),
    "pads beyond the kernel": Conv((1, 16, 3, 3), 6, (3, 3), pads=(4, 4, 4, 4)),
    "pads that crop": Conv((1, 32, 9, 9), 6, (3, 3), pads=(-1, -2, 0, -1)),
    "1-D": Conv((2, 20, 1, 61), 21, (1, 5), (1, 2), (0, 2, 0, 2)),
    "patches": Conv((1, 3, 32, 32), 48, (8, 8), (8, 8)),
    "stem": Conv((3, 3, 29, 71), 20, (7, 7), (2, 2), (3, 3, 3, 3), epilogue="bias.relu"),
    "stem of four": Conv((2, 4, 17, 45), 20, (3, 3), (2, 2), (1,) * 4, epilogue="bias.relu6"),
    "piece of no whole steps": Conv((1, 2, 5, 40), 20, (2, 17)),
    "one channel in": Conv((2, 1, 12, 12), 5, (3, 3), pads=(1, 1, 1, 1)),
    "one channel out": Conv((2, 18, 6, 5), 1, (3, 3), pads=(1,) * 4, epilogue="bias.add.relu"),
    "groups": Conv((2, 72, 9, 9), 48, (3, 3), pads=(1,) * 4, group=3, epilogue="bias.relu6"),
    "1x1 groups": Conv((2, 96, 9, 9), 48, (1, 1), group=3, epilogue="bias.relu6"),
    "narrow groups": Conv((1, 64, 8, 8), 64, (3, 3), (2, 2), (1, 1, 1, 1), group=16),
    "many pixels": Conv((2, 16, 60, 61), 8, (3, 3), pads=(1, 1, 1, 1)),
    "no batch": Conv((0, 32, 6, 6), 9, (3, 3), pads=(1, 1, 1, 1)),
}
EPILOGUES = [
    "none", "relu", "bias.relu6", "add", "bias.add", "add.relu", "bias.mul", "bias.silu",
    "bias.relu.add", "bias.hardswish.mul.relu", "add.bias.tanh",
]  # fmt: skip


def packed(isa: str, conv: Conv) -> Array:
    return _native.pack(isa, "conv_weights_bf16", conv.w.view(np.uint16), pack_params(conv))


def pack_params(conv: Conv) -> dict[str, int]:
    return {"group": conv.params["group"], "column_dilation": conv.params["dilations"][1]}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", DIRECT)
def test_direct(isa: str, name: str) -> None:
    conv = DIRECT[name]
    weights = packed(isa, conv)
    results = [conv.run(isa, "conv_bf16", weights, threads) for threads in (1, 2, 3)]
    conv.check(results[0])
    for other in results[1:]:  # threads change no bit
        np.testing.assert_array_equal(other.view(np.uint16), results[0].view(np.uint16))
    back = np.empty_like(conv.w)
    _native.unpack(isa, "conv_weights_bf16", weights, back.view(np.uint16), pack_params(conv))
    np.testing.assert_array_equal(back.view(np.uint16), conv.w.view(np.uint16))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_direct_epilogues(isa: str, epilogue: str) -> None:
    steps = "" if epilogue == "none" else epilogue
    conv = Conv((2, 32, 9, 7), 37, (3, 3), pads=(1, 1, 1, 1), epilogue=steps)
    conv.check(conv.run(isa, "conv_bf16", packed(isa, conv), 2))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("width", range(1, 24))
def test_direct_lines_of_any_width(isa: str, width: int) -> None:
    """Parts of tiles of every height and pair of heights, with images of one and three lines."""
    for lines, kernel, pads in ((3, 3, (1,) * 4), (1, 1, (0,) * 4)):
        conv = Conv(
            (1, 16, lines, width), 70, (kernel, kernel), pads=pads, epilogue="bias.add.relu6"
        )
        conv.check(conv.run(isa, "conv_bf16", packed(isa, conv), 1))


@pytest.mark.parametrize("isa", ISAS)
def test_images_do_not_touch(isa: str) -> None:
    """An infinity or NaN reaches the results whose windows have it, in its group, and no other."""
    for conv in (DIRECT["3x3 batch"], DIRECT["stem"], DIRECT["1x1 odd"], DIRECT["groups"]):
        weights = packed(isa, conv)
        clean = conv.run(isa, "conv_bf16", weights, 2)
        spoilt = conv.x.copy()
        spoilt[0, 0, 4, 4] = np.nan
        got = conv.run(isa, "conv_bf16", weights, 2, pixels(spoilt))
        stride, pad = conv.params["strides"][0], conv.params["pads"][0]
        kernel, of_group = conv.w.shape[2], conv.w.shape[0] // conv.params["group"]
        hit = [
            [o * stride - pad <= 4 < o * stride - pad + kernel for o in range(size)]
            for size in got.shape[2:]
        ]
        reached = np.zeros(got.shape, bool)
        reached[0, :of_group] = np.outer(*hit)
        kept = ~reached
        np.testing.assert_array_equal(got.view(np.uint16)[kept], clean.view(np.uint16)[kept])
        assert kept.any() and np.isnan(got[reached].astype(np.float32)).any()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", ["stem", "stem of four", "3x3", "1x1 stride 2", "3x3 dilated"])
def test_any_layout_and_parts(isa: str, name: str) -> None:
    """NCHW is read as it lies, and so is a range of wider images' channels."""
    conv = DIRECT[name]
    weights = packed(isa, conv)
    wanted = conv.run(isa, "conv_bf16", weights, 1).view(np.uint16)
    planar = np.moveaxis(np.ascontiguousarray(conv.x).view(np.uint16), 1, -1)
    wide = np.full((*planar.shape[:3], planar.shape[3] + 9), 0x7FC0, np.uint16)
    wide[..., 4 : 4 + planar.shape[3]] = planar
    for x in (planar, wide[..., 4 : 4 + planar.shape[3]]):
        got = conv.run(isa, "conv_bf16", weights, 2, x).view(np.uint16)
        np.testing.assert_array_equal(got, wanted)


DEPTHWISE = {
    "3x3": Conv((2, 35, 9, 23), 35, (3, 3), pads=(1,) * 4, group=35, epilogue="bias.relu6"),
    "3x3 stride 2": Conv((1, 16, 15, 14), 16, (3, 3), (2, 2), (1, 1, 1, 1), group=16),
    "3x3 wide": Conv((1, 100, 30, 30), 100, (3, 3), pads=(1,) * 4, group=100),
    "3x3 segments": Conv((1, 270, 4, 45), 270, (3, 3), pads=(1,) * 4, group=270, epilogue="gelu"),
    "segments of stride 2": Conv((2, 66, 5, 150), 66, (3, 5), (2, 2), (1, 2, 2, 1), group=66),
    "5x5": Conv((1, 24, 7, 7), 24, (5, 5), pads=(2,) * 4, group=24, epilogue="bias.hardswish"),
    "5x5 stride 2": Conv((1, 40, 9, 11), 40, (5, 5), (2, 2), (2, 2, 2, 2), group=40),
    "7x7": Conv((1, 200, 14, 13), 200, (7, 7), pads=(3, 3, 3, 3), group=200),
    "dilated": Conv((2, 9, 19, 17), 9, (3, 3), (1, 2), (2, 0, 1, 3), (2, 3), 9, "bias.add.relu"),
    "stride 3": Conv((2, 9, 19, 17), 9, (3, 3), (3, 3), group=9, epilogue="bias.mul"),
    "1-D": Conv((1, 20, 1, 40), 20, (1, 31), (1, 1), (0, 15, 0, 15), group=20, epilogue=""),
    "all border": Conv((1, 40, 2, 2), 40, (5, 5), pads=(3,) * 4, group=40, epilogue="add"),
    "no batch": Conv((0, 8, 6, 6), 8, (3, 3), group=8),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", DEPTHWISE)
def test_depthwise(isa: str, name: str) -> None:
    conv = DEPTHWISE[name]
    weights = _native.pack(isa, "conv_depthwise_weights_bf16", conv.w.view(np.uint16), {})
    results = [conv.run(isa, "conv_depthwise_bf16", weights, threads) for threads in (1, 2)]
    conv.check(results[0])
    np.testing.assert_array_equal(results[1].view(np.uint16), results[0].view(np.uint16))
    back = np.empty_like(conv.w)
    _native.unpack(isa, "conv_depthwise_weights_bf16", weights, back.view(np.uint16), {})
    np.testing.assert_array_equal(back.view(np.uint16), conv.w.view(np.uint16))


TRANSPOSED = {
    "2x2": ((2, 40, 5, 7), (40, 33, 2, 2), [2, 2]),
    "2x2 many pixels": ((1, 64, 40, 33), (64, 32, 2, 2), [2, 2]),
    "copied pixels": ((3, 19, 6, 5), (19, 9, 3, 2), [3, 2]),
    "few channels": ((2, 3, 6, 5), (3, 8, 1, 4), [1, 4]),
    "lines of one pixel": ((2, 16, 5, 1), (16, 8, 2, 1), [2, 1]),
    "one pixel": ((2, 16, 1, 1), (16, 8, 4, 4), [4, 4]),
    "signal": ((2, 32, 9), (32, 5, 4), [4]),
    "empty": ((0, 4, 3, 3), (4, 5, 2, 2), [2, 2]),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", TRANSPOSED)
@pytest.mark.parametrize("bias", [False, True])
def test_transposed(make_row: Any, isa: str, name: str, bias: bool) -> None:
    shape, weights, strides = TRANSPOSED[name]
    x, w, b = draw(*shape), draw(*weights), draw(weights[1])
    size = ["N", shape[1], *(f"S{i}" for i in range(len(shape) - 2))]
    function = {3: "conv_transpose1d", 4: "conv_transpose2d"}[len(shape)]
    wide = [torch.from_numpy(a.astype(np.float64)) for a in (x, w, b)]
    wanted = getattr(torch.nn.functional, function)(
        wide[0], wide[1], wide[2] if bias else None, stride=strides
    ).numpy()
    for dynamic in ({}, {0: size}):
        inputs = [x, w, b] if bias else [x, w]
        specs = [CONV["conv_transpose_bf16"]]
        row = make_row(
            specs, "ConvTranspose", inputs, constant=(1, 2), dynamic=dynamic, strides=strides
        )
        for threads in (1, 2):
            (y,), kernels = row.run(isa, threads)
            assert kernels.count("conv_bf16") == (weights[2] if len(weights) == 4 else 1)
            error = np.abs(y.astype(np.float64) - wanted)
            assert np.all(error <= 2.0**-8 * 1.01 * np.abs(wanted) + 1e-4)


@pytest.mark.parametrize(
    "attributes",
    [
        {"strides": [2, 1]},
        {"strides": [2, 2], "pads": [1, 0, 0, 0]},
        {"strides": [2, 2], "output_padding": [1, 0]},
        {"strides": [2, 2], "dilations": [2, 1]},
        {"strides": [2, 2], "group": 2},
        {"strides": [2, 2], "output_shape": [9, 10]},
    ],
)
def test_only_kernels_side_by_side(make_row: Any, attributes: dict[str, Any]) -> None:
    inputs = [draw(1, 8, 5, 5), draw(8, 8, 2, 2)]
    row = make_row(
        [CONV["conv_transpose_bf16"]], "ConvTranspose", inputs, constant=(1,), **attributes
    )
    assert row.reason() == "kernels overlap, or leave gaps"


@pytest.mark.parametrize("isa", _native.complete_isas())
@pytest.mark.parametrize("kind", ["max", "average"])
def test_pools(isa: str, kind: str) -> None:
    x = draw(2, 21, 9, 10)
    wide = torch.from_numpy(x.astype(np.float64))
    pool = getattr(torch.nn.functional, {"max": "max_pool2d", "average": "avg_pool2d"}[kind])
    params: dict[str, Any] = {
        "kernel_shape": (1, 3, 2), "strides": (1, 2, 1), "pads": (0, 1, 1, 0, 1, 1),
        "dilations": (1, 1, 1), "include_pad": 1, "p": 2, "column_major": 0,
    }  # fmt: skip
    for name, wanted in (
        (f"{kind}_pool_bf16", pool(wide, (3, 2), (2, 1), (1, 1)).numpy()),
        (f"global_{kind}_pool_bf16", pool(wide, (9, 10)).numpy()),
    ):
        y = np.empty((2, 1, *wanted.shape[2:], 21), np.uint16)
        _native.call(isa, name, [pixels(x)[:, None]], [y], params, 2)
        got = np.moveaxis(y.view(BF16)[:, 0], -1, 1).astype(np.float64)
        assert np.all(np.abs(got - wanted) <= 2.0**-8 * 1.01 * np.abs(wanted) + 1e-6)
