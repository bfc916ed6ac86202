"""Rows of conv and pool: attributes of ONNX nodes reach the kernels, and rows say why not."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

import zenith
from zenith import _native
from zenith.backends.cpu.kernels import conv, pool
from zenith.ir import OPSET, GraphIR
from zenith.runtime.kernel_registry import KernelRegistry, KernelSpec

REGISTRY = KernelRegistry()
REGISTRY.add("cpu", *conv.SPECS, *pool.SPECS)


def _draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape, dtype=np.float32)


def _choice(make_row: Callable[..., Any], op: str, inputs: list[Any], **kw: Any) -> KernelSpec:
    view = make_row(conv.SPECS, op, inputs, **kw).view
    return next(s for s in REGISTRY.candidates("cpu", view) if s.reason_against(view) is None)


def _check(make_row: Callable[..., Any], op: str, inputs: list[Any], **kw: Any) -> None:
    """Every row that takes the node computes what the reference does."""
    every = [s for s in (*conv.SPECS, *pool.SPECS) if s.op == f"ai.onnx:{op}"]
    rows = [make_row([spec], op, inputs, **kw) for spec in every]
    taken = [row for row in rows if row.reason() is None]
    assert taken
    for row in taken:
        (wanted,) = row.expected()
        for (got,), _ in (row.run(isa) for isa in _native.complete_isas()):
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=2e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("auto_pad", ["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(7, 9), (8, 8)])
def test_conv_pads(
    make_row: Callable[..., Any], auto_pad: str, stride: int, size: tuple[int, int]
) -> None:
    x, w, b = _draw(2, 16, *size), _draw(20, 16, 3, 3), _draw(20)
    attributes: dict[str, Any] = {"auto_pad": auto_pad, "strides": [stride, stride]}
    if auto_pad == "NOTSET":
        attributes["pads"] = [1, 0, 2, 1]
    _check(make_row, "Conv", [x, w, b], constant=(1, 2), **attributes)


@pytest.mark.parametrize(
    ("x", "w", "attributes"),
    [
        ((2, 6, 11), (9, 6, 4), {"strides": [3], "pads": [1, 2], "dilations": [2]}),
        ((1, 24, 9), (24, 1, 5), {"group": 24, "pads": [2, 2]}),
        ((1, 24, 9, 9), (24, 1, 3, 3), {"group": 24}),
        ((1, 24, 9, 9), (48, 1, 3, 3), {"group": 24}),
        ((1, 24, 9, 9), (12, 8, 2, 3), {"group": 3, "dilations": [2, 1]}),
        ((1, 12, 9, 9), (18, 2, 3, 3), {"group": 6, "pads": [1, 1, 1, 1]}),
        ((1, 32, 9, 9), (48, 16, 3, 3), {"group": 2, "pads": [1, 1, 1, 1]}),
        ((1, 3, 20, 20), (17, 3, 5, 5), {"strides": [4, 4]}),
        ((1, 20, 6, 6), (30, 20, 1, 1), {"strides": [2, 2]}),
    ],
)
def test_conv_attributes(
    make_row: Callable[..., Any],
    x: tuple[int, ...],
    w: tuple[int, ...],
    attributes: dict[str, Any],
) -> None:
    _check(make_row, "Conv", [_draw(*x), _draw(*w)], constant=(1,), **attributes)


def test_conv_choice(make_row: Callable[..., Any]) -> None:
    def chosen(size: int, c: int, m: int, k: int, group: int = 1, **kw: Any) -> str:
        inputs = [_draw(1, c, size, size), _draw(m, c // group, k, k)]
        return _choice(make_row, "Conv", inputs, constant=(1,), group=group, **kw).name

    pads = {"pads": [1, 1, 1, 1]}
    assert chosen(28, 32, 32, 3, **pads) == "conv_winograd4_f32"
    assert chosen(14, 32, 32, 3, **pads) == "conv_winograd2_f32"
    assert chosen(14, 32, 32, 3, strides=[2, 2]) == "conv_direct_f32"
    assert chosen(14, 32, 32, 3, group=32) == "conv_depthwise_f32"
    assert chosen(14, 32, 32, 3, group=4) == "conv_merged_groups_f32"
    assert chosen(14, 64, 64, 3, group=4) == "conv_winograd2_f32"
    assert chosen(14, 64, 64, 3, group=4, strides=[2, 2]) == "conv_direct_f32"
    assert chosen(32, 3, 32, 4, strides=[4, 4]) == "conv_few_channels_f32"
    assert chosen(32, 3, 32, 1) == "conv_direct_f32"
    several = [_draw(2, 32, 14, 14), _draw(32, 32, 3, 3)]
    row = _choice(make_row, "Conv", several, constant=(1,), **pads)
    assert row.name == "conv_winograd4_f32", "there are tiles enough for its weights"
    batch = {"dynamic": {0: ["N", 32, 28, 28]}}
    assert chosen(28, 32, 32, 3, **pads, **batch) == "conv_winograd4_f32"
    image = {"dynamic": {0: [1, 32, "H", "W"]}}
    assert chosen(28, 32, 32, 3, **pads, **image) == "conv_direct_f32"


@pytest.mark.parametrize(
    ("isa", "size", "c", "m", "group", "winograd"),
    [
        ("avx512_vnni", 28, 128, 128, 1, True),
        ("avx512_vnni", 28, 64, 128, 1, False),  # few channels
        ("avx512_vnni", 14, 256, 256, 1, False),  # 2x2 results
        ("avx512_vnni", 28, 256, 128, 2, False),  # few channels in a group
        ("amx", 28, 128, 128, 1, False),
    ],
)
def test_bfloat16_or_winograd(
    make_row: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    isa: str,
    size: int,
    c: int,
    m: int,
    group: int,
    winograd: bool,
) -> None:
    monkeypatch.setattr(_native, "isas", lambda: [isa])
    (direct,) = (s for s in conv.SPECS if s.name == "conv_direct_bf16")
    inputs = [_draw(1, c, size, size), _draw(m, c // group, 3, 3)]
    row = make_row([direct], "Conv", inputs, constant=(1,), group=group, pads=[1] * 4)
    reason = direct.supports(row.view)
    assert reason == ("Winograd's algorithm is faster, in float32" if winograd else None)


def test_conv_reasons(make_row: Callable[..., Any]) -> None:
    x, w = _draw(1, 4, 5, 5, 5, 5), _draw(4, 4, 1, 1, 1, 1)
    rows = [spec for spec in conv.SPECS if spec.name == "conv_volume_f32"]
    row = make_row(rows, "Conv", [x, w], constant=(1,))
    assert row.reason() == "inputs of rank 6 have no kernel, only 3 to 5"
    row = make_row(conv.SPECS[:1], "Conv", [x[..., 0, 0], w[..., 0, 0]])
    assert row.reason() == "the weights are not constant"


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("auto_pad", ["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("ceil_mode", [0, 1])
def test_pool_pads(make_row: Callable[..., Any], op: str, auto_pad: str, ceil_mode: int) -> None:
    attributes: dict[str, Any] = {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": auto_pad}
    attributes["ceil_mode"] = ceil_mode
    if auto_pad == "NOTSET":
        attributes["pads"] = [1, 0, 1, 1]
    elif ceil_mode:
        pytest.skip("the reference has no ceil_mode with auto_pad")
    if op == "MaxPool" and auto_pad == "SAME_LOWER":
        pytest.skip("the reference loses a row: test_max_pool_same_lower")
    _check(make_row, op, [_draw(2, 5, 9, 8)], **attributes)
    if op == "AveragePool":
        _check(make_row, op, [_draw(2, 5, 9, 8)], count_include_pad=1, **attributes)


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool"])
@pytest.mark.parametrize("shape", [(2, 19, 7, 6), (1, 4, 9)])
def test_global_pool(make_row: Callable[..., Any], op: str, shape: tuple[int, ...]) -> None:
    x = _draw(*shape)
    spec = next(s for s in pool.SPECS if s.op == f"ai.onnx:{op}")
    (y,), _ = make_row([spec], op, [x]).run(_native.complete_isas()[0])
    reduce = np.mean if op == "GlobalAveragePool" else np.max
    wanted = reduce(x.astype(np.float64), axis=tuple(range(2, x.ndim)), keepdims=True)
    np.testing.assert_allclose(y, wanted, rtol=1e-6, atol=1e-7)


def test_max_pool_same_lower(make_row: Callable[..., Any]) -> None:
    """9 rows by 3 with stride 2: 5 windows, one row of padding on each side."""
    x = _draw(2, 5, 9, 8)
    attributes: dict[str, Any] = {"kernel_shape": [3, 2], "strides": [2, 2]}
    spec = next(s for s in pool.SPECS if s.op == "ai.onnx:MaxPool")
    same = make_row([spec], "MaxPool", [x], auto_pad="SAME_LOWER", **attributes)
    plain = make_row([spec], "MaxPool", [x], pads=[1, 0, 1, 0], **attributes)
    np.testing.assert_array_equal(
        same.run(_native.complete_isas()[0])[0][0], plain.run(_native.complete_isas()[0])[0][0]
    )


def _residual_net(size: int, c: int) -> onnx.ModelProto:
    """relu(conv3x3(relu(conv3x3(x))) + x), then a pool."""
    weights = {f"w{i}": _draw(c, c, 3, 3) / np.float32(3 * c**0.5) for i in (0, 1)}
    biases = {f"b{i}": _draw(c) for i in (0, 1)}
    node = onnx.helper.make_node
    nodes = [
        node("Conv", ["x", "w0", "b0"], ["a"], pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "w1", "b1"], ["c"], pads=[1, 1, 1, 1]),
        node("Add", ["c", "x"], ["d"]),
        node("Relu", ["d"], ["e"]),
        node("MaxPool", ["e"], ["f"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("GlobalAveragePool", ["f"], ["y"]),
    ]
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "residual",
        [info("x", onnx.TensorProto.FLOAT, ["N", c, size, size])],
        [info("e", onnx.TensorProto.FLOAT, None), info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(a, n) for n, a in (weights | biases).items()],
    )
    opset = onnx.helper.make_opsetid("", OPSET)
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=12)


@pytest.mark.parametrize(("opt_level", "size"), list(itertools.product((0, 1, 2), (14, 28))))
def test_a_residual_net_compiles(opt_level: int, size: int) -> None:
    """Fused and plain, with Winograd and without, at two batches of one model."""
    proto = _residual_net(size, 16)
    model = zenith.compile(GraphIR.from_onnx(proto), opt_level=opt_level, fallback="error")
    kernels = [n.kernel for n in model.explain().nodes]
    assert any("winograd" in k for k in kernels) == (opt_level > 1), kernels
    for batch in (1, 3):
        x = _draw(batch, 16, size, size)
        wanted = onnx.reference.ReferenceEvaluator(proto).run(None, {"x": x})
        got = model.run({"x": x})
        for name, value in zip(("e", "y"), wanted, strict=True):
            np.testing.assert_allclose(got[name], value, rtol=1e-4, atol=2e-5)
