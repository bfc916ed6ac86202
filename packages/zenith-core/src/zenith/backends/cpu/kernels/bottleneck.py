"""The row of the inverted residual block: [expanding,] depthwise and projecting convolution,
nothing stored between them.
"""

from __future__ import annotations

from collections.abc import Callable

from zenith.backends.cpu.emit import BF16, F32, Emit
from zenith.backends.cpu.epilogue import (
    OPERAND_STEPS,
    epilogue_codes,
    epilogue_reason,
    epilogue_steps,
)
from zenith.backends.cpu.window import as_pixels, output_pixels, window_of
from zenith.ir.dims import product
from zenith.ops.conv import split
from zenith.runtime.kernel_registry import Cost, KernelSpec, traffic
from zenith.runtime.op_view import OpView

__all__ = ["SPECS"]


def _first_operand(op: OpView) -> int:
    return 1 + len(split(op.overload))


def _operand_steps(epilogue: str) -> list[str]:
    return [step for step in epilogue_steps(epilogue) if step in OPERAND_STEPS]


def _reason(op: OpView) -> str | None:
    first = _first_operand(op)
    if any(op.required(i).const is None for i in range(1, first)):
        return "the weights are not constant"
    if op.required(0).rank != 4:
        return "only images have a kernel"
    operands = iter(op.inputs[first:])
    epilogues = split(op.overload)
    for index, epilogue in enumerate(epilogues, 1):
        steps = _operand_steps(epilogue)
        if reason := epilogue_reason(epilogue, len(steps)):
            return reason
        for step in steps:
            operand = next(operands, None)
            if step == "bias":
                continue
            if index < len(epilogues):
                return f"the operand of '{step}' is not the last convolution's"
            if operand is None or operand.shape != op.outputs[0].shape:
                return f"the operand of '{step}' is broadcast"
    return None


def _emit(kind: str) -> Callable[[Emit], None]:
    packing = {"group": 1} | ({"column_dilation": 1} if kind == "bf16" else {})

    def emit(e: Emit) -> None:
        op, (*expand, depthwise, project) = e.op, split(e.op.overload)
        last = len(expand) + 2  # the projection's weights
        window = window_of(op, op.required(last - 1).shape[2:])
        steps = [step for each in (*expand, depthwise, project) for step in _operand_steps(each)]
        operands = [
            e.operand(index) if step == "bias" else as_pixels(e.channels_last(index))
            for index, step in enumerate(steps, last + 1)
        ]
        e.batch_step(
            f"conv_bottleneck_{kind}",
            [
                as_pixels(e.channels_last(0)),
                e.packed(1, f"conv_weights_{kind}", **packing) if expand else None,
                e.packed(last - 1, f"conv_depthwise_weights_{kind}"),
                e.packed(last, f"conv_weights_{kind}", **packing),
                *operands,
            ],
            [output_pixels(e)],
            kernel_shape=window.kernel,
            strides=window.strides,
            pads=window.begin,
            expanded=op.required(last - 1).shape[0],
            expand_epilogue=epilogue_codes(expand[0] if expand else ""),
            depthwise_epilogue=epilogue_codes(depthwise),
            epilogue=epilogue_codes(project),
        )

    return emit


def _cost(op: OpView) -> Cost:
    x, *expand, depthwise, project = (op.required(i) for i in range(_first_operand(op)))
    before = product((x.shape[0], *x.shape[2:])) * sum(w.size for w in expand)
    after = product((x.shape[0], *op.outputs[0].shape[2:])) * (depthwise.size + project.size)
    return traffic(op, 2 * (before + after))


SPECS: list[KernelSpec] = [
    KernelSpec(
        f"conv_bottleneck_{kind}",
        "zenith:Bottleneck",
        _emit(kind),
        dtypes=dict.fromkeys(range(20), dtypes),
        supports=_reason,
        cost=_cost,
    )
    for kind, dtypes in (("f32", F32), ("bf16", BF16))
]
