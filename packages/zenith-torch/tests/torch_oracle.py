"""Runs an imported model on the ONNX reference evaluator and compares it with PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from torch.utils import _pytree as pytree

from zenith.runtime.adapter import split_sample
from zenith_torch.adapter import _device_of, import_captured
from zenith_torch.capture import capture

__all__ = ["Cases", "Program", "assert_same", "check", "check_cases", "import_raw"]


class GatherElements(OpRun):  # type: ignore[misc]
    """The evaluator's own goes wrong where the gathered axis is long."""

    def _run(self, x: Any, indices: Any, axis: int = 0) -> tuple[Any]:
        where = list(np.indices(indices.shape, sparse=True))
        where[axis] = indices
        return (x[tuple(where)],)


class Swish(OpRun):  # type: ignore[misc]
    """Keeps the input's type."""

    def _run(self, x: Any, alpha: float = 1.0) -> tuple[Any]:
        return ((x / (1 + np.exp(-alpha * x))).astype(x.dtype),)


@dataclass
class Program:
    """An imported model and an evaluator of it."""

    model: ir.Model
    signature: Any
    ranges: dict[str, tuple[int, int | None]]
    evaluator: ReferenceEvaluator

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        signature = self.signature
        tensors = signature.flatten(args, kwargs)
        feeds = {
            name: signature.to_numpy(tensor)
            for name, tensor in zip(signature.input_names, tensors, strict=True)
        }
        with np.errstate(all="ignore"):  # numpy warns of infinities that the model masks
            outputs = self.evaluator.run(None, feeds)
        return signature.unflatten([signature.from_numpy(np.array(o)) for o in outputs])

    def ops(self) -> list[str]:
        """Operator names in order."""
        return [node.op_type for node in self.model.graph]


def import_raw(
    model: Any, sample: Any, dynamic: Mapping[str | int, Any] | None = None, strict: bool = True
) -> Program:
    """Import without the engine; the ONNX checker and shape inference must agree with us."""
    captured = capture(model, sample, dynamic)
    imported = import_captured(captured, _device_of(model))
    graph = imported.graph.model
    proto = ir.to_proto(graph)
    onnx.checker.check_model(proto)
    if strict:
        onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    evaluator = ReferenceEvaluator(proto, new_ops=[GatherElements, Swish])
    return Program(graph, imported.signature, imported.ranges, evaluator)


def assert_same(got: Any, want: Any, tolerance: float = 1e-5) -> None:
    """Same structure, types, shapes and, within the tolerance, values."""
    got_leaves, got_spec = pytree.tree_flatten(got)
    want_leaves, want_spec = pytree.tree_flatten(want)
    assert type(got) is type(want)
    assert len(got_leaves) == len(want_leaves), (got_spec, want_spec)
    for g, w in zip(got_leaves, want_leaves, strict=True):
        if not isinstance(w, torch.Tensor):
            assert g == w
            continue
        assert g.dtype == w.dtype and g.shape == w.shape, (g.dtype, g.shape, w.dtype, w.shape)
        torch.testing.assert_close(g, w, rtol=tolerance, atol=tolerance, equal_nan=True)


def check(
    model: Any,
    sample: Any,
    dynamic: Mapping[str | int, Any] | None = None,
    others: Sequence[Any] = (),
    tolerance: float = 1e-5,
    strict: bool = True,
) -> Program:
    """Import on `sample`, then compare with the model on it and on `others`."""
    program = import_raw(model, sample, dynamic, strict)
    for case in (sample, *others):
        call = split_sample(case)
        assert call is not None
        args, kwargs = call
        with torch.no_grad():
            want = model(*args, **kwargs)
        assert_same(program(*args, **kwargs), want, tolerance)
    return program


class Cases(torch.nn.Module):
    """Many small functions of the same inputs as one model: one capture for all."""

    def __init__(self, **cases: Any) -> None:
        super().__init__()
        self.cases = cases
        for name, case in cases.items():
            if isinstance(case, torch.nn.Module):
                self.add_module(f"layer_{name}", case)
        self.eval()

    def forward(self, *inputs: torch.Tensor) -> dict[str, Any]:
        return {name: case(*inputs) for name, case in self.cases.items()}


def check_cases(
    sample: tuple[Any, ...],
    dynamic: Mapping[str | int, Any] | None = None,
    others: Sequence[tuple[Any, ...]] = (),
    tolerance: float = 1e-5,
    strict: bool = True,
    **cases: Any,
) -> Program:
    """`check` of `Cases`; the name of a case that differs is in the message."""
    model = Cases(**cases)
    program = import_raw(model, sample, dynamic, strict)
    for inputs in (sample, *others):
        with torch.no_grad():
            want = model(*inputs)
        got = program(*inputs)
        for name in cases:
            try:
                assert_same(got[name], want[name], tolerance)
            except AssertionError as error:
                raise AssertionError(f"case {name}: {error}") from error
    return program
