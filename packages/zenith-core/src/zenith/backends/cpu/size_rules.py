"""What kernels take for granted about the sizes of their operands.

A rule says of one operator which expressions over sizes must be 0. What is a number is looked at
when the node is planned; what is not, whenever the plan is bound to sizes. Broadcasting is looked
after by `Operand.expand`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import sympy

from zenith.backends.cpu.epilogue import OPERAND_STEPS, epilogue_steps
from zenith.backends.cpu.kernels.trees import features
from zenith.ir.dims import Dim, product
from zenith.ops.conv import split
from zenith.runtime.memory_manager import memory_bytes
from zenith.runtime.op_view import OpView

__all__ = ["size_rules"]

_Rule = tuple[Dim, str]
"""(what must be 0, what it means)"""


def size_rules(op: OpView) -> Iterator[_Rule]:
    """The rules of one node."""
    rule = _RULES.get(op.type)
    if rule is not None and op.domain in ("ai.onnx", "ai.onnx.ml", "zenith"):
        yield from rule(op)


def _equal(a: Dim, b: Dim, what: str) -> Iterator[_Rule]:
    yield a - b, f"{what}: {a} and {b} are not equal"


def _no_more(a: Dim, b: Dim, what: str) -> Iterator[_Rule]:
    yield sympy.Max(a - b, 0), f"{what}: {a} is more than {b}"


def _same(a: Sequence[Dim], b: Sequence[Dim], what: str) -> Iterator[_Rule]:
    if len(a) != len(b):
        yield 1, f"{what}: {list(a)} and {list(b)} have different ranks"
    for m, n in zip(a, b, strict=False):
        yield from _equal(m, n, what)


def _product(left: int, right: int) -> Callable[[OpView], Iterator[_Rule]]:
    def rule(op: OpView) -> Iterator[_Rule]:
        a, b = op.required(left).shape, op.required(right).shape
        yield from _equal(a[-1], b[-2 if len(b) > 1 else 0], "the inner sizes of a product")

    return rule


def _gemm(op: OpView) -> Iterator[_Rule]:
    a, b, c = op.required(0).shape, op.required(1).shape, op.input(2)
    inner = a[0 if op.attr("transA", 0) else 1], b[1 if op.attr("transB", 0) else 0]
    yield from _equal(*inner, "the inner sizes of a product")
    if c is not None:
        for size, target in zip(c.shape[::-1], op.outputs[0].shape[::-1], strict=False):
            if size != 1:
                message = f"C of Gemm: {size} broadcasts to {target}, and is neither 1 nor that"
                yield (size - 1) * (size - target), message


def _biases(op: OpView, channels: Dim) -> Iterator[_Rule]:
    """The operands of a fused epilogue; of a standard operator, its bias."""
    steps = ["bias"] if op.domain == "ai.onnx" else epilogue_steps(op.overload)
    for step, value in zip((s for s in steps if s in OPERAND_STEPS), op.inputs[2:], strict=False):
        if value is not None:
            wanted = (channels,) if step == "bias" else op.outputs[0].shape
            yield from _same(value.shape, wanted, f"the operand of '{step}'")


def _linear(op: OpView) -> Iterator[_Rule]:
    yield from _product(0, 1)(op)
    yield from _biases(op, op.required(1).shape[1])


def _convolution(x: int, w: int, bias: int) -> Callable[[OpView], Iterator[_Rule]]:
    def rule(op: OpView) -> Iterator[_Rule]:
        weight, group = op.required(w).shape, int(op.attr("group", 1))
        if group < 1:
            yield 1, f"a convolution has {group} groups"
            return
        whole, results = weight[1] * group, weight[0]
        if op.type == "ConvTranspose":
            whole, results = weight[0], weight[1] * group
        yield sympy.Mod(weight[0], group), f"{weight[0]} channels are not {group} groups"
        yield from _equal(op.required(x).shape[1], whole, "the input channels of a convolution")
        if bias == 2:
            yield from _biases(op, results)
        elif (value := op.input(bias)) is not None:
            yield from _same(value.shape, (results,), "the bias of a convolution")

    return rule


def _bottleneck(op: OpView) -> Iterator[_Rule]:
    epilogues = split(op.overload)
    all_weights = [op.required(1 + i).shape for i in range(len(epilogues))]
    have = op.required(0).shape[1]
    for i, weights in enumerate(all_weights):
        wants = weights[0] if i == len(epilogues) - 2 else weights[1]
        yield from _equal(have, wants, "the input channels of a convolution")
        have = weights[0]
    results = iter(op.inputs[1 + len(epilogues) :])
    for weights, each in zip(all_weights, epilogues, strict=True):
        for step in (s for s in epilogue_steps(each) if s in OPERAND_STEPS):
            value = next(results)
            if step == "bias" and value is not None:
                yield from _same(value.shape, (weights[0],), "the bias of a convolution")


def _deform(op: OpView) -> Iterator[_Rule]:
    x, w = op.required(0).shape, op.required(1).shape
    taps, groups = product(w[2:]), int(op.attr("offset_group", 1))
    if min(groups, int(op.attr("group", 1))) < 1:
        yield 1, f"a convolution has {op.attr('group', 1)} groups, {groups} of offsets"
        return
    yield from _equal(x[1], w[1] * int(op.attr("group", 1)), "the input channels of a convolution")
    yield sympy.Mod(w[0], int(op.attr("group", 1))), f"{w[0]} channels do not divide into groups"
    outer = (x[0], *op.outputs[0].shape[2:])
    for index, each in ((2, 2), (4, 1)):
        value = op.input(index)
        if value is not None:
            shape = (outer[0], each * groups * taps, *outer[1:])
            yield from _same(value.shape, shape, "offsets of a convolution")
    if (bias := op.input(3)) is not None:
        yield from _same(bias.shape, (w[0],), "the bias of a convolution")


def _per_channel(*places: int) -> Callable[[OpView], Iterator[_Rule]]:
    def rule(op: OpView) -> Iterator[_Rule]:
        for place in places:
            shape = op.required(place).shape
            yield from _same(
                shape, (op.required(0).shape[1],), f"{op.type} has one number a channel"
            )

    return rule


def _concat(op: OpView) -> Iterator[_Rule]:
    first = op.required(0).shape
    axis = op.attr("axis") % len(first)
    for value in op.inputs[1:]:
        if value is not None:
            rest = (value.shape[:axis], value.shape[axis + 1 :])
            yield from _same(sum(rest, ()), (*first[:axis], *first[axis + 1 :]), "Concat")


def _attention(op: OpView) -> Iterator[_Rule]:
    q, k, v = (op.required(i).shape for i in range(3))
    for other in (k, v):
        yield from _equal(other[0], q[0], "the batch of Attention")
    yield from _equal(k[-2], v[-2], "keys and values of Attention")
    if (lengths := op.input(6)) is not None:
        yield from _same(lengths.shape, q[:1], "nonpad_kv_seqlen of Attention")
    if len(q) == 4:
        yield from _equal(q[-1], k[-1], "the head sizes of Attention")
        yield from _equal(k[1], v[1], "the heads of Attention")
    else:
        heads, shared = op.attr("q_num_heads", 1), op.attr("kv_num_heads", 1)
        yield from _equal(q[-1] * shared, k[-1] * heads, "the head sizes of Attention")
    yield from _past_of_attention(op)


def _past_of_attention(op: OpView) -> Iterator[_Rule]:
    """Past keys and values [batch, heads, length, head size] stand before the new ones."""
    lengths = []
    for new, past in ((op.required(1), op.input(4)), (op.required(2), op.input(5))):
        if past is not None:
            heads = new.shape[1] if new.rank == 4 else op.attr("kv_num_heads", 1)
            batch, its_heads, length, size = past.shape
            lengths.append(length)
            yield from _equal(batch, new.shape[0], "the batch of Attention's past")
            yield from _equal(its_heads, heads, "the heads of Attention's past")
            each = size if new.rank == 4 else size * heads
            yield from _equal(each, new.shape[-1], "the head sizes of Attention's past")
    if len(lengths) == 2:
        yield from _equal(lengths[0], lengths[1], "past keys and values of Attention")


def _expanded(op: OpView) -> Iterator[_Rule]:
    """A view needs no memory, but whatever reads it would be busy for years."""
    result = op.outputs[0]
    message = f"Expand gives {result.nbytes} bytes, this machine has {memory_bytes()}"
    yield sympy.Max(result.nbytes - memory_bytes(), 0), message


def _grid_sample(op: OpView) -> Iterator[_Rule]:
    yield from _equal(op.required(0).shape[0], op.required(1).shape[0], "the batch of GridSample")


def _elements(op: OpView) -> Iterator[_Rule]:
    x, indices = op.required(0).shape, op.required(1).shape
    axis = op.attr("axis", 0) % len(x)
    for k, (size, whole) in enumerate(zip(indices, x, strict=True)):
        if k != axis:
            yield from _no_more(size, whole, f"indices of {op.type}")
    if op.type == "ScatterElements":
        yield from _same(op.required(2).shape, indices, "updates of ScatterElements")


def _scatter_nd(op: OpView) -> Iterator[_Rule]:
    x, indices = op.required(0).shape, op.required(1).shape
    depth = indices[-1]
    if isinstance(depth, int):
        yield from _no_more(depth, len(x), "indices of ScatterND")
        wanted = (*indices[:-1], *x[depth:])
        yield from _same(op.required(2).shape, wanted, "updates of ScatterND")


def _gather_nd(op: OpView) -> Iterator[_Rule]:
    count = op.attr("batch_dims", 0)
    x, indices = op.required(0).shape, op.required(1).shape
    yield from _same(indices[:count], x[:count], "the batch of GatherND")


def _one_hot(op: OpView) -> Iterator[_Rule]:
    yield from _same(op.required(2).shape, (2,), "the values of OneHot")


def _tensor_scatter(op: OpView) -> Iterator[_Rule]:
    cache, update = op.required(0).shape, op.required(1).shape
    axis = op.attr("axis", -2) % len(cache)
    if axis == 0:
        yield 1, "TensorScatter: axis 0 is the batch"
    rest = (update[:axis], update[axis + 1 :])
    yield from _same(sum(rest, ()), (*cache[:axis], *cache[axis + 1 :]), "TensorScatter")
    yield from _no_more(update[axis], cache[axis], "the update of TensorScatter")
    if (indices := op.input(2)) is not None:
        yield from _same(indices.shape, cache[:1], "indices of TensorScatter")


def _regions(op: OpView) -> Iterator[_Rule]:
    rois = op.required(1).shape
    yield from _equal(rois[-1], 4 if op.type == "RoiAlign" else 5, "numbers of a region")
    if op.type == "RoiAlign":
        yield from _same(op.required(2).shape, rois[:1], "batch indices of RoiAlign")


def _slice(op: OpView) -> Iterator[_Rule]:
    for value in op.inputs[2:]:
        if value is not None:
            yield from _same(value.shape, op.required(1).shape, "parameters of Slice")


def _pad(op: OpView) -> Iterator[_Rule]:
    axes = op.input(3)
    count = len(op.required(0).shape) if axes is None else product(axes.shape)
    yield from _same(op.required(1).shape, (2 * count,), "the amounts of Pad")


def _unpool(op: OpView) -> Iterator[_Rule]:
    yield from _same(op.required(1).shape, op.required(0).shape, "indices of MaxUnpool")


def _matrices(op: OpView) -> Iterator[_Rule]:
    """Trilu, Det and EyeLike work on the last two axes."""
    shape = op.required(0).shape
    if len(shape) < 2:
        yield 1, f"{op.type} takes matrices, not rank {len(shape)}"
    elif op.type == "Det":
        yield from _equal(shape[-1], shape[-2], "the sides of a matrix")
    if op.type == "Trilu" and (k := op.input(1)) is not None:
        yield from _equal(product(k.shape), 1, "elements of the diagonal of Trilu")


def _caches(op: OpView) -> Iterator[_Rule]:
    yield from _same(op.required(1).shape, op.required(2).shape, "caches of RotaryEmbedding")


def _stft(op: OpView) -> Iterator[_Rule]:
    length, window = op.input(3), op.input(2)
    if window is not None and length is not None and length.known is not None:
        yield from _same(window.shape, tuple(length.known[:1]), "the window of STFT")


def _trees(op: OpView) -> Iterator[_Rule]:
    yield from _no_more(features(op), op.required(0).shape[1], "the features that trees look at")


_RULES: dict[str, Callable[[OpView], Iterator[_Rule]]] = {
    "TreeEnsemble": _trees,
    "TreeEnsembleRegressor": _trees,
    "MatMul": _product(0, 1),
    "MatMulInteger": _product(0, 1),
    "QLinearMatMul": _product(0, 3),
    "Gemm": _gemm,
    "Linear": _linear,
    "Conv": _convolution(0, 1, 2),
    "ConvBiasAct": _convolution(0, 1, 2),
    "Bottleneck": _bottleneck,
    "ConvTranspose": _convolution(0, 1, 2),
    "ConvInteger": _convolution(0, 1, 99),
    "QLinearConv": _convolution(0, 3, 8),
    "DeformConv": _deform,
    "BatchNormalization": _per_channel(1, 2, 3, 4),
    "InstanceNormalization": _per_channel(1, 2),
    "GroupNorm": _per_channel(1, 2),
    "Concat": _concat,
    "Expand": _expanded,
    "Attention": _attention,
    "GridSample": _grid_sample,
    "GatherElements": _elements,
    "ScatterElements": _elements,
    "ScatterND": _scatter_nd,
    "GatherND": _gather_nd,
    "OneHot": _one_hot,
    "TensorScatter": _tensor_scatter,
    "RoiAlign": _regions,
    "MaxRoiPool": _regions,
    "MaxUnpool": _unpool,
    "Slice": _slice,
    "Pad": _pad,
    "RotaryEmbedding": _caches,
    "Trilu": _matrices,
    "Det": _matrices,
    "EyeLike": _matrices,
    "STFT": _stft,
}
