"""Resampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch

from zenith.ir.dims import Dim
from zenith_torch.builder import Builder, NotSupportedError
from zenith_torch.lower.registry import lower

_MODES = {
    "nearest": ("nearest", "asymmetric"),
    "nearest_exact": ("nearest", "half_pixel"),
    "linear": ("linear", "half_pixel"),
    "bilinear": ("linear", "half_pixel"),
    "trilinear": ("linear", "half_pixel"),
    "bicubic": ("cubic", "half_pixel"),
}


def _resize(
    b: Builder,
    x: ir.Value,
    kind: str,
    axes: int,
    align_corners: bool,
    scales: Sequence[float | None] | None,
    antialias: bool,
) -> ir.Value:
    mode, coordinates = _MODES[kind]
    if align_corners:
        coordinates = "align_corners"
    options: dict[str, Any] = {
        "mode": mode,
        "coordinate_transformation_mode": coordinates,
        "axes": list(range(b.rank_of(x) - axes, b.rank_of(x))),
        "antialias": int(antialias),
    }
    if mode == "nearest":
        options["nearest_mode"] = "floor" if kind == "nearest" else "round_prefer_ceil"
    if mode == "cubic":
        options["cubic_coeff_a"] = -0.75
    target: Sequence[Dim] = b.out_shape[-axes:]
    exact = scales is None or any(s is None for s in scales)
    if not exact and not align_corners and scales is not None:
        # Given factors are used as they are, also where sizes * factors are not whole.
        factors = b.number(list(scales), torch.float32, (axes,))
        return b.op("Resize", x, None, factors, shape=b.out_shape, **options)
    return b.op("Resize", x, None, None, b.size_vector(target), shape=b.out_shape, **options)


def _register(name: str, kind: str, axes: int, has_corners: bool, antialias: bool = False) -> None:
    @lower(f"aten.{name}.vec")
    def by_vector(
        b: Builder,
        x: ir.Value,
        output_size: Sequence[Dim] | None,
        *rest: Any,
    ) -> ir.Value:
        corners = bool(rest[0]) if has_corners else False
        factors = rest[-1] if rest and not isinstance(rest[-1], bool) else None
        return _resize(b, x, kind, axes, corners, factors, antialias)

    @lower(f"aten.{name}.default")
    def by_size(b: Builder, x: ir.Value, output_size: Sequence[Dim], *rest: Any) -> ir.Value:
        corners = bool(rest[0]) if has_corners else False
        factors = rest[1:] if has_corners else rest
        return _resize(b, x, kind, axes, corners, factors or None, antialias)


for _axes, _linear in ((1, "linear"), (2, "bilinear"), (3, "trilinear")):
    _register(f"upsample_nearest{_axes}d", "nearest", _axes, False)
    _register(f"_upsample_nearest_exact{_axes}d", "nearest_exact", _axes, False)
    _register(f"upsample_{_linear}{_axes}d", _linear, _axes, True)
_register("upsample_bicubic2d", "bicubic", 2, True)
_register("_upsample_bilinear2d_aa", "bilinear", 2, True, antialias=True)
_register("_upsample_bicubic2d_aa", "bicubic", 2, True, antialias=True)


@lower("aten.grid_sampler_2d.default", "aten.grid_sampler_3d.default", "aten.grid_sampler.default")
def grid_sample(
    b: Builder, x: ir.Value, grid: ir.Value, mode: int, padding: int, align_corners: bool
) -> ir.Value:
    if b.rank_of(x) > 4 and mode == 2:
        raise NotSupportedError("cubic grid sampling of volumes")
    return b.op(
        "GridSample",
        x,
        grid,
        shape=b.out_shape,
        mode=("linear", "nearest", "cubic")[mode],
        padding_mode=("zeros", "border", "reflection")[padding],
        align_corners=int(align_corners),
    )
