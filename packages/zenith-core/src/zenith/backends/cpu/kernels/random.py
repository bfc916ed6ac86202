"""Random numbers: RandomUniform, RandomNormal and their Like forms, Bernoulli, Multinomial and
Dropout in training (a `seed` makes every run the same; without one every run differs), and the
counter-based bits that frameworks with keys of their own use."""

from __future__ import annotations

import os
import struct

from zenith.backends.cpu.emit import Emit
from zenith.backends.cpu.kernels.views import ANY, unbound
from zenith.backends.cpu.operand import Operand
from zenith.runtime.kernel_registry import KernelSpec
from zenith.runtime.op_view import OpView, ValueView

__all__ = ["SPECS"]

FLOATS = frozenset({"float32", "float64", "float16", "bfloat16"})


def _seed(op: OpView) -> dict[str, int]:
    """The stream of a node: that of its seed, or one of its own."""
    given = op.attr("seed")
    if given is None:
        return {"seed": int.from_bytes(os.urandom(8), "little", signed=True), "fresh": 1}
    return {"seed": int.from_bytes(struct.pack("<d", given), "little", signed=True), "fresh": 0}


def _emit_random(e: Emit) -> None:
    op = e.op
    if "Uniform" in op.type:
        kind, a, b = 0, op.attr("low", 0.0), op.attr("high", 1.0)
    else:
        kind, a, b = 1, op.attr("mean", 0.0), op.attr("scale", 1.0)
    e.step("random", [], [e.output(0)], kind=kind, a=float(a), b=float(b), **_seed(op))


def _supports_random(op: OpView) -> str | None:
    dtype = op.outputs[0].dtype
    return unbound(op) if dtype in FLOATS else f"output is {dtype}"


def _emit_bernoulli(e: Emit) -> None:
    e.step("bernoulli", [e.dense(0)], [e.output(0)], **_seed(e.op))


def _supports_bernoulli(op: OpView) -> str | None:
    dtype = op.outputs[0].dtype
    return None if dtype in ANY else f"output is {dtype}"


def _emit_multinomial(e: Emit) -> None:
    e.step("multinomial", [e.dense(0)], [e.output(0)], **_seed(e.op))


def _supports_dropout(op: OpView) -> str | None:
    if op.attr("seed") is not None:
        return "a seed names the numbers of the reference's generator"
    return None if op.input(2) is not None else "not in training mode"


def _emit_dropout(e: Emit) -> None:
    ratio = e.operand(1) if e.op.input(1) is not None else None
    outputs = [e.output(index) for index in range(len(e.op.outputs))]
    e.step("dropout", [e.dense(0), ratio, e.operand(2)], outputs, **_seed(e.op))


def _emit_threefry(e: Emit) -> None:
    counters = [e.dense(2), e.dense(3)]
    keys = [e.dense(i) if _is_one(e.op.inputs[i]) else _spread(e, i) for i in (0, 1)]
    e.step("threefry", [*keys, *counters], [e.output(0), e.output(1)])


def _spread(e: Emit, index: int) -> Operand:
    """The input with an element for every one of the output, row-major."""
    shape = e.op.outputs[0].shape
    given = e.operand(index)
    assert given is not None
    given = given.expand(shape)
    if given.is_dense():
        return given
    spread = e.temp(given.dtype, shape)
    e.copy(given, spread)
    return spread


def _is_one(value: ValueView | None) -> bool:
    return value is not None and value.size == 1


def _supports_threefry(op: OpView) -> str | None:
    shape = op.outputs[0].shape
    same = all(v is not None and v.shape == shape for v in op.inputs[2:])
    return None if same else "the counters' shape is not that of the result"


SPECS = [
    *(
        KernelSpec(name.lower(), f"ai.onnx:{name}", _emit_random, supports=_supports_random)
        for name in ("RandomUniform", "RandomNormal", "RandomUniformLike", "RandomNormalLike")
    ),
    KernelSpec("bernoulli", "ai.onnx:Bernoulli", _emit_bernoulli, dtypes={0: FLOATS},
               supports=_supports_bernoulli),
    KernelSpec("multinomial", "ai.onnx:Multinomial", _emit_multinomial, dtypes={0: FLOATS}),
    KernelSpec("dropout_training", "ai.onnx:Dropout", _emit_dropout, dtypes={0: FLOATS},
               supports=_supports_dropout),
    KernelSpec("threefry", "zenith:ThreeFry2x32", _emit_threefry, supports=_supports_threefry),
]  # fmt: skip
