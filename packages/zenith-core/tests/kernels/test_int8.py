"""The int8 family: sums exact against integers in numpy, on every instruction set."""

from __future__ import annotations

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from zenith import _native, ops
from zenith.backends.cpu.builder import PlanBuilder
from zenith.backends.cpu.kernels import int8
from zenith.ir import OPSET, GraphIR
from zenith.runtime.context import ExecutionContext
from zenith.runtime.op_view import OpView

ISAS = _native.isas()
Array = np.ndarray[Any, Any]
OF_ALL = [(isa, threads) for isa in ISAS for threads in (1, 2)]


def integers(dtype: str, *shape: int, seed: int = 0) -> Array:
    """All values of a type, the outermost ones often: what saturates would show."""
    rng = np.random.default_rng([seed, *shape])
    info = np.iinfo(dtype)
    drawn = rng.integers(info.min, info.max + 1, shape)
    ends = np.where(rng.random(shape) < 0.5, info.min, info.max)
    return np.where(rng.random(shape) < 0.3, ends, drawn).astype(dtype)


def node_of(
    op: str, overload: str, inputs: dict[str, Array], fed: set[str], **attributes: Any
) -> GraphIR:
    """One node of the zenith domain; inputs not in `fed` are constants."""
    function = ir.to_proto(ops.OPERATORS[op](overload))
    node = onnx.helper.make_node(op, list(inputs), ["y"], "node", domain="zenith", **attributes)
    node.overload = overload
    code = onnx.helper.np_dtype_to_tensor_dtype
    graph = onnx.helper.make_graph(
        [node],
        "g",
        [
            onnx.helper.make_tensor_value_info(k, code(inputs[k].dtype), inputs[k].shape)
            for k in fed
        ],
        [onnx.ValueInfoProto(name="y")],
        [onnx.numpy_helper.from_array(v, k) for k, v in inputs.items() if k not in fed],
    )
    imports = [onnx.helper.make_opsetid("", OPSET), onnx.helper.make_opsetid("zenith", 1)]
    model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=12)
    model.functions.append(function)
    return GraphIR.from_onnx(model).infer_shapes()


def run(graph: GraphIR, feeds: dict[str, Array], isa: str, threads: int) -> tuple[Array, str]:
    """The node's result by the first row that takes it, and that row's name."""
    op = OpView(graph.nodes[-1])
    row = next(
        spec
        for spec in int8.SPECS
        if spec.matches(op.key, op.overload) and spec.reason_against(op) is None
    )
    builder = PlanBuilder(isa, graph.inputs, graph.outputs)
    builder.node(0, op, row.run)
    program = builder.finish(["node"])
    given = [feeds[str(value.name)] for value in graph.inputs]
    return program.run_arrays(given, ExecutionContext(threads=threads))[0], row.name


def scalar(dtype: str, number: float) -> Array:
    return np.asarray(number, dtype)


def per_channel(n: int) -> Array:
    """Powers of two: scaling with them rounds nothing."""
    return (2.0 ** -np.arange(n).clip(0, 6)).astype(np.float32)


LINEAR = [(1, 1, 1), (1, 4, 48), (3, 7, 5), (8, 64, 32), (33, 130, 49), (70, 192, 100), (5, 3, 97)]


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize(("m", "k", "n"), LINEAR)
def test_linear_is_exact(m: int, k: int, n: int, dtype: str) -> None:
    x, w = integers(dtype, m, k), integers("int8", k, n, seed=1)
    zero = int(integers(dtype, 1, seed=2)[0])
    inputs = {
        "x": x, "xs": scalar("float32", 0.5), "xz": scalar(dtype, zero), "w": w,
        "ws": per_channel(n),
    }  # fmt: skip
    graph = node_of("QuantizedLinear", "", inputs, {"x"})
    sums = (x.astype(np.int64) - zero) @ w.astype(np.int64)
    want = sums.astype(np.float32) * np.float32(0.5) * per_channel(n)
    for isa, threads in OF_ALL:
        got, name = run(graph, {"x": x}, isa, threads)
        assert name == "linear_int8"
        np.testing.assert_array_equal(got, want, err_msg=f"{isa}, {threads} threads")


EPILOGUES = ["bias", "bias.relu", "addq.relu", "bias.addq", "bias.add", "bias.gelu", "mul", "tanh"]


def finished(value: Array, overload: str, given: dict[str, Array]) -> Array:
    from math import erf

    for step in overload.split("."):
        if step in ("bias", "add"):
            value = value + given[step]
        elif step == "addq":
            value = value + (given[step].astype(np.float64) - 7) * 0.25
        elif step == "mul":
            value = value * given[step]
        elif step == "relu":
            value = np.maximum(value, 0)
        elif step == "gelu":
            value = 0.5 * value * (1 + np.vectorize(erf, otypes=[float])(value / np.sqrt(2)))
        elif step == "tanh":
            value = np.tanh(value)
    return value


def operands(overload: str, n: int, shape: tuple[int, ...]) -> tuple[dict[str, Array], set[str]]:
    """Inputs of the steps in order, and those that are fed."""
    rng = np.random.default_rng(5)
    found: dict[str, Array] = {}
    fed: set[str] = set()
    for step in overload.split("."):
        if step == "bias":
            found[step] = rng.integers(-8, 8, n).astype(np.float32)
        elif step in ("add", "mul"):
            found[step] = rng.integers(-8, 8, shape).astype(np.float32)
            fed.add(step)
        elif step == "addq":
            found[step] = integers("uint8", *shape, seed=3)
            found |= {"as": scalar("float32", 0.25), "az": scalar("uint8", 7)}
            fed.add(step)
    return found, fed


def off_by_roundings(got: Array, want: Array) -> bool:
    """bfloat16 nearest to numbers that are near `want`."""
    assert got.dtype == ml_dtypes.bfloat16
    error = np.abs(got.astype(np.float64) - want)
    return bool(np.all(error <= 2**-8 * np.abs(want) + 1e-5 * np.max(np.abs(want))))


@pytest.mark.parametrize("result", ["float32", "bfloat16", "uint8", "int8"])
@pytest.mark.parametrize("overload", EPILOGUES)
def test_epilogues(overload: str, result: str) -> None:
    m, k, n = 37, 24, 51
    x, w = integers("uint8", 2, m, k), integers("int8", k, n, seed=1)
    inputs = {
        "x": x, "xs": scalar("float32", 2**-8), "xz": scalar("uint8", 100), "w": w,
        "ws": np.full(n, 2**-4, np.float32),
    }  # fmt: skip
    more, fed = operands(overload, n, (2, m, n))
    inputs |= more
    name = overload + (".bfloat16" if result == "bfloat16" else "")
    if result.endswith("int8"):
        inputs |= {"ys": scalar("float32", 0.125), "yz": scalar(result, 3)}
        name += ".quantize"
    graph = node_of("QuantizedLinear", name, inputs, {"x"} | fed)
    product = ((x.astype(np.int64) - 100) @ w.astype(np.int64)) * 2.0**-12
    want = finished(product, overload, more)
    exact = not {"gelu", "tanh"} & set(overload.split("."))
    for isa, threads in OF_ALL:
        got, _ = run(graph, {k: v for k, v in inputs.items() if k in {"x"} | fed}, isa, threads)
        if result == "float32":
            assert np.max(np.abs(got - want)) <= (0 if exact else 1e-5 * np.max(np.abs(want)))
            continue
        if result == "bfloat16":
            nearest = want.astype(np.float32).astype(ml_dtypes.bfloat16)
            assert np.array_equal(got, nearest) if exact else off_by_roundings(got, want), isa
            continue
        info = np.iinfo(result)
        q = np.clip(np.rint(want / 0.125) + 3, info.min, info.max)
        off = np.abs(got.astype(np.int64) - q)
        assert off.max() <= (0 if exact else 1) and np.mean(off) < 1e-3, isa


@pytest.mark.parametrize("n", [1, 15, 16, 17, 24, 31, 33, 40, 56, 63])
def test_any_number_of_columns(n: int) -> None:
    """Bytes with a lowest one of 0 and without, alone and added to others, of both signs."""
    m, k = 19, 32
    x, w = integers("uint8", m, k), integers("int8", k, n, seed=1)
    product = ((x.astype(np.int64) - 100) @ w.astype(np.int64)) * 2.0**-12
    inputs = {
        "x": x, "xs": scalar("float32", 2**-8), "xz": scalar("uint8", 100), "w": w,
        "ws": np.full(n, 2**-4, np.float32),
    }  # fmt: skip
    for dtype, name, zero in itertools.product(("uint8", "int8"), ("", "addq", "relu"), (0, 5)):
        more: dict[str, Array] = {}
        if name == "addq":
            more = {"r": integers(dtype, m, n, seed=3), "rs": scalar("float32", 0.25)}
            more["rz"] = scalar(dtype, -7 if dtype == "int8" else 7)
        end = {"ys": scalar("float32", 0.125), "yz": scalar(dtype, zero)}
        steps = ".".join(filter(None, (name, "quantize")))
        graph = node_of("QuantizedLinear", steps, inputs | more | end, {"x"} | {*more} & {"r"})
        value = np.maximum(product, 0) if name == "relu" else product
        if name == "addq":
            value = value + (more["r"].astype(np.float64) - more["rz"]) * 0.25
        info = np.iinfo(dtype)
        want = np.clip(np.rint(value / 0.125) + zero, info.min, info.max)
        for isa in ISAS:
            got, _ = run(graph, {"x": x} | more, isa, 1)
            np.testing.assert_array_equal(got, want, err_msg=f"{isa} {steps} {dtype} {zero}")


@pytest.mark.parametrize("relu", ["", ".relu", ".relu6"])
@pytest.mark.parametrize("result", ["uint8", "int8"])
def test_numbers_that_no_byte_holds(result: str, relu: str) -> None:
    """NaN is the lowest byte, infinities and what overflows 32 bits are the ends."""
    m, k, n = 5, 8, 70
    extremes = [np.nan, np.inf, -np.inf, 3e38, -3e38, 2.0**31, -(2.0**31), 40000, -40000, 0.5, 1.5]
    bias = np.resize(np.asarray(extremes, np.float32), n)
    x, r = integers("uint8", m, k), integers("int8", m, n, seed=3)
    inputs = {
        "x": x, "xs": scalar("float32", 1), "xz": scalar("uint8", 0),
        "w": integers("int8", k, n, seed=1), "ws": np.full(n, 2**-10, np.float32), "b": bias,
        "r": r, "rs": scalar("float32", 0.125), "rz": scalar("int8", -5),
        "ys": scalar("float32", 0.25), "yz": scalar(result, 9),
    }  # fmt: skip
    graph = node_of("QuantizedLinear", f"bias.addq{relu}.quantize", inputs, {"x", "r"})
    value = (x.astype(np.int64) @ inputs["w"].astype(np.int64)) * 2.0**-10 + bias
    value = value + (r.astype(np.float64) + 5) * 0.125
    low, high = {"": (-np.inf, np.inf), ".relu": (0, np.inf), ".relu6": (0, 6)}[relu]
    info = np.iinfo(result)
    want = np.clip(np.rint(np.clip(value, low, high) / 0.25) + 9, info.min, info.max)
    want = np.where(np.isnan(value), 9 if relu else info.min, want)
    for isa, threads in OF_ALL:
        got, _ = run(graph, {"x": x, "r": r}, isa, threads)
        np.testing.assert_array_equal(got, want.astype(result), err_msg=isa)


CONVS = [  # channels, outputs, group, kernel, stride, pads, dilation, size
    (16, 32, 1, (1, 1), 1, 0, 1, (5, 7)),
    (64, 40, 1, (1, 1), 1, 0, 1, (4, 9)),
    (64, 7, 1, (1, 1), 1, 0, 1, (1, 1)),  # images of one pixel
    (24, 16, 1, (1, 1), 2, 0, 1, (7, 7)),
    (3, 17, 1, (7, 7), 2, 3, 1, (15, 13)),
    (4, 36, 1, (3, 3), 2, 1, 1, (19, 70)),
    (16, 33, 1, (3, 3), 1, 1, 1, (9, 6)),
    (64, 33, 1, (3, 3), 1, 1, 1, (7, 7)),  # tiles go from line to line
    (16, 8, 1, (1, 1), 1, 0, 1, (13, 11)),  # reads of the last rows would leave x
    (40, 70, 1, (1, 1), 2, 0, 1, (14, 14)),
    (20, 10, 2, (3, 3), 2, 1, 1, (40, 37)),  # several blocks of lines
    (8, 8, 2, (3, 3), 1, 2, 2, (9, 9)),
    (12, 6, 3, (3, 1), 1, 1, 1, (5, 5)),
    (5, 5, 5, (3, 3), 1, 1, 1, (6, 9)),
    (33, 33, 33, (3, 3), 2, 1, 1, (11, 8)),
    (20, 20, 20, (5, 5), 1, 2, 1, (9, 7)),
    (18, 18, 18, (3, 3), 1, 2, 2, (9, 7)),
    (144, 144, 144, (3, 3), 1, 1, 1, (5, 31)),  # lines in pairs, and in pieces
    (70, 70, 70, (3, 3), 2, 1, 1, (7, 61)),
    (64, 64, 64, (7, 7), 1, 3, 1, (4, 6)),
    (6, 6, 6, (2, 3), 1, 4, 1, (3, 5)),  # results that see the border only
]


def convolved(x: Array, w: Array, group: int, stride: int, pad: int, dilation: int) -> Array:
    """Exact, in int64; x is less its zero point."""
    n, _, h, width = x.shape
    m, per, kh, kw = w.shape
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    oh = (h + 2 * pad - dilation * (kh - 1) - 1) // stride + 1
    ow = (width + 2 * pad - dilation * (kw - 1) - 1) // stride + 1
    y = np.zeros((n, m, oh, ow), np.int64)
    for o in range(m):
        base = o // (m // group) * per
        for c in range(per):
            for i in range(kh):
                for j in range(kw):
                    rows = slice(i * dilation, i * dilation + (oh - 1) * stride + 1, stride)
                    cols = slice(j * dilation, j * dilation + (ow - 1) * stride + 1, stride)
                    y[:, o] += x[:, base + c, rows, cols] * int(w[o, c, i, j])
    return y


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("case", CONVS)
def test_conv_is_exact(case: tuple[Any, ...], dtype: str) -> None:
    channels, outputs, group, kernel, stride, pad, dilation, size = case
    x = integers(dtype, 2, channels, *size)
    w = integers("int8", outputs, channels // group, *kernel, seed=1)
    zero = 93 if dtype == "uint8" else -35
    bias = np.arange(outputs).astype(np.float32)
    inputs = {
        "x": x, "xs": scalar("float32", 0.5), "xz": scalar(dtype, zero), "w": w,
        "ws": per_channel(outputs), "b": bias,
    }  # fmt: skip
    attributes = {
        "strides": [stride] * 2, "pads": [pad] * 4, "dilations": [dilation] * 2, "group": group,
    }  # fmt: skip
    graph = node_of("QuantizedConv", "bias", inputs, {"x"}, **attributes)
    sums = convolved(x.astype(np.int64) - zero, w, group, stride, pad, dilation)
    scale = np.float64(0.5) * per_channel(outputs)
    want = sums * scale.reshape(-1, 1, 1) + bias.reshape(-1, 1, 1)
    for isa, threads in OF_ALL:
        got, name = run(graph, {"x": x}, isa, threads)
        assert name == ("depthwise_int8" if group == channels else "conv_int8")
        np.testing.assert_array_equal(got, want.astype(np.float32), err_msg=isa)


@pytest.mark.parametrize("result", ["uint8", "int8"])
@pytest.mark.parametrize("steps", ["relu.quantize", "addq.quantize", "addq.relu.quantize"])
@pytest.mark.parametrize(
    ("channels", "group", "stride"),
    [(16, 1, 1), (16, 16, 1), (40, 1, 1), (112, 112, 1), (112, 112, 2)],
)
def test_conv_keeps_integers(
    channels: int, group: int, stride: int, steps: str, result: str
) -> None:
    """Sums that become bytes in registers, and what is left of channels and pixels."""
    size = (5, 29 * stride)
    x = integers("uint8", 1, channels, *size)
    r = integers(result, 1, channels, -(-size[0] // stride), 29, seed=3)
    w = integers("int8", channels, channels // group, 3, 3, seed=1)
    rz, yz = (11, 0 if steps == "relu.quantize" else 2) if result == "uint8" else (-11, -9)
    inputs = {
        "x": x, "xs": scalar("float32", 2**-6), "xz": scalar("uint8", 0), "w": w,
        "ws": scalar("float32", 2**-6),
    }  # fmt: skip
    if "addq" in steps:
        inputs |= {"r": r, "rs": scalar("float32", 0.5), "rz": scalar(result, rz)}
    inputs |= {"ys": scalar("float32", 0.25), "yz": scalar(result, yz)}
    attributes = {"strides": [stride] * 2, "pads": [1] * 4, "dilations": [1, 1], "group": group}
    fed = {"x", "r"} & {*inputs}
    graph = node_of("QuantizedConv", steps, inputs, fed, **attributes)
    value = convolved(x.astype(np.int64), w, group, stride, 1, 1) * 2.0**-12
    if "addq" in steps:
        value = value + (r.astype(np.float64) - rz) * 0.5
    if "relu" in steps:
        value = np.maximum(value, 0)
    info = np.iinfo(result)
    want = np.clip(np.rint(value / 0.25) + yz, info.min, info.max)
    for isa, threads in OF_ALL:
        got, _ = run(graph, {k: inputs[k] for k in fed}, isa, threads)
        np.testing.assert_array_equal(got, want.astype(result), err_msg=isa)


@pytest.mark.parametrize("group", [1, 3, 24])
def test_conv_writes_bfloat16(group: int) -> None:
    x, w = integers("uint8", 2, 24, 7, 9), integers("int8", 24, 24 // group, 3, 3, seed=1)
    inputs = {
        "x": x, "xs": scalar("float32", 2**-6), "xz": scalar("uint8", 20), "w": w,
        "ws": per_channel(24), "b": np.arange(24).astype(np.float32),
    }  # fmt: skip
    attributes = {"strides": [1, 1], "pads": [1] * 4, "dilations": [1, 1], "group": group}
    graph = node_of("QuantizedConv", "bias.relu.bfloat16", inputs, {"x"}, **attributes)
    value = convolved(x.astype(np.int64) - 20, w, group, 1, 1, 1) * 2.0**-6
    value = value * per_channel(24).reshape(-1, 1, 1) + inputs["b"].reshape(-1, 1, 1)
    want = np.maximum(value, 0).astype(np.float32).astype(ml_dtypes.bfloat16)
    for isa, threads in OF_ALL:
        got, _ = run(graph, {"x": x}, isa, threads)
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want, err_msg=isa)


@pytest.mark.parametrize("shape", [(0, 8), (3, 0)])
def test_empty(shape: tuple[int, int]) -> None:
    inputs = {
        "x": np.zeros((shape[0], shape[1]), np.uint8), "xs": scalar("float32", 1),
        "xz": scalar("uint8", 3), "w": np.zeros((shape[1], 5), np.int8),
        "ws": per_channel(5), "b": np.arange(5, dtype=np.float32),
    }  # fmt: skip
    graph = node_of("QuantizedLinear", "bias", inputs, {"x"})
    for isa in ISAS:
        got, _ = run(graph, {"x": inputs["x"]}, isa, 1)
        np.testing.assert_array_equal(got, np.broadcast_to(inputs["b"], (shape[0], 5)))


def test_weights_can_be_unpacked() -> None:
    for isa in ISAS:
        for shape, packer, params in [
            ((37, 50), "int8_weights", {"group": 1, "column_dilation": 1}),
            ((12, 5, 3, 2), "int8_weights", {"group": 3, "column_dilation": 2}),
            ((19, 1, 3, 5), "depthwise_int8_weights", {}),
        ]:
            w = integers("int8", *shape)
            packed = _native.pack(isa, packer, w, params)
            back = np.zeros_like(w)
            _native.unpack(isa, packer, packed, back, params)
            np.testing.assert_array_equal(back, w)
