"""Upsample, Resize, RoiAlign and GridSample of old opsets."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from zenith_onnx.upgrade._table import Site, upgrades

_FLOAT = np.float32


@upgrades("Upsample", before=99)  # deprecated since 10, and still found
def upsample(site: Site, opset: int) -> None:
    if opset < 7:
        scales = site.const(
            np.array([1, 1, site.pop("height_scale"), site.pop("width_scale")], _FLOAT)
        )
    elif opset < 9:
        scales = site.const(np.array(site.pop("scales"), _FLOAT))
    else:
        scales = site.input(1)
    mode = {"bilinear": "linear"}.get(mode := site.pop("mode", "nearest"), mode)
    site.replace(_resize(site, site.input(0), scales, mode, "floor"))


@upgrades("Resize", before=11)
def resize_10(site: Site, opset: int) -> None:
    """Coordinates were x / scale, cut down where the image grows and up where it shrinks."""
    x, scales, mode = site.input(0), site.input(1), site.pop("mode", "nearest")
    factors = _constant(scales)
    if mode != "nearest" or (factors is not None and (factors >= 1).all()):
        site.replace(_resize(site, x, scales, mode, "floor"))
    elif factors is not None and (factors <= 1).all():
        site.replace(_resize(site, x, scales, mode, "ceil"))
    else:  # axes are independent: first those that grow, then those that shrink
        one = site.const(np.array(1, _FLOAT))
        grown = _resize(site, x, site.add("Max", scales, one), mode, "floor")
        site.replace(_resize(site, grown, site.add("Min", scales, one), mode, "ceil"))


def _resize(site: Site, x: ir.Value, scales: ir.Value, mode: str, nearest: str) -> ir.Value:
    return site.add(
        "Resize",
        x,
        None,
        scales,
        mode=mode,
        coordinate_transformation_mode="asymmetric",
        nearest_mode=nearest if mode == "nearest" else None,
    )


@upgrades("Resize", before=13)
def tf_half_pixel_for_nn(site: Site, opset: int) -> None:
    if site.get("coordinate_transformation_mode") == "tf_half_pixel_for_nn":
        _half_pixel_from_above(site)


@upgrades("Resize", before=99)
def empty_means_missing(site: Site, opset: int) -> None:
    """Inputs that do not count are empty tensors in many files, of every opset."""
    if site.get("coordinate_transformation_mode") != "tf_crop_and_resize":
        site.set_input(1, None)
    for index in range(1, len(site.node.inputs)):
        value = site.optional(index)
        known = None if value is None else _constant(value)
        if known is not None and known.size == 0:
            site.set_input(index, None)


def _half_pixel_from_above(site: Site) -> None:
    """x = (x_out + 0.5) / scale: half_pixel without the last half, so sample half a pixel later.

    For nearest with floor that is round_prefer_ceil of half_pixel's coordinate.
    """
    if site.get("mode", "nearest") != "nearest" or site.get("nearest_mode") != "floor":
        raise site.error("tf_half_pixel_for_nn is supported for mode=nearest, nearest_mode=floor")
    site.set("coordinate_transformation_mode", "half_pixel")
    site.set("nearest_mode", "round_prefer_ceil")


@upgrades("RoiAlign", before=16)
def pixel_corners(site: Site, opset: int) -> None:
    site.set("coordinate_transformation_mode", "output_half_pixel")


@upgrades("GridSample", before=20)
def modes_of_any_rank(site: Site, opset: int) -> None:
    mode = site.get("mode", "bilinear")
    site.set("mode", {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode))


def _constant(value: ir.Value) -> np.ndarray | None:
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()
