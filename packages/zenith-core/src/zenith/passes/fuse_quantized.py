"""Products of dequantized operands, with what follows them -> zenith.QuantizedLinear and
zenith.QuantizedConv."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import onnx_ir as ir

from zenith.ir import GraphIR
from zenith.ops import quantized
from zenith.passes.epilogues import grow
from zenith.passes.quantized import dequantized, quantizer, weight
from zenith.passes.rewrite import (
    FLOAT_KEY,
    Rewriter,
    attr,
    const_shape,
    is_op,
    rank,
    sole_user,
    transposed,
)


@dataclass(frozen=True)
class FuseQuantized:
    """MatMul, Gemm or Conv of DequantizeLinear(x) and DequantizeLinear(constant w), its epilogue
    (`zenith.passes.epilogues`), and a QuantizeLinear behind it.

    x is 8-bit with one constant scale and zero point; w int8, symmetric, with a scale per output
    channel or one. Intermediates have one user.
    """

    name: ClassVar[str] = "fuse_quantized"

    def run(self, graph: GraphIR) -> int:
        rewriter = Rewriter(graph)
        return sum(
            _fuse(rewriter, node)
            for node in graph.nodes
            if is_op(node, "MatMul", "Gemm", "Conv") and node.graph is not None
        )


def _fuse(rw: Rewriter, node: ir.Node) -> bool:
    x = dequantized(node.inputs[0])
    if x is None:
        return False
    product = _conv(node) if node.op_type == "Conv" else _linear(rw, node)
    if product is None:
        return False
    op_type, w, bias, attributes = product
    steps = ["bias"] if bias is not None else []
    is_linear = op_type == quantized.LINEAR
    chain = grow(
        node, allow_mul=is_linear, steps=steps, bias=is_linear and bias is None, quantized=True
    )
    inputs: list[ir.Value | None] = [*x, *w]
    inputs += [bias] if bias is not None else []
    inputs += chain.operands
    steps += chain.steps
    nodes, result = [node, *chain.nodes], chain.result
    last = sole_user(result)
    ends = quantizer(last) if last is not None and last.graph is node.graph else None
    if last is not None and ends is not None and last.inputs[0] is result:
        steps.append("quantize")
        inputs += ends
        nodes.append(last)
        result = last.outputs[0]
    new = rw.fused(op_type, ".".join(steps), inputs, attributes)
    if not rw.replace(nodes, {result: new.outputs[0]}, [new]):
        return False
    new.metadata_props.pop(FLOAT_KEY, None)  # of the steps it took in
    return True


_Product = tuple[str, tuple[ir.Value, ir.Value], "ir.Value | None", dict[str, Any]]


def _linear(rw: Rewriter, node: ir.Node) -> _Product | None:
    """The operator, weights, bias and attributes of a MatMul or Gemm."""
    turned = bool(attr(node, "transB", 0))
    w = weight(node.inputs[1], 0 if turned else 1)
    if w is None or len(const_shape(w[0]) or ()) != 2 or (rank(node.inputs[0]) or 0) < 2:
        return None
    bias = None
    if node.op_type == "Gemm":
        if attr(node, "transA", 0) or attr(node, "alpha", 1.0) != 1:
            return None
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        size = (const_shape(w[0]) or ())[0 if turned else 1]
        if bias is not None and (const_shape(bias) != (size,) or attr(node, "beta", 1.0) != 1):
            return None
    return quantized.LINEAR, (transposed(rw, w[0]) if turned else w[0], w[1]), bias, {}


def _conv(node: ir.Node) -> _Product | None:
    w = weight(node.inputs[1], 0)
    if w is None or attr(node, "auto_pad", "NOTSET") != "NOTSET":
        return None
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None and const_shape(bias) is None:
        return None
    spatial = len(const_shape(w[0]) or ()) - 2
    attributes = {
        "strides": list(attr(node, "strides", [1] * spatial)),
        "pads": list(attr(node, "pads", [0] * 2 * spatial)),
        "dilations": list(attr(node, "dilations", [1] * spatial)),
        "group": attr(node, "group", 1),
    }
    return quantized.CONV, w, bias, attributes
