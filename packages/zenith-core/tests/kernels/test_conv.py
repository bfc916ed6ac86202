"""Convolution kernels against float64, on every instruction set of this machine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from zenith import _native
from zenith.backends.cpu.epilogue import epilogue_codes, epilogue_steps

torch = pytest.importorskip("torch", reason="torch is the oracle here")

ISAS = _native.complete_isas()
FUNCTIONS = {
    "relu": torch.relu,
    "relu6": torch.nn.functional.relu6,
    "gelu": torch.nn.functional.gelu,
    "silu": torch.nn.functional.silu,
    "tanh": torch.tanh,
    "hardswish": torch.nn.functional.hardswish,
}


class Case:
    """One convolution: float32 operands in NCHW and its float64 result."""

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
        seed: int = 0,
    ) -> None:
        rng = np.random.default_rng(seed)
        draw = lambda *shape: rng.standard_normal(shape, dtype=np.float32)  # noqa: E731
        self.kernel, self.strides, self.pads, self.dilations = kernel, strides, pads, dilations
        self.group, self.epilogue = group, epilogue
        self.x = draw(*x)
        self.w = draw(m, x[1] // group, *kernel)
        top, left, bottom, right = pads
        padded = np.pad(self.x.astype(np.float64), ((0, 0), (0, 0), (top, bottom), (left, right)))
        y = torch.nn.functional.conv2d(
            torch.from_numpy(padded),
            torch.from_numpy(self.w.astype(np.float64)),
            stride=strides,
            dilation=dilations,
            groups=group,
        )
        self.operands: list[np.ndarray] = []
        for step in epilogue_steps(epilogue):
            if step == "bias":
                self.operands.append(draw(m))
                y = y + torch.from_numpy(self.operands[-1]).double().reshape(1, -1, 1, 1)
            elif step in ("add", "mul"):
                self.operands.append(draw(*y.shape))
                other = torch.from_numpy(self.operands[-1]).double()
                y = y + other if step == "add" else y * other
            else:
                y = FUNCTIONS[step](y)
        self.y = y.numpy()

    def params(self) -> dict[str, Any]:
        return {
            "kernel_shape": list(self.kernel),
            "strides": list(self.strides),
            "pads": list(self.pads[:2]),
            "dilations": list(self.dilations),
            "group": self.group,
            "epilogue": epilogue_codes(self.epilogue),
        }

    def run(
        self,
        isa: str,
        kernel: str,
        packed: np.ndarray,
        threads: int = 2,
        x: np.ndarray | None = None,
    ) -> np.ndarray:
        """The kernel's output as NCHW; memory around it must stay untouched."""
        n, m, oh, ow = self.y.shape
        memory = np.full(n * oh * ow * m + 32, 777.0, np.float32)
        y = memory[16:-16].reshape(n, oh, ow, m)
        others = [channels_last(o) if o.ndim == 4 else o for o in self.operands]
        x = channels_last(self.x) if x is None else x
        _native.call(isa, kernel, [x, packed, *others], [y], self.params(), threads=threads)
        assert (memory[:16] == 777).all() and (memory[-16:] == 777).all()
        return y.transpose(0, 3, 1, 2)

    def check(self, y: np.ndarray, tolerance: float = 1e-5) -> None:
        assert y.shape == self.y.shape
        if self.y.size:
            error = np.abs(y - self.y).max() / np.sqrt(np.mean(self.y**2))
            assert error < tolerance, error


def channels_last(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


DIRECT = {
    "1x1": Case((2, 17, 5, 7), 33, (1, 1)),
    "1x1 one pixel": Case((1, 70, 1, 1), 130, (1, 1), epilogue="bias.relu"),
    "1x1 stride 2": Case((2, 16, 9, 8), 24, (1, 1), (2, 2)),
    "1x1 wide": Case((1, 300, 7, 7), 200, (1, 1), epilogue="bias.add.relu"),
    "3x3": Case((1, 19, 13, 11), 40, (3, 3), pads=(1, 1, 1, 1), epilogue="bias.relu"),
    "3x3 deep": Case((1, 130, 7, 7), 70, (3, 3), pads=(1, 1, 1, 1)),
    "3x3 stride 2": Case((2, 8, 14, 15), 17, (3, 3), (2, 2), (1, 1, 1, 1)),
    "3x3 dilated": Case((1, 6, 15, 17), 9, (3, 3), (1, 2), (2, 3, 1, 0), (2, 3)),
    "uneven pads": Case((1, 5, 6, 9), 7, (2, 4), (1, 3), (0, 3, 2, 1), epilogue="relu"),
    "pads beyond the kernel": Case((1, 4, 3, 3), 6, (3, 3), pads=(4, 4, 4, 4)),
    "1-D": Case((2, 20, 1, 31), 21, (1, 5), (1, 2), (0, 2, 0, 2)),
    "patches": Case((1, 3, 32, 32), 48, (8, 8), (8, 8)),
    "stem": Case((3, 3, 29, 31), 20, (7, 7), (2, 2), (3, 3, 3, 3), epilogue="bias.relu"),
    "one channel in": Case((2, 1, 12, 12), 5, (3, 3), pads=(1, 1, 1, 1)),
    "one channel out": Case((2, 9, 6, 5), 1, (3, 3), pads=(1, 1, 1, 1), epilogue="bias.add.relu"),
    "groups": Case((2, 24, 9, 9), 36, (3, 3), pads=(1, 1, 1, 1), group=3, epilogue="bias.relu6"),
    "many groups": Case((1, 64, 8, 8), 64, (3, 3), (2, 2), (1, 1, 1, 1), group=16),
    "multiplier": Case((1, 10, 8, 7), 20, (3, 3), pads=(1, 1, 1, 1), group=10),
    "many pixels": Case((2, 5, 60, 61), 8, (3, 3), pads=(1, 1, 1, 1)),
    "no batch": Case((0, 8, 6, 6), 9, (3, 3), pads=(1, 1, 1, 1)),
}
EPILOGUES = [
    "",
    "bias",
    "relu",
    "bias.relu6",
    "add",
    "bias.add",
    "add.relu",
    "bias.mul",
    "bias.silu",
    "bias.gelu",
    "bias.relu.add",
    "bias.hardswish.mul.relu",
    "add.bias.tanh",
]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", DIRECT)
def test_direct(isa: str, name: str) -> None:
    case = DIRECT[name]
    packed = _native.pack(isa, "conv_weights_f32", case.w, {"group": case.group})
    for threads in (1, 2):
        case.check(case.run(isa, "conv_f32", packed, threads))
    back = np.empty_like(case.w)
    _native.unpack(isa, "conv_weights_f32", packed, back, {"group": case.group})
    np.testing.assert_array_equal(back, case.w)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_direct_epilogues(isa: str, epilogue: str) -> None:
    case = Case((2, 5, 7, 9), 37, (3, 3), pads=(1, 1, 1, 1), epilogue=epilogue)
    packed = _native.pack(isa, "conv_weights_f32", case.w, {"group": 1})
    case.check(case.run(isa, "conv_f32", packed))
    case.check(case.run(isa, "conv_few_channels_f32", packed))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", [n for n, c in DIRECT.items() if c.group == 1])
def test_few_channels(isa: str, name: str) -> None:
    case = DIRECT[name]
    if case.dilations[1] != 1:
        pytest.skip("needs a column dilation of 1")
    packed = _native.pack(isa, "conv_weights_f32", case.w, {"group": 1})
    case.check(case.run(isa, "conv_few_channels_f32", packed, 1))
    # The input as it comes: stored as NCHW.
    as_stored = case.x.transpose(0, 2, 3, 1)
    case.check(case.run(isa, "conv_few_channels_f32", packed, 2, as_stored))


@pytest.mark.parametrize("isa", ISAS)
def test_direct_reads_and_writes_parts(isa: str) -> None:
    """Input and output may be ranges of the channels of larger tensors."""
    case = Case((2, 12, 6, 5), 20, (3, 3), pads=(1, 1, 1, 1))
    packed = _native.pack(isa, "conv_weights_f32", case.w, {"group": 1})
    x = np.full((2, 8, 5, 30), np.nan, np.float32)
    x[:, 1:7, :, 9:21] = channels_last(case.x)
    y = np.full((2, 6, 5, 50), 777, np.float32)
    inputs = [x[:, 1:7, :, 9:21], packed, *case.operands]
    _native.call(isa, "conv_f32", inputs, [y[..., 11:31]], case.params())
    case.check(y[..., 11:31].transpose(0, 3, 1, 2))
    assert (y[..., :11] == 777).all() and (y[..., 31:] == 777).all()


@pytest.mark.parametrize("isa", ISAS)
def test_direct_keeps_nan(isa: str) -> None:
    case = Case((1, 4, 5, 5), 8, (1, 1), epilogue="bias.relu6")
    case.x[0, 1, 2, 3] = np.nan
    packed = _native.pack(isa, "conv_weights_f32", case.w, {"group": 1})
    y = case.run(isa, "conv_f32", packed)
    assert np.isnan(y[0, :, 2, 3]).all() and np.isnan(y).sum() == 8


DEPTHWISE = {
    "3x3": Case((2, 35, 9, 23), 35, (3, 3), pads=(1, 1, 1, 1), group=35, epilogue="bias.relu6"),
    "3x3 stride 2": Case((1, 16, 15, 14), 16, (3, 3), (2, 2), (1, 1, 1, 1), group=16),
    "5x5": Case((1, 24, 7, 7), 24, (5, 5), pads=(2, 2, 2, 2), group=24, epilogue="bias.hardswish"),
    "7x7": Case((1, 200, 14, 13), 200, (7, 7), pads=(3, 3, 3, 3), group=200),
    "dilated": Case((2, 9, 19, 17), 9, (3, 3), (1, 2), (2, 0, 1, 3), (2, 3), 9, "bias.add.relu"),
    "1-D": Case((1, 20, 1, 40), 20, (1, 31), (1, 1), (0, 15, 0, 15), group=20, epilogue=""),
    "one channel": Case((2, 1, 6, 6), 1, (3, 3), pads=(1, 1, 1, 1), epilogue="bias.add.relu"),
    "all border": Case((1, 40, 2, 2), 40, (5, 5), pads=(3, 3, 3, 3), group=40, epilogue="add"),
    "no batch": Case((0, 8, 6, 6), 8, (3, 3), group=8),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", DEPTHWISE)
def test_depthwise(isa: str, name: str) -> None:
    case = DEPTHWISE[name]
    packed = _native.pack(isa, "conv_depthwise_weights_f32", case.w, {})
    for threads in (1, 2):
        case.check(case.run(isa, "conv_depthwise_f32", packed, threads))
    back = np.empty_like(case.w)
    _native.unpack(isa, "conv_depthwise_weights_f32", packed, back, {})
    np.testing.assert_array_equal(back, case.w)


WINOGRAD = {
    "even": Case((1, 16, 12, 16), 32, (3, 3), pads=(1, 1, 1, 1), epilogue="bias.relu"),
    "odd": Case((2, 19, 13, 11), 37, (3, 3), pads=(1, 1, 1, 1), epilogue="bias.add.relu"),
    "no pads": Case((1, 8, 9, 10), 24, (3, 3), epilogue=""),
    "uneven pads": Case((1, 5, 7, 7), 9, (3, 3), pads=(2, 0, 1, 3), epilogue="bias.silu.mul"),
    "small": Case((3, 33, 1, 2), 7, (3, 3), pads=(1, 1, 1, 1), epilogue="bias.relu6"),
    "blocks": Case((1, 24, 150, 110), 16, (3, 3), pads=(1, 1, 1, 1)),
    "one channel out": Case((1, 9, 6, 5), 1, (3, 3), pads=(1, 1, 1, 1), epilogue="bias.add"),
    "no batch": Case((0, 8, 6, 6), 8, (3, 3)),
    "groups": Case((2, 36, 9, 10), 54, (3, 3), pads=(1, 1, 1, 1), group=3, epilogue="bias.relu"),
    "wide groups": Case(
        (1, 32, 8, 9), 160, (3, 3), pads=(1, 1, 1, 1), group=2, epilogue="bias.add"
    ),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("tile", [2, 4])
@pytest.mark.parametrize("name", WINOGRAD)
def test_winograd(isa: str, tile: int, name: str) -> None:
    case = WINOGRAD[name]
    params = {"group": case.group}
    packed = _native.pack(isa, f"conv_winograd{tile}_weights_f32", case.w, params)
    for threads in (1, 2):
        y = case.run(isa, f"conv_winograd{tile}_f32", packed, threads)
        case.check(y, 1e-5 if tile == 2 else 5e-5)
    back = np.empty_like(case.w)
    _native.unpack(isa, f"conv_winograd{tile}_weights_f32", packed, back, params)
    np.testing.assert_array_equal(back, case.w)


@pytest.mark.parametrize(("tile", "bound"), [(2, 5e-7), (4, 2e-6)])
def test_winograd_error_stays_near_direct(tile: int, bound: float) -> None:
    case = Case((1, 128, 28, 28), 64, (3, 3), pads=(1, 1, 1, 1), epilogue="")
    packed = _native.pack(ISAS[0], f"conv_winograd{tile}_weights_f32", case.w, {"group": 1})
    y = case.run(ISAS[0], f"conv_winograd{tile}_f32", packed)
    rms = np.sqrt(np.mean((y - case.y) ** 2) / np.mean(case.y**2))
    assert rms < bound, rms
