"""Compute in bfloat16 what the backend has kernels for that gain by it.

The pass begins at nodes whose kernel says that it gains (products, attention) and takes in what
only moves or normalises their values. Such a node reads and writes bfloat16 and adds up in float32;
constants are rounded once, at compile time. Everything else stays float32: elementwise operators
(whose kernels convert on the way, see `fuse_pointwise`), softmax, positions, whatever the backend
has no row for. Which nodes those are is not listed here: `ask` asks the backend's own rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
import onnx_ir as ir

from zenith.ir import DOMAIN, GraphIR
from zenith.passes.rewrite import Array, Rewriter, array, const_shape, is_op, sole_user

__all__ = ["GAINS", "LowerPrecision"]

GAINS = "bf16"  # the tag of a kernel row that is worth a conversion of its operands
Ask = Callable[[ir.Node], frozenset[str] | None]

_WIDE, _LOW = ir.DataType.FLOAT, ir.DataType.BFLOAT16
_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


@dataclass(frozen=True)
class LowerPrecision:
    """ask: the tags of the kernel that takes a node (which need not be in the graph), None when no
    kernel does. Without it, as in ``precision="fp32"``, the pass does nothing."""

    name: ClassVar[str] = "lower_precision"
    ask: Ask | None = None

    def run(self, graph: GraphIR) -> int:
        return 0 if self.ask is None else _Lowering(graph, self.ask).run()


@dataclass(frozen=True)
class _Places:
    """Which inputs and outputs of a node change their type."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


class _Lowering:
    def __init__(self, graph: GraphIR, ask: Ask) -> None:
        self._graph = graph
        self._ask = ask
        self._rewriter = Rewriter(graph)
        self._low: dict[ir.Value, ir.Value] = {}  # by float32 value: the same in bfloat16

    def run(self) -> int:
        able: dict[ir.Node, _Places] = {}
        chosen: set[ir.Node] = set()
        for node in self._graph.nodes:
            places = _places(node)
            if places is None or self._ask(node) is None:
                continue
            tags = self._ask(self._lowered(node, places, _pretended))
            if tags is not None:
                able[node] = places
                if GAINS in tags:
                    chosen.add(node)
        _spread(able, chosen)
        rewritten = [self._lower(n, p) for n, p in able.items() if n in chosen]
        for node in rewritten:
            self._end_in_float32(node)
        return len(rewritten)

    def _lowered(
        self, node: ir.Node, places: _Places, low: Callable[[ir.Value], ir.Value]
    ) -> ir.Node:
        """`node` in bfloat16, of the inputs that `low` makes."""
        inputs = [
            low(v) if v is not None and i in places.inputs else v for i, v in enumerate(node.inputs)
        ]
        new = ir.Node(
            node.domain,
            node.op_type,
            inputs,
            list(node.attributes.values()),
            overload=node.overload,
            num_outputs=len(node.outputs),
            name=node.name,
        )
        for i, (old, out) in enumerate(zip(node.outputs, new.outputs, strict=True)):
            out.type = ir.TensorType(_LOW) if i in places.outputs else old.type
            out.shape = old.shape
            if not old.name:
                out.name = ""
        return new

    def _lower(self, node: ir.Node, places: _Places) -> ir.Node:
        casts: list[ir.Node] = []
        new = self._lowered(node, places, lambda value: self._down(value, casts))
        values: dict[ir.Value, ir.Value] = {}
        back: list[ir.Node] = []
        for i, (old, out) in enumerate(zip(node.outputs, new.outputs, strict=True)):
            if i not in places.outputs or not _used(old):
                if old.name:
                    values[old] = out
                continue
            back.append(_cast(out, _WIDE))
            values[old] = back[-1].outputs[0]
            self._low[values[old]] = out
        self._rewriter.replace([node], values, [*casts, new, *back])
        return new

    def _down(self, value: ir.Value, casts: list[ir.Node]) -> ir.Value:
        """`value` in bfloat16: what was computed so, a constant rounded now, or a new Cast."""
        found = self._low.get(value)
        if found is not None:
            return found
        shape = const_shape(value)
        if shape is None:
            casts.append(_cast(value, _LOW))
            low = casts[-1].outputs[0]
        else:

            def rounded() -> Array:
                data = array(value)
                assert data is not None
                return data.astype(_LOW.numpy())

            low = self._rewriter.lazy(rounded, _LOW, shape, f"{value.name}_bf16")
        self._low[value] = low
        return low

    def _end_in_float32(self, node: ir.Node) -> None:
        """Drop conversions of the results that nobody reads; a Linear whose result is only read in
        float32 gives it without rounding."""
        self._rewriter.remove_dead([use.node for out in node.outputs for use in out.uses()])
        cast = sole_user(node.outputs[0])
        if cast is None or node.domain != DOMAIN or node.op_type != "Linear":
            return
        if not is_op(cast, "Cast") or cast.outputs[0].dtype != _WIDE:
            return
        overload = f"{node.overload}.float32".lstrip(".")
        new = self._rewriter.fused("Linear", overload, list(node.inputs))
        new.name = node.name
        new.outputs[0].type, new.outputs[0].shape = cast.outputs[0].type, cast.outputs[0].shape
        if self._ask(new) is None:
            for index in range(len(new.inputs)):
                new.replace_input_with(index, None)
            return
        self._rewriter.replace([node, cast], {cast.outputs[0]: new.outputs[0]}, [new])


def _spread(able: dict[ir.Node, _Places], chosen: set[ir.Node]) -> None:
    """Take in nodes between chosen ones: all that read a result are chosen, or some that do and
    some that make an operand are."""
    changed = True
    while changed:
        changed = False
        for node in reversed(list(able)):
            if node in chosen:
                continue
            users = [use.node for i in able[node].outputs for use in node.outputs[i].uses()]
            readers = [user in chosen for user in users]
            makers = [
                (v := node.inputs[i]) is not None and v.producer() in chosen
                for i in able[node].inputs
            ]
            kept = any(node.outputs[i].is_graph_output() for i in able[node].outputs)
            if any(readers) and (any(makers) or (all(readers) and not kept)):
                chosen.add(node)
                changed = True


def _places(node: ir.Node) -> _Places | None:
    """The float32 inputs and outputs of a node that share their type, None without any.

    By the operator's schema; a fused operator's values all have one type. The first input counts
    as sharing it: the result of RMSNormalization has the type of the scale. A node with a used
    float32 result of another type (the mean of a normalisation) is left alone.
    """
    if is_op(node, "Cast", "CastLike") or any(a.type in _GRAPHS for a in node.attributes.values()):
        return None
    of_inputs, of_outputs = _type_variables(node)
    wide = [i for i, v in enumerate(node.outputs) if v.dtype == _WIDE and v.name]
    inputs = tuple(
        i
        for i, v in enumerate(node.inputs)
        if v is not None and v.dtype == _WIDE and (i == 0 or of_inputs[i] in of_outputs)
    )
    operands = {of_inputs[i] for i in inputs}
    outputs = tuple(i for i in wide if of_outputs[i] in operands)
    if not outputs or any(_used(node.outputs[i]) for i in wide if i not in outputs):
        return None
    return _Places(inputs, outputs)


def _type_variables(node: ir.Node) -> tuple[list[str], list[str]]:
    """The type variables of the inputs, one each, and of the outputs and those left out; a fused
    operator has one for all."""
    if node.domain not in ("", "ai.onnx"):
        return ["T"] * len(node.inputs), ["T"] * len(node.outputs)
    schema = onnx.defs.get_schema(node.op_type)

    def each(parameters: Sequence[onnx.defs.OpSchema.FormalParameter], count: int) -> list[str]:
        names = [p.type_str for p in parameters]
        return [*names, *names[-1:] * (count - len(names))]  # the last one may repeat

    return each(schema.inputs, len(node.inputs)), each(schema.outputs, len(node.outputs))


def _used(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


def _pretended(value: ir.Value) -> ir.Value:
    """`value` as bfloat16, to ask about; a constant without its numbers, which no row looks at."""
    shape = const_shape(value)
    low = ir.Value(name=value.name, type=ir.TensorType(_LOW), shape=value.shape)
    if shape is not None:
        low.const_value = ir.Tensor(np.broadcast_to(np.zeros((), _LOW.numpy()), shape))
    return low


def _cast(value: ir.Value, to: ir.DataType) -> ir.Node:
    node = ir.node("Cast", [value], {"to": int(to)})
    node.outputs[0].type = ir.TensorType(to)
    node.outputs[0].shape = value.shape
    return node
