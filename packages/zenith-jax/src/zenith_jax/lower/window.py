"""Windows: MaxPool and AveragePool where they say the same, else strided slices, combined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import sympy

from zenith.ir.dims import Dim, exactly, product
from zenith_jax.builder import Builder, NotSupportedError
from zenith_jax.dims import size
from zenith_jax.dtypes import is_float
from zenith_jax.lower.registry import lower
from zenith_jax.lower.shape import pad_with

__all__: list[str] = []

FLOAT, INT64 = ir.DataType.FLOAT, ir.DataType.INT64
_LARGEST_SLICED = 128  # elements of one window axis, each a slice


class _Windows:
    """What the windowed axes have: size, stride, dilation, pads. Others are left alone."""

    def __init__(
        self, dimensions: Any, strides: Any, padding: Any, dilation: Any, base: Any = None
    ) -> None:
        count = len(dimensions)
        self.window = [int(d) for d in dimensions]
        self.strides = [int(s) for s in strides]
        self.pads = [(size(low), size(high)) for low, high in padding]
        self.dilation = [int(d) for d in dilation or (1,) * count]
        self.base = [int(d) for d in base or (1,) * count]
        self.axes = [
            a
            for a in range(count)
            if (self.window[a], self.strides[a], self.pads[a]) != (1, 1, (0, 0))
        ]

    def pools(self, x: ir.Value, strict: bool = True) -> bool:
        """Whether ONNX's pooling of up to three axes can say it."""
        pads = [self.pads[a] for a in self.axes]
        spans = [(self.window[a] - 1) * self.dilation[a] + 1 for a in self.axes]
        return (
            x.dtype == FLOAT
            and 1 <= len(self.axes) <= 3
            and all(
                isinstance(p, int) and 0 <= p < span
                for pair, span in zip(pads, spans, strict=True)
                for p in pair
            )
            and all(self.base[a] == 1 for a in self.axes)
        )

    def attributes(self) -> dict[str, Any]:
        return {
            "kernel_shape": [self.window[a] for a in self.axes],
            "strides": [self.strides[a] for a in self.axes],
            "dilations": [self.dilation[a] for a in self.axes],
            "pads": [self.pads[a][side] for side in (0, 1) for a in self.axes],
        }

    def result(self, length: Dim, axis: int) -> Dim:
        """Size of the axis in the result."""
        low, high = self.pads[axis]
        span = (self.window[axis] - 1) * self.dilation[axis] + 1
        free = sympy.sympify(length + low + high - span) / self.strides[axis]
        return exactly(sympy.floor(free) + 1)


class _Pooled:
    """x as [N, C, windowed axes], and the way back."""

    def __init__(self, b: Builder, x: ir.Value, axes: Sequence[int]) -> None:
        self.shape = b.shape_of(x)
        self.axes = list(axes)
        self.others = [a for a in range(len(self.shape)) if a not in axes]
        self.order = [*self.others, *self.axes]
        lead = [self.shape[a] for a in self.others]
        self.lead = lead if len(lead) == 2 else [product(lead), 1]
        self.x = self.inside(b, x)

    def inside(self, b: Builder, value: ir.Value) -> ir.Value:
        shape = b.shape_of(value)
        moved = b.transpose(value, self.order)
        return b.reshape(moved, [*self.lead, *(shape[a] for a in self.axes)])

    def back(self, b: Builder, value: ir.Value) -> ir.Value:
        lead = [self.shape[a] for a in self.others]
        value = b.reshape(value, [*lead, *b.shape_of(value)[2:]])
        inverse = [self.order.index(a) for a in range(len(self.order))]
        return b.transpose(value, inverse)


def _max_pool(b: Builder, x: ir.Value, windows: _Windows) -> ir.Value:
    pooled = _Pooled(b, x, windows.axes)
    sizes = [windows.result(b.shape_of(x)[a], a) for a in windows.axes]
    shape = [*pooled.lead, *sizes]
    return pooled.back(b, b.op("MaxPool", pooled.x, shape=shape, **windows.attributes()))


def _sliced(b: Builder, x: ir.Value, windows: _Windows, start: Any, combine: str) -> ir.Value:
    """Axis by axis: each place of the window is a strided slice of the padded input."""
    assert x.dtype is not None
    number = b.number(start, x.dtype)
    config = [(*windows.pads[a], windows.base[a] - 1) for a in range(len(windows.pads))]
    x = pad_with(b, x, number, config)
    for axis, window in enumerate(windows.window):
        stride, dilation = windows.strides[axis], windows.dilation[axis]
        if window == 1 and stride == 1:
            continue
        if window > _LARGEST_SLICED:
            raise NotSupportedError(f"of {x.dtype} with {window} elements")
        length = b.shape_of(x)[axis]
        span = (window - 1) * dilation + 1
        count = exactly(sympy.floor(sympy.sympify(length - span) / stride) + 1)
        total: ir.Value | None = None
        for place in range(window):
            first = place * dilation
            part = b.slice(x, axis, first, exactly(first + (count - 1) * stride + 1), stride)
            total = part if total is None else b.pointwise(combine, total, part)
        assert total is not None
        x = total
    return x


@lower("reduce_window_max", writes="MaxPool, or Max of slices")
def reduce_window_max(
    b: Builder,
    x: ir.Value,
    *,
    window_dimensions: Any,
    window_strides: Any,
    padding: Any,
    base_dilation: Any,
    window_dilation: Any,
) -> ir.Value:
    windows = _Windows(window_dimensions, window_strides, padding, window_dilation, base_dilation)
    if windows.pools(x):
        return _max_pool(b, x, windows)
    return _sliced(b, x, windows, _extreme(x, -1), "Max")


@lower("reduce_window_min", writes="MaxPool of the negative, or Min of slices")
def reduce_window_min(
    b: Builder,
    x: ir.Value,
    *,
    window_dimensions: Any,
    window_strides: Any,
    padding: Any,
    base_dilation: Any,
    window_dilation: Any,
) -> ir.Value:
    windows = _Windows(window_dimensions, window_strides, padding, window_dilation, base_dilation)
    if windows.pools(x):
        return b.pointwise("Neg", _max_pool(b, b.pointwise("Neg", x), windows))
    return _sliced(b, x, windows, _extreme(x, 1), "Min")


@lower("reduce_window_sum", writes="AveragePool and Mul, or Add of slices")
def reduce_window_sum(
    b: Builder,
    x: ir.Value,
    *,
    window_dimensions: Any,
    window_strides: Any,
    padding: Any,
    base_dilation: Any,
    window_dilation: Any,
) -> ir.Value:
    windows = _Windows(window_dimensions, window_strides, padding, window_dilation, base_dilation)
    if not windows.pools(x) or x.const_value is not None:
        return _sliced(b, x, windows, 0, "Add")
    pooled = _Pooled(b, x, windows.axes)
    sizes = [windows.result(b.shape_of(x)[a], a) for a in windows.axes]
    attributes = {**windows.attributes(), "count_include_pad": 1}
    mean = b.op("AveragePool", pooled.x, shape=[*pooled.lead, *sizes], **attributes)
    count = int(np.prod([windows.window[a] for a in windows.axes]))
    total = b.op("Mul", mean, b.number(count, FLOAT))
    b.note_pooled_sum(total, mean, count)
    return pooled.back(b, total)


@lower("reduce_window", writes="as reduce_window_sum, _max or _min")
def reduce_window(
    b: Builder, x: ir.Value, start: ir.Value, *rest: ir.Value, jaxpr: Any, **how: Any
) -> ir.Value:
    """Of one array, by a function that is one known primitive."""
    how.pop("consts", None)
    inner = jaxpr.jaxpr if hasattr(jaxpr, "jaxpr") else jaxpr
    names = [eqn.primitive.name for eqn in inner.eqns]
    kinds = {"add": ("Add", 0), "mul": ("Mul", 1), "max": ("Max", None), "min": ("Min", None)}
    number = b.constant_of(start)
    if rest or len(names) != 1 or names[0] not in kinds or number is None:
        raise NotSupportedError(f"by {', '.join(names) or 'no operation'}")
    windows = _Windows(
        how["window_dimensions"],
        how["window_strides"],
        how["padding"],
        how["window_dilation"],
        how["base_dilation"],
    )
    combine, neutral = kinds[names[0]]
    if neutral is None:
        neutral = _extreme(x, -1 if combine == "Max" else 1)
    result = _sliced(b, x, windows, neutral, combine)
    return b.pointwise(combine, result, start)


def _extreme(x: ir.Value, side: int) -> Any:
    """The smallest (-1) or largest (1) value of a type."""
    assert x.dtype is not None
    if is_float(x):
        return side * np.inf
    bounds = np.iinfo(x.dtype.numpy())
    return bounds.min if side < 0 else bounds.max


# --- gradients of MaxPool -------------------------------------------------------------------------


def _argmax_pool(
    b: Builder, x: ir.Value, windows: _Windows, largest: bool
) -> tuple[_Pooled, ir.Value]:
    """For each window, the place of its largest (or smallest) element in [N, C, ...], flat."""
    if not windows.pools(x):
        raise NotSupportedError(f"of {x.dtype} in this shape")
    pooled = _Pooled(b, x if largest else b.pointwise("Neg", x), windows.axes)
    sizes = [windows.result(b.shape_of(x)[a], a) for a in windows.axes]
    shape = [*pooled.lead, *sizes]
    results = [(FLOAT, shape), (INT64, shape)]
    return pooled, b.ops("MaxPool", pooled.x, results=results, **windows.attributes())[1]


@lower("select_and_scatter_add", writes="MaxPool, ScatterElements")
def select_and_scatter_add(
    b: Builder,
    source: ir.Value,
    operand: ir.Value,
    *,
    select_prim: Any,
    window_dimensions: Any,
    window_strides: Any,
    padding: Any,
) -> ir.Value:
    windows = _Windows(window_dimensions, window_strides, padding, None)
    pooled, places = _argmax_pool(b, operand, windows, select_prim.name == "ge")
    shape = b.shape_of(pooled.x)
    count = product(shape)
    zeros = b.expand(b.number(0, source.dtype), [count])
    updates = b.reshape(pooled.inside(b, source), [b.elements(places)])
    flat = b.reshape(places, [b.elements(places)])
    total = b.op("ScatterElements", zeros, flat, updates, shape=[count], axis=0, reduction="add")
    return pooled.back(b, b.reshape(total, shape))


@lower("select_and_gather_add", writes="MaxPool, Gather")
def select_and_gather_add(
    b: Builder,
    tangents: ir.Value,
    operand: ir.Value,
    *,
    select_prim: Any,
    window_dimensions: Any,
    window_strides: Any,
    padding: Any,
    base_dilation: Any,
    window_dilation: Any,
) -> ir.Value:
    windows = _Windows(window_dimensions, window_strides, padding, window_dilation, base_dilation)
    pooled, places = _argmax_pool(b, operand, windows, select_prim.name == "ge")
    flat = b.reshape(pooled.inside(b, tangents), [b.elements(pooled.x)])
    return pooled.back(b, b.gather(flat, places, 0))
