"""Epilogues of products and norms: the overload string ("bias.gelu") as steps and as native codes.

`cpp/cpu/isa/epilogue.h` is the other side and applies them.
"""

from __future__ import annotations

from zenith import _native
from zenith.runtime.op_view import OpView

__all__ = [
    "MAX_STEPS",
    "OPERAND_STEPS",
    "epilogue_codes",
    "epilogue_note",
    "epilogue_reason",
    "epilogue_steps",
]

# Values are shared with StepCode in epilogue.h.
_CODES = {
    "bias": 1,
    "add": 2,
    "mul": 3,
    "relu": 16,
    "relu6": 17,
    "gelu": 18,
    "gelu_tanh": 19,
    "silu": 20,
    "tanh": 21,
    "sigmoid": 22,
    "hardswish": 23,
    "hardsigmoid": 24,
}
MAX_STEPS = 8
RESULT_TYPES = frozenset({"float32"})  # last steps that name the type of the result
OPERAND_STEPS = frozenset({"bias", "add", "mul"})
_SHORT = frozenset({"gelu", "gelu_tanh", "silu"})  # see cpp/cpu/isa/short_functions.h


def epilogue_steps(overload: str) -> tuple[str, ...]:
    """The steps in order: "bias.add.relu" -> ("bias", "add", "relu"); none for ""."""
    return tuple(overload.split(".")) if overload else ()


def epilogue_codes(overload: str) -> list[int]:
    """The `epilogue` param of a native kernel; what type its result has, it sees there."""
    return [_CODES[step] for step in epilogue_steps(overload) if step not in RESULT_TYPES]


def epilogue_reason(overload: str, operands: int) -> str | None:
    """None if kernels can apply it with this many operand inputs, else why not."""
    steps = epilogue_steps(overload)
    steps = steps[:-1] if steps and steps[-1] in RESULT_TYPES else steps
    unknown = [step for step in steps if step not in _CODES]
    if unknown:
        return f"epilogue step '{unknown[0]}' is unknown"
    if len(steps) > MAX_STEPS:
        return f"the epilogue has {len(steps)} steps, more than {MAX_STEPS}"
    wanted = sum(step in OPERAND_STEPS for step in steps)
    if wanted != operands:
        return f"the epilogue takes {wanted} operands, the node has {operands}"
    return None


def epilogue_note(op: OpView) -> str | None:
    """What the epilogue of a product or norm in bfloat16 approximates, for explain()."""
    steps = epilogue_steps(op.overload)
    steps = steps[:-1] if steps[-1:] == ("mul",) else steps
    short = bool(steps) and steps[-1] in _SHORT and op.outputs[0].dtype == "bfloat16"
    if not short or not _native.isas()[0].startswith(("amx", "avx512")):
        return None
    return (
        "a GELU or SiLU that is rounded to bfloat16 at once is computed to 4e-4 of its value, a "
        "tenth of the rounding"
    )
