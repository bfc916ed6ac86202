"""zenith.Linear: y[..., N] = epilogue(x[..., K] @ w[K, N], operands...). The overload is the
epilogue (`zenith.ops.epilogue`)."""

from __future__ import annotations

import onnx_ir as ir

from zenith.ops import epilogue
from zenith.ops._function import make_function

NAME = "Linear"


def function(overload: str) -> ir.Function:
    """The meaning of one overload."""
    steps = epilogue.parse(overload)
    names = tuple(f"b{i}" for i in range(epilogue.operands(overload)))
    result, lines = epilogue.body(steps, "y", names)
    return make_function(
        NAME, overload, ["x", "w", *names], [result], ["y = MatMul (x, w)", *lines]
    )
