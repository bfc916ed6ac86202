"""Second half of the adapter stage: a jaxpr becomes an ONNX graph."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core
import numpy as np
import onnx_ir as ir

from zenith.errors import CompilationError, UnsupportedOperationError
from zenith.ir.complexes import Complex, separate
from zenith.ops import add_functions
from zenith_jax.builder import Builder, NotSupportedError
from zenith_jax.dims import sizes
from zenith_jax.dtypes import described, is_complex, onnx_type, physical, real_type
from zenith_jax.lower import HANDLERS, IGNORED, REFUSED
from zenith_jax.lower.complexes import complex_handler
from zenith_jax.source import equation_line, short

__all__ = ["IR_VERSION", "OPSET", "import_jaxpr"]

OPSET = 28
IR_VERSION = 14


def import_jaxpr(
    closed: Any, input_names: Sequence[str], output_names: Sequence[str], names: dict[int, str]
) -> ir.Model:
    """Lower every equation; all that cannot be lowered is reported at once.

    names: `id` of an array that the program closes over -> what the user calls it.
    """
    importer = _Importer(names)
    builder = importer.builder
    inputs = []
    for aval, name in zip(closed.in_avals, input_names, strict=True):
        dtype, shape = importer.data_of(aval, f"input '{name}'")
        inputs.append(builder.input(name, dtype, sizes(shape)))
    found = importer.inline(closed, inputs)
    importer.raise_problems()
    outputs: list[ir.Value] = []
    builder.label, builder.source = "", ""
    for value, name in zip(map(builder.whole, found), output_names, strict=True):
        if value.producer() is None or value in outputs:
            value = builder.op("Identity", value)
        builder.rename(value, name)
        outputs.append(value)
    builder.drop_unused(outputs)
    graph = ir.Graph(
        inputs,
        outputs,
        nodes=builder.nodes,
        initializers=builder.initializers(outputs),
        opset_imports={"": OPSET},
        name="main_graph",
    )
    model = ir.Model(graph, ir_version=IR_VERSION, producer_name="zenith-jax")
    add_functions(model)
    return model


class _Importer:
    def __init__(self, names: dict[int, str]) -> None:
        self.builder = Builder()
        self.builder.inline = self.inline
        self.builder.program = self.program
        self.names = names
        self.problems: list[tuple[str, str]] = []
        self.line: Any = None  # of the call that is being inlined
        self.own_lines = True  # of what is being inlined; a program of ours has none

    def data_of(self, aval: Any, what: str) -> tuple[ir.DataType, tuple[Any, ...]]:
        """Element type and shape of an edge of the program."""
        dtype, shape = physical(aval)
        kind = onnx_type(dtype)
        if kind is None:
            raise CompilationError(f"{what} is {dtype}, which Zenith does not compute with")
        return kind, shape

    def inline(self, closed: Any, arguments: Sequence[Any]) -> list[Any]:
        """The results of a closed jaxpr on values; complex ones may come joined."""
        jaxpr, builder = closed.jaxpr, self.builder
        outer = builder.label, builder.source  # what the caller writes next is still its own
        values = {
            variable: self._apart(value, variable.aval)
            for variable, value in zip(jaxpr.invars, arguments, strict=True)
        }
        for variable, array in zip(jaxpr.constvars, closed.consts, strict=True):
            values[variable] = self._constant(array)
        for eqn in jaxpr.eqns:
            results = self._equation(eqn, [self._read(v, values) for v in eqn.invars])
            values.update(zip(eqn.outvars, results, strict=True))
        builder.label, builder.source = outer
        return [self._read(v, values) for v in jaxpr.outvars]

    def program(
        self, function: Callable[..., Any], arguments: Sequence[ir.Value]
    ) -> list[ir.Value]:
        """A primitive written as a function of simpler ones, on inputs of the equation's types."""
        shaped = [described(aval.shape, aval.dtype) for aval in self.builder.in_avals]
        own, self.own_lines = self.own_lines, False
        try:
            return self.inline(jax.make_jaxpr(function)(*shaped), arguments)
        finally:
            self.own_lines = own

    def _apart(self, value: Any, aval: Any) -> Any:
        """A complex value that comes joined as its parts; see Note [Complex values]."""
        whole = is_complex(aval) and isinstance(value, ir.Value)
        return separate(self.builder, value) if whole else value

    def _read(self, variable: Any, values: dict[Any, Any]) -> Any:
        if isinstance(variable, jax.extend.core.Literal):
            dtype = physical(variable.aval)[0]
            if onnx_type(dtype) is None:
                return self._stand_in(variable.aval)  # the equation that reads it is reported
            number, shape = variable.val, np.shape(variable.val)
            if is_complex(variable.aval):
                parts = (np.real(number), np.imag(number))
                return Complex(*(self.builder.number(part, dtype, shape) for part in parts))
            return self.builder.number(number, dtype, shape)
        return values[variable]

    def _constant(self, array: Any) -> Any:
        aval = jax.typeof(array)
        if onnx_type(physical(aval)[0]) is None:
            return self._stand_in(aval)
        return self.builder.weight(array, self.names.get(id(array), "const"))

    def _equation(self, eqn: Any, arguments: list[Any]) -> list[Any]:
        name = eqn.primitive.name
        avals = [v.aval for v in eqn.outvars]
        outer = self.line
        line = (equation_line(eqn) if self.own_lines else None) or outer
        self.line = line
        try:
            return self._lowered(eqn, arguments, name, line, avals)
        finally:
            self.line = outer

    def _lowered(
        self, eqn: Any, arguments: list[Any], name: str, line: Any, avals: list[Any]
    ) -> list[Any]:
        """The equation's results: what it calls, or what its handler writes."""
        builder = self.builder
        types = [v.aval for v in eqn.invars]
        in_pairs = any(map(is_complex, (*avals, *types)))
        handler = complex_handler(name) if in_pairs else HANDLERS.get(name)
        if handler is None and name in HANDLERS:
            return self._problem(name, line, "of complex numbers", avals)
        if handler is None:
            called = _called(eqn)
            if called is not None:
                return self.inline(called, arguments)
            return self._problem(name, line, REFUSED.get(name, ""), avals)
        for aval in (*avals, *types):
            dtype = getattr(aval, "dtype", None)
            if dtype is None or onnx_type(physical(aval)[0]) is None:
                return self._problem(name, line, f"of {dtype or aval}", avals)
        try:
            builder.source, builder.label, builder.target = short(line), name, name
            builder.in_avals = [_of_parts(aval) for aval in types]
            facts = [builder.physical(_of_parts(aval)) for aval in avals]
            builder.out_shapes = [shape for _, shape in facts]
            if facts:
                builder.out_dtype, builder.out_shape = facts[0]
            params = {k: v for k, v in eqn.params.items() if k not in IGNORED}
            unknown = _unknown_parameters(handler, params)
            if unknown:
                raise NotSupportedError(f"with the parameter {', '.join(unknown)}")
            result = handler(builder, *arguments, **params)
        except NotSupportedError as error:
            return self._problem(name, line, str(error), avals)
        several = isinstance(result, list) or type(result) is tuple
        results = [
            self._apart(value, aval)
            for value, aval in zip(result if several else [result], avals, strict=True)
        ]
        self._check(eqn, results, facts)
        return results

    def _check(self, eqn: Any, results: list[Any], facts: Sequence[Any]) -> None:
        """Results, or their parts, must have the type and shape that the jaxpr says."""
        parts = [
            (part, *fact)
            for value, fact in zip(results, facts, strict=True)
            for part in (value if isinstance(value, Complex) else [value])
        ]
        for value, dtype, shape in parts:
            have = self.builder.shape_of(value)
            agree = len(have) == len(shape) and all(
                a == b or not (isinstance(a, int) and isinstance(b, int))
                for a, b in zip(have, shape, strict=True)
            )
            if value.dtype != dtype or not agree:
                raise CompilationError(
                    f"lowering of {eqn.primitive.name} gave {value.dtype}{list(have)}, the jaxpr "
                    f"says {dtype}{list(shape)}: {str(eqn)[:500]}"
                )
            if have != shape:
                self.builder.declare(value, shape)

    def _problem(self, name: str, line: Any, reason: str, avals: Sequence[Any]) -> list[Any]:
        """Note an unsupported use, and stand in for its results so that the rest is looked at."""
        where = f"{line[0]}:{line[1]}: {line[2]}" if line else ""
        self.problems.append((f"{name} ({reason})" if reason else name, where))
        return [self._apart(self._stand_in(aval), aval) for aval in avals]

    def _stand_in(self, aval: Any) -> ir.Value:
        dtype, shape = physical(aval) if hasattr(aval, "dtype") else (None, ())
        kind = onnx_type(dtype) if dtype is not None else None
        value = ir.Value(name="unsupported", type=ir.TensorType(kind or ir.DataType.FLOAT))
        return self.builder.declare(value, sizes(shape))

    def raise_problems(self) -> None:
        if self.problems:
            names = ", ".join(dict.fromkeys(name for name, _ in self.problems))
            raise UnsupportedOperationError(
                names,
                [],
                operations=list(dict.fromkeys(self.problems)),
                next="rewrite these lines with supported operations, or report the primitives",
            )


def _of_parts(aval: Any) -> Any:
    """Of a complex abstract value that of its parts, of any other itself."""
    return described(aval.shape, real_type(aval.dtype)) if is_complex(aval) else aval


def _called(eqn: Any) -> Any:
    """The one jaxpr an equation calls on exactly its inputs, closed; None if it is no such call."""
    if eqn.primitive.name in REFUSED:
        return None
    core = jax.extend.core
    found = [v for v in eqn.params.values() if isinstance(v, core.Jaxpr | core.ClosedJaxpr)]
    if len(found) != 1:
        return None
    closed = found[0]
    if isinstance(closed, core.Jaxpr):
        if closed.constvars:
            return None
        closed = core.ClosedJaxpr(closed, [])
    pairs = (
        (closed.jaxpr.invars, eqn.invars),
        (closed.jaxpr.outvars, eqn.outvars),
    )
    same = all(
        len(inner) == len(outer)
        and all(
            getattr(a.aval, "shape", None) == getattr(b.aval, "shape", ())
            and a.aval.dtype == b.aval.dtype
            for a, b in zip(inner, outer, strict=True)
        )
        for inner, outer in pairs
    )
    return closed if same else None


def _unknown_parameters(handler: Any, params: dict[str, Any]) -> list[str]:
    """Parameters with a meaning that the handler does not know: jax moved on; None means unset."""
    known = inspect.signature(handler).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values()):
        return []
    unknown = [k for k in params if k not in known]
    for name in [k for k in unknown if params[k] is None]:
        params.pop(name)
        unknown.remove(name)
    return unknown
