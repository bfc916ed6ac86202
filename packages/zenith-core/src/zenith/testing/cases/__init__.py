"""The cases: single-operator models with inputs, and what they must give.

A module of this package is one family and has ``cases() -> Iterator[Case]``; to add cases for an
operator, add calls of `make` there. `official` adds the node tests of the onnx package.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from zenith.ir import OPSET
from zenith.runtime.numpy_signature import numpy_dtype

__all__ = ["FLOATS", "INTS", "Case", "all_cases", "array", "make", "random"]

FLOATS = ("float32", "float16", "float64", "bfloat16")
INTS = ("int32", "int64", "int8", "uint8")
_NARROW = ("float16", "bfloat16")


@dataclass(frozen=True)
class Case:
    """One operator, one set of inputs.

    name: "<Op>/<dtype>/<what is special>"; unique.
    op: the key of the operator, as in `KernelSpec.op`.
    overload: of a zenith operator.
    model: a serialized ModelProto at GraphIR's opset, one node.
    inputs: in the graph's order; a sequence type is a list.
    expected: results; None means: ask the reference evaluator, in float64.
    oracle: what to ask it with instead of `model`, for dtypes it computes too coarsely.
    repeatable: False for operators whose results are random.
    tolerance: of the expected results themselves, where they are rounded.
    """

    name: str
    op: str
    dtype: str
    model: bytes
    inputs: tuple[Any, ...]
    expected: tuple[Any, ...] | None = None
    oracle: bytes | None = None
    overload: str = ""
    repeatable: bool = True
    tolerance: float = 0.0

    @property
    def nbytes(self) -> int:
        return sum(getattr(value, "nbytes", 0) for value in self.inputs)


def random(
    shape: Sequence[int],
    dtype: str = "float32",
    low: float = -2.0,
    high: float = 2.0,
    seed: int = 0,
) -> np.ndarray[Any, Any]:
    """Uniform values of any dtype; the same for the same arguments."""
    rng = np.random.default_rng([seed, *shape])
    if dtype == "bool":
        return np.asarray(rng.random(tuple(shape)) < 0.5)
    kind = numpy_dtype(dtype)
    if kind.kind in "iu":
        low = max(low, 0) if kind.kind == "u" else low
        return np.asarray(rng.integers(int(low), int(high) + 1, tuple(shape)), kind)
    return np.asarray(rng.uniform(low, high, tuple(shape))).astype(kind)


def array(values: Any, dtype: str = "int64") -> np.ndarray[Any, Any]:
    return np.asarray(values, numpy_dtype(dtype))


def make(
    op: str,
    what: str,
    inputs: Sequence[np.ndarray[Any, Any] | None],
    *,
    constants: Collection[int] = (),
    outputs: int = 1,
    expected: Sequence[Any] | None = None,
    function: ir.Function | None = None,
    repeatable: bool = True,
    **attributes: Any,
) -> Case:
    """A case of standard operator `op`, or of the fused one that `function` declares.

    what: what is special about it. inputs: None is a missing optional one.
    constants: positions whose value the model holds. expected: of numpy, else the reference's.
    """
    given = [x for x in inputs if x is not None]
    dtype = given[0].dtype.name if given else "none"
    domain, overload = (function.domain, function.overload) if function else ("", "")
    build = functools.partial(_model, op, function, constants, outputs, attributes)
    wide = None
    if expected is None and any(x.dtype.name in _NARROW for x in given):
        wide = build(
            [
                x.astype(np.float32) if x is not None and x.dtype.name in _NARROW else x
                for x in inputs
            ]
        )
    return Case(
        f"{op}/{dtype}/{what}",
        f"{domain or 'ai.onnx'}:{op}",
        dtype,
        build(inputs),
        tuple(x for i, x in enumerate(inputs) if x is not None and i not in constants),
        None if expected is None else tuple(expected),
        wide,
        overload,
        repeatable,
    )


def _model(
    op: str,
    function: ir.Function | None,
    constants: Collection[int],
    outputs: int,
    attributes: dict[str, Any],
    inputs: Sequence[np.ndarray[Any, Any] | None],
) -> bytes:
    names = ["" if x is None else f"x{i}" for i, x in enumerate(inputs)]
    results = [f"y{i}" for i in range(outputs)]
    node = onnx.helper.make_node(op, names, results, "node", **attributes)
    feeds, weights = [], []
    for i, (name, x) in enumerate(zip(names, inputs, strict=True)):
        if x is None:
            continue
        tensor = ir.Tensor(x, name=name)
        if i in constants:
            weights.append(ir.to_proto(tensor))
        else:
            feeds.append(onnx.helper.make_tensor_value_info(name, int(tensor.dtype), x.shape))
    graph = onnx.helper.make_graph(
        [node], op, feeds, [onnx.ValueInfoProto(name=r) for r in results], weights
    )
    imports = [onnx.helper.make_opsetid("", OPSET)]
    model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)
    if function is not None:
        node, meaning = model.graph.node[0], ir.to_proto(function)
        node.domain, node.overload = meaning.domain, meaning.overload
        model.opset_import.append(onnx.helper.make_opsetid(meaning.domain, 1))
        model.functions.append(meaning)
    return bytes(model.SerializeToString())


def all_cases(ops: Collection[str] | None = None) -> Iterator[Case]:
    """Every case whose operator is among `ops` (None: all), ours first."""
    seen: set[str] = set()
    for case in _each(ops):
        if ops is None or case.op in ops:
            assert case.name not in seen, case.name
            seen.add(case.name)
            yield case


def _each(ops: Collection[str] | None) -> Iterator[Case]:
    from zenith.testing.cases import official

    for module in sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "official"):
        yield from importlib.import_module(f"{__name__}.{module}").cases()
    yield from official.cases(ops)
