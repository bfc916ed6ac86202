"""Rows of the resize family: Resize of any mode, rank and layout, two neighbouring axes a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zenith.backends.cpu.emit import Emit
from zenith.backends.cpu.kernels.views import ANY, known, need, unbound
from zenith.backends.cpu.operand import Operand, same
from zenith.ir.dims import Dim, product
from zenith.runtime.kernel_registry import Cost, KernelSpec
from zenith.runtime.op_view import OpView, ValueView

__all__ = ["SPECS"]

# Numbers of cpp/cpu/kernels/resize/tables.h.
_MODES = {"nearest": 0, "linear": 1, "cubic": 2}
_COORDINATES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_crop_and_resize",
)
_ROUNDING = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
_POLICIES = ("stretch", "not_larger", "not_smaller")

_FLOATS = frozenset({"float32", "float64", "bfloat16"})
_FLOAT_SUMS = frozenset({"float32", "bfloat16", "uint8", "int8"})
_INTEGERS = frozenset({"uint8", "int8", "uint16", "int16", "int32"})


@dataclass(frozen=True)
class _Axis:
    """One resized axis: its given scale (0: from sizes) and the place of its start in roi."""

    scale: float
    roi: int


def _value(op: OpView, index: int) -> ValueView | None:
    """An optional input; an empty tensor means that it is missing."""
    value = op.input(index)
    return None if value is None or value.shape == (0,) else value


def _crops(op: OpView) -> bool:
    return bool(op.attr("coordinate_transformation_mode") == "tf_crop_and_resize")


def _axes(op: OpView) -> list[int]:
    rank = op.outputs[0].rank
    return [int(axis) % rank for axis in op.attr("axes") or range(rank)]


def _sizes(op: OpView) -> Sequence[Dim] | None:
    return None if _value(op, 3) is None else known(op, 3)


def _resized(op: OpView) -> dict[int, _Axis]:
    """The axes that change, by number."""
    x, scales, roi = op.inputs[0], _value(op, 2), _value(op, 1)
    assert x is not None
    factors = None if scales is None or scales.const is None else scales.const.ravel()
    given = None if roi is None or roi.const is None else roi.const.ravel()
    axes = _axes(op)
    found: dict[int, _Axis] = {}
    for place, axis in enumerate(axes):
        scale = 0.0 if factors is None else float(factors[place])
        crops = _crops(op)
        if crops and given is not None:
            crops = (given[place], given[place + len(axes)]) != (0, 1)
        kept = same(x.shape[axis], op.outputs[0].shape[axis]) and scale in (0.0, 1.0)
        if crops or not kept:
            found[axis] = _Axis(scale, place)
    return found


def _policy_reason(op: OpView) -> str | None:
    """Under keep_aspect_ratio_policy the sizes asked for are not those of the output."""
    x, sizes, policy = op.inputs[0], _sizes(op), op.attr("keep_aspect_ratio_policy", "stretch")
    assert x is not None
    if policy == "stretch" or sizes is None:
        return None
    axes = _axes(op)
    if not all(isinstance(n, int) for n in (*sizes, *(x.shape[a] for a in axes))):
        return f"keep_aspect_ratio_policy is {policy} and sizes are dynamic"
    choose = min if policy == "not_larger" else max
    scale = choose(n / x.shape[axis] for n, axis in zip(sizes, axes, strict=True))
    for axis in axes:
        wanted = int(scale * x.shape[axis] + 0.5)
        if op.outputs[0].shape[axis] != wanted:
            return f"its output is declared {op.outputs[0].shape[axis]} long, not {wanted}"
    return None


def _rounding_reason(op: OpView) -> str | None:
    """bfloat16 is rounded once: between two steps it would be twice."""
    axes = sorted(_resized(op)) if op.attr("mode") != "nearest" else []
    if op.outputs[0].dtype == "bfloat16" and axes and axes[-1] - axes[0] > 1:
        return "axes that are no two neighbours are resized in float32"
    return None


def _reason(op: OpView) -> str | None:
    mode = op.attr("mode", "nearest")
    if mode not in _MODES:
        return f"unknown mode {mode}"
    if mode == "nearest" and op.attr("antialias", 0):
        return "nearest cannot be antialiased"
    scales, sizes = _value(op, 2), _value(op, 3)
    if scales is not None and scales.const is None:
        return "the scales are computed from data"
    if sizes is not None and _sizes(op) is None:
        return "the sizes are computed from data"
    if op.outputs[0].rank > 8:
        return f"rank {op.outputs[0].rank} is above 8"
    return unbound(op) or _policy_reason(op) or _rounding_reason(op)


def _steps(order: Sequence[int], resized: Sequence[int]) -> list[tuple[int, ...]]:
    """Positions in memory order of the axes each step resizes: a pair of neighbours is one step,
    the last, so that what comes before it stays small."""
    places = [place for place, axis in enumerate(order) if axis in resized]
    if len(places) > 1 and places[-1] == places[-2] + 1:
        return [*((p,) for p in places[:-2]), (places[-2], places[-1])]
    return [(p,) for p in places] or [(len(order) - 1,)]


def _as_four(operand: Operand, places: tuple[int, ...]) -> Operand:
    """[outer, A, B, inner] around the given axes; A has size 1 where there is only one."""
    first, last = places[0], places[-1]
    shape = operand.shape
    one = (1,) if len(places) == 1 else ()
    four = operand.reshape(
        (product(shape[:first]), *one, *shape[first : last + 1], product(shape[last + 1 :]))
    )
    assert four is not None, "the operand is gapless in this order"
    return four


def _kernel(mode: str, dtype: str, sums: str, first: bool, last: bool) -> str:
    if mode == "nearest":
        return "resize_nearest"
    if first and last:
        return f"resize_{dtype}"
    if dtype in _FLOATS:
        return f"resize_{dtype}"
    return f"resize_from_{dtype}" if first else f"resize_to_{dtype}" if last else f"resize_{sums}"


def _common_params(op: OpView) -> dict[str, Any]:
    x, sizes, axes = op.inputs[0], _sizes(op) or (), _axes(op)
    policy = _POLICIES.index(op.attr("keep_aspect_ratio_policy", "stretch"))
    if policy == 0:
        sizes = ()  # each axis has its own scale, output size / input size
    assert x is not None
    return {
        "mode": _MODES[op.attr("mode", "nearest")],
        "coordinates": _COORDINATES.index(op.attr("coordinate_transformation_mode", "half_pixel")),
        "rounding": _ROUNDING.index(op.attr("nearest_mode", "round_prefer_floor")),
        "antialias": int(op.attr("antialias", 0)),
        "exclude_outside": int(op.attr("exclude_outside", 0)),
        "policy": policy if sizes else 0,
        "sizes": list(sizes),
        "of": [x.shape[axis] for axis in axes[: len(sizes)]],
        "roi_axes": len(axes),
        "cubic_coeff_a": float(op.attr("cubic_coeff_a", -0.75)),
        "extrapolation_value": float(op.attr("extrapolation_value", 0.0)),
    }


def _emit(e: Emit) -> None:
    op, x, resized = e.op, need(e, 0), _resized(e.op)
    order = x.order() or tuple(range(x.rank))
    if x.order() is None or (x.dtype == "bfloat16" and len(_steps(order, list(resized))) > 1):
        x, order = e.dense(0), tuple(range(x.rank))
    if not resized:
        e.alias(0, x)
        return
    mode, sums = op.attr("mode", "nearest"), "float32" if x.dtype in _FLOAT_SUMS else "float64"
    roi = None
    if _crops(op) and _value(op, 1) is not None:
        roi = _float_roi(e)
    current, target = x.transpose(order), e.output(0, order=order).transpose(order)
    steps = _steps(order, list(resized))
    for index, places in enumerate(steps):
        first, last = index == 0, index == len(steps) - 1
        shape = [n if p not in places else target.shape[p] for p, n in enumerate(current.shape)]
        held = x.dtype if mode == "nearest" or x.dtype in _FLOATS else sums
        to = target if last else e.temp(held, shape)
        kept = _Axis(0.0, -1)
        axes = [resized.get(order[p]) for p in places]
        pair = [None] * (2 - len(axes)) + axes
        e.step(
            _kernel(mode, x.dtype, sums, first, last),
            [_as_four(current, places), roi],
            [_as_four(to, places)],
            **_common_params(op),
            active=[int(axis is not None) for axis in pair],
            scale=[(axis or kept).scale for axis in pair],
            roi=[(axis or kept).roi for axis in pair],
        )
        current = to


def _float_roi(e: Emit) -> Operand:
    value = e.op.input(1)
    assert value is not None
    if value.const is not None:
        return e.const(value.const.ravel().astype(np.float32))
    return need(e, 1)


def _roi_reason(op: OpView) -> str | None:
    roi = _value(op, 1)
    if _crops(op):
        if roi is None:
            return "tf_crop_and_resize needs a roi"
        if roi.const is None and roi.dtype != "float32":
            return f"the roi is computed as {roi.dtype}"
    return _reason(op)


def _for_mode(nearest: bool) -> Callable[[OpView], str | None]:
    def reason(op: OpView) -> str | None:
        if (op.attr("mode", "nearest") == "nearest") != nearest:
            return f"the mode is {op.attr('mode', 'nearest')}"
        return _roi_reason(op)

    return reason


def _cost(op: OpView) -> Cost:
    taps = {"nearest": 0, "linear": 2, "cubic": 4}[op.attr("mode", "nearest")]
    x = op.inputs[0]
    assert x is not None
    return Cost(
        flops=2 * taps * len(_axes(op)) * op.outputs[0].size, bytes=x.nbytes + op.outputs[0].nbytes
    )


SPECS: list[KernelSpec] = [
    KernelSpec(
        "resize_nearest",
        "ai.onnx:Resize",
        _emit,
        dtypes={0: ANY},
        supports=_for_mode(True),
        cost=_cost,
    ),
    KernelSpec(
        "resize_blend",
        "ai.onnx:Resize",
        _emit,
        dtypes={0: _FLOATS | _INTEGERS},
        supports=_for_mode(False),
        cost=_cost,
    ),
]
