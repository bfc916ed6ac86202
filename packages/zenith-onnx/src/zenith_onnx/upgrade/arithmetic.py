"""Arithmetic: broadcasting by attribute, limits and types as attributes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from zenith_onnx.upgrade._table import Site, upgrades

_BROADCAST = ("Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Greater", "Less")


@upgrades(*_BROADCAST, before=7)
def broadcast_by_axis(site: Site, opset: int) -> None:
    """`broadcast=1, axis=k` aligned the second operand's first axis with axis k of the first."""
    broadcast, axis = site.pop("broadcast", 0), site.pop("axis")
    if not broadcast or axis is None:
        return
    a, b = site.rank(site.input(0)), site.rank(site.input(1))
    if a is None or b is None:
        raise site.error("broadcast at an axis needs operands of known rank")
    behind = a - (axis if axis >= 0 else axis + a) - b
    if behind > 0 and b > 0:
        axes = site.ints(range(b, b + behind))
        site.set_input(1, site.add("Unsqueeze", site.input(1), axes))


@upgrades("PRelu", before=7)
def slope_per_channel(site: Site, opset: int) -> None:
    """A slope of one axis belonged to the channels, axis 1."""
    rank, slope = site.rank(site.input(0)), site.input(1)
    if site.rank(slope) != 1 or (slope.shape is not None and slope.shape[0] == 1):
        return
    if rank is None:
        raise site.error("a slope per channel needs an input of known rank")
    if rank > 2:
        site.set_input(1, site.add("Unsqueeze", slope, site.ints(range(1, rank - 1))))


@upgrades("Clip", before=11)
def limits_become_inputs(site: Site, opset: int) -> None:
    limits = [site.pop(name) for name in ("min", "max")]
    for index, limit in enumerate(limits, 1):
        if limit is not None:
            site.set_input(index, site.scalar_like(limit, site.input(0)))


@upgrades("Cast", before=6)
def type_by_name(site: Site, opset: int) -> None:
    name = str(site.pop("to")).upper()
    if name not in ir.DataType.__members__:
        raise site.error(f"Cast to '{name}', which is no element type")
    site.set("to", int(ir.DataType[name]))


@upgrades("Selu", before=6)
def rounded_constants(site: Site, opset: int) -> None:
    if site.get("alpha") is None:
        site.set("alpha", 1.6732)
    if site.get("gamma") is None:
        site.set("gamma", 1.0507)


@upgrades("Gemm", before=7)
def broadcast_always(site: Site, opset: int) -> None:
    site.pop("broadcast")


@upgrades("DFT", before=20)
def axis_becomes_input(site: Site, opset: int) -> None:
    axis = site.pop("axis", 1)
    site.set_input(2, site.const(np.asarray(axis, dtype=np.int64)))
