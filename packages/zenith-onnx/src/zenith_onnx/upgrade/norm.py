"""Normalisation, softmax and dropout of old opsets."""

from __future__ import annotations

import onnx_ir as ir

from zenith_onnx.upgrade._table import Site, upgrades


@upgrades("Softmax", "LogSoftmax", "Hardmax", before=13)
def over_all_axes_behind(site: Site, opset: int) -> None:
    """The input was seen as a matrix [axes before `axis`, axes from `axis` on]."""
    x, axis = site.input(0), site.pop("axis", 1)
    rank = site.rank(x)
    if axis == -1 or (rank is not None and axis in (rank - 1, -1)):
        site.set("axis", -1)
        return
    if rank is not None and axis < 0:
        axis += rank
    flat = site.add("Flatten", x, axis=axis)
    result = site.add(site.node.op_type, flat, axis=-1)
    site.replace(site.add("Reshape", result, site.add("Shape", x), allowzero=1))


@upgrades("BatchNormalization", before=14)
def statistics_by_outputs(site: Site, opset: int) -> None:
    """Five outputs meant training; `spatial=0` meant statistics of every position."""
    node = site.node
    site.pop("is_test")
    spatial = site.pop("spatial", 1)
    training = any(site.used(i) for i in range(1, len(node.outputs)))
    if not spatial and site.rank(site.input(0)) != 2:
        if training:
            raise site.error("training with spatial=0 is not supported")
        _per_position(site)
        return
    if not training:
        node.resize_outputs(1)
        return
    x, epsilon, momentum = site.input(0), site.get("epsilon"), site.get("momentum")
    new = site.add_many(
        "BatchNormalization", node.inputs, 3, epsilon=epsilon, momentum=momentum, training_mode=1
    )
    saved: list[ir.Value | None] = [None, None]
    if site.used(3) or site.used(4):
        rank = site.rank(x)
        if rank is None:
            raise site.error("saved statistics need an input of known rank")
        axes = site.ints([a for a in range(rank) if a != 1])
        mean = site.add("ReduceMean", x, axes)
        apart = site.add("Sub", x, mean)
        square = site.add("Mul", apart, apart)
        saved = [
            site.add("Squeeze", mean, axes),
            site.add("ReduceMean", square, axes, keepdims=0),
        ]
    site.replace(*new, *saved)


def _per_position(site: Site) -> None:
    x, scale, bias, mean, var = (site.input(i) for i in range(5))
    epsilon = site.scalar_like(site.get("epsilon", 1e-5), x)
    spread = site.add("Sqrt", site.add("Add", var, epsilon))
    normal = site.add("Div", site.add("Sub", x, mean), spread)
    site.replace(site.add("Add", site.add("Mul", normal, scale), bias))


@upgrades("GroupNormalization", before=21)
def scale_per_channel(site: Site, opset: int) -> None:
    """Scale and bias had one element for each group."""
    groups = site.get("num_groups")
    one = site.ints([1])
    channels = site.add("Shape", site.input(0), start=1, end=2)
    each = site.add("Div", channels, site.ints([groups]))
    for index in (1, 2):
        column = site.add("Unsqueeze", site.input(index), one)
        wide = site.add("Expand", column, site.add("Concat", one, each, axis=0))
        site.set_input(index, site.add("Reshape", wide, site.ints([-1])))


@upgrades("Dropout", before=12)
def inference_only(site: Site, opset: int) -> None:
    """Before opset 12 no model could ask for training; the mask had the data's type before 10."""
    ratio = site.pop("ratio")
    site.pop("is_test")
    x = site.input(0)
    if not site.used(1):
        site.node.resize_outputs(1)
        if ratio is not None:
            site.set_input(1, site.scalar_like(ratio, x))
        return
    y, mask = site.add_many("Dropout", [x], 2)
    site.replace(y, mask if opset >= 10 else site.add("CastLike", mask, x))
