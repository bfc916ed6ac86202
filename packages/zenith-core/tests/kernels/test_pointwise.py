"""The pointwise program: every row against the ONNX reference, strides, tiles, random chains."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from zenith import _native
from zenith.backends.cpu.kernels.pointwise_program import (
    OPS,
    TEMPLATES,
    TYPES,
    Unsupported,
    translate,
)
from zenith.runtime.op_view import OpView

ISAS = _native.complete_isas()
Array = np.ndarray
OPSET = 26


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def run_view(
    isa: str, op: OpView, inputs: list[Array | None], shape: Any, threads: int = 2
) -> list[Array]:
    program, sources = translate(op)
    operands = [inputs[s] if isinstance(s, int) else s for s in sources]
    full = [np.broadcast_to(o, shape) for o in operands if o is not None]
    outputs = [np.full(shape, 77).astype(v.dtype) for v in program.outputs]
    codes, args = program.encode()
    native = [o.view(np.uint16) if o.dtype == ml_dtypes.bfloat16 else o for o in (*full, *outputs)]
    _native.call(isa, "pointwise", native[: len(full)], native[len(full) :],
                 {"steps": codes, "args": args}, threads)  # fmt: skip
    return outputs


def view(
    op_type: str, inputs: list[Array | None], const: bool = False, **attributes: Any
) -> OpView:
    values: list[ir.Value | None] = []
    for i, array in enumerate(inputs):
        if array is None:
            values.append(None)
            continue
        value = ir.Value(name=f"x{i}", type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
                         shape=ir.Shape(array.shape))  # fmt: skip
        if const:
            value.const_value = ir.tensor(array)
        values.append(value)
    return OpView(ir.node(op_type, values, attributes))


def reference(op_type: str, inputs: list[Array | None], **attributes: Any) -> Array:
    """The ONNX reference, floats in float64 where the operator allows it."""
    wide = [a.astype(np.float64) if a is not None and a.dtype == np.float32 else a for a in inputs]
    names = [f"x{i}" if a is not None else "" for i, a in enumerate(wide)]
    node = onnx.helper.make_node(op_type, names, ["y"], **attributes)
    graph = onnx.helper.make_graph(
        [node], "g",
        [onnx.helper.make_tensor_value_info(n,
             onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
         for n, a in zip(names, wide, strict=True) if a is not None],
        [onnx.helper.make_empty_tensor_value_info("y")],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)])
    feeds = {n: a for n, a in zip(names, wide, strict=True) if a is not None}
    with np.errstate(all="ignore"):
        return np.asarray(ReferenceEvaluator(model).run(None, feeds)[0])


def check(isa: str, op_type: str, inputs: list[Array | None], **attributes: Any) -> None:
    expected = reference(op_type, inputs, **attributes)
    shape = np.broadcast_shapes(*(a.shape for a in inputs if a is not None))
    (y,) = run_view(isa, view(op_type, inputs, **attributes), inputs, shape)
    assert y.dtype == (np.float32 if expected.dtype == np.float64 else expected.dtype)
    atol = 1e-6 if op_type == "Gelu" else 4e-7
    np.testing.assert_allclose(y, expected, rtol=4e-7, atol=atol, err_msg=op_type)


def floats(*shape: int, seed: int = 0) -> Array:
    return rng(seed).normal(0, 2, shape).astype(np.float32)


def test_operation_numbers_are_those_of_the_kernel() -> None:
    source = Path(__file__).parents[2] / "cpp/cpu/kernels/pointwise/ops.inc"
    assert tuple(re.findall(r"^ZENITH_OP\((\w+)\)", source.read_text(), re.M)) == OPS
    header = (source.parent / "ops.h").read_text()
    names = re.findall(r"^  k([A-Z]\w+),", header[header.index("enum Type") :], re.M)
    assert names[: len(TYPES)] == [_short(name) for name in TYPES]


def _short(dtype: str) -> str:
    """float32 -> F32, bfloat16 -> BF16, float8_e4m3fn -> F8E4M3FN, uint4 -> U4, bool -> Bool."""
    for kind, letter in (("bfloat", "BF"), ("float", "F"), ("uint", "U"), ("int", "I")):
        if dtype.startswith(kind):
            return letter + dtype.removeprefix(kind).replace("_", "").upper()
    return dtype.capitalize()


UNARY = """Neg Abs Sign Relu Floor Ceil Round Sqrt Reciprocal Exp Log Erf Tanh Sin Cos Tan Atan
Asin Acos Sinh Cosh Asinh Acosh Atanh Sigmoid Softplus Softsign HardSwish Mish IsNaN IsInf Elu
Celu Selu LeakyRelu ThresholdedRelu HardSigmoid Gelu Identity""".split()  # noqa: SIM905


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("op", UNARY)
def test_unary(isa: str, op: str) -> None:
    x = floats(3, 401)
    x[0, :7] = [0.5, 1.5, 2.5, -0.5, np.nan, np.inf, 0]
    x[1] = np.clip(x[1], -0.99, 0.99)
    check(isa, op, [x])


@pytest.mark.parametrize("isa", ISAS)
def test_attributes_reach_the_kernel(isa: str) -> None:
    x = floats(500)
    x[3], x[400] = np.inf, -np.inf
    check(isa, "LeakyRelu", [x], alpha=0.3)
    check(isa, "Elu", [x], alpha=1.7)
    check(isa, "Celu", [x], alpha=2.5)
    check(isa, "Selu", [x], alpha=1.2, gamma=2.0)
    check(isa, "ThresholdedRelu", [x], alpha=0.6)
    check(isa, "HardSigmoid", [x], alpha=0.4, beta=0.3)
    check(isa, "Gelu", [x[4:400]], approximate="tanh")
    check(isa, "Swish", [x[4:400]], alpha=1.7)
    check(isa, "Swish", [x[4:400]])
    check(isa, "IsInf", [x], detect_negative=0)
    check(isa, "IsInf", [x], detect_positive=0)


BINARY = "Add Sub Mul Div Min Max Equal Less LessOrEqual Greater GreaterOrEqual".split()  # noqa: SIM905


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "int32"])
def test_binary(isa: str, dtype: str) -> None:
    a = rng(1).integers(-9, 9, (3, 1, 70)).astype(dtype)
    b = rng(2).integers(-9, 9, (5, 70)).astype(dtype)
    if dtype.startswith("float"):
        a[0, 0, 3], b[1, 5] = np.nan, np.nan
    for op in BINARY:
        if op == "Div" and dtype.startswith("int"):
            c = np.where(b == 0, 3, b).astype(dtype)
            (y,) = run_view(isa, view(op, [a, c]), [a, c], (3, 5, 70))
            np.testing.assert_array_equal(y, np.trunc(a / c))
            continue
        expected = reference(op, [a, b])
        (y,) = run_view(isa, view(op, [a, b]), [a, b], (3, 5, 70))
        np.testing.assert_allclose(y, expected, rtol=1e-7, err_msg=op)


@pytest.mark.parametrize("isa", ISAS)
def test_variadic_mod_pow_clip_where(isa: str) -> None:
    x, y, z = floats(4, 33), floats(33, seed=1), floats(4, 1, seed=2)
    for op in ("Sum", "Mean", "Min", "Max"):
        check(isa, op, [x, y, z])
        check(isa, op, [x])
    i, j = rng(3).integers(-20, 20, (6, 50)), rng(4).integers(1, 7, 50) * 2 - 7
    check(isa, "Mod", [i, j])
    check(isa, "Mod", [i, j], fmod=1)
    check(isa, "Mod", [x, y], fmod=1)
    check(isa, "PRelu", [x, y])
    check(isa, "Clip", [x, np.float32(-1), np.float32(0.5)])
    check(isa, "Clip", [x, None, np.float32(0.5)])
    check(isa, "Clip", [x, np.float32(0), None])
    check(isa, "Clip", [i, np.int64(-3), np.int64(4)])
    check(isa, "Where", [x > 0, y, z])
    check(isa, "Where", [x > 0, np.float32(0), y])
    check(isa, "Where", [x > 0, i[:4, :33], np.int64(-1)])
    check(isa, "Where", [x > 0, x > 1, y > 0])
    check(isa, "Pow", [np.abs(x), y])
    check(isa, "Pow", [i, np.abs(j) % 5])
    for exponent in (0.0, 1.0, 2.0, 3.0, 0.5, -0.5, -1.0, 2.5):
        inputs = [np.abs(x) + np.float32(0.1), np.array(exponent, np.float32)]
        out = run_view(isa, view("Pow", inputs, const=True), inputs, x.shape)[0]
        np.testing.assert_allclose(out, inputs[0].astype(np.float64) ** exponent, rtol=3e-7)


@pytest.mark.parametrize("isa", ISAS)
def test_logic_and_bits(isa: str) -> None:
    a, b = rng(5).random((3, 99)) > 0.5, rng(6).random((3, 99)) > 0.5
    for op in ("And", "Or", "Xor", "Equal"):
        check(isa, op, [a, b])
    check(isa, "Not", [a])
    for dtype in ("int64", "int32", "uint8", "uint32", "uint64"):
        i, j = rng(7).integers(0, 120, 77).astype(dtype), rng(8).integers(0, 120, 77).astype(dtype)
        for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor"):
            check(isa, op, [i, j])
        check(isa, "BitwiseNot", [i])
        if dtype[0] == "u":
            i[:3] = np.iinfo(dtype).max
            check(isa, "BitShift", [i, j % 7], direction="LEFT")
            check(isa, "BitShift", [i, j % 7], direction="RIGHT")


@pytest.mark.parametrize("isa", ISAS)
def test_integers_wrap_and_division_by_zero_does_not_trap(isa: str) -> None:
    low = np.array([np.iinfo(np.int64).min, 5, 7], np.int64)
    by = np.array([-1, 0, 2], np.int64)
    run = lambda op: run_view(isa, view(op, [low, by]), [low, by], (3,))[0].tolist()  # noqa: E731
    assert run("Div") == [low[0], 0, 3]
    assert run("Mod") == [0, 0, 1]
    assert run("Add")[0] == np.iinfo(np.int64).max


CASTS = "float32 float64 float16 bfloat16 int64 int32 int8 uint8 bool uint32 uint64 int16 uint16"


@pytest.mark.parametrize("isa", ISAS)
def test_casts(isa: str) -> None:
    names = CASTS.split()
    numbers = np.array([0, 1, 2.5, 3.99, 100, 0.25, 17, 120, 65, 0.5] * 7)
    for source in names:
        kind = ml_dtypes.bfloat16 if source == "bfloat16" else np.dtype(source)
        x = numbers.astype(kind)
        for target in names:
            kind = ml_dtypes.bfloat16 if target == "bfloat16" else np.dtype(target)
            op = view("Cast", [x], to=int(ir.DataType.from_numpy(np.dtype(kind))))
            try:
                (y,) = run_view(isa, op, [x], x.shape)
            except Unsupported:
                assert source == target and source not in ("float32",)
                continue
            np.testing.assert_array_equal(y, x.astype(kind), err_msg=f"{source} to {target}")
    inputs: list[Array | None] = [floats(7), np.zeros(1, np.int64)]
    (y,) = run_view(isa, view("CastLike", inputs), inputs, (7,))
    np.testing.assert_array_equal(y, np.trunc(floats(7)).astype(np.int64))
    x = np.array([np.nan, -0.0, 1e-40, -3.7, np.inf], np.float32)
    op = view("Cast", [x], to=int(ir.DataType.BOOL))
    np.testing.assert_array_equal(run_view(isa, op, [x], (5,))[0], x != 0)


@pytest.mark.parametrize("isa", ISAS)
def test_half_conversions_are_exact(isa: str) -> None:
    every = np.arange(65536, dtype=np.uint16)
    for kind, code in ((np.float16, "float16"), (ml_dtypes.bfloat16, "bfloat16")):
        bits = every.view(kind)
        up = np.empty(65536, np.float32)
        call = lambda x, y, a, b: _native.call(isa, "pointwise", [x], [y], {  # noqa: E731
            "steps": [TYPES[a] << 8 | 1 << 16 | TYPES[b] << 48], "args": [0.0, 0.0]})  # fmt: skip
        call(every.view(np.uint16), up, code, "float32")
        np.testing.assert_array_equal(up, bits.astype(np.float32))
        x = rng(9).normal(0, 1, 50_000).astype(np.float32) * np.geomspace(1e-9, 1e6, 50_000).astype(
            np.float32
        )
        down = np.empty(x.shape, np.uint16)
        call(x, down, "float32", code)
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(down, x.astype(kind).view(np.uint16))


LAYOUTS = {
    "row_bias": ((37, 53), [(37, 53), (53,)]),
    "column": ((37, 53), [(37, 53), (37, 1)]),
    "outer_sum": ((130, 90), [(130, 1), (1, 90)]),
    "scalar": ((9, 1030), [(9, 1030), ()]),
    "long_rows": ((3, 2500), [(3, 2500), (2500,)]),
    "middle": ((4, 5, 6, 7), [(4, 1, 6, 1), (5, 1, 7)]),
    "mask": ((2, 3, 20, 20), [(2, 3, 20, 20), (1, 1, 20, 20)]),
    "rank8": ((2, 1, 3, 2, 1, 2, 3, 2), [(2, 1, 3, 2, 1, 2, 3, 2), (3, 2, 1, 1, 3, 1)]),
    "one": ((), [(), ()]),
    "empty": ((4, 0, 3), [(4, 0, 3), (3,)]),
    "big": ((300, 211), [(300, 211), (300, 211)]),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", LAYOUTS)
def test_broadcasting(isa: str, name: str, threads: int) -> None:
    shape, shapes = LAYOUTS[name]
    a, b = floats(*shapes[0]), floats(*shapes[1], seed=1)
    (y,) = run_view(isa, view("Sub", [a, b]), [a, b], shape, threads)
    np.testing.assert_array_equal(y, a - b)


@pytest.mark.parametrize("isa", ISAS)
def test_strided_inputs_and_outputs(isa: str) -> None:
    r = rng(11)
    for _ in range(60):
        rank = int(r.integers(1, 5))
        shape = tuple(int(n) for n in r.integers(1, 14, rank))
        arrays = []
        for _ in range(3):
            perm = r.permutation(rank)
            steps = r.integers(1, 3, rank)
            base = r.normal(size=tuple(shape[p] * steps[p] for p in perm)).astype(np.float32)
            full = base.transpose(np.argsort(perm))[tuple(slice(None, None, int(s)) for s in steps)]
            flip = tuple(slice(None, None, -1) if r.random() < 0.2 else slice(None) for _ in shape)
            arrays.append(full[flip])
        a, b, y = arrays
        keep = y.base.copy() if y.base is not None else None
        code = OPS.index("mul") | 2 << 16 | 1 << 32
        _native.call(isa, "pointwise", [a, b], [y], {"steps": [code], "args": [0.0, 0.0]})
        np.testing.assert_array_equal(y, a * b)
        if keep is not None and y.base.size > y.size:  # nothing beside the output was written
            assert (y.base != keep).sum() <= y.size


@pytest.mark.parametrize("isa", ISAS)
def test_channels_last_output_with_channel_operand(isa: str) -> None:
    x = floats(2, 9, 11, 19).transpose(0, 3, 1, 2)
    s = floats(19, 1, 1, seed=3)
    y = np.empty((2, 9, 11, 19), np.float32).transpose(0, 3, 1, 2)
    code = OPS.index("add") | 2 << 16 | 1 << 32
    full = np.broadcast_to(s, x.shape)
    _native.call(isa, "pointwise", [x, full], [y], {"steps": [code], "args": [0.0, 0.0]})
    np.testing.assert_array_equal(y, x + s)


def chain_function(lines: list[str], inputs: int, outputs: list[str]) -> ir.Function:
    from zenith.ops.pointwise import function

    return function(inputs, lines, outputs)


CHAIN_OPS = {
    "f": [("Add", "ff"), ("Sub", "ff"), ("Mul", "ff"), ("Max", "ff"), ("Tanh", "f"), ("Neg", "f"),
          ("Sigmoid", "f"), ("Where", "bff"), ("Cos", "f"), ("Abs", "f"), ("Softsign", "f")],
    "b": [("Less", "ff"), ("Equal", "ii"), ("And", "bb"), ("Not", "b"), ("Or", "bb")],
    "i": [("Add", "ii"), ("Mul", "ii"), ("Max", "ii"), ("Where", "bii"), ("Neg", "i")],
}  # fmt: skip


@pytest.mark.parametrize("seed", range(25))
def test_random_chains(seed: int) -> None:
    """Bodies of zenith.Pointwise against the ONNX reference, float64."""
    r = rng(seed)
    feeds = [floats(6, 1, 35, seed=seed), floats(5, 35, seed=seed + 1),
             r.integers(-9, 9, (6, 5, 35)),
             floats(5, 1, seed=seed + 2) > 0]  # fmt: skip
    pools = {"f": ["i0", "i1"], "i": ["i2"], "b": ["i3"]}
    lines = []
    for k in range(int(r.integers(3, 26))):
        kind = "fffbi"[r.integers(5)]
        op, kinds = CHAIN_OPS[kind][r.integers(len(CHAIN_OPS[kind]))]
        xs = [pools[t][-int(r.integers(1, min(4, len(pools[t])) + 1))] for t in kinds]
        lines.append(f"t{k} = {op} ({', '.join(xs)})")
        pools[kind].append(f"t{k}")
    lines += [f"o0 = Add ({pools['f'][-1]}, i1)", f"o1 = Where (i3, {pools['i'][-1]}, i2)"]
    lines += ["s0 = Sub (i0, i0)", "o2 = Add (o0, s0)"]
    function = chain_function(lines, 4, ["o0", "o1", "o2"])
    values = [ir.Value(name=f"i{k}", type=ir.TensorType(ir.DataType.from_numpy(a.dtype)),
                       shape=ir.Shape(a.shape)) for k, a in enumerate(feeds)]  # fmt: skip
    node = ir.node("Pointwise", values, domain="zenith", overload=function.overload, num_outputs=3)
    kinds = [a.astype(np.float64) if a.dtype == np.float32 else a for a in feeds]
    info = ", ".join(f"{ {'f': 'double', 'i': 'int64', 'b': 'bool'}[a.dtype.kind]}[?,?,?] i{k}"
                     for k, a in enumerate(kinds))  # fmt: skip
    outs = "double[?,?,?] o0, int64[?,?,?] o1, double[?,?,?] o2"
    head = f'<ir_version: 10, opset_import: ["" : {OPSET}]> g ({info}) => ({outs})'
    text = f"{head} {{ {' '.join(lines)} }}"
    model = ReferenceEvaluator(onnx.parser.parse_model(text))
    expected = model.run(None, {f"i{k}": a for k, a in enumerate(kinds)})
    for isa in ISAS:
        got = run_view(isa, OpView(node, body=function), feeds, (6, 5, 35))
        np.testing.assert_array_equal(got[1], np.broadcast_to(expected[1], (6, 5, 35)))
        for j in (0, 2):
            e = np.broadcast_to(expected[j], (6, 5, 35))
            far = np.abs(got[j] - e) > 1e-4 * (1 + np.abs(e))
            assert far.mean() < 0.002, (isa, lines)  # a comparison near a tie may fall otherwise


def test_body_constants_and_large_programs() -> None:
    lines = [
        "c = Constant <value_float = 2.5> ()",
        "a = Mul (i0, c)",
        "b = Exp (a)",
        "o = Add (b, c)",
    ]
    function = chain_function(lines, 1, ["o"])
    x = floats(7, 300)
    value = ir.Value(name="i0", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(x.shape))
    node = ir.node("Pointwise", [value], domain="zenith", overload=function.overload)
    (y,) = run_view(ISAS[0], OpView(node, body=function), [x], x.shape)
    np.testing.assert_allclose(y, np.exp(2.5 * x.astype(np.float64)) + 2.5, rtol=1e-6)


def test_unsupported_types_say_why() -> None:
    x = np.ones(3, np.float16)
    with pytest.raises(Unsupported, match="no native float16"):
        translate(view("Add", [x, x]))
    with pytest.raises(Unsupported, match="no native int32 for 'gelu'"):
        translate(view("Gelu", [np.ones(3, np.int32)]))


def test_every_row_has_a_test() -> None:
    text = Path(__file__).read_text()
    assert [op for op in TEMPLATES if not re.search(rf"\b{op}\b", text)] == []


@pytest.mark.parametrize("isa", ISAS)
def test_shrink_and_swiglu(isa: str) -> None:
    x, gate = floats(3, 50), floats(3, 50, seed=4)
    check(isa, "Shrink", [x], bias=0.25, lambd=0.75)
    for alpha in (1.0, 1.5):
        (y,) = run_view(isa, view("SwiGLU", [gate, x], alpha=alpha), [gate, x], (3, 50))
        wide = gate.astype(np.float64)
        expected = wide / (1 + np.exp(-alpha * wide)) * x
        np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6)
