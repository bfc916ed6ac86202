"""Operators on lists of tensors, as optimizers use them: the plain operator on each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch

from zenith_torch.builder import Builder
from zenith_torch.lower import create, elementwise, reduce, scatter, special  # noqa: F401  plain ones
from zenith_torch.lower.registry import HANDLERS, lower

# Overloads of the plain operator, as a handler may be registered for: it takes numbers as well.
_PLAIN = ("Tensor", "default", "Tensor_Tensor", "self")
_OTHER_NAMES = {
    "clamp_max": "aten.minimum.default",
    "clamp_min": "aten.maximum.default",
    "norm": "aten.linalg_vector_norm.default",
    "zero": "aten.zeros_like.default",
}
_FUNCTIONAL = (
    *("abs", "acos", "add", "addcdiv", "addcmul", "asin", "atan", "ceil", "clamp_max"),
    *("clamp_min", "copy", "cos", "cosh", "div", "erf", "erfc", "exp", "expm1", "floor", "frac"),
    *("lerp", "lgamma", "log", "log10", "log1p", "log2", "maximum", "minimum", "mul", "neg"),
    *("norm", "pow", "reciprocal", "round", "rsqrt", "sigmoid", "sign", "sin", "sinh", "sqrt"),
    *("sub", "tan", "tanh", "trunc", "zero"),
)


def _of_each(plain: str, handler: Callable[..., Any]) -> Callable[..., list[ir.Value]]:
    def on_lists(b: Builder, *args: Any, **options: Any) -> list[ir.Value]:
        if plain.startswith("aten.addc") and len(args) > 3:
            *args, options["value"] = args  # type: ignore[assignment]
        kinds, shapes = list(b.out_dtypes), list(b.out_shapes)
        b.target = plain
        results = []
        for number, (kind, shape) in enumerate(zip(kinds, shapes, strict=True)):
            b.out_dtype, b.out_shape = kind, shape
            results.append(handler(b, *_at(number, args), **_named_at(number, options)))
        return results

    return on_lists


def _at(number: int, args: Sequence[Any]) -> list[Any]:
    return [arg[number] if isinstance(arg, (list, tuple)) else arg for arg in args]


def _named_at(number: int, options: Mapping[str, Any]) -> dict[str, Any]:
    return dict(zip(options, _at(number, list(options.values())), strict=True))


def _register(name: str) -> None:
    choices = [_OTHER_NAMES.get(name, ""), *(f"aten.{name}.{overload}" for overload in _PLAIN)]
    plain = next(choice for choice in choices if choice in HANDLERS)
    packet = getattr(torch.ops.aten, f"_foreach_{name}")
    overloads = [o for o in packet.overloads() if not o.endswith("out")]
    if name.startswith("addc"):
        overloads.remove("Tensor")  # one tensor with a number for each
    names = [f"aten._foreach_{name}.{overload}" for overload in overloads]
    lower(*names)(_of_each(plain, HANDLERS[plain]))


for _name in _FUNCTIONAL:
    _register(_name)
