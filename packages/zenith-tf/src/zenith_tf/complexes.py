"""Complex tensors of a tf2onnx graph, as two real ones each; see Note [Complex values] in core.

A rewriter that runs before tf2onnx converts operations: behind it no tensor is complex. What only
moves elements, or is linear, is done to both parts by the operation itself; what computes is a
function, see Note [Functions].
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx_ir as ir
from tf2onnx import utils

from zenith.ir.builder import GraphBuilder, NotSupportedError
from zenith.ir.complexes import Complex, joined, separate, signal_of, transformed
from zenith.ir.dims import Dim, exactly
from zenith_tf.functions import DOMAIN, Functions

__all__ = ["OPERATIONS", "complex_splitter"]

Rewriter: TypeAlias = Callable[[Any, Any], Any]
Part: TypeAlias = str | tuple[str, str]
"""A tensor's name, or those of both parts."""

_REAL: dict[int, int] = {
    onnx.TensorProto.COMPLEX64: onnx.TensorProto.FLOAT,
    onnx.TensorProto.COMPLEX128: onnx.TensorProto.DOUBLE,
}
_BOOL = ir.DataType.BOOL


def complex_splitter(functions: Functions) -> Rewriter:
    """The rewriter, for the graphs of one model."""
    parts: dict[str, Part] = {}

    def rewrite(graph: Any, _: Any) -> Any:
        graph.topological_sort(graph.get_nodes())
        split = []
        for node in graph.get_nodes():
            touched = [graph.get_dtype(name) for name in (*node.input, *node.output)]
            if any(kind in _REAL for kind in touched) or not parts.keys().isdisjoint(node.input):
                _Site(graph, node, functions, parts).replace()
                split.append(node)
        for node in reversed(split):
            graph.remove_node(node.name)
        return graph.get_nodes()

    return rewrite


class _Site:
    """One operation that takes or gives complex tensors."""

    def __init__(self, graph: Any, node: Any, functions: Functions, parts: dict[str, Part]) -> None:
        self.graph, self.node, self.functions, self.parts = graph, node, functions, parts
        self.inputs: list[Part] = [parts.get(name, name) for name in node.input]

    def replace(self) -> None:
        """Make the parts of the results, or say that this cannot be."""
        rule = _RULES.get(self.node.type)
        if rule is None:
            return self._refuse("")
        try:
            results = rule(self)
        except (ValueError, NotSupportedError) as error:
            return self._refuse(str(error))
        for name, result in zip(self.node.output, results, strict=False):
            self.parts[name] = result
            if isinstance(result, str):
                self.graph.replace_all_inputs(name, result)
        return None

    def _refuse(self, why: str) -> None:
        name = self.node.name + (f": {why}" if why else "")
        message = "Tensorflow op [%s: %s] is not supported"
        logging.getLogger("tf2onnx").error(message, name, f"{self.node.type} of complex numbers")
        self.parts.update((output, (output, output)) for output in self.node.output)

    def pair(self, index: int) -> tuple[str, str]:
        found = self.inputs[index]
        if isinstance(found, str):
            raise ValueError(f"input {index} is not complex")
        return found

    def value(self, index: int) -> Any:
        """The content of a constant input."""
        source = self.node.inputs[index]
        if not source.is_const():
            raise ValueError(f"input {index} is not a constant")
        return source.get_tensor_value(as_list=False)

    def const(self, data: np.ndarray[Any, Any]) -> str:
        name: str = self.graph.make_const(utils.make_name("part"), data).output[0]
        return name

    def again(self, which: int) -> list[str]:
        """The operation itself, on one part of what is complex."""
        node = self.node
        attributes = {}
        for name, given in node.attr.items():
            copy = onnx.AttributeProto()
            copy.CopyFrom(given)
            if copy.type == copy.INT and name in ("T", "dtype", "Tparams"):
                copy.i = _REAL.get(copy.i, copy.i)
            attributes[name] = copy
        made = self.graph.make_node(
            node.type,
            [v if isinstance(v, str) else v[which] for v in self.inputs],
            attr=attributes,
            name=utils.make_name(node.name),
            output_count=len(node.output),
            shapes=node.output_shapes,
            dtypes=[_REAL.get(kind, kind) for kind in node.output_dtypes],
            skip_conversion=False,
        )
        return list(made.output)

    def function(self, write: Callable[..., Any], operands: Sequence[Part]) -> list[Part]:
        """Results of a function of values, `Complex` where an operand is."""
        names = [n for v in operands for n in ((v,) if isinstance(v, str) else v)]
        facts = [(ir.DataType(self.graph.get_dtype(n)), self._shape(n)) for n in names]
        pairs: list[bool] = []

        def written(b: GraphBuilder, *values: ir.Value) -> list[ir.Value]:
            rest = iter(values)
            given = [
                next(rest) if isinstance(v, str) else Complex(next(rest), next(rest))
                for v in operands
            ]
            found = write(b, *given)
            pairs.append(isinstance(found, Complex))
            return list(found) if isinstance(found, Complex) else [found]

        label, results = self.functions.add(self.node.type, facts, written)
        made = self.graph.make_node(
            label,
            names,
            domain=DOMAIN,
            name=utils.make_name(self.node.name),
            output_count=len(results),
            shapes=[list(shape) for _, shape in results],
            dtypes=[int(kind) for kind, _ in results],
        )
        found = list(made.output)
        return [(found[0], found[1])] if pairs[0] else [found[0]]

    def _shape(self, name: str) -> list[int]:
        shape: list[int] | None = self.graph.get_shape(name)
        if shape is None:
            raise ValueError(f"the number of axes of '{name}' is not known")
        return shape


Rule: TypeAlias = Callable[[_Site], Sequence[Part]]


# --- without arithmetic ---------------------------------------------------------------------------


def _each(site: _Site) -> list[Part]:
    return list(zip(site.again(0), site.again(1), strict=True))


def _constant(site: _Site) -> list[Part]:
    data = site.node.get_tensor_value(as_list=False)
    return [(site.const(data.real.copy()), site.const(data.imag.copy()))]


def _cast(site: _Site) -> list[Part]:
    """Between complex types, or from and to real ones, where the imaginary part is lost."""
    (kind,) = site.node.output_dtypes
    target = ir.DataType(_REAL.get(kind, kind))

    def write(b: GraphBuilder, x: Any) -> Any:
        part = b.cast(x.real if isinstance(x, Complex) else x, target)
        if kind not in _REAL:
            return part
        imag = b.cast(x.imag, target) if isinstance(x, Complex) else _zeros(b, part)
        return Complex(part, imag)

    return site.function(write, site.inputs[:1])


def _zeros(b: GraphBuilder, like: ir.Value) -> ir.Value:
    return b.expand(b.number(0, like.dtype), b.shape_of(like))


# --- arithmetic -----------------------------------------------------------------------------------


def _times(b: GraphBuilder, x: Complex, y: Complex, op: str = "Mul", **how: Any) -> Complex:
    def product(u: ir.Value, v: ir.Value) -> ir.Value:
        return b.op(op, u, v, **how)

    real = b.op("Sub", product(x.real, y.real), product(x.imag, y.imag))
    return Complex(real, b.op("Add", product(x.real, y.imag), product(x.imag, y.real)))


def _conj(b: GraphBuilder, x: Complex) -> Complex:
    return Complex(x.real, b.op("Neg", x.imag))


def _size(b: GraphBuilder, x: Complex) -> ir.Value:
    """|x|, by the larger part, so that no square overflows."""
    parts = [b.op("Abs", part) for part in x]
    large, small = b.op("Max", *parts), b.op("Min", *parts)
    zero = b.op("Equal", large, b.number(0, large.dtype), dtype=_BOOL)
    one = b.number(1, large.dtype)
    ratio = b.op("Div", small, b.op("Where", zero, one, large, dtype=large.dtype))
    return b.op("Mul", large, b.op("Sqrt", b.op("Add", one, b.op("Mul", ratio, ratio))))


def _reciprocal(b: GraphBuilder, x: Complex) -> Complex:
    size = _size(b, x)
    return Complex(*(b.op("Div", b.op("Div", p, size), size) for p in _conj(b, x)))


def _angle(b: GraphBuilder, x: Complex) -> ir.Value:
    """The angle of (real, imag), by the arc tangent of the smaller part over the larger."""
    kind = x.real.dtype
    zero = b.number(0, kind)
    ax, ay = (b.op("Abs", part) for part in x)
    steep = b.op("Greater", ay, ax, dtype=_BOOL)
    large, small = b.op("Max", ax, ay), b.op("Min", ax, ay)
    none = b.op("Equal", large, zero, dtype=_BOOL)
    one = b.number(1, kind)
    angle = b.op("Atan", b.op("Div", small, b.op("Where", none, one, large, dtype=kind)))
    turned = b.op("Sub", b.number(math.pi / 2, kind), angle)
    angle = b.op("Where", steep, turned, angle, dtype=kind)
    left = b.op("Less", x.real, zero, dtype=_BOOL)
    angle = b.op("Where", left, b.op("Sub", b.number(math.pi, kind), angle), angle, dtype=kind)
    below = b.op("Less", x.imag, zero, dtype=_BOOL)
    return b.op("Where", below, b.op("Neg", angle), angle, dtype=kind)


def _exp(b: GraphBuilder, x: Complex) -> Complex:
    size = b.op("Exp", x.real)
    return Complex(*(b.op("Mul", size, b.op(wave, x.imag)) for wave in ("Cos", "Sin")))


def _log(b: GraphBuilder, x: Complex) -> Complex:
    return Complex(b.op("Log", _size(b, x)), _angle(b, x))


def _computed(write: Callable[..., Any]) -> Rule:
    return lambda site: site.function(write, site.inputs)


def _matmul(site: _Site) -> list[Part]:
    flags = [
        (bool(site.node.get_attr_value(plain, 0)), bool(site.node.get_attr_value(adjoint, 0)))
        for plain, adjoint in (("transpose_a", "adj_x"), ("transpose_b", "adj_y"))
    ]

    def write(b: GraphBuilder, *sides: Complex) -> Complex:
        rank = b.rank_of(sides[0].real)
        order = [*range(rank - 2), rank - 1, rank - 2]
        given = []
        for side, (turned, adjoint) in zip(sides, flags, strict=True):
            side = _conj(b, side) if adjoint else side
            if turned or adjoint:
                side = Complex(*(b.transpose(part, order) for part in side))
            given.append(side)
        rows, columns = (b.shape_of(v.real) for v in given)
        lead = [x if y == 1 else y for x, y in zip(rows[:-2], columns[:-2], strict=True)]
        shape = (*lead, rows[-2], columns[-1])
        return _times(b, given[0], given[1], "MatMul", shape=shape)

    site.pair(0), site.pair(1)
    return site.function(write, site.inputs)


# --- spectra --------------------------------------------------------------------------------------


def _fitted(b: GraphBuilder, x: ir.Value, axis: int, size: Dim) -> ir.Value:
    """Cut, or with zeros behind, to `size` along an axis."""
    have = b.shape_of(x)[axis]
    if have == size:
        return x
    if not isinstance(have, int):
        raise NotSupportedError("along an axis of dynamic size, to another size")
    if have > size:
        return b.slice(x, axis, 0, size)
    shape = list(b.shape_of(x))
    shape[axis] = exactly(size - have)
    return b.concat([x, b.expand(b.number(0, x.dtype), shape)], axis)


def _fft(axes: int, inverse: bool) -> Rule:
    def write(b: GraphBuilder, x: Complex) -> Complex:
        rank, whole = b.rank_of(x.real), joined(b, x)
        for axis in range(rank - axes, rank):
            whole = transformed(b, whole, axis, inverse)
        return separate(b, whole)

    return lambda site: site.function(write, site.inputs)


def _rfft(axes: int) -> Rule:
    def rule(site: _Site) -> list[Part]:
        lengths = [int(n) for n in site.value(1)]

        def write(b: GraphBuilder, x: ir.Value) -> Complex:
            rank = b.rank_of(x)
            places = range(rank - axes, rank)
            for axis, length in zip(places, lengths, strict=True):
                x = _fitted(b, x, axis, length)
            whole = transformed(b, b.unsqueeze(x, rank), rank - 1, False, onesided=True)
            for axis in places[:-1]:
                whole = transformed(b, whole, axis, False)
            return separate(b, whole)

        return site.function(write, site.inputs[:1])

    return rule


def _irfft(axes: int) -> Rule:
    def rule(site: _Site) -> list[Part]:
        lengths = [int(n) for n in site.value(1)]
        halves = [*lengths[:-1], lengths[-1] // 2 + 1]

        def write(b: GraphBuilder, x: Complex) -> ir.Value:
            rank = b.rank_of(x.real)
            places = range(rank - axes, rank)
            for axis, length in zip(places, halves, strict=True):
                x = Complex(*(_fitted(b, part, axis, length) for part in x))
            for axis in places[:-1]:
                x = separate(b, transformed(b, joined(b, x), axis, True))
            return signal_of(b, x, rank - 1, lengths[-1])

        site.pair(0)
        return site.function(write, site.inputs[:1])

    return rule


_MOVES = """AddN AddV2 Add BatchToSpaceND BroadcastTo Concat ConcatV2 Cumsum EnsureShape ExpandDims
    Fill Gather GatherNd GatherV2 Identity IdentityN MatrixDiagPartV3 MatrixDiagV3 Mean Neg Pack Pad
    PadV2 PreventGradient Reshape ReverseV2 Roll Select SelectV2 Slice Snapshot Split SplitV Squeeze
    StopGradient StridedSlice Sub Sum Tile Transpose Unpack ZerosLike"""

_RULES: dict[str, Rule] = {
    **dict.fromkeys(_MOVES.split(), _each),
    "Angle": _computed(_angle),
    "BatchMatMul": _matmul,
    "BatchMatMulV2": _matmul,
    "BatchMatMulV3": _matmul,
    "Cast": _cast,
    "Complex": lambda site: [(str(site.inputs[0]), str(site.inputs[1]))],
    "ComplexAbs": _computed(_size),
    "Conj": _computed(_conj),
    "Const": _constant,
    "Exp": _computed(_exp),
    "FFT": _fft(1, inverse=False),
    "FFT2D": _fft(2, inverse=False),
    "FFT3D": _fft(3, inverse=False),
    "IFFT": _fft(1, inverse=True),
    "IFFT2D": _fft(2, inverse=True),
    "IFFT3D": _fft(3, inverse=True),
    "IRFFT": _irfft(1),
    "IRFFT2D": _irfft(2),
    "IRFFT3D": _irfft(3),
    "Imag": lambda site: [site.pair(0)[1]],
    "Log": _computed(_log),
    "MatMul": _matmul,
    "Mul": _computed(_times),
    "RFFT": _rfft(1),
    "RFFT2D": _rfft(2),
    "RFFT3D": _rfft(3),
    "Real": lambda site: [site.pair(0)[0]],
    "RealDiv": _computed(lambda b, x, y: _times(b, x, _reciprocal(b, y))),
    "Reciprocal": _computed(_reciprocal),
    "Shape": lambda site: site.again(0),
    "Square": _computed(lambda b, x: _times(b, x, x)),
}

OPERATIONS = frozenset(_RULES)
