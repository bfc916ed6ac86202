"""The inverted residual block against its three convolutions in float64, on every ISA."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from zenith import _native
from zenith.backends.cpu.epilogue import epilogue_codes

torch = pytest.importorskip("torch", reason="torch is the oracle here")

ISAS = _native.isas()
FUNCTIONS = {
    "relu": torch.relu,
    "relu6": torch.nn.functional.relu6,
    "hardswish": torch.nn.functional.hardswish,
}


@dataclass(frozen=True)
class Block:
    x: tuple[int, int, int, int]
    expanded: int
    m: int
    kernel: int = 3
    stride: int = 1
    epilogues: tuple[str, str, str] = ("bias.relu6", "bias.relu6", "bias")


BLOCKS = {
    "mobile": Block((1, 16, 14, 14), 96, 24),
    "stride": Block((2, 16, 15, 18), 64, 33, stride=2),
    "residual": Block((1, 24, 28, 13), 72, 24, epilogues=("bias.relu", "bias", "bias.add")),
    "5x5, odd channels": Block((3, 7, 9, 8), 21, 9, 5, 2, ("", "bias.hardswish", "relu")),
    "one row": Block((1, 70, 1, 31), 130, 5, epilogues=("bias.hardswish", "relu", "bias.add.relu")),
    "one pixel": Block((5, 3, 1, 1), 17, 1),
    "no batch": Block((0, 8, 6, 6), 16, 8),
}


def _run(block: Block, isa: str, threads: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The kernel's result and the float64 one, NCHW."""
    rng = np.random.default_rng(seed)
    n, c, height, width = block.x
    weights = [(block.expanded, c, 1, 1), (block.expanded, 1, block.kernel, block.kernel)]
    weights.append((block.m, block.expanded, 1, 1))
    packers = ["conv_weights_f32", "conv_depthwise_weights_f32", "conv_weights_f32"]
    groups, pad = (1, block.expanded, 1), block.kernel // 2
    x = rng.standard_normal(block.x, dtype=np.float32)
    y, packed, operands = torch.from_numpy(x).double(), [], []
    for shape, packer, group, epilogue in zip(
        weights, packers, groups, block.epilogues, strict=True
    ):
        w = rng.standard_normal(shape, dtype=np.float32) / np.float32(np.prod(shape[1:]) ** 0.5)
        packed.append(_native.pack(isa, packer, w, {} if group > 1 else {"group": 1}))
        stride, padding = (block.stride, pad) if group > 1 else (1, 0)
        y = torch.nn.functional.conv2d(
            y, torch.from_numpy(w).double(), stride=stride, padding=padding, groups=group
        )
        for step in epilogue.split(".") if epilogue else []:
            if step in FUNCTIONS:
                y = FUNCTIONS[step](y)
                continue
            shape = (len(w),) if step == "bias" else tuple(y.shape)
            operand = rng.standard_normal(shape, dtype=np.float32)
            other = torch.from_numpy(operand).double()
            y = y + (other.reshape(1, -1, 1, 1) if step == "bias" else other)
            operands.append(operand if step == "bias" else _pixels(operand))
    memory = np.full(y.numel() + 32, 777.0, np.float32)
    result = memory[16:-16].reshape(n, y.shape[2], y.shape[3], block.m)
    params = {
        "kernel_shape": [block.kernel] * 2,
        "strides": [block.stride] * 2,
        "pads": [pad] * 2,
        "expanded": block.expanded,
        "expand_epilogue": epilogue_codes(block.epilogues[0]),
        "depthwise_epilogue": epilogue_codes(block.epilogues[1]),
        "epilogue": epilogue_codes(block.epilogues[2]),
    }
    inputs = [_pixels(x), *packed, *operands]
    _native.call(isa, "conv_bottleneck_f32", inputs, [result], params, threads=threads)
    assert (memory[:16] == 777).all() and (memory[-16:] == 777).all()
    return result.transpose(0, 3, 1, 2), y.numpy()


def _pixels(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", BLOCKS)
def test_bottleneck(isa: str, name: str) -> None:
    """Also: how the rows are cut changes no bit."""
    block = BLOCKS[name]
    alone, exact = _run(block, isa, 1)
    assert alone.shape == exact.shape
    if exact.size:
        assert np.abs(alone - exact).max() / np.sqrt(np.mean(exact**2)) < 1e-5
    for threads in (2, 5):
        np.testing.assert_array_equal(_run(block, isa, threads)[0], alone)
