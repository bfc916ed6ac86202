"""Operators whose sizes, axes or indices were attributes."""

from __future__ import annotations

import numpy as np

from zenith_onnx.upgrade._table import Site, upgrades

_REDUCTIONS = (
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSumSquare",
)


def _axes_to_input(site: Site, opset: int) -> None:
    axes = site.pop("axes")
    if axes is not None:
        site.set_input(1, site.ints(axes))


upgrades(*_REDUCTIONS, before=18)(_axes_to_input)
upgrades("ReduceSum", "Squeeze", "Unsqueeze", before=13)(_axes_to_input)


@upgrades("Concat", before=4)
def axis_had_a_default(site: Site, opset: int) -> None:
    if site.get("axis") is None:
        site.set("axis", 1)


@upgrades("Reshape", before=5)
def shape_becomes_input(site: Site, opset: int) -> None:
    shape = site.pop("shape")
    if shape is not None:
        site.set_input(1, site.ints(shape))


@upgrades("Slice", before=10)
def ranges_become_inputs(site: Site, opset: int) -> None:
    starts, ends = site.pop("starts"), site.pop("ends")
    axes = site.pop("axes")
    site.set_input(1, site.ints(starts))
    site.set_input(2, site.ints(ends))
    if axes is not None:
        site.set_input(3, site.ints(axes))


@upgrades("Split", before=13)
def sizes_become_input(site: Site, opset: int) -> None:
    if opset < 2 and site.get("axis") is None:
        site.set("axis", 0)
    sizes = site.pop("split")
    if sizes is not None:
        site.set_input(1, site.ints(sizes))


@upgrades("Split", before=18)
def equal_parts_are_counted(site: Site, opset: int) -> None:
    if site.optional(1) is None:
        site.set("num_outputs", len(site.node.outputs))


@upgrades("Pad", before=11)
def pads_become_input(site: Site, opset: int) -> None:
    pads = site.pop("paddings" if opset < 2 else "pads")
    value = site.pop("value")
    site.set_input(1, site.ints(pads))
    if value:
        site.set_input(2, site.scalar_like(value, site.input(0)))


@upgrades("Tile", before=6)
def tiles_of_one_axis(site: Site, opset: int) -> None:
    """`tiles` copies along `axis`: ones, with `tiles` scattered in."""
    x, tiles, axis = site.input(0), site.input(1), site.input(2)
    rank = site.add("Shape", site.add("Shape", x))
    ones = site.add("Expand", site.ints([1]), rank)
    at = site.add("Reshape", site.add("Cast", axis, to=7), site.ints([-1]))
    count = site.add("Reshape", site.add("Cast", tiles, to=7), site.ints([-1]))
    site.replace(site.add("Tile", x, site.add("ScatterElements", ones, at, count)))


@upgrades("TopK", before=10)
def k_becomes_input(site: Site, opset: int) -> None:
    site.set_input(1, site.ints([site.pop("k")]))


@upgrades("Scatter", before=99)  # deprecated since 11, and still found
def scatter_elements(site: Site, opset: int) -> None:
    x, indices, updates = (site.input(i) for i in range(3))
    site.replace(site.add("ScatterElements", x, indices, updates, axis=site.get("axis")))


@upgrades("LpPool", "GlobalLpPool", before=2)
def whole_power(site: Site, opset: int) -> None:
    power = site.pop("p", 2.0)
    if power != int(power):
        raise site.error(f"p={power}: only whole numbers are supported")
    site.set("p", int(np.int64(power)))
