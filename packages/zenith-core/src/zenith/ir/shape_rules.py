"""Shape rules that correct the inference package where it takes data it cannot see for absent.

Axes or sizes that are computed at run time leave sizes open; the package's own rules guess. Rules
here call the package's own first choice when the content is known.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import sympy
from onnx_shape_inference import OpUsageError, ShapeInferenceContext, registry

from zenith.ir.dims import UnknownSizeError, exactly, floor_div, never_negative, parse_dim

__all__ = ["corrects"]

_MOST_AXES = 64  # elements of a vector that may be sizes
_OPSET = 28  # of GraphIR: these rules win over older ones
registry.collect()
_Rule = Callable[[Any, ir.Node], None]

# Pure functions of the packages that take long, and are asked the same again and again: sizes are
# handed on as text, and parsed and simplified wherever one is looked at.
_SLOW = (
    ("onnx_ir._symbolic_shapes", "parse_symbolic_expression"),
    ("onnx_shape_inference._symbolic_shapes", "parse_symbolic_expression"),
    ("onnx_shape_inference._ops._conv", "_compute_conv_output_dim"),
)
for _module, _name in _SLOW:
    _slow = getattr(importlib.import_module(_module), _name)
    setattr(importlib.import_module(_module), _name, functools.lru_cache(maxsize=4096)(_slow))

# Text they write and do not read: the size of a strided SAME convolution is ceiling(s/2).
for _module, _name in (
    ("onnx_ir._symbolic_shapes", "_ALLOWED_FUNCTIONS"),
    ("onnx_shape_inference._symbolic_shapes", "ALLOWED_FUNCTIONS"),
):
    getattr(importlib.import_module(_module), _name)["ceiling"] = sympy.ceiling


_note = ShapeInferenceContext.set_symbolic_value


def _note_vectors(self: Any, value: ir.Value, data: list[int | ir.SymbolicDim]) -> None:
    """Contents are for vectors: the rules go element by element, whatever broadcasts over axes."""
    if value.shape is None or len(value.shape) <= 1:
        _note(self, value, data)


ShapeInferenceContext.set_symbolic_value = _note_vectors

_Correction = Callable[[Any, ir.Node, _Rule], None]


def corrects(*op_types: str) -> Callable[[_Correction], _Correction]:
    """Register a rule that also gets the package's own."""

    def register(rule: _Correction) -> _Correction:
        for op_type in op_types:
            own = registry.get("", op_type, version=_OPSET)
            assert own is not None, op_type

            def corrected(ctx: Any, node: ir.Node, own: _Rule = own) -> None:
                rule(ctx, node, own)

            registry.register("", op_type, since_version=_OPSET)(corrected)
        return rule

    return register


def _computed(ctx: Any, node: ir.Node, index: int) -> ir.Value | None:
    """The input at `index` when its content is only known at run time."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None or ir.convenience.get_const_tensor(value) is not None:
        return None
    return value if ctx.get_symbolic_value(value) is None else None


def _length(value: ir.Value) -> int | None:
    """How many elements a vector has, if that is fixed."""
    if value.shape is None or len(value.shape) != 1 or not isinstance(value.shape[0], int):
        return None
    return value.shape[0]


def _axes_said(node: ir.Node, index: int) -> int | None:
    """How many axes a computed vector adds or asks for, if that is fixed; too many are refused
    before a name is made for each."""
    value = node.inputs[index] if index < len(node.inputs) else None
    count = None if value is None else _length(value)
    if count is not None and count > _MOST_AXES:
        raise OpUsageError(node, f"a result of {count} axes; at most {_MOST_AXES} are possible")
    return count


def _open(ctx: Any, value: ir.Value, rank: int | None, dtype: ir.DataType | None) -> None:
    """Every size a symbol of its own."""
    shape = None if rank is None else ir.Shape([ctx.new_symbolic_dim() for _ in range(rank)])
    ctx.set_shape_and_dtype(value, shape, dtype)


@corrects("RMSNormalization")
def _rms_norm(ctx: Any, node: ir.Node, own: _Rule) -> None:
    """The result has the type of the scale, not that of the data."""
    data, scale = node.inputs[:2]
    if data is None or scale is None:
        return own(ctx, node)
    ctx.set_shape_and_dtype(node.outputs[0], data.shape, scale.dtype)


@corrects("Squeeze")
def _squeeze(ctx: Any, node: ir.Node, own: _Rule) -> None:
    """Without axes every axis of size 1 goes: how many these are, a named size leaves open."""
    data, axes = node.inputs[0], _computed(ctx, node, 1)
    all_ones = len(node.inputs) < 2 or node.inputs[1] is None
    if all_ones and data is not None and any(not isinstance(d, int) for d in data.shape or ()):
        return _open(ctx, node.outputs[0], None, data.dtype)
    if axes is None or data is None:
        return own(ctx, node)
    count = _length(axes)
    known = data.shape is not None and count is not None
    _open(ctx, node.outputs[0], len(data.shape) - count if known else None, data.dtype)  # type: ignore[arg-type,operator]


@corrects(
    *("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2"),
    *("ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"),
)
def _reduce(ctx: Any, node: ir.Node, own: _Rule) -> None:
    data, axes = node.inputs[0], _computed(ctx, node, 1)
    if axes is None or data is None or data.shape is None:
        own(ctx, node)
        return _product(ctx, node, data)
    count, rank = _length(axes), len(data.shape)
    keep = node.attributes.get("keepdims")
    if keep is None or keep.as_int():
        _open(ctx, node.outputs[0], rank, data.dtype)
    elif count:
        _open(ctx, node.outputs[0], rank - count, data.dtype)
    else:
        _open(ctx, node.outputs[0], None, data.dtype)


def _product(ctx: Any, node: ir.Node, data: ir.Value | None) -> None:
    """The content of ReduceProd over a vector of sizes: how many elements a tensor has."""
    if node.op_type != "ReduceProd" or data is None or data.shape is None or len(data.shape) != 1:
        return
    sizes = ctx.get_symbolic_value(data)
    axes = node.inputs[1] if len(node.inputs) > 1 else None
    idle = node.attributes.get("noop_with_empty_axes")
    if sizes is None or (axes is None and idle is not None and idle.as_int()):
        return
    if axes is not None and _length(axes) != 1:
        return
    product: Any = 1
    for size in sizes:
        product = product * size
    ctx.set_symbolic_value(node.outputs[0], [product])


@corrects("Split")
def _split(ctx: Any, node: ir.Node, own: _Rule) -> None:
    data = node.inputs[0]
    if _computed(ctx, node, 1) is None or data is None or data.shape is None:
        return own(ctx, node)
    attribute = node.attributes.get("axis")
    axis = attribute.as_int() if attribute is not None else 0
    for output in node.outputs:
        dims = list(data.shape)
        dims[axis] = ctx.new_symbolic_dim()
        ctx.set_shape_and_dtype(output, ir.Shape(dims), data.dtype)


@corrects("Unique")
def _unique(ctx: Any, node: ir.Node, own: _Rule) -> None:
    data, axis = node.inputs[0], node.attributes.get("axis")
    if axis is None or data is None or ir.convenience.get_const_tensor(data) is not None:
        return own(ctx, node)
    found = ctx.new_symbolic_dim()
    shape = None
    length = ctx.new_symbolic_dim()
    if data.shape is not None:
        dims = list(data.shape)
        length, dims[axis.as_int()] = dims[axis.as_int()], found
        shape = ir.Shape(dims)
    ctx.set_shape_and_dtype(node.outputs[0], shape, data.dtype)
    for output, size in zip(node.outputs[1:], (found, length, found), strict=False):
        ctx.set_shape_and_dtype(output, ir.Shape([size]), ir.DataType.INT64)


def _rank(value: ir.Value | None) -> int | None:
    return None if value is None or value.shape is None else len(value.shape)


def _sum(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else a + b


@corrects("ConstantOfShape")
def _filled(ctx: Any, node: ir.Node, own: _Rule) -> None:
    """The package knows the sizes only where they are constants."""
    says = node.inputs[0]
    sizes = None if says is None else ctx.get_symbolic_value(says)
    if sizes is None:
        return _late(ctx, node, own)
    value = node.attributes.get("value")
    dtype = ir.DataType.FLOAT if value is None else value.as_tensor().dtype
    ctx.set_shape_and_dtype(node.outputs[0], ir.Shape(sizes), dtype)
    if value is None or dtype not in (ir.DataType.INT64, ir.DataType.INT32) or len(sizes) != 1:
        return
    if isinstance(sizes[0], int) and sizes[0] <= _MOST_AXES:
        content = int(value.as_tensor().numpy().reshape(-1)[0])
        ctx.set_symbolic_value(node.outputs[0], [content] * sizes[0])


@corrects("Expand", "Pad", "Resize", "Slice", "Tile", "Unsqueeze")
def _late(ctx: Any, node: ir.Node, own: _Rule) -> None:
    """Where only the sizes depend on data, the rank does not."""
    count = _axes_said(node, 1) if node.op_type in ("Expand", "Unsqueeze") else None
    own(ctx, node)
    if node.outputs[0].shape is not None:
        return
    data = node.inputs[0]
    assert data is not None
    rank, dtype = _rank(data), data.dtype
    if node.op_type == "Expand":
        rank = None if rank is None or count is None else max(rank, count)
    elif node.op_type == "Unsqueeze":
        rank = _sum(rank, count)
    elif node.op_type == "ConstantOfShape":
        value = node.attributes.get("value")
        dtype = ir.DataType.FLOAT if value is None else value.as_tensor().dtype
        rank = _axes_said(node, 0)
    if rank is not None:
        _open(ctx, node.outputs[0], rank, dtype)


@corrects("Reshape")
def _divided(ctx: Any, node: ir.Node, own: _Rule) -> None:
    """A size of -1 is a quotient of products: what divides without rest is said without floor."""
    own(ctx, node)
    shape = node.outputs[0].shape
    if shape is None or all(isinstance(d, int) for d in shape):
        return
    dims = [d if isinstance(d, int) or d.value is None else _cancelled(d.value) for d in shape]
    if dims != list(shape):
        node.outputs[0].shape = ir.Shape(dims)


@functools.lru_cache(maxsize=4096)
def _cancelled(dim: str) -> int | ir.SymbolicDim:
    if "/" in dim:
        size = sympy.sympify(parse_dim(dim))
        if isinstance(size, sympy.floor) and sympy.denom(size.args[0]).free_symbols:
            quotient = sympy.cancel(size.args[0])
            if quotient.is_Integer:
                return int(quotient)
            if sympy.denom(quotient) == 1:
                return ir.SymbolicDim(quotient)
    return ir.SymbolicDim(dim)


_BROADCASTING = (
    *("Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Expand"),
    *("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or"),
    *("Pow", "Sub", "Sum", "Where", "Xor"),
)


@corrects(*_BROADCASTING)
def _broadcast(ctx: Any, node: ir.Node, own: _Rule) -> None:
    """Of two named sizes either may be 1: the result has the larger one.

    That they fit is checked where the sizes are known.
    """
    shapes = [None if v is None or v.shape is None else list(v.shape) for v in node.inputs]
    if node.op_type == "Expand":
        if shapes[0] is None:  # what is not known yet may be larger than the target says
            return
        target = None if node.inputs[1] is None else ctx.get_symbolic_value(node.inputs[1])
        shapes = [shapes[0], target]
    _anew(ctx, node, own, [s for s in shapes if s is not None] if None not in shapes else [])


@corrects("Add", "Mul", "Neg", "Sub")
def _counted(ctx: Any, node: ir.Node, own: _Rule) -> None:
    """A difference of sizes that is a number is one: the package keeps the text of it."""
    own(ctx, node)
    data = ctx.get_symbolic_value(node.outputs[0])
    if data is None or not any(isinstance(d, ir.SymbolicDim) and d.value for d in data):
        return
    numbers = [parse_dim(d) if isinstance(d, ir.SymbolicDim) and d.value else d for d in data]
    plain = [
        int(n) if isinstance(n, int | sympy.Integer) else d
        for n, d in zip(numbers, data, strict=True)
    ]
    if plain != data:
        ctx.set_symbolic_value(node.outputs[0], plain)


@corrects("Div", "Mod")
def _parts(ctx: Any, node: ir.Node, own: _Rule) -> None:
    """Quotients and remainders of sizes, which the package knows of numbers only."""
    own(ctx, node)
    fmod = node.attributes.get("fmod")
    if ctx.get_symbolic_value(node.outputs[0]) is not None or (fmod is not None and fmod.as_int()):
        return
    over, under = (None if v is None else ctx.get_symbolic_value(v) for v in node.inputs)
    if not over or not under or 1 not in (len(over), len(under)) and len(over) != len(under):
        return
    length = max(len(over), len(under))
    pairs = list(zip(*(v * length if len(v) == 1 else v for v in (over, under)), strict=True))
    if any(isinstance(d, ir.SymbolicDim) and d.value is None for pair in pairs for d in pair):
        return
    sizes = [(sympy.sympify(parse_dim(a)), sympy.sympify(parse_dim(b))) for a, b in pairs]
    if not all(b.is_positive for _, b in sizes):
        return
    part = _remainder if node.op_type == "Mod" else _quotient
    found = [exactly(part(a, b)) for a, b in sizes]
    data = [d if isinstance(d, int) else ir.SymbolicDim(d) for d in found]
    ctx.set_symbolic_value(node.outputs[0], data)


def _remainder(a: sympy.Expr, b: sympy.Expr) -> sympy.Expr:
    if a.has(sympy.Max, sympy.Min):  # `floor_div` says what sympy does to these
        return a - b * floor_div(a, b)
    return sympy.Mod(a, b)


def _quotient(a: sympy.Expr, b: sympy.Expr) -> sympy.Expr:
    """a / b rounded towards zero, for b > 0."""
    if never_negative(a):
        return floor_div(a, b)
    for rest in a.atoms(sympy.Mod):  # x - Mod(x, b) is how a quotient is rounded down
        whole = sympy.expand((a + rest - rest.args[0]) / b)
        if rest.args[1] == b and whole.is_integer:
            return floor_div(rest.args[0], b) + whole
    return sympy.Max(floor_div(a, b), 0) - sympy.Max(floor_div(-a, b), 0)


@corrects("Where")
def _chosen(ctx: Any, node: ir.Node, own: _Rule) -> None:
    """Sizes chosen by which of them are -1: what exporters make of ``expand(-1, n)``."""
    own(ctx, node)
    condition = node.inputs[0]
    equal = None if condition is None else condition.producer()
    if equal is None or equal.op_type != "Equal" or equal.domain not in ("", "ai.onnx"):
        return
    values = [*equal.inputs, *node.inputs[1:]]
    contents = [None if v is None else ctx.get_symbolic_value(v) for v in values]
    known = [c for c in contents if c is not None]
    length = max((len(c) for c in known), default=0)
    if len(known) != 4 or length == 0 or any(len(c) not in (1, length) for c in known):
        return
    result = []
    for a, b, x, y in zip(*(c * length if len(c) == 1 else c for c in known), strict=True):
        same = _surely_equal(a, b)
        if same is None:
            return
        result.append(x if same else y)
    ctx.set_symbolic_value(node.outputs[0], result)


def _surely_equal(a: int | ir.SymbolicDim, b: int | ir.SymbolicDim) -> bool | None:
    """None where it depends on the sizes."""
    if a == b:
        return True
    try:
        difference = sympy.sympify(parse_dim(a)) - parse_dim(b)
    except UnknownSizeError:
        return None
    return False if difference.is_nonzero else True if difference.is_zero else None


@corrects("MatMul")
def _batches(ctx: Any, node: ir.Node, own: _Rule) -> None:
    matrices = all((_rank(v) or 0) >= 2 for v in node.inputs)
    shapes = [[*list(v.shape)[:-2], 1, 1] for v in node.inputs] if matrices else []  # type: ignore[union-attr,arg-type]
    _anew(ctx, node, own, shapes)


def _anew(ctx: Any, node: ir.Node, own: _Rule, shapes: list[list[Any]]) -> None:
    """The result's shape by the package, but for sizes that broadcast.

    What an earlier run found must not pass for a declaration; it stays where this one knows less.
    """
    out, before = node.outputs[0], node.outputs[0].shape
    out.shape = None
    own(ctx, node)
    inferred: ir.Shape | None = node.outputs[0].shape
    if inferred is None:
        out.shape = before
        return
    found = _larger(list(inferred), shapes)
    if before is not None and len(before) == len(found):
        for axis, (old, new) in enumerate(zip(before, found, strict=True)):
            if isinstance(old, int) or ctx.is_generated_symbol(str(new)):
                found[axis] = old
    out.shape = ir.Shape(found)


def _larger(found: list[Any], shapes: list[list[Any]]) -> list[Any]:
    """`found` with the larger size wherever two inputs have different named sizes."""
    for back in range(1, len(found) + 1):
        sizes = {str(s[-back]): s[-back] for s in shapes if len(s) >= back}
        named = [d for d in sizes.values() if not isinstance(d, int)]
        fixed = [d for d in sizes.values() if isinstance(d, int) and d != 1]
        if len(named) > 1 and not fixed and all(d.value is not None for d in named):
            found[-back] = ir.SymbolicDim(f"Max({', '.join(sorted(str(d) for d in named))})")
    return found


_LAST = 10**9  # exporters write this (tf2onnx), 2^31 - 1 or more for "to the end"


@corrects("Slice")
def _clamped(ctx: Any, node: ir.Node, own: _Rule) -> None:
    """A slice ends where its axis ends; the package takes a fixed end to lie inside, and opens all
    sizes where one start is computed."""
    own(ctx, node)
    data, out = node.inputs[0], node.outputs[0]
    parts: list[Any] = [None if v is None else ctx.get_symbolic_value(v) for v in node.inputs[1:]]
    if data is None or data.shape is None or out.shape is None or None in parts[:2]:
        return
    starts, ends = parts[0], parts[1]
    axes: Any = (
        parts[2] if len(parts) > 2 and node.inputs[3] is not None else list(range(len(starts)))
    )
    steps: Any = parts[3] if len(parts) > 3 and node.inputs[4] is not None else [1] * len(starts)
    if axes is None or steps is None or not all(isinstance(a, int) for a in (*axes, *steps)):
        return
    dims = list(data.shape)
    for axis in axes:
        dims[axis] = out.shape[axis]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = data.shape[axis]
        if step == 1 and isinstance(end, int) and end >= _LAST and _is_all_of(size, start):
            dims[axis] = size
            continue
        fixed = isinstance(start, int) and isinstance(end, int)
        if isinstance(size, int) or size.value is None or not fixed or step < 1:
            continue
        if start >= 0 and end >= 0:
            length = size.value if end >= _LAST else f"Min({end}, {size.value})"
            if start or step > 1:
                length = f"Max(0, floor(({length} - {start} + {step - 1})/{step}))"
            dims[axis] = ctx.simplify_dim(ir.SymbolicDim(length))
    out.shape = ir.Shape(dims)


def _is_all_of(size: int | ir.SymbolicDim, start: int | ir.SymbolicDim) -> bool:
    """Whether a slice that starts at ``-size`` starts at the front."""
    if isinstance(start, int) or isinstance(size, int) or size.value is None:
        return False
    return start.value is not None and bool(parse_dim(size) + parse_dim(start) == 0)


@corrects("Pad")
def _padded(ctx: Any, node: ir.Node, own: _Rule) -> None:
    """Sizes grow by what is known of the pads; the package leaves some of them open."""
    own(ctx, node)
    data, out = node.inputs[0], node.outputs[0]
    pads = None if node.inputs[1] is None else ctx.get_symbolic_value(node.inputs[1])
    if data is None or data.shape is None or pads is None:
        return
    axes: Any = list(range(len(data.shape)))
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        axes = ctx.get_symbolic_value(node.inputs[3])
    if axes is None or not all(isinstance(a, int) for a in axes):
        return
    dims = list(data.shape)
    for index, axis in enumerate(axes):
        dims[axis] = dims[axis] + pads[index] + pads[index + len(axes)]
    before = out.shape
    if before is not None and len(before) == len(dims):
        dims = [b if isinstance(b, int) else d for b, d in zip(before, dims, strict=True)]
    out.type = out.type or data.type
    out.shape = ir.Shape(dims)


@corrects("AveragePool", "LpPool", "MaxPool")
def _pooled_same(ctx: Any, node: ir.Node, own: _Rule) -> None:
    """As many windows as strides begin; the package leaves open what it knows of convolutions."""
    own(ctx, node)
    data, padding = node.inputs[0], node.attributes.get("auto_pad")
    same = padding is not None and padding.as_string().startswith("SAME")
    if not same or data is None or data.shape is None or len(data.shape) < 3:
        return
    spatial = list(data.shape)[2:]
    strides = node.attributes.get("strides")
    steps = [1] * len(spatial) if strides is None else list(strides.as_ints())
    sizes: list[Any] = [math.ceil(d / step) for d, step in zip(spatial, steps, strict=True)]
    for out in node.outputs:
        if out.shape is not None:
            out.shape = ir.Shape([*out.shape[:2], *sizes])


@corrects("MaxUnpool")
def _unpooled(ctx: Any, node: ir.Node, own: _Rule) -> None:
    """The inverse of a pool's size; the package leaves it open."""
    own(ctx, node)
    data = node.inputs[0]
    given = node.inputs[2] if len(node.inputs) > 2 else None
    if given is not None or data is None or data.shape is None:
        return
    kernel = node.attributes["kernel_shape"].as_ints()
    count = len(kernel)
    lists = {"strides": [1] * count, "pads": [0] * 2 * count}
    lists |= {k: list(node.attributes[k].as_ints()) for k in lists if k in node.attributes}
    dims = list(data.shape)[:2]
    for axis, size in enumerate(kernel):
        less = lists["pads"][axis] + lists["pads"][axis + count]
        dims.append((data.shape[2 + axis] - 1) * lists["strides"][axis] + (size - less))
    ctx.set_shape_and_dtype(node.outputs[0], ir.Shape(dims), data.dtype)


@corrects("Resize")
def _keeping_aspect(ctx: Any, node: ir.Node, own: _Rule) -> None:
    """One scale for all axes, and sizes rounded half up; the package rounds down."""
    own(ctx, node)
    data, out = node.inputs[0], node.outputs[0]
    policy = node.attributes.get("keep_aspect_ratio_policy")
    kept = "stretch" if policy is None else policy.as_string()
    sizes = node.inputs[3] if len(node.inputs) > 3 else None
    tensor = None if sizes is None else ir.convenience.get_const_tensor(sizes)
    if kept == "stretch" or tensor is None or data is None or data.shape is None:
        return
    attribute = node.attributes.get("axes")
    rank = len(data.shape)
    axes = range(rank) if attribute is None else [a % rank for a in attribute.as_ints()]
    before = [n for n in (data.shape[axis] for axis in axes) if isinstance(n, int) and n > 0]
    if len(before) < len(axes):
        _open(ctx, out, rank, data.dtype)
        return
    scales = [int(n) / m for n, m in zip(tensor.numpy().ravel(), before, strict=True)]
    scale = min(scales) if kept == "not_larger" else max(scales)
    dims = list(data.shape)
    for axis, n in zip(axes, before, strict=True):
        dims[axis] = int(scale * n + 0.5)
    out.shape = ir.Shape(dims)


@corrects("AffineGrid")
def _affine_grid(ctx: Any, node: ir.Node, own: _Rule) -> None:
    """A computed size leaves sizes open, but not the rank, and theta has the batch."""
    theta, size = node.inputs[0], _computed(ctx, node, 1)
    rank = None if size is None else _axes_said(node, 1)
    if theta is None or rank is None:
        return own(ctx, node)
    batch = theta.shape[0] if theta.shape is not None and len(theta.shape) == 3 else None
    first = ctx.new_symbolic_dim() if batch is None else batch
    sizes = [ctx.new_symbolic_dim() for _ in range(rank - 2)]
    ctx.set_shape_and_dtype(node.outputs[0], ir.Shape([first, *sizes, rank - 2]), theta.dtype)


@corrects("ConstantOfShape", "Expand", "Reshape")
def _ranked(ctx: Any, node: ir.Node, own: _Rule) -> None:
    """The length of a computed shape is the rank."""
    _axes_said(node, 0 if node.op_type == "ConstantOfShape" else 1)
    own(ctx, node)


@corrects("Transpose")
def _permuted(ctx: Any, node: ir.Node, own: _Rule) -> None:
    """An order that names an axis twice has no transposition."""
    perm = node.attributes.get("perm")
    if perm is not None and sorted(perm.as_ints()) != list(range(len(perm.as_ints()))):
        raise OpUsageError(node, f"{list(perm.as_ints())} is no order of axes")
    own(ctx, node)


def _regressed(ctx: Any, node: ir.Node) -> None:
    """A row of targets for every row of features."""
    x, count = node.inputs[0], node.attributes.get("n_targets")
    rows = ctx.new_symbolic_dim() if x is None or x.shape is None else x.shape[0]
    width = 1 if count is None else count.as_int()
    ctx.set_shape_and_dtype(node.outputs[0], ir.Shape([rows, width]), ir.DataType.FLOAT)


for _version in (1, 3):
    registry.register("ai.onnx.ml", "TreeEnsembleRegressor", since_version=_version)(_regressed)
