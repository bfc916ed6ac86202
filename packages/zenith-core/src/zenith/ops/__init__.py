"""The operators of the ``zenith`` domain. Each is an ONNX function: its body is its meaning.

One file per family. A function is made on first use, per overload.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from zenith.errors import UnsupportedOperationError
from zenith.ir import DOMAIN, DOMAIN_VERSION
from zenith.ops import conv, linear, lstm, norm, quantized, random

__all__ = ["OPERATORS", "add_functions", "ensure", "ensure_function"]

# Name -> maker of the function of one overload. Pointwise is not here: its overload is a digest.
OPERATORS: dict[str, Callable[[str], ir.Function]] = {
    linear.NAME: linear.function,
    conv.NAME: conv.function,
    quantized.LINEAR: quantized.linear,
    quantized.CONV: quantized.convolution,
    conv.BOTTLENECK: conv.bottleneck,
    lstm.NAME: lstm.function,
    norm.LAYER: norm.layer_norm,
    norm.RMS: norm.rms_norm,
    norm.GROUP: norm.group_norm,
    random.NAME: random.function,
}


def ensure(model: ir.Model, op: str, overload: str = "") -> ir.Function:
    """The function of ``zenith.<op>:<overload>``, added to `model` if it is not there yet."""
    found = model.functions.get((DOMAIN, op, overload))
    if found is not None:
        return found
    maker = OPERATORS.get(op)
    if maker is None:
        raise UnsupportedOperationError(f"{DOMAIN}.{op}:{overload}")
    return ensure_function(model, maker(overload))


def ensure_function(model: ir.Model, function: ir.Function) -> ir.Function:
    """`function`, or the one of equal name and overload that `model` already has."""
    model.opset_imports.setdefault(DOMAIN, DOMAIN_VERSION)
    return model.functions.setdefault(function.identifier(), function)


def add_functions(model: ir.Model) -> None:
    """Add the function of every ``zenith`` operator that `model`, bodies included, has not yet."""
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.domain == DOMAIN:
            ensure(model, node.op_type, node.overload or "")
