"""The inverted residual block against its three convolutions in float64, on every ISA."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
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
    epilogues: tuple[str, ...] = ("bias.relu6", "bias.relu6", "bias")


BLOCKS = {
    "mobile": Block((1, 16, 14, 14), 96, 24),
    "stride": Block((2, 16, 15, 18), 64, 33, stride=2),
    "residual": Block((1, 24, 28, 13), 72, 24, epilogues=("bias.relu", "bias", "bias.add")),
    "5x5, odd channels": Block((3, 7, 9, 8), 21, 9, 5, 2, ("", "bias.hardswish", "relu")),
    "strips": Block((2, 24, 40, 30), 170, 24, epilogues=("bias.relu6", "bias", "bias.add")),
    "strips, 5x5": Block((1, 16, 89, 50), 150, 20, 5, 2),
    "one row": Block((1, 70, 1, 31), 130, 5, epilogues=("bias.hardswish", "relu", "bias.add.relu")),
    "one pixel": Block((5, 3, 1, 1), 17, 1),
    # Tiles of 14 and 7 pixels and what overlaps; long rows, whose rings are of few channels.
    "wide": Block((1, 24, 17, 64), 144, 24, epilogues=("bias.relu6", "bias.relu6", "bias.add")),
    "wide, odd channels": Block((1, 9, 9, 119), 100, 17, stride=2),
    "wide, 5x5": Block((2, 16, 16, 30), 208, 40, 5, epilogues=("bias.hardswish", "bias", "bias")),
    "narrow": Block((1, 8, 15, 9), 48, 16),
    "stride 3": Block((1, 32, 25, 25), 64, 16, stride=3),
    "stride 3, 5x5": Block((1, 16, 24, 31), 32, 16, 5, 3),
    "no expansion": Block((2, 32, 15, 28), 32, 16, epilogues=("bias.relu6", "bias")),
    "no expansion, chunks": Block((1, 75, 9, 120), 75, 40, 3, 2, ("bias", "bias.hardswish")),
    "no batch": Block((0, 8, 6, 6), 16, 8),
}


BF16 = np.dtype(ml_dtypes.bfloat16)
TOLERANCES = {"f32": 1e-5, "bf16": 2e-2}  # of the largest error, over the results' rms


def _native_of(a: np.ndarray) -> np.ndarray:
    return a.view(np.uint16) if a.dtype == BF16 else a


def _run(kind: str, block: Block, isa: str, threads: int) -> tuple[np.ndarray, np.ndarray]:
    """The kernel's result and the float64 one of the same operands, NCHW."""
    rng = np.random.default_rng(0)
    dtype = BF16 if kind == "bf16" else np.dtype(np.float32)
    n, c, height, width = block.x
    weights = [(block.expanded, c, 1, 1), (block.expanded, 1, block.kernel, block.kernel)]
    weights.append((block.m, block.expanded, 1, 1))
    epilogues = block.epilogues
    packers = [f"conv_{name}_{kind}" for name in ("weights", "depthwise_weights", "weights")]
    packing = {"group": 1} | ({"column_dilation": 1} if kind == "bf16" else {})
    groups, pad = (1, block.expanded, 1), block.kernel // 2
    x = rng.standard_normal(block.x).astype(dtype)
    y, packed, operands = torch.from_numpy(x.astype(np.float64)), [], []
    missing = 3 - len(epilogues)  # of an expansion
    for shape, packer, group, epilogue in zip(
        weights[missing:], packers[missing:], groups[missing:], epilogues, strict=True
    ):
        w = (rng.standard_normal(shape) / np.prod(shape[1:]) ** 0.5).astype(dtype)
        packed.append(_native.pack(isa, packer, _native_of(w), {} if group > 1 else packing))
        stride, padding = (block.stride, pad) if group > 1 else (1, 0)
        y = torch.nn.functional.conv2d(
            y, torch.from_numpy(w.astype(np.float64)), stride=stride, padding=padding, groups=group
        )
        for step in epilogue.split(".") if epilogue else []:
            if step in FUNCTIONS:
                y = FUNCTIONS[step](y)
                continue
            shape = (len(w),) if step == "bias" else tuple(y.shape)
            operand = rng.standard_normal(shape).astype(dtype)
            other = torch.from_numpy(operand.astype(np.float64))
            y = y + (other.reshape(1, -1, 1, 1) if step == "bias" else other)
            operands.append(operand if step == "bias" else _pixels(operand))
    memory = np.full(y.numel() + 32, 777.0, dtype)
    result = memory[16:-16].reshape(n, y.shape[2], y.shape[3], block.m)
    params = {
        "kernel_shape": [block.kernel] * 2,
        "strides": [block.stride] * 2,
        "pads": [pad] * 2,
        "expanded": block.expanded,
        "expand_epilogue": epilogue_codes("" if missing else epilogues[0]),
        "depthwise_epilogue": epilogue_codes(epilogues[-2]),
        "epilogue": epilogue_codes(epilogues[-1]),
    }
    inputs = [_native_of(a) for a in (_pixels(x), *packed, *operands)]
    if missing:
        inputs.insert(1, None)
    kernel = f"conv_bottleneck_{kind}"
    _native.call(isa, kernel, inputs, [_native_of(result)], params, threads=threads)
    edge = np.full(16, 777.0, dtype)
    assert (memory[:16] == edge).all() and (memory[-16:] == edge).all()
    return result.astype(np.float64).transpose(0, 3, 1, 2), y.numpy()


def _pixels(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("kind", TOLERANCES)
def test_bottleneck(kind: str, isa: str, name: str) -> None:
    """Also: how the rows are cut changes no bit."""
    block = BLOCKS[name]
    alone, exact = _run(kind, block, isa, 1)
    assert alone.shape == exact.shape
    if exact.size:
        error = np.abs(alone - exact).max() / np.sqrt(np.mean(exact**2))
        assert error < TOLERANCES[kind]
    for threads in (2, 5):
        np.testing.assert_array_equal(_run(kind, block, isa, threads)[0], alone)
