"""The model's meaning in float64, by onnx's reference evaluator: what `verify` compares with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from zenith.ir import GraphIR
from zenith.ir.inline import inline_calls
from zenith.ir.reference import reference_evaluator

__all__ = ["evaluate_float64", "relative_error"]

_FLOAT, _DOUBLE = int(ir.DataType.FLOAT), int(ir.DataType.DOUBLE)


def relative_error(result: NDArray[Any], reference: NDArray[Any]) -> float:
    """max |T - F| / (|F| + rms(F)): the error measure of `tolerance`, `verify` and the tests.

    Equal NaN or infinities count as 0, a NaN or infinity on one side only as infinity.
    """
    t, f = np.asarray(result, np.float64), np.asarray(reference, np.float64)
    if t.shape != f.shape:
        return float("inf")
    if f.size == 0:
        return 0.0
    same = (t == f) | (np.isnan(t) & np.isnan(f))
    finite = np.isfinite(f)
    if not np.all(same | (finite & np.isfinite(t))):
        return float("inf")
    rms = float(np.sqrt(np.mean(np.square(f[finite])))) if finite.any() else 0.0
    scale = np.abs(f) + rms
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.where(same, 0.0, np.abs(t - f) / scale)
    return float(np.max(error))


def evaluate_float64(graph: GraphIR, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Outputs by name with every float32 of the graph widened to float64."""
    model = _inlined(graph)
    proto = ir.to_proto(model)
    _widen(proto.graph)
    evaluator = reference_evaluator(proto)
    wide = {k: _wide(np.asarray(v)) for k, v in feeds.items()}
    names = [o.name for o in proto.graph.output]
    return dict(zip(names, evaluator.run(names, wide), strict=True))


def _inlined(graph: GraphIR) -> ir.Model:
    model = graph.model.clone()
    inline_calls(model)
    return model


def _wide(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.float64) if array.dtype == np.float32 else array


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == _FLOAT:
        wide = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(np.float64))
        name = tensor.name
        tensor.CopyFrom(wide)
        tensor.name = name


def _widen_type(info: onnx.ValueInfoProto) -> None:
    if info.type.tensor_type.elem_type == _FLOAT:
        info.type.tensor_type.elem_type = _DOUBLE


def _widen(graph: onnx.GraphProto) -> None:
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for info in (*graph.input, *graph.output, *graph.value_info):
        _widen_type(info)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                _widen_tensor(attribute.t)
            elif attribute.type == onnx.AttributeProto.GRAPH:
                _widen(attribute.g)
            elif attribute.name in ("to", "dtype", "stash_type") and attribute.i == _FLOAT:
                attribute.i = _DOUBLE
        if node.op_type == "Constant":
            _widen_constant(node)


def _widen_constant(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.name in ("value_float", "value_floats"):
            values = attribute.f if attribute.name == "value_float" else list(attribute.floats)
            tensor = onnx.numpy_helper.from_array(np.asarray(values, np.float64))
            replacement = onnx.helper.make_attribute("value", tensor)
            node.attribute.remove(attribute)
            node.attribute.append(replacement)
            return
