"""Operators outside ai.onnx that files in the wild use, in terms of standard ones.

ONNX Runtime writes operators of its own (domain com.microsoft) when it quantizes or optimizes a
model; scikit-learn's converter writes ai.onnx.ml. Each function here replaces one such node by
standard nodes of GraphIR's opset, so that every backend runs them. What a function cannot say in
standard terms it refuses, naming the node.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from zenith.errors import ValidationError
from zenith.ir import DOMAIN
from zenith.ops import ensure, lstm
from zenith_onnx import contrib_decoder, trees
from zenith_onnx.contrib_table import TABLE, expands, refuse
from zenith_onnx.upgrade._table import Site

__all__ = ["add_functions", "check_contrib", "expand_contrib", "knows"]

_ML = "ai.onnx.ml"
_MORE = (contrib_decoder, trees)  # modules whose functions stand in the table too
Array = np.ndarray[Any, Any]


def knows(domain: str, op_type: str) -> bool:
    """Whether nodes of this operator, which onnx does not know, are replaced."""
    return (domain, op_type) in TABLE


def check_contrib(node: onnx.NodeProto, where: str) -> None:
    """What a schema would check: counts and names."""
    row = TABLE[node.domain, node.op_type]
    low, high = row.inputs
    if not low <= len(node.input) <= high or len(node.output) > row.outputs:
        raise ValidationError(
            f"{where} takes {low} to {high} inputs and gives up to {row.outputs} outputs, not "
            f"{len(node.input)} and {len(node.output)}"
        )
    unknown = [a.name for a in node.attribute if a.name not in row.attributes]
    if unknown:
        raise ValidationError(f"{where}: {node.op_type} has no attribute '{unknown[0]}'")


def expand_contrib(graph: ir.Graph | ir.Function) -> None:
    """Replace all nodes of the table, those of inner graphs too, in place."""
    for node in list(graph.all_nodes()):
        row = TABLE.get((node.domain, node.op_type))
        if row is not None:
            _wanted_outputs(node)
            row.expand(Site(node))


def add_functions(model: ir.Model) -> None:
    """Give the model the functions of those nodes that no standard operator says alone."""
    for node in list(model.graph.all_nodes()):
        if node.domain == DOMAIN and node.op_identifier() not in model.functions:
            ensure(model, node.op_type, node.overload or "")


def _wanted_outputs(node: ir.Node) -> None:
    for value in node.outputs:
        if not value.name and value.uses():
            raise ValidationError(f"node '{node.name}' has an output without a name that is used")


def _array(value: ir.Value | None) -> Array | None:
    """A constant's data."""
    if value is None:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def _f32(site: Site, value: float) -> ir.Value:
    return site.const(np.array(value, np.float32))


def _cast(site: Site, value: ir.Value, kind: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
    return site.add("Cast", value, to=int(kind))


def _bias(site: Site, value: ir.Value, index: int) -> ir.Value:
    bias = site.optional(index)
    return value if bias is None else site.add("Add", value, bias)


# --- activations and products -------------------------------------------------------------------


@expands("Gelu", "BiasGelu", inputs=(1, 2))
def _gelu(site: Site) -> None:
    site.replace(site.add("Gelu", _bias(site, site.input(0), 1)))


@expands("FastGelu", inputs=(1, 2))
def _fast_gelu(site: Site) -> None:
    site.replace(site.add("Gelu", _bias(site, site.input(0), 1), approximate="tanh"))


@expands("QuickGelu", inputs=(1, 1), attributes="alpha")
def _quick_gelu(site: Site) -> None:
    x = site.input(0)
    scaled = site.add("Mul", x, site.scalar_like(site.get("alpha", 1.702), x))
    site.replace(site.add("Mul", x, site.add("Sigmoid", scaled)))


_CONV = "auto_pad dilations group kernel_shape pads strides"
_PARAMETERS = {  # of activation_params, in order
    "Relu": (), "Sigmoid": (), "Tanh": (), "LeakyRelu": ("alpha",), "Elu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"), "ThresholdedRelu": ("alpha",), "Softplus": (),
    "HardSwish": (), "Clip": ("min", "max"),
}  # fmt: skip


def _activated(site: Site, value: ir.Value, name: str, numbers: list[float]) -> ir.Value:
    if not name:
        return value
    if name not in _PARAMETERS:
        raise refuse(site, f"activation {name}")
    given = dict(zip(_PARAMETERS[name], numbers, strict=False))
    if name == "Clip":
        return site.add("Clip", value, *(_f32(site, x) for x in given.values()))
    return site.add(name, value, **given)


@expands("FusedConv", inputs=(2, 4), attributes=f"{_CONV} activation activation_params")
def _fused_conv(site: Site) -> None:
    attributes = {name: site.get(name) for name in _CONV.split()}
    conv = site.add("Conv", *site.node.inputs[:3], **attributes)
    total = _bias(site, conv, 3)
    numbers = list(site.get("activation_params", ()))
    site.replace(_activated(site, total, site.get("activation", ""), numbers))


_GEMM = "alpha beta transA transB"


@expands(
    "FusedGemm", inputs=(2, 3),
    attributes=f"{_GEMM} activation activation_alpha activation_beta activation_gamma",
)  # fmt: skip
def _fused_gemm(site: Site) -> None:
    gemm = site.add("Gemm", *site.node.inputs, **{n: site.get(n) for n in _GEMM.split()})
    given = [site.get(f"activation_{n}") for n in ("alpha", "beta", "gamma")]
    numbers = [float(n) for n in given if n is not None]
    site.replace(_activated(site, gemm, site.get("activation", ""), numbers))


def _transposed(site: Site, value: ir.Value, flag: str) -> ir.Value:
    if not site.get(flag, 0):
        return value
    rank = site.rank(value)
    if rank is None:
        raise refuse(site, f"{flag} and an input of unknown rank")
    axes = list(range(rank))
    if rank >= 2:
        axes[-2:] = axes[-1], axes[-2]
    return site.add("Transpose", value, perm=axes)


@expands(
    "FusedMatMul", "TransposeMatMul", inputs=(2, 2),
    attributes="alpha transA transB transBatchA transBatchB",
)  # fmt: skip
def _fused_matmul(site: Site) -> None:
    if site.get("transBatchA", 0) or site.get("transBatchB", 0):
        raise refuse(site, "transBatchA or transBatchB")
    a, b = (_transposed(site, site.input(i), f"trans{n}") for i, n in enumerate("AB"))
    product = site.add("MatMul", a, b)
    alpha = site.get("alpha", 1.0)
    if alpha != 1.0:
        product = site.add("Mul", product, site.scalar_like(alpha, site.input(0)))
    site.replace(product)


# --- normalization ------------------------------------------------------------------------------


@expands("SkipLayerNormalization", inputs=(3, 5), outputs=4, attributes="epsilon")
def _skip_layer_norm(site: Site) -> None:
    total = _bias(site, site.add("Add", site.input(0), site.input(1)), 4)
    epsilon = site.get("epsilon", 1e-12)
    parameters = (site.input(2), site.optional(3))
    y, mean, spread = site.add_many(
        "LayerNormalization", (total, *parameters), 3, axis=-1, epsilon=epsilon
    )
    site.replace(y, mean, spread, total)


@expands("SkipSimplifiedLayerNormalization", inputs=(3, 4), outputs=4, attributes="epsilon")
def _skip_rms_norm(site: Site) -> None:
    if site.used(1) or site.used(2):
        raise refuse(site, "mean or inv_std_var as outputs")
    total = _bias(site, site.add("Add", site.input(0), site.input(1)), 3)
    epsilon = site.get("epsilon", 1e-12)
    y = site.add("RMSNormalization", total, site.input(2), axis=-1, epsilon=epsilon)
    site.replace(y, None, None, total)


@expands(
    "SimplifiedLayerNormalization", inputs=(2, 2), outputs=2, domain="",
    attributes="axis epsilon stash_type",
)  # fmt: skip
def _rms_norm(site: Site) -> None:
    if site.used(1):
        raise refuse(site, "inv_std_var as an output")
    attributes = {n: site.get(n) for n in ("axis", "epsilon", "stash_type")}
    site.replace(site.add("RMSNormalization", site.input(0), site.input(1), **attributes))


@expands("EmbedLayerNormalization", inputs=(7, 9), outputs=3, attributes="epsilon mask_index_type")
def _embed(site: Site) -> None:
    ids, segments, words, positions, segment_words, gamma, beta = (
        site.optional(i) for i in range(7)
    )
    mask, places = site.optional(7), site.optional(8)
    if places is None:
        length = site.add("Shape", ids, start=1, end=2)
        ends = site.add("Squeeze", length)
        places = site.add("Range", site.const(np.array(0)), ends, site.const(np.array(1)))
    total = site.add("Add", site.add("Gather", words, ids), site.add("Gather", positions, places))
    if segments is not None and segment_words is not None:
        total = site.add("Add", total, site.add("Gather", segment_words, segments))
    epsilon = site.get("epsilon", 1e-12)
    y = site.add("LayerNormalization", total, gamma, beta, axis=-1, epsilon=epsilon)
    index = None
    if site.used(1):
        if mask is None:
            zeros = site.add("Shape", ids, start=0, end=1)
            index = site.add("ConstantOfShape", zeros, value=ir.tensor(np.zeros(1, np.int32)))
        else:
            index = site.add("ReduceSum", mask, site.ints([1]), keepdims=0)
    site.replace(y, index, total)


# --- attention ----------------------------------------------------------------------------------


def _key_mask(site: Site, mask: ir.Value, like: ir.Value) -> ir.Value:
    """Which keys may be seen, as [batch, 1, 1, keys]: from 0 and 1, or from lengths."""
    rank = site.rank(mask)
    if rank == 2:
        seen = _cast(site, mask, ir.DataType.BOOL)
    elif rank == 1:
        keys = site.add("Squeeze", site.add("Shape", like, start=1, end=2))
        places = site.add("Range", site.const(np.array(0)), keys, site.const(np.array(1)))
        lengths = site.add("Unsqueeze", _cast(site, mask, ir.DataType.INT64), site.ints([1]))
        seen = site.add("Less", places, lengths)
    else:
        raise refuse(site, f"a mask of rank {rank}")
    return site.add("Unsqueeze", seen, site.ints([1, 2]))


def _attend(site: Site, q: ir.Value, k: ir.Value, v: ir.Value, mask: ir.Value | None,
            extra: ir.Value | None) -> ir.Value:  # fmt: skip
    heads = site.get("num_heads")
    bias = extra
    if mask is not None:
        low = site.scalar_like(site.get("mask_filter_value", -10000.0), q)
        soft = site.add("Where", _key_mask(site, mask, k), site.scalar_like(0.0, q), low)
        bias = soft if extra is None else site.add("Add", soft, extra)
    return site.add(
        "Attention", q, k, v, bias, q_num_heads=heads, kv_num_heads=heads,
        scale=site.get("scale"), is_causal=site.get("unidirectional", 0),
    )  # fmt: skip


@expands(
    "Attention", inputs=(2, 7), outputs=2,
    attributes="num_heads unidirectional qkv_hidden_sizes scale mask_filter_value do_rotary "
    "past_present_share_buffer rotary_embedding_dim",
)  # fmt: skip
def _attention(site: Site) -> None:
    if site.used(1) or site.optional(4) is not None or site.get("do_rotary", 0):
        raise refuse(site, "a past or rotary positions")
    joined = _bias(site, site.add("MatMul", site.input(0), site.input(1)), 2)
    sizes = site.get("qkv_hidden_sizes")
    if sizes:
        q, k, v = site.add_many("Split", [joined, site.ints(sizes)], 3, axis=-1)
    else:
        q, k, v = site.add_many("Split", [joined], 3, axis=-1, num_outputs=3)
    site.replace(_attend(site, q, k, v, site.optional(3), site.optional(5)))


@expands(
    "MultiHeadAttention", inputs=(3, 10), outputs=4,
    attributes="num_heads mask_filter_value scale unidirectional",
)  # fmt: skip
def _multi_head(site: Site) -> None:
    if any(site.used(i) for i in (1, 2, 3)) or any(
        site.optional(i) is not None for i in (6, 7, 8, 9)
    ):
        raise refuse(site, "a past")
    q, k, v = (site.optional(i) for i in range(3))
    if q is None or k is None or v is None or any(site.rank(x) not in (3, None) for x in (k, v)):
        raise refuse(site, "packed or unfolded heads")
    bias = site.optional(3)
    if bias is not None:
        parts = site.add_many("Split", [bias], 3, axis=0, num_outputs=3)
        q, k, v = (site.add("Add", x, b) for x, b in zip((q, k, v), parts, strict=True))
    site.replace(_attend(site, q, k, v, site.optional(4), site.optional(5)))


# --- quantized ----------------------------------------------------------------------------------


def _real(site: Site, first: int) -> ir.Value:
    """The number behind a quantized input, its scale and its zero point."""
    x, scale, zero = (site.optional(first + k) for k in range(3))
    return site.add("DequantizeLinear", x, scale, zero)


def _quantized(site: Site, value: ir.Value, first: int) -> None:
    """Quantize with the scale and the zero point at `first`, and replace the node."""
    site.replace(site.add("QuantizeLinear", value, site.input(first), site.optional(first + 1)))


@expands("QLinearAdd", "QLinearMul", inputs=(7, 8))
def _q_binary(site: Site) -> None:
    op_type = site.node.op_type.removeprefix("QLinear")
    _quantized(site, site.add(op_type, _real(site, 0), _real(site, 3)), 6)


@expands("QLinearSigmoid", "QLinearLeakyRelu", inputs=(4, 5), attributes="alpha")
def _q_unary(site: Site) -> None:
    op_type = site.node.op_type.removeprefix("QLinear")
    _quantized(site, site.add(op_type, _real(site, 0), alpha=site.get("alpha")), 3)


@expands("QLinearSoftmax", inputs=(5, 5), attributes="axis opset")
def _q_softmax(site: Site) -> None:
    axis = site.get("axis", -1)
    rank = site.rank(site.input(0))
    if site.get("opset", 13) < 13 and (rank is None or axis % rank != rank - 1):
        raise refuse(site, "the softmax of opset 12 over several axes")
    _quantized(site, site.add("Softmax", _real(site, 0), axis=axis), 3)


_POOL = "auto_pad ceil_mode count_include_pad kernel_shape pads strides"


@expands(
    "QLinearAveragePool", "QLinearGlobalAveragePool", inputs=(4, 5),
    attributes=f"{_POOL} channels_last",
)  # fmt: skip
def _q_pool(site: Site) -> None:
    if site.get("channels_last", 0):
        raise refuse(site, "channels_last")
    attributes = {n: site.get(n) for n in _POOL.split()}
    op_type = site.node.op_type.removeprefix("QLinear")
    _quantized(site, site.add(op_type, _real(site, 0), **attributes), 3)


@expands("QLinearConcat", inputs=(5, 3 * 1024 + 2), attributes="axis")
def _q_concat(site: Site) -> None:
    parts = [_real(site, first) for first in range(2, len(site.node.inputs), 3)]
    _quantized(site, site.add("Concat", *parts, axis=site.get("axis")), 0)


@expands("QGemm", inputs=(6, 9), attributes="alpha transA transB")
def _q_gemm(site: Site) -> None:
    a, b, c = _real(site, 0), _real_axis(site, 3), site.optional(6)
    attributes = {n: site.get(n) for n in ("alpha", "transA", "transB")}
    product = site.add("Gemm", a, b, **attributes)
    if c is not None:  # int32 in units of alpha * a_scale * b_scale
        unit = site.add("Mul", site.input(1), site.input(4))
        unit = site.add("Mul", unit, _f32(site, site.get("alpha", 1.0)))
        product = site.add("Add", product, site.add("Mul", _cast(site, c), unit))
    if site.optional(7) is None:
        site.replace(product)
    else:
        _quantized(site, product, 7)


def _real_axis(site: Site, first: int) -> ir.Value:
    """A weight matrix whose scale may be a number or one for each column of the result."""
    weight, scale, zero = (site.optional(first + k) for k in range(3))
    axis = 0 if site.get("transB", 0) else 1
    return site.add("DequantizeLinear", weight, scale, zero, axis=axis)


@expands("DynamicQuantizeMatMul", inputs=(3, 5))
def _dynamic_matmul(site: Site) -> None:
    quantized = site.add_many("DynamicQuantizeLinear", [site.input(0)], 3)
    integers = site.add(
        "MatMulInteger", quantized[0], site.input(1), quantized[2], site.optional(3)
    )
    unit = site.add("Mul", quantized[1], site.input(2))
    site.replace(_bias(site, site.add("Mul", _cast(site, integers), unit), 4))


@expands("MatMulIntegerToFloat", inputs=(4, 7))
def _integer_matmul(site: Site) -> None:
    integers = site.add(
        "MatMulInteger", site.input(0), site.input(1), site.optional(4), site.optional(5)
    )
    unit = site.add("Mul", site.input(2), site.input(3))
    site.replace(_bias(site, site.add("Mul", _cast(site, integers), unit), 6))


@expands("QuantizeLinear", "DequantizeLinear", inputs=(2, 3), attributes="axis")
def _standard(site: Site) -> None:
    axis = site.get("axis")
    site.replace(site.add(site.node.op_type, *site.node.inputs, axis=axis))


@expands(
    "MatMulNBits", inputs=(3, 6), attributes="K N accuracy_level bits block_size weight_prepacked"
)
def _matmul_n_bits(site: Site) -> None:
    """Weights [N, blocks, block bytes] of 4 or 8 bits, low half first; scales [N, blocks]."""
    bits, block = site.get("bits", 4), site.get("block_size")
    rows, columns = site.get("N"), site.get("K")
    packed, scales = _array(site.input(1)), _array(site.input(2))
    zeros = _array(site.optional(3))
    if bits not in (4, 8) or packed is None or scales is None or site.optional(4) is not None:
        raise refuse(site, f"{bits} bits, g_idx or computed weights")
    if (site.optional(3) is not None and zeros is None) or site.get("weight_prepacked", 0):
        raise refuse(site, "computed zero points or prepacked weights")
    blocks = -(-columns // block)
    if packed.size != rows * blocks * (block * bits // 8) or scales.size != rows * blocks:
        raise site.error("the weights do not have the size that N, K and block_size say")
    scale = scales.reshape(rows, blocks, 1).astype(np.float32)
    if zeros is None:
        zero: Any = float(1 << (bits - 1))
    elif zeros.dtype == np.uint8:
        zero = _unpacked(zeros.reshape(rows, -1), bits)[:, :blocks, None].astype(np.float32)
    else:
        zero = zeros.reshape(rows, blocks, 1).astype(np.float32)
    quantized = _unpacked(packed.reshape(rows * blocks, -1), bits).reshape(rows, blocks, block)
    weight = ((quantized.astype(np.float32) - zero) * scale).reshape(rows, -1)[:, :columns]
    matrix = site.const(np.ascontiguousarray(weight.T).astype(scales.dtype))
    site.replace(_bias(site, site.add("MatMul", site.input(0), matrix), 5))


def _unpacked(data: Array, bits: int) -> Array:
    """Bytes [rows, n] as numbers [rows, n * 8 / bits]."""
    if bits == 8:
        return data
    return np.stack([data & 15, data >> 4], axis=-1).reshape(len(data), -1)


_LSTM = "activation_alpha activation_beta activations clip direction hidden_size input_forget"


@expands("DynamicQuantizeLSTM", inputs=(12, 12), outputs=3, attributes=_LSTM)
def _dynamic_lstm(site: Site) -> None:
    """W [directions, input, 4 * hidden] and R likewise are integers; the input is quantized as a
    whole, the state in each step."""
    names = [n.lower() for n in site.get("activations", ())]
    if any(site.optional(i) is not None for i in (4, 7)) or site.get("input_forget", 0):
        raise refuse(site, "sequence lengths, peepholes or input_forget")
    if site.get("clip") or (names and names != ["sigmoid", "tanh", "tanh"] * (len(names) // 3)):
        raise refuse(site, "clip or activations of its own")
    w, r = _lstm_weight(site, 1, 8), _lstm_weight(site, 2, 10)
    direction = site.get("direction", "forward")
    count, hidden = (2 if direction == "bidirectional" else 1), site.get("hidden_size")
    bias = site.optional(3)
    if bias is None:
        bias = site.const(np.zeros((count, 8 * hidden), np.float32))
    quantized = site.add_many("DynamicQuantizeLinear", [site.input(0)], 3)
    x = site.add("DequantizeLinear", *quantized)
    batch = site.add("Shape", x, start=1, end=2)
    sizes = site.add("Concat", site.ints([count]), batch, site.ints([hidden]), axis=0)
    states = [site.optional(i) or site.add("ConstantOfShape", sizes) for i in (5, 6)]
    node = ir.Node(
        DOMAIN, lstm.NAME, [x, w, r, bias, *states], overload=direction, num_outputs=3,
        name=f"{site.node.name}.{lstm.NAME}",
    )  # fmt: skip
    graph = site.node.graph
    assert graph is not None
    graph.insert_before(site.node, node)
    site.replace(*node.outputs)


def _lstm_weight(site: Site, index: int, first: int) -> ir.Value:
    """[directions, rows, columns] * scale [directions] or [directions, columns], transposed."""
    weight, scale, zero = (site.input(i) for i in (index, first, first + 1))
    arrays = [_array(v) for v in (weight, scale, zero)]
    if all(a is not None for a in arrays):
        w, s, z = (np.asarray(a, np.float32) for a in arrays)
        if w.ndim != 3 or s.shape != z.shape or s.shape not in ((len(w),), (len(w), w.shape[2])):
            raise site.error(f"weights {list(w.shape)} and scales {list(s.shape)} do not fit")
        s, z = (a.reshape(len(w), 1, -1) for a in (s, z))
        return site.const(np.ascontiguousarray(((w - z) * s).transpose(0, 2, 1)))
    if site.rank(scale) not in (1, 2):
        raise refuse(site, "computed scales of unknown rank")
    axes = site.ints([1, 2] if site.rank(scale) == 1 else [1])
    offset = site.add("Unsqueeze", _cast(site, zero), axes)
    real = site.add("Sub", _cast(site, weight), offset)
    real = site.add("Mul", real, site.add("Unsqueeze", scale, axes))
    return site.add("Transpose", real, perm=[0, 2, 1])


# --- classical machine learning -----------------------------------------------------------------


@expands("Scaler", inputs=(1, 1), attributes="offset scale", domain=_ML)
def _scaler(site: Site) -> None:
    value = _cast(site, site.input(0))
    offset, scale = (np.asarray(site.get(n, ()), np.float32) for n in ("offset", "scale"))
    if offset.size:
        value = site.add("Sub", value, site.const(offset))
    if scale.size:
        value = site.add("Mul", value, site.const(scale))
    site.replace(value)


@expands("ArrayFeatureExtractor", inputs=(2, 2), domain=_ML)
def _features(site: Site) -> None:
    places = site.add("Reshape", site.input(1), site.ints([-1]))
    picked = site.add("Gather", site.input(0), places, axis=-1)
    if site.rank(site.input(0)) == 1:
        picked = site.add("Unsqueeze", picked, site.ints([0]))
    site.replace(picked)


@expands("Binarizer", inputs=(1, 1), attributes="threshold", domain=_ML)
def _binarizer(site: Site) -> None:
    x = site.input(0)
    above = site.add("Greater", x, site.scalar_like(site.get("threshold", 0.0), x))
    site.replace(site.add("CastLike", above, x))
