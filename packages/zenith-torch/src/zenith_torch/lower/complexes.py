"""Complex numbers and Fourier transforms, as pairs: see Note [Complex values] of the core."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import onnx_ir as ir
import sympy
import torch

from zenith.ir.complexes import Complex, joined, separate, signal_of, transformed
from zenith.ir.dims import Dim, product
from zenith_torch.builder import Builder, NotSupportedError
from zenith_torch.dtypes import to_torch
from zenith_torch.lower.create import filled
from zenith_torch.lower.elementwise import is_float
from zenith_torch.lower.linear import product_of
from zenith_torch.lower.registry import HANDLERS, Handler, lower

__all__ = ["OWN", "complex_handler", "has_complex", "only_complex", "real_type"]

F = TypeVar("F", bound=Handler)


OWN: dict[str, Handler] = {}
_BY_PART = frozenset(
    f"aten.{name}"
    for name in (
        *("_reshape_copy.default", "_to_copy.default", "_unsafe_index.Tensor"),
        *("_unsafe_view.default", "alias.default", "as_strided.default", "cat.default"),
        *("clone.default", "constant_pad_nd.default", "copy.default", "cumsum.default"),
        *("detach.default", "diagonal.default", "expand.default", "flip.default"),
        *("gather.default", "index.Tensor", "index_put.default", "index_select.default"),
        *("lift_fresh_copy.default", "mean.default", "mean.dim", "neg.default"),
        *("permute.default", "repeat.default", "roll.default", "scatter.src"),
        *("scatter_add.default", "select.int", "select_scatter.default", "slice.Tensor"),
        *("slice_scatter.default", "split.Tensor", "split_with_sizes.default"),
        *("squeeze.default", "squeeze.dim", "squeeze.dims", "sum.default"),
        *("sum.dim_IntList", "t.default", "transpose.int", "tril.default", "triu.default"),
        *("unbind.int", "unflatten.int", "unfold.default", "unsqueeze.default"),
        *("view.default", "reshape.default", "flatten.using_ints", "stack.default"),
        *("where.self", "masked_fill.Scalar"),
    )
)
_TAKES_NUMBER = {"aten.constant_pad_nd.default": 2, "aten.masked_fill.Scalar": 2}


def complex_handler(name: str) -> Handler | None:
    """The handler of an operator some of whose operands or results are complex."""
    if name in OWN:
        return OWN[name]
    if name in _BY_PART and name in HANDLERS:
        return _by_part(name, HANDLERS[name])
    return None


def has_complex(tree: Any) -> bool:
    """Whether there is a complex value among a handler's arguments."""
    if isinstance(tree, Complex):
        return True
    if isinstance(tree, dict):
        return any(map(has_complex, tree.values()))
    return isinstance(tree, (list, tuple)) and any(map(has_complex, tree))


def real_type(dtype: torch.dtype) -> torch.dtype:
    """The type of the parts of a complex type; any other type itself."""
    return dtype.to_real() if dtype.is_complex else dtype


def _by_part(name: str, handler: Handler) -> Handler:
    def both(b: Builder, *args: Any, **kwargs: Any) -> Any:
        place = _TAKES_NUMBER.get(name)
        if place is not None and len(args) > place and args[place] != 0:
            raise NotSupportedError("a number other than zero written to complex numbers")

        def side(i: int) -> Any:
            parts = [_part(b, tree, i) for tree in args]
            return handler(b, *parts, **{key: _part(b, v, i) for key, v in kwargs.items()})

        real, imag = side(0), side(1)
        if isinstance(real, list):
            return [Complex(r, i) for r, i in zip(real, imag, strict=True)]
        return Complex(real, imag)

    return both


def _part(b: Builder, tree: Any, i: int) -> Any:
    """An argument as one part sees it: of a real tensor the imaginary part is zero."""
    if isinstance(tree, Complex):
        return tree[i]
    if isinstance(tree, (list, tuple)):
        return type(tree)(_part(b, item, i) for item in tree)
    if i == 1 and isinstance(tree, ir.Value) and is_float(tree):
        return b.expand(b.number(0, tree.dtype), b.shape_of(tree))
    return tree


def _own(*names: str) -> Callable[[F], F]:
    def register(handler: F) -> F:
        OWN.update(dict.fromkeys((f"aten.{name}" for name in names), handler))
        return handler

    return register


def _parts(b: Builder, value: Any) -> tuple[ir.Value, ir.Value | None]:
    """Real and imaginary part of an operand; None is an imaginary part of zero."""
    if isinstance(value, Complex):
        return b.cast(value.real, b.out_dtype), b.cast(value.imag, b.out_dtype)
    if isinstance(value, complex):
        return b.number(value.real, b.out_dtype), b.number(value.imag, b.out_dtype)
    return b.operand(value, b.out_dtype), None


# --- making and taking apart ----------------------------------------------------------------------


@_own("view_as_complex.default")
def view_as_complex(b: Builder, x: ir.Value) -> Complex:
    return separate(b, x)


@_own("complex.default")
def complex_(b: Builder, real: ir.Value, imag: ir.Value) -> Complex:
    return Complex(b.expand(real, b.out_shape), b.expand(imag, b.out_shape))


@_own("polar.default")
def polar(b: Builder, size: ir.Value, angle: ir.Value) -> Complex:
    return Complex(b.op("Mul", size, b.op("Cos", angle)), b.op("Mul", size, b.op("Sin", angle)))


@_own("view_as_real.default")
def view_as_real(b: Builder, x: Complex) -> ir.Value:
    return joined(b, x)


@_own("_to_copy.default")
def to_copy(b: Builder, x: Any, **_: Any) -> Complex | ir.Value:
    kept, other = _parts(b, x)
    if not b.out_complex:
        return kept  # the imaginary part is dropped, as in PyTorch
    return Complex(kept, _filled(b, 0) if other is None else other)


@_own("full.default", "full_like.default", "new_full.default")
def full(b: Builder, first: Any, *rest: Any, **_: Any) -> Complex:
    value = complex(rest[-1])
    return Complex(_filled(b, value.real), _filled(b, value.imag))


@_own("zeros.default", "zeros_like.default", "new_zeros.default", "empty.memory_format",
      "empty_like.default", "new_empty.default", "empty_permuted.default",
      "empty_strided.default", "new_empty_strided.default")  # fmt: skip
def zeros(b: Builder, *_: Any, **__: Any) -> Complex:
    return Complex(_filled(b, 0), _filled(b, 0))


def _filled(b: Builder, value: float) -> ir.Value:
    return filled(b, value, b.out_shape, b.out_dtype)


# --- arithmetic -----------------------------------------------------------------------------------


@_own("_conj.default", "_conj_physical.default")
def conj(b: Builder, x: Complex) -> Complex:
    return Complex(x.real, b.op("Neg", x.imag))


@_own("add.Tensor", "add.Scalar", "sub.Tensor", "sub.Scalar")
def add(b: Builder, x: Any, y: Any, alpha: Any = 1) -> Complex:
    op_type = "Add" if b.target.startswith("aten.add") else "Sub"
    left, right = _parts(b, x), _parts(b, y)
    if alpha != 1:
        factor = b.number(alpha, b.out_dtype)
        right = (
            b.op("Mul", right[0], factor),
            None if right[1] is None else b.op("Mul", right[1], factor),
        )
    first = b.op(op_type, left[0], right[0])
    if right[1] is None:
        assert left[1] is not None
        return Complex(first, b.expand(left[1], b.out_shape))
    zero = b.number(0, b.out_dtype)
    second = b.op(op_type, zero if left[1] is None else left[1], right[1])
    return Complex(first, b.expand(second, b.out_shape))


@_own("mul.Tensor", "mul.Scalar")
def mul(b: Builder, x: Any, y: Any) -> Complex:
    return _multiplied(b, x, y, lambda left, right: b.op("Mul", left, right))


@_own("matmul.default", "mm.default", "bmm.default")
def matmul(b: Builder, x: Any, y: Any) -> Complex:
    return _multiplied(b, x, y, lambda left, right: product_of(b, left, right))


def _multiplied(b: Builder, x: Any, y: Any, times: Callable[..., ir.Value]) -> Complex:
    (a, i), (c, d) = _parts(b, x), _parts(b, y)
    if i is None or d is None:
        return Complex(times(a, c), times(a, d) if d is not None else times(i, c))
    real = b.op("Sub", times(a, c), times(i, d))
    return Complex(real, b.op("Add", times(a, d), times(i, c)))


@_own("div.Tensor", "div.Scalar")
def div(b: Builder, x: Any, y: Any) -> Complex:
    above, (c, d) = _parts(b, x), _parts(b, y)
    if d is None:
        assert above[1] is not None
        return Complex(b.op("Div", above[0], c), b.op("Div", above[1], c))
    norm = b.op("Add", b.op("Mul", c, c), b.op("Mul", d, d))
    over = _multiplied(b, x, Complex(c, b.op("Neg", d)), lambda u, v: b.op("Mul", u, v))
    return Complex(b.op("Div", over.real, norm), b.op("Div", over.imag, norm))


@_own("reciprocal.default")
def reciprocal(b: Builder, x: Complex) -> Complex:
    return div(b, b.number(1, x.real.dtype), x)


@_own("abs.default")
def absolute(b: Builder, x: Complex) -> ir.Value:
    return b.reduce("ReduceL2", joined(b, x), [b.rank_of(x.real)], keepdims=False)


@_own("eq.Scalar", "eq.Tensor", "ne.Scalar", "ne.Tensor")
def equal(b: Builder, x: Any, y: Any) -> ir.Value:
    """Both parts are equal; the result's own type is bool."""
    b.out_dtype = to_torch(next(v for v in (x, y) if isinstance(v, Complex)).real.dtype)
    zero = b.number(0, b.out_dtype)
    pairs = [[zero if part is None else part for part in _parts(b, v)] for v in (x, y)]
    same = [b.op("Equal", *parts, dtype=torch.bool) for parts in zip(*pairs, strict=True)]
    both = b.op("And", *same)
    return b.op("Not", both) if b.target.startswith("aten.ne") else both


@_own("sgn.default")
def sgn(b: Builder, x: Complex) -> Complex:
    """x by its size; zero stays zero."""
    size = absolute(b, x)
    zero = b.op("Equal", size, b.number(0, b.out_dtype), dtype=torch.bool)
    below = b.op("Where", zero, b.number(1, b.out_dtype), size, dtype=b.out_dtype)
    return Complex(b.op("Div", x.real, below), b.op("Div", x.imag, below))


@_own("angle.default")
def angle(b: Builder, x: Complex) -> ir.Value:
    found: ir.Value = HANDLERS["aten.atan2.default"](b, x.imag, x.real)
    return found


@_own("exp.default")
def exp(b: Builder, x: Complex) -> Complex:
    return polar(b, b.op("Exp", x.real), x.imag)


# --- Fourier transforms ---------------------------------------------------------------------------


def _normalized(
    b: Builder, x: ir.Value, sizes: Sequence[Dim], mode: int, inverse: bool
) -> ir.Value:
    """PyTorch's scale: none, 1 / sqrt(n) or 1 / n; an inverse DFT has divided by n already."""
    n = product(sizes)
    power = {0: sympy.Integer(0), 1: sympy.Rational(-1, 2), 2: sympy.Integer(-1)}[mode]
    factor = sympy.sympify(n) ** power * (sympy.sympify(n) if inverse else 1)
    if factor == 1:
        return x
    number = float(factor) if factor.is_number else factor
    return b.op("Mul", x, b.operand(number, b.out_dtype), shape=b.shape_of(x))


@_own("_fft_r2c.default")
def fft_r2c(b: Builder, x: ir.Value, dim: Sequence[int], normalization: int, onesided: bool) -> Any:
    sizes = [b.shape_of(x)[d] for d in dim]
    axes = [b.axis(x, d) for d in dim]
    value = b.unsqueeze(x, b.rank_of(x))
    for i, axis in enumerate(reversed(axes)):
        value = transformed(b, value, axis, inverse=False, onesided=onesided and i == 0)
    return separate(b, _normalized(b, value, sizes, normalization, inverse=False))


@_own("_fft_c2c.default")
def fft_c2c(b: Builder, x: Complex, dim: Sequence[int], normalization: int, forward: bool) -> Any:
    sizes = [b.shape_of(x.real)[d] for d in dim]
    value = joined(b, x)
    for axis in (b.axis(x.real, d) for d in dim):
        value = transformed(b, value, axis, inverse=not forward)
    return separate(b, _normalized(b, value, sizes, normalization, inverse=not forward))


@_own("_fft_c2r.default")
def fft_c2r(b: Builder, x: Complex, dim: Sequence[int], normalization: int, last: Dim) -> Any:
    """The last axis holds one half of a spectrum; the other is its mirror image, conjugated."""
    axes = [b.axis(x.real, d) for d in dim]
    sizes = [*(b.shape_of(x.real)[a] for a in axes[:-1]), last]
    value = joined(b, x)
    for axis in axes[:-1]:
        value = transformed(b, value, axis, inverse=True)
    signal = signal_of(b, separate(b, value), axes[-1], last)
    return _normalized(b, signal, sizes, normalization, inverse=True)


@lower(
    "aten.view_as_complex.default",
    "aten.view_as_real.default",
    "aten.complex.default",
    "aten.polar.default",
    "aten._conj.default",
    "aten._conj_physical.default",
    "aten._fft_r2c.default",
    "aten._fft_c2c.default",
    "aten._fft_c2r.default",
)
def only_complex(b: Builder, *_: Any, **__: Any) -> ir.Value:
    """Keeps these from being decomposed; complex operands or results lead to those above."""
    raise NotSupportedError("real numbers in an operator of complex ones")
