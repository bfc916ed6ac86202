"""Shape inference of GraphIR: the one place that calls the inference package."""

from __future__ import annotations

import onnx_ir as ir
from onnx_shape_inference import OpUsageError, ShapeInferenceError, infer_symbolic_shapes

from zenith.errors import CompilationError, ValidationError
from zenith.ir import shape_rules as shape_rules  # registers them
from zenith.ir._describe import describe

__all__ = ["infer_shapes"]


def infer_shapes(model: ir.Model) -> None:
    """Set dtype and shape of every value in place; dims that are numbers become ints."""
    for index, node in enumerate(model.graph.all_nodes()):
        if not node.name:
            node.name = f"node_{index}"
    try:
        infer_symbolic_shapes(model, policy="refine", warn_on_missing=False)
    except OpUsageError as error:
        raise ValidationError(f"{error.message}\n  {describe(error.node)}") from error
    except ShapeInferenceError as error:
        cause = f": {error.__cause__}" if error.__cause__ is not None else ""
        where = _find(model, error)
        raise ValidationError(
            f"shapes do not fit: {error.message}{cause}" + (f"\n  {where}" if where else "")
        ) from error
    except ValueError as error:
        raise CompilationError(
            f"sizes of this model are beyond shape inference: {error}",
            next="name fewer axes in dynamic=",
        ) from error
    for node in model.graph.all_nodes():
        for value in node.outputs:
            _normalise(value)


def _find(model: ir.Model, error: ShapeInferenceError) -> str:
    for node in model.graph.all_nodes():
        if node.name == error.node_name and node.op_type == error.op_type:
            return describe(node)
    return ""


def _normalise(value: ir.Value) -> None:
    """Dims such as SymbolicDim("8"), which the package yields at times, become ints."""
    shape = value.shape
    if shape is None:
        return
    for dim in shape:
        if not isinstance(dim, int) and dim.value is not None and dim.value.lstrip("-").isdigit():
            break
    else:
        return
    value.shape = ir.Shape(
        int(d.value)
        if not isinstance(d, int) and d.value is not None and d.value.lstrip("-").isdigit()
        else d
        for d in shape
    )
