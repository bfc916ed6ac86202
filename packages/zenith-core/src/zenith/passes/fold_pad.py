"""Zero padding in front of a convolution goes into the convolution's own pads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from zenith.ir import GraphIR
from zenith.passes.rewrite import Rewriter, attr, ints, is_op, produced_by, rank, scalar, sole_user


@dataclass(frozen=True)
class FoldPad:
    """Pad (zeros, spatial axes only) -> Conv = Conv with larger pads. Exact.

    The padded tensor must have no other user and the convolution explicit pads.
    """

    name: ClassVar[str] = "fold_pad"

    def run(self, graph: GraphIR) -> int:
        rewriter = Rewriter(graph)
        return sum(_fold(rewriter, n) for n in graph.nodes if is_op(n, "Conv"))


def _fold(rw: Rewriter, conv: ir.Node) -> bool:
    pad = produced_by(conv.inputs[0], "Pad")
    if pad is None or sole_user(pad.outputs[0]) is not conv:
        return False
    if attr(conv, "auto_pad", "NOTSET") != "NOTSET":
        return False
    added = _zero_pads(pad)
    if added is None or any(added[axis][side] != 0 for axis in (0, 1) for side in (0, 1)):
        return False
    spatial = added[2:]
    if any(n < 0 for pair in spatial for n in pair):
        return False
    old = attr(conv, "pads", [0] * (2 * len(spatial)))
    begins = [a + pair[0] for a, pair in zip(old[: len(spatial)], spatial, strict=True)]
    ends = [a + pair[1] for a, pair in zip(old[len(spatial) :], spatial, strict=True)]
    attributes = {**conv.attributes, "pads": ir.AttrInt64s("pads", [*begins, *ends])}
    new = rw.op("Conv", [pad.inputs[0], *conv.inputs[1:]], attributes)
    return rw.replace([pad, conv], {conv.outputs[0]: new.outputs[0]}, [new])


def _zero_pads(pad: ir.Node) -> list[tuple[int, int]] | None:
    """(begin, end) of every axis, or None unless this pads with zeros by known amounts."""
    r, amounts = rank(pad.inputs[0]), ints(pad.inputs[1])
    value = pad.inputs[2] if len(pad.inputs) > 2 else None
    axes_value = pad.inputs[3] if len(pad.inputs) > 3 else None
    if r is None or amounts is None or attr(pad, "mode", "constant") != "constant":
        return None
    if value is not None and scalar(value) != 0:
        return None
    axes = list(range(r)) if axes_value is None else ints(axes_value)
    if axes is None or len(amounts) != 2 * len(axes):
        return None
    result = [(0, 0)] * r
    for i, axis in enumerate(axes):
        result[axis % r] = (amounts[i], amounts[i + len(axes)])
    return result
