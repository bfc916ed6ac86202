"""torch.cond, while_loop, scan and map: If, Loop and Scan.

Bodies read outer values by name, as ONNX has it: what PyTorch hands to a body besides the values
that change stands for the outer value itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
import torch

from zenith.ir.builder import Formal
from zenith.ir.dims import Dim
from zenith_torch.builder import Builder, NotSupportedError

if TYPE_CHECKING:
    from zenith_torch.lowering import Lowering

__all__ = ["CONTROL"]

INT64, BOOL = ir.DataType.INT64, ir.DataType.BOOL


def _facts(lowering: Lowering, tensors: Sequence[Any]) -> Formal:
    """Types and shapes of results, by the capture."""
    if not all(isinstance(t, torch.Tensor) and not t.is_complex() for t in tensors):
        raise NotSupportedError("results that are numbers or complex")
    kind = lowering.builder.onnx_type
    return [(kind(t.dtype), lowering.symbols.shape(t.shape)) for t in tensors]


def _inline(lowering: Lowering, body: torch.fx.GraphModule, operands: Sequence[Any]) -> list[Any]:
    """The body's nodes, written here."""
    builder = lowering.builder
    places = [node for node in body.graph.nodes if node.op == "placeholder"]
    results = lowering.lower_nodes(body.graph, dict(zip(places, operands, strict=True)))
    leaves = results if isinstance(results, (list, tuple)) else [results]
    dtypes = [v.dtype if isinstance(v, ir.Value) else INT64 for v in leaves]
    return [builder.operand(v, d) for v, d in zip(leaves, dtypes, strict=True)]


def _tensors(operands: Sequence[Any]) -> list[ir.Value]:
    if not all(isinstance(operand, ir.Value) for operand in operands):
        raise NotSupportedError("values from turn to turn that are numbers or complex")
    return list(operands)


def _of(values: Sequence[ir.Value], builder: Builder) -> Formal:
    return [(v.dtype or INT64, builder.shape_of(v)) for v in values]


def _cond(lowering: Lowering, results: Sequence[Any], *args: Any) -> list[ir.Value]:
    which, yes, no, operands = args
    if isinstance(which, bool):
        return _inline(lowering, yes if which else no, operands)
    if not isinstance(which, ir.Value):
        raise NotSupportedError("a choice by sizes")
    builder = lowering.builder
    which = builder.reshape(builder.cast(which, BOOL), ())

    def branch(body: Any) -> ir.Graph:
        return builder.body("branch", [], lambda _: _inline(lowering, body, operands))

    facts = _facts(lowering, results)
    return builder.ops("If", which, results=facts, then_branch=branch(yes), else_branch=branch(no))


def _while(lowering: Lowering, results: Sequence[Any], *args: Any) -> list[ir.Value]:
    goes_on, step, carried, others = args
    builder = lowering.builder
    state = _tensors(carried)

    def again(values: Sequence[ir.Value]) -> ir.Value:
        found = _inline(lowering, goes_on, [*values, *others])[0]
        return builder.reshape(builder.cast(found, BOOL), ())

    def write(inputs: list[ir.Value]) -> list[ir.Value]:
        new = _inline(lowering, step, [*inputs[2:], *others])
        return [again(new), *new]

    formal = [(INT64, ()), (BOOL, ()), *_of(state, builder)]
    body = builder.body("while_body", formal, write)
    facts = _facts(lowering, results)
    return builder.ops("Loop", None, again(state), *state, results=facts, body=body)


def _scan(lowering: Lowering, results: Sequence[Any], *args: Any) -> list[ir.Value]:
    step, carried, scanned, *others = args
    return _over(lowering, results, step, carried, scanned, others[0] if others else [])


def _map(lowering: Lowering, results: Sequence[Any], *args: Any) -> list[ir.Value]:
    body, scanned, others = args
    return _over(lowering, results, body, [], scanned, others)


def _over(
    lowering: Lowering,
    results: Sequence[Any],
    step: torch.fx.GraphModule,
    carried: Sequence[Any],
    scanned: Sequence[Any],
    others: Sequence[Any],
) -> list[ir.Value]:
    builder = lowering.builder
    state, rows = _tensors(carried), _tensors(scanned)
    each: list[tuple[ir.DataType, tuple[Dim, ...]]] = [
        (kind, shape[1:]) for kind, shape in _of(rows, builder)
    ]
    body = builder.body(
        "scan_body",
        [*_of(state, builder), *each],
        lambda inputs: _inline(lowering, step, [*inputs, *others]),
    )
    facts = _facts(lowering, results)
    return builder.ops("Scan", *state, *rows, results=facts, body=body, num_scan_inputs=len(rows))


def _nested(lowering: Lowering, results: Sequence[Any], *args: Any) -> list[ir.Value]:
    """A region that is compiled once and used several times: in place, each time."""
    body, _, *operands = args
    return _inline(lowering, body, operands)


# By the operator's name: (lowering, what the capture says of the results, the arguments).
CONTROL: Mapping[str, Callable[..., list[ir.Value]]] = {
    "cond": _cond,
    "while_loop": _while,
    "scan": _scan,
    "map_impl": _map,
    "invoke_subgraph": _nested,
}
