"""The one reference evaluator: onnx's, with the operators it lacks or gets wrong in `NEW_OPS`.

The reference backend, constant folding and `evaluate_float64` all evaluate by it. One file per
family beside this one holds the operators, as `onnx.reference` classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from zenith.ir.reference.activations import Gelu, HardSwish, Mish
from zenith.ir.reference.normalisation import GroupNormalization, MeanVarianceNormalization
from zenith.ir.reference.pooling import GlobalLpPool, MaxRoiPool
from zenith.ir.reference.random import Multinomial

__all__ = ["NEW_OPS", "as_array", "reference_evaluator"]

NEW_OPS: list[type[OpRun]] = [
    Gelu,
    GlobalLpPool,
    GroupNormalization,
    HardSwish,
    MaxRoiPool,
    MeanVarianceNormalization,
    Mish,
    Multinomial,
]


def reference_evaluator(model: onnx.ModelProto) -> ReferenceEvaluator:
    """An evaluator of `model` that knows every operator of GraphIR's opset."""
    return ReferenceEvaluator(model, new_ops=list(NEW_OPS))


def as_array(result: Any) -> np.ndarray[Any, Any]:
    """A result as an array of the dtype GraphIR has for it: text is an array of objects."""
    array = np.asarray(result)
    return array.astype(object) if array.dtype.kind in "UST" else array
