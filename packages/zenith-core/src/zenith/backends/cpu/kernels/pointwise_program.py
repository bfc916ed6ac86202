"""Elementwise operators as programs of the native `pointwise` kernel.

One table, `TEMPLATES`, says how each ONNX operator becomes steps. A single node is a program of
one operator; the body of `zenith.Pointwise` is the same translation over its nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from zenith.backends.cpu.operand import item_bytes
from zenith.runtime.op_view import OpView, ValueView

__all__ = ["OPS", "TEMPLATES", "TYPES", "Program", "Unsupported", "Value", "translate"]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# The numbers of the operations: the same list as cpp/cpu/kernels/pointwise/ops.inc.
OPS = _words("""
    cast add sub mul div min max mod fmod pow prelu eq lt le band bor bxor shl shr where
    neg abs sign relu bnot lnot isnan isinf floor ceil round sqrt reciprocal exp log erf tanh
    sin cos tan asin acos atan sinh cosh asinh acosh atanh
    sigmoid silu gelu gelu_tanh mish softplus softsign hardswish hardsigmoid leakyrelu
    thresholdedrelu elu celu selu swish
""")
_TYPE_NAMES = _words("""
    float32 int64 int32 uint8 float64 float16 bfloat16 int8 bool uint32 uint64 int16 uint16
    float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu float4_e2m1fn
    int4 uint4 int2 uint2
""")
TYPES = {name: code for code, name in enumerate(_TYPE_NAMES)}

_COMMON = {*_words("add sub mul div min max prelu mod fmod pow neg abs sign relu")}
_ORDERED = {*_words("eq lt le where")}
_BITS = {*_words("band bor bxor shl shr bnot")}
_FUNCTIONS = {*OPS[OPS.index("isnan") :]}
_INTEGERS = _words("int64 int32 int16 int8 uint64 uint32 uint16 uint8")
# dtype -> (type of the registers, operations)
_NATIVE: dict[str, tuple[str, set[str]]] = {
    "float32": ("float32", _COMMON | _ORDERED | _FUNCTIONS),
    "float64": ("float64", _COMMON | _ORDERED | _FUNCTIONS),
    **{name: (name, _COMMON | _ORDERED | _BITS) for name in _INTEGERS},
    "bool": ("uint8", (_ORDERED | _BITS | {"lnot"}) - {"shl", "shr", "bnot"}),
    # What moves bits only.
    "float16": ("uint16", {"where"}),
    "bfloat16": ("uint16", {"where"}),
    **{name: ("uint8", {"where"}) for name in _TYPE_NAMES[_TYPE_NAMES.index("float8_e4m3fn") :]},
}
# Casts between these are one step. The others are reached through one of them (`Program.cast`).
_DIRECT = {"float32", "int64", "int32", "uint8", "float64", "bool", "uint64"}
_RARE_FLOATS = {name for name in _TYPE_NAMES if name.startswith(("float", "bfloat"))} - _DIRECT
_MAX_STEPS, _MAX_REGISTERS, _MAX_OPERANDS = 64, 64, 48


class Unsupported(Exception):
    """The operator cannot become a program; the text says why, as a clause."""


@dataclass(frozen=True, eq=False)
class Value:
    """A value while a program is built. const: its content where it is a constant."""

    dtype: str
    const: np.ndarray | None = None

    @property
    def scalar(self) -> float | None:
        """The constant as one number, or None."""
        return (
            float(self.const.ravel()[0])
            if self.const is not None and self.const.size == 1
            else None
        )


@dataclass(frozen=True, eq=False)
class _Step:
    op: int
    type: int
    dst: Value
    sources: tuple[Value, ...]
    p: float
    q: float


@dataclass(eq=False)
class Program:
    """Steps over values. `inputs` and `outputs` are what the caller passes in and reads."""

    inputs: list[Value] = field(default_factory=list)
    steps: list[_Step] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)

    def input(self, dtype: str, const: np.ndarray | None = None) -> Value:
        """A new operand."""
        value = Value(dtype, const)
        self.inputs.append(value)
        return value

    def number(self, x: float, dtype: str) -> Value:
        """A constant scalar operand."""
        return self.input(dtype, np.array(x, dtype))

    def op(
        self, name: str, *sources: Value, dtype: str | None = None, p: float = 0.0, q: float = 0.0
    ) -> Value:
        """Append one operation; its type is that of the last source, `dtype` that of the result."""
        of = sources[-1].dtype
        registers, known = _NATIVE.get(of, (of, set()))
        if name not in known:
            raise Unsupported(f"no native {of} for '{name}'")
        value = Value(dtype or of)
        self.steps.append(_Step(OPS.index(name), TYPES[registers], value, sources, p, q))
        return value

    def cast(self, x: Value, dtype: str, p: float = 1.0, q: float = 0.0) -> Value:
        """Convert; rare types go through others. p, q: saturation and rounding of float8."""
        if dtype not in TYPES or x.dtype not in TYPES:
            raise Unsupported(f"no native cast from {x.dtype} to {dtype}")
        for name in _cast_path(x.dtype, dtype):
            x = self._cast_step(x, name, p, q)
        return x

    def _cast_step(self, x: Value, dtype: str, p: float = 1.0, q: float = 0.0) -> Value:
        value = Value(dtype)
        self.steps.append(_Step(0, TYPES[x.dtype], value, (x,), p, q))
        return value

    def finish(self, outputs: Sequence[Value]) -> None:
        """Name the results. Each needs memory of its own, so inputs and repeats are copied."""
        for value in outputs:
            if value in self.inputs or value in self.outputs:
                if value.dtype not in TYPES:
                    raise Unsupported(f"no native {value.dtype} for a copy")
                value = self._cast_step(value, value.dtype)
            self.outputs.append(value)
        read = {id(s) for step in self.steps for s in step.sources}
        self.inputs = [v for v in self.inputs if id(v) in read]
        if len(self.inputs) + len(self.outputs) > _MAX_OPERANDS:
            raise Unsupported(f"more than {_MAX_OPERANDS} operands")
        if len(self.steps) > _MAX_STEPS:
            raise Unsupported(f"more than {_MAX_STEPS} steps")
        self.encode()

    @property
    def is_copy(self) -> bool:
        """Whether the only step copies the first operand."""
        return (
            len(self.steps) == 1
            and self.steps[0].op == 0
            and (self.steps[0].dst.dtype == self.steps[0].sources[0].dtype)
        )

    def encode(self) -> tuple[list[int], list[float]]:
        """The kernel's parameters: steps over registers, and the numbers p, q of each step.

        Registers are the inputs, the outputs, then temporaries, reused after the last read.
        """
        where = {id(v): i for i, v in enumerate([*self.inputs, *self.outputs])}
        last = {id(s): i for i, step in enumerate(self.steps) for s in step.sources}
        free: list[int] = []
        temporaries: dict[int, Value] = {}
        count = len(where)
        codes: list[int] = []
        args: list[float] = []
        for i, step in enumerate(self.steps):
            sources = [where[id(s)] for s in step.sources]
            done = [r for r in dict.fromkeys(sources)
                    if r in temporaries and last[id(temporaries[r])] == i]  # fmt: skip
            # A tile may be overwritten in place only by elements of the same size.
            for r in done:
                if _size(temporaries[r].dtype) == _size(step.dst.dtype):
                    free.append(r)
            if id(step.dst) not in where:
                if free:
                    register = free.pop()
                else:
                    register, count = count, count + 1
                where[id(step.dst)] = register
                size_differs = [r for r in done if r != register and r not in free]
                temporaries[register] = step.dst
            else:
                size_differs = [r for r in done if r not in free]
            free += size_differs
            if id(step.dst) not in last and where[id(step.dst)] >= len(self.inputs) + len(
                self.outputs
            ):
                free.append(where[id(step.dst)])
            code = step.op | step.type << 8 | where[id(step.dst)] << 16
            for position, register in enumerate(sources):
                code |= register << (24 + 8 * position)
            if step.op == 0:
                code |= TYPES[step.dst.dtype] << 48
            codes.append(code)
            args += [step.p, step.q]
        if count > _MAX_REGISTERS:
            raise Unsupported(f"more than {_MAX_REGISTERS} live values")
        return codes, args


def _cast_path(source: str, target: str) -> list[str]:
    """The types to go through, `target` last. No value is rounded twice on the way.

    Rare floats are read as float32, and written from float32 or float64; rare integers are read
    and written as int64.
    """
    if source == target:
        return []
    path = [source]
    if source not in _DIRECT:
        path.append("float32" if source in _RARE_FLOATS else "int64")
    if target in _RARE_FLOATS and path[-1] not in ("float32", "float64"):
        path.append("float64")
    elif target not in _DIRECT and target not in _RARE_FLOATS and path[-1] != "int64":
        path.append("int64")
    if path[-1] != target:
        path.append(target)
    return path[1:]


def _size(dtype: str) -> int:
    return item_bytes(dtype)


Template = Callable[[Program, OpView, "list[Value | None]"], Value]


def _args(xs: Sequence[Value | None]) -> list[Value]:
    return [x for x in xs if x is not None]


def _plain(name: str, dtype: str | None = None) -> Template:
    return lambda p, op, xs: p.op(name, *_args(xs), dtype=dtype)


def _with(name: str, first: tuple[str, float], second: tuple[str, float] = ("", 0.0)) -> Template:
    """An activation whose attributes become p and q."""
    return lambda p, op, xs: p.op(
        name,
        *_args(xs),
        p=float(op.attr(first[0], first[1])),
        q=float(op.attr(second[0], second[1])) if second[0] else 0.0,
    )


def _chain(name: str) -> Template:
    """A variadic operator, from left to right."""

    def template(p: Program, op: OpView, xs: list[Value | None]) -> Value:
        total, *rest = _args(xs)
        for x in rest:
            total = p.op(name, total, x)
        return total

    return template


def _mean(p: Program, op: OpView, xs: list[Value | None]) -> Value:
    total = _chain("add")(p, op, xs)
    return p.op("div", total, p.number(len(xs), total.dtype))


def _greater(name: str) -> Template:
    return lambda p, op, xs: p.op(name, *reversed(_args(xs)), dtype="bool")


def _logical(name: str) -> Template:
    return lambda p, op, xs: p.op(name, *_args(xs), dtype="bool")


def _clip(p: Program, op: OpView, xs: list[Value | None]) -> Value:
    x, low, high = [*xs, None, None][:3]
    assert x is not None
    if low is not None and low.scalar == 0 and x.dtype == "float32":
        x = p.op("relu", x)
    elif low is not None:
        x = p.op("max", x, low)
    return x if high is None else p.op("min", x, high)


def _pow(p: Program, op: OpView, xs: list[Value | None]) -> Value:
    x, y = _args(xs)
    exponent = y.scalar
    floating = x.dtype in ("float32", "float64")
    if x.dtype not in _NATIVE or y.dtype not in TYPES:
        raise Unsupported(f"no native power of {x.dtype} and {y.dtype}")
    if exponent == 1:
        return x
    if exponent == 2 and x.dtype in _NATIVE:
        return p.op("mul", x, x)
    if exponent == 3 and x.dtype in _NATIVE:
        return p.op("mul", p.op("mul", x, x), x)
    if exponent in (0.5, -0.5, -1) and floating:
        root = x if exponent == -1 else p.op("sqrt", x)
        return root if exponent == 0.5 else p.op("reciprocal", root)
    if floating or y.dtype.startswith(("int", "uint")):
        return p.op("pow", x, p.cast(y, x.dtype))
    power = p.op("pow", p.cast(x, "float64"), p.cast(y, "float64"))
    return p.cast(power, x.dtype)


def _mod(p: Program, op: OpView, xs: list[Value | None]) -> Value:
    return p.op("fmod" if op.attr("fmod", 0) else "mod", *_args(xs))


def _gelu(p: Program, op: OpView, xs: list[Value | None]) -> Value:
    return p.op("gelu_tanh" if op.attr("approximate", "none") == "tanh" else "gelu", *_args(xs))


def _swish(p: Program, op: OpView, xs: list[Value | None]) -> Value:
    alpha = float(op.attr("alpha", 1.0))
    return p.op("silu", *_args(xs)) if alpha == 1.0 else p.op("swish", *_args(xs), p=alpha)


def _classified(p: Program, xs: list[Value | None]) -> Value:
    """Narrow floats are asked as float32, which has the same NaN and infinities."""
    (x,) = _args(xs)
    return p.cast(x, "float32") if x.dtype in _RARE_FLOATS else x


def _isnan(p: Program, op: OpView, xs: list[Value | None]) -> Value:
    return p.op("isnan", _classified(p, xs), dtype="bool")


def _isinf(p: Program, op: OpView, xs: list[Value | None]) -> Value:
    low, high = op.attr("detect_negative", 1), op.attr("detect_positive", 1)
    return p.op("isinf", _classified(p, xs), dtype="bool", p=float(low), q=float(high))


_ROUNDING = {"up": 0.0, "down": 1.0, "nearest": 2.0}


def _convert(p: Program, op: OpView, x: Value, dtype: str) -> Value:
    if dtype == "unknown":
        raise Unsupported("the type to cast to is not known")
    rounding = _ROUNDING[op.attr("round_mode", "up")]
    return p.cast(x, dtype, float(op.attr("saturate", 1)), rounding)


def _cast(p: Program, op: OpView, xs: list[Value | None]) -> Value:
    return _convert(p, op, _args(xs)[0], ir.DataType(op.attr("to")).numpy().name)


def _cast_like(p: Program, op: OpView, xs: list[Value | None]) -> Value:
    x, like = _args(xs)
    return _convert(p, op, x, like.dtype)


def _shrink(p: Program, op: OpView, xs: list[Value | None]) -> Value:
    """x + bias below -lambd, x - bias above lambd, else 0; integers as in float64."""
    (x,) = _args(xs)
    bias, limit = float(op.attr("bias", 0.0)), float(op.attr("lambd", 0.5))
    work = x.dtype if x.dtype in ("float32", "float64") else "float64"
    v = p.cast(x, work)
    zero = p.number(0.0, work)
    low = p.op("lt", v, p.number(-limit, work), dtype="bool")
    high = p.op("lt", p.number(limit, work), v, dtype="bool")
    above = p.op("where", high, p.op("sub", v, p.number(bias, work)), zero)
    return p.cast(p.op("where", low, p.op("add", v, p.number(bias, work)), above), x.dtype)


def _swiglu(p: Program, op: OpView, xs: list[Value | None]) -> Value:
    gate, x = _args(xs)
    return p.op("mul", _swish(p, op, [gate]), x)


def _shift(p: Program, op: OpView, xs: list[Value | None]) -> Value:
    return p.op("shl" if op.attr("direction") == "LEFT" else "shr", *_args(xs))


TEMPLATES: dict[str, Template] = {
    "Add": _plain("add"), "Sub": _plain("sub"), "Mul": _plain("mul"), "Div": _plain("div"),
    "Sum": _chain("add"), "Mean": _mean, "Min": _chain("min"), "Max": _chain("max"),
    "Mod": _mod, "Pow": _pow, "PRelu": _plain("prelu"), "Clip": _clip,
    "Equal": _plain("eq", "bool"), "Less": _plain("lt", "bool"),
    "LessOrEqual": _plain("le", "bool"),
    "Greater": _greater("lt"), "GreaterOrEqual": _greater("le"),
    "And": _logical("band"), "Or": _logical("bor"), "Xor": _logical("bxor"),
    "Not": _logical("lnot"),
    "BitwiseAnd": _plain("band"), "BitwiseOr": _plain("bor"), "BitwiseXor": _plain("bxor"),
    "BitwiseNot": _plain("bnot"), "BitShift": _shift,
    "Where": _plain("where"), "Cast": _cast, "CastLike": _cast_like,
    "Identity": lambda p, op, xs: _args(xs)[0],
    "IsNaN": _isnan, "IsInf": _isinf,
    "Neg": _plain("neg"), "Abs": _plain("abs"), "Sign": _plain("sign"), "Relu": _plain("relu"),
    "Floor": _plain("floor"), "Ceil": _plain("ceil"), "Round": _plain("round"),
    "Sqrt": _plain("sqrt"), "Reciprocal": _plain("reciprocal"),
    "Exp": _plain("exp"), "Log": _plain("log"), "Erf": _plain("erf"), "Tanh": _plain("tanh"),
    "Sin": _plain("sin"), "Cos": _plain("cos"), "Tan": _plain("tan"),
    "Asin": _plain("asin"), "Acos": _plain("acos"), "Atan": _plain("atan"),
    "Sinh": _plain("sinh"), "Cosh": _plain("cosh"),
    "Asinh": _plain("asinh"), "Acosh": _plain("acosh"), "Atanh": _plain("atanh"),
    "Sigmoid": _plain("sigmoid"), "Gelu": _gelu, "Swish": _swish, "SwiGLU": _swiglu,
    "Mish": _plain("mish"),
    "Shrink": _shrink,
    "Softplus": _plain("softplus"), "Softsign": _plain("softsign"),
    "HardSwish": _plain("hardswish"),
    "HardSigmoid": _with("hardsigmoid", ("alpha", 0.2), ("beta", 0.5)),
    "LeakyRelu": _with("leakyrelu", ("alpha", 0.01)),
    "ThresholdedRelu": _with("thresholdedrelu", ("alpha", 1.0)),
    "Elu": _with("elu", ("alpha", 1.0)), "Celu": _with("celu", ("alpha", 1.0)),
    "Selu": _with("selu", ("alpha", 1.67326319), ("gamma", 1.05070102)),
}  # fmt: skip


def _constant(node: ir.Node) -> np.ndarray:
    """The content of a Constant node."""
    for name, dtype in (("value_float", "float32"), ("value_int", "int64"),
                        ("value_floats", "float32"), ("value_ints", "int64")):  # fmt: skip
        if name in node.attributes:
            return np.array(node.attributes[name].value, dtype)
    return np.asarray(node.attributes["value"].value.numpy())


def translate(op: OpView) -> tuple[Program, list[int | np.ndarray]]:
    """A node as program, and what each of the program's inputs is: the number of an input of the
    node, or a constant. Raises `Unsupported`."""
    program = Program()
    given = [None if v is None else program.input(v.dtype, _number(v)) for v in op.inputs]
    if op.body is None:
        results = [TEMPLATES[op.type](program, op, list(given))]
    else:
        results = _translate_body(program, op.body, given)
    for result, output in zip(results, op.outputs, strict=False):
        if output.value.dtype is not None and result.dtype != output.dtype:
            raise Unsupported(f"it makes {result.dtype}, but {output.dtype} is declared")
    program.finish(results)
    position = {id(v): i for i, v in enumerate(given) if v is not None}
    sources: list[int | np.ndarray] = []
    for value in program.inputs:
        if id(value) in position:
            sources.append(position[id(value)])
        else:
            assert value.const is not None
            sources.append(value.const)
    return program, sources


def _number(value: ValueView) -> np.ndarray | None:
    """A constant that is one number."""
    tensor = value.value.const_value
    return value.const if tensor is not None and tensor.size == 1 else None


def _translate_body(
    program: Program, body: ir.Function, given: Sequence[Value | None]
) -> list[Value]:
    values: dict[ir.Value, Value | None] = dict(zip(body.inputs, given, strict=True))
    for node in body:
        if node.op_type == "Constant":
            array = _constant(node)
            values[node.outputs[0]] = program.input(array.dtype.name, array)
            continue
        template = TEMPLATES.get(node.op_type)
        if template is None or node.domain not in ("", "ai.onnx"):
            raise Unsupported(f"'{node.op_type}' is not elementwise")
        xs = [None if v is None else values[v] for v in node.inputs]
        values[node.outputs[0]] = template(program, OpView(node), xs)
    results = [values[v] for v in body.outputs]
    return _args(results)
