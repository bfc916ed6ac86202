"""[Expanding,] depthwise and projecting ConvBiasAct in a row -> zenith.Bottleneck."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from zenith.ir import DOMAIN, GraphIR
from zenith.ir.dims import product
from zenith.ops import conv, epilogue
from zenith.passes.rewrite import Rewriter, attr, const_shape, sole_user

# Fewer output rows than this are not worth it: ranges of rows expand those between them twice.
_LEAST_ROWS = 14
# Expanded rows that the kernel sees at once must stay near: bytes.
_MOST_BYTES = 1 << 20
# Where nothing is expanded, so must the weights be that every strip of rows reads: numbers.
_MOST_WEIGHTS = 1 << 16
_TYPES = (ir.DataType.FLOAT, ir.DataType.BFLOAT16)


@dataclass(frozen=True)
class FuseBottleneck:
    """The inverted residual block in float32 or bfloat16, where its image is large enough; and a
    depthwise convolution with its projection alone.

    Whole nets decide: the expanded image, several times larger than what goes in and comes out,
    then never leaves the cache of a core. Intermediates have one user, and of the first two
    convolutions nothing but a bias and an activation is fused.
    """

    name: ClassVar[str] = "fuse_bottleneck"

    def run(self, graph: GraphIR) -> int:
        rewriter = Rewriter(graph)
        # Whole blocks first: what expands one may be the projection of the convolution before.
        return sum(
            _fuse(rewriter, node, whole)
            for whole in (True, False)
            for node in graph.nodes
            if node.graph is not None
        )


def _fuse(rw: Rewriter, first: ir.Node, whole: bool) -> bool:
    if whole and not (_is_product(first) and _simple(first)):
        return False
    nodes = [first] if whole else []
    depthwise = sole_user(first.outputs[0]) if whole else first
    if depthwise is None or not _is_depthwise(depthwise) or not _simple(depthwise):
        return False
    project = sole_user(depthwise.outputs[0])
    if project is None or not _is_product(project) or not _near(depthwise, project):
        return False
    if not nodes and product(const_shape(project.inputs[1]) or ()) > _MOST_WEIGHTS:
        return False
    nodes += [depthwise, project]
    if any(a.outputs[0] not in b.inputs[:1] for a, b in zip(nodes, nodes[1:], strict=False)):
        return False
    inputs = [
        first.inputs[0],
        *(n.inputs[1] for n in nodes),
        *(v for n in nodes for v in n.inputs[2:]),
    ]
    attributes = {name: depthwise.attributes[name].value for name in conv.BOTTLENECK_ATTRIBUTES}
    overload = conv.join([n.overload or "" for n in nodes])
    new = rw.fused(conv.BOTTLENECK, overload, inputs, attributes)
    return rw.replace(nodes, {project.outputs[0]: new.outputs[0]}, [new])


def _is_conv(node: ir.Node) -> bool:
    """A ConvBiasAct of images with constant weights, of a type that the block has a kernel for."""
    return (
        (node.domain, node.op_type) == (DOMAIN, conv.NAME)
        and node.outputs[0].dtype in _TYPES
        and len(const_shape(node.inputs[1]) or ()) == 4
        and not any(d != 1 for d in attr(node, "dilations", ()))
    )


def _is_product(node: ir.Node) -> bool:
    """A 1x1 convolution of every pixel."""
    if not _is_conv(node):
        return False
    kernel = (const_shape(node.inputs[1]) or ())[2:]
    ones = (*kernel, *attr(node, "strides", ()), attr(node, "group", 1))
    return all(n == 1 for n in ones) and not any(attr(node, "pads", ()))


def _is_depthwise(node: ir.Node) -> bool:
    if not _is_conv(node):
        return False
    m, per_group, *_ = const_shape(node.inputs[1]) or (0, 0)
    return per_group == 1 and m == attr(node, "group", 1) and min(attr(node, "pads", ())) >= 0


def _simple(node: ir.Node) -> bool:
    """No operand but a bias."""
    steps = epilogue.parse(node.overload or "")
    return all(step.name == "bias" for step in steps if step.operands)


def _near(depthwise: ir.Node, project: ir.Node) -> bool:
    """Is the image large enough, and are the rows below one output row small enough?"""
    before, after = depthwise.inputs[0], project.outputs[0]
    sizes = [None if v is None or v.shape is None else v.shape[2:] for v in (before, after)]
    if any(s is None or not all(isinstance(n, int) for n in s) for s in sizes):
        return False
    m, _, kh, kw = const_shape(depthwise.inputs[1]) or (0, 0, 0, 0)
    (_, width), (rows, _) = ([int(n) for n in s or ()] for s in sizes)  # type: ignore[arg-type]
    return rows >= _LEAST_ROWS and kh * (width + kw) * m * 4 <= _MOST_BYTES
