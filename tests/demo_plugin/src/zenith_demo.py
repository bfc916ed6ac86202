"""A whole backend for Zenith: some operators, by numpy. `zenith.compile(model, target="demo")`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from zenith.hookspecs import hookimpl
from zenith.runtime.backend import CallableBackend
from zenith.runtime.kernel_registry import KernelRegistry, KernelSpec
from zenith.runtime.op_view import OpView

ZENITH_API_VERSION = 1
FLOATS = frozenset({"float32", "float64"})
Arrays = Sequence[Any]


class DemoBackend(CallableBackend):
    """The name is what `target=` says. A device that may be missing would define `probe`."""

    name = "demo"


def elementwise(function: Callable[..., Any]) -> Callable[[OpView, Arrays], list[Any]]:
    return lambda op, inputs: [np.asarray(function(*inputs))]


def transpose(op: OpView, inputs: Arrays) -> list[Any]:
    return [np.array(np.transpose(inputs[0], op.attr("perm")), order="C")]


def softmax(op: OpView, inputs: Arrays) -> list[Any]:
    x, axis = inputs[0], op.attr("axis", -1)
    powers = np.exp(x - x.max(axis, keepdims=True, initial=-np.inf))
    return [powers / powers.sum(axis, keepdims=True)]


def no_vectors(op: OpView) -> str | None:
    ranks = [value.rank for value in op.inputs if value is not None]
    return "a vector has no kernel, only matrices" if min(ranks) < 2 else None


def floats(name: str, op: str, run: Callable[..., Any], **more: Any) -> KernelSpec:
    return KernelSpec(name, f"ai.onnx:{op}", run, dtypes={0: FLOATS}, **more)


KERNELS = (
    floats("add", "Add", elementwise(np.add)),
    floats("mul", "Mul", elementwise(np.multiply)),
    floats("relu", "Relu", elementwise(lambda x: np.maximum(x, x.dtype.type(0)))),
    floats("tanh", "Tanh", elementwise(np.tanh)),
    floats("matmul", "MatMul", elementwise(np.matmul), supports=no_vectors),
    floats("softmax", "Softmax", softmax),
    KernelSpec("transpose", "ai.onnx:Transpose", transpose),
)


@hookimpl
def zenith_register_backends() -> list[DemoBackend]:
    return [DemoBackend()]


@hookimpl
def zenith_register_kernels(registry: KernelRegistry) -> None:
    registry.add("demo", *KERNELS)
