"""Resampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir
import torch

from zenith.ir.dims import Dim
from zenith_torch.builder import Builder, NotSupportedError
from zenith_torch.lower.pool import along_axes
from zenith_torch.lower.registry import lower

_MODES = {
    "nearest": ("nearest", "asymmetric"),
    "nearest_exact": ("nearest", "half_pixel"),
    "linear": ("linear", "half_pixel"),
    "bilinear": ("linear", "half_pixel"),
    "trilinear": ("linear", "half_pixel"),
    "bicubic": ("cubic", "half_pixel"),
}


_ATEN = torch.ops.aten

# How a kind resamples one axis: (rows, size), count, corners, scale -> (rows, count).
_Resample = Callable[[torch.Tensor, int, bool, float | None], torch.Tensor]


def _in_a_row(operator: Any, has_corners: bool) -> _Resample:
    def run(rows: torch.Tensor, count: int, corners: bool, scale: float | None) -> torch.Tensor:
        how = (corners, scale) if has_corners else (scale,)
        found: torch.Tensor = operator(rows[None], [count], *how)[0]
        return found

    return run


def _in_a_plane(operator: Any) -> _Resample:
    def run(rows: torch.Tensor, count: int, corners: bool, scale: float | None) -> torch.Tensor:
        found: torch.Tensor = operator(rows[None, :, None], [1, count], corners, None, scale)
        return found[0, :, 0]

    return run


_linear = _in_a_row(_ATEN.upsample_linear1d.default, True)
# By operator: how it resamples an axis, and whether it has align_corners.
RESAMPLES: dict[str, tuple[_Resample, bool]] = {
    "upsample_linear1d": (_linear, True),
    "upsample_bilinear2d": (_linear, True),
    "upsample_trilinear3d": (_linear, True),
}
for _kind in ("upsample_nearest", "_upsample_nearest_exact"):
    _nearest = _in_a_row(getattr(_ATEN, f"{_kind}1d").default, False)
    RESAMPLES |= {f"{_kind}{axes}d": (_nearest, False) for axes in (1, 2, 3)}
for _kind in ("upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"):
    RESAMPLES[_kind] = (_in_a_plane(getattr(_ATEN, _kind).default), True)


def resampling(
    name: str,
    sizes: Sequence[Dim],
    counts: Sequence[Dim],
    corners: bool,
    scales: Sequence[float | None] | None,
) -> list[Any]:
    """For each axis the matrix [size, count] of a resampling, which is linear: the operator itself
    says which, by what it makes of the unit vectors."""
    if not all(isinstance(d, int) for d in (*sizes, *counts)):
        raise NotSupportedError("resampling of an axis of dynamic size in this form")
    matrices = []
    given = scales or [None] * len(sizes)
    for size, count, scale in zip(sizes, counts, given, strict=True):
        units = torch.eye(int(size), dtype=torch.float64)
        matrices.append(RESAMPLES[name][0](units, int(count), corners, scale).numpy())
    return matrices


def _resize(
    b: Builder,
    x: ir.Value,
    kind: str,
    axes: int,
    align_corners: bool,
    scales: Sequence[float | None] | None,
) -> ir.Value:
    mode, coordinates = _MODES[kind]
    if align_corners:
        coordinates = "align_corners"
    options: dict[str, Any] = {
        "mode": mode,
        "coordinate_transformation_mode": coordinates,
        "axes": list(range(b.rank_of(x) - axes, b.rank_of(x))),
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
    def resize(b: Builder, x: ir.Value, corners: bool, factors: Any) -> ir.Value:
        if not antialias:
            return _resize(b, x, kind, axes, corners, factors)
        # ONNX's weights are others: PyTorch's are as wide as the axis shrinks, and a sharper cubic.
        sizes, counts = b.shape_of(x)[-axes:], b.out_shape[-axes:]
        return along_axes(b, x, resampling(name, sizes, counts, corners, factors))

    @lower(f"aten.{name}.vec")
    def by_vector(
        b: Builder,
        x: ir.Value,
        output_size: Sequence[Dim] | None,
        *rest: Any,
    ) -> ir.Value:
        corners = bool(rest[0]) if has_corners else False
        return resize(b, x, corners, rest[-1] if rest and not isinstance(rest[-1], bool) else None)

    @lower(f"aten.{name}.default")
    def by_size(b: Builder, x: ir.Value, output_size: Sequence[Dim], *rest: Any) -> ir.Value:
        corners = bool(rest[0]) if has_corners else False
        return resize(b, x, corners, (rest[1:] if has_corners else rest) or None)


for _axes, _name in ((1, "linear"), (2, "bilinear"), (3, "trilinear")):
    _register(f"upsample_nearest{_axes}d", "nearest", _axes, False)
    _register(f"_upsample_nearest_exact{_axes}d", "nearest_exact", _axes, False)
    _register(f"upsample_{_name}{_axes}d", _name, _axes, True)
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
