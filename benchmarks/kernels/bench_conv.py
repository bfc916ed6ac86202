"""Convolution layers of known models: zenith's kernels next to torch, channels-last, interleaved.

python benchmarks/kernels/bench_conv.py [--isa avx2] [--threads 2] [--seconds 0.3] [--only 3x3]
Prints the best and the median time of each, and GFLOP/s of the direct algorithm.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from zenith import _native


@dataclass(frozen=True)
class Layer:
    name: str
    size: int  # height and width of the input
    c: int
    m: int
    kernel: int = 1
    stride: int = 1
    pad: int = 0
    group: int = 1
    batch: int = 1


LAYERS = [
    Layer("resnet stem 7x7/2", 224, 3, 64, 7, 2, 3),
    Layer("resnet 1x1 56", 56, 64, 64),
    Layer("resnet 1x1 56", 56, 64, 256),
    Layer("resnet 1x1 28", 28, 512, 128),
    Layer("resnet 1x1 14", 14, 256, 1024),
    Layer("resnet 1x1 14", 14, 1024, 256),
    Layer("resnet 1x1 7", 7, 512, 2048),
    Layer("resnet 1x1 7", 7, 2048, 512),
    Layer("resnet 1x1/2 28", 56, 256, 512, 1, 2),
    Layer("resnet 3x3 56", 56, 64, 64, 3, 1, 1),
    Layer("resnet 3x3 28", 28, 128, 128, 3, 1, 1),
    Layer("resnet 3x3 14", 14, 256, 256, 3, 1, 1),
    Layer("resnet 3x3 7", 7, 512, 512, 3, 1, 1),
    Layer("resnet 3x3/2 28", 56, 128, 128, 3, 2, 1),
    Layer("resnet 3x3/2 7", 14, 512, 512, 3, 2, 1),
    Layer("resnet 3x3 14 b8", 14, 256, 256, 3, 1, 1, 1, 8),
    Layer("resnet 3x3 7 b8", 7, 512, 512, 3, 1, 1, 1, 8),
    Layer("resnext 3x3 56", 56, 128, 128, 3, 1, 1, 32),
    Layer("resnext 3x3 14", 14, 512, 512, 3, 1, 1, 32),
    Layer("mobilenet stem 3x3/2", 224, 3, 32, 3, 2, 1),
    Layer("mobilenet 1x1 112", 112, 16, 96),
    Layer("mobilenet 1x1 56", 56, 144, 24),
    Layer("mobilenet 1x1 14", 14, 96, 576),
    Layer("mobilenet dw 112", 112, 32, 32, 3, 1, 1, 32),
    Layer("mobilenet dw/2 112", 112, 96, 96, 3, 2, 1, 96),
    Layer("mobilenet dw 28", 28, 192, 192, 3, 1, 1, 192),
    Layer("mobilenet dw 14", 14, 576, 576, 3, 1, 1, 576),
    Layer("mobilenet dw 7", 7, 960, 960, 3, 1, 1, 960),
    Layer("efficientnet dw 5x5 14", 14, 672, 672, 5, 1, 2, 672),
    Layer("convnext dw 7x7 56", 56, 96, 96, 7, 1, 3, 96),
    Layer("convnext dw 7x7 14", 14, 384, 384, 7, 1, 3, 384),
    Layer("vit patches 16x16", 224, 3, 768, 16, 16),
    Layer("vgg 3x3 112", 112, 64, 128, 3, 1, 1),
]


def kernels_for(layer: Layer) -> list[tuple[str, str, dict[str, int]]]:
    """(kernel, packer, packer params) of every candidate."""
    if layer.group == layer.c == layer.m:
        return [("conv_depthwise_f32", "conv_depthwise_weights_f32", {})]
    if layer.c < 16 and layer.kernel > 1 and layer.group == 1:
        return [("conv_few_channels_f32", "conv_weights_f32", {"group": 1})]
    rows = [("conv_f32", "conv_weights_f32", {"group": layer.group})]
    if layer.kernel == 3 and layer.stride == 1 and layer.group == 1:
        for tile in (2, 4):
            name = f"conv_winograd{tile}"
            rows.append((f"{name}_f32", f"{name}_weights_f32", {}))
    return rows


def candidates_for(
    layer: Layer, isa: str, threads: int
) -> tuple[dict[str, Callable[[], object]], int]:
    """torch and every kernel on the same operands, and the flops of the direct algorithm."""
    rng = np.random.default_rng(0)
    out = (layer.size + 2 * layer.pad - layer.kernel) // layer.stride + 1
    shape = (layer.batch, layer.c, layer.size, layer.size)
    x = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
    x = x.contiguous(memory_format=torch.channels_last)
    w_shape = (layer.m, layer.c // layer.group, layer.kernel, layer.kernel)
    w = rng.standard_normal(w_shape, dtype=np.float32)
    bias = rng.standard_normal(layer.m, dtype=np.float32)
    tw = torch.from_numpy(w).contiguous(memory_format=torch.channels_last)
    tb = torch.from_numpy(bias)
    candidates: dict[str, Callable[[], object]] = {
        "torch": partial(
            torch.nn.functional.conv2d, x, tw, tb, layer.stride, layer.pad, 1, layer.group
        )
    }
    xn = x.permute(0, 2, 3, 1).numpy()
    y = np.empty((layer.batch, out, out, layer.m), np.float32)
    for kernel, packer, pack_params in kernels_for(layer):
        packed = _native.pack(isa, packer, w, pack_params)
        params = {
            "kernel_shape": [layer.kernel] * 2,
            "strides": [layer.stride] * 2,
            "pads": [layer.pad] * 2,
            "dilations": [1, 1],
            "group": layer.group,
            "epilogue": [1],
        }
        candidates[kernel] = partial(
            _native.call, isa, kernel, [xn, packed, bias], [y], params, threads
        )
    return candidates, 2 * y.size * (layer.c // layer.group) * layer.kernel**2


def timed(candidates: dict[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
    """Times of each candidate, called in turn."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for run in candidates.values():
        run()
        run()
    end = time.perf_counter() + seconds * len(candidates)
    while time.perf_counter() < end:
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--isa", default=_native.isas()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.15)
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{'layer':34} {'kernel':24} {'us best':>8} {'median':>8} {'GFLOP/s':>8} {'x torch':>8}")
    for layer in LAYERS:
        if args.only not in layer.name:
            continue
        candidates, flops = candidates_for(layer, args.isa, args.threads)
        times = timed(candidates, args.seconds)
        base = min(times["torch"])
        label = f"{layer.name} {layer.c}->{layer.m}"
        for name, samples in times.items():
            best, middle = min(samples), float(np.median(samples))
            print(
                f"{label:34} {name:24} {best * 1e6:8.1f} {middle * 1e6:8.1f} "
                f"{flops / best / 1e9:8.1f} {base / best:8.2f}"
            )


if __name__ == "__main__":
    with torch.inference_mode():
        main()
