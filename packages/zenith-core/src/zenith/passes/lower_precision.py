"""Compute in bfloat16 what the backend has kernels for that gain by it.

The pass begins at nodes whose kernel says that it gains (products, attention) and takes in what
only moves or normalises their values. Such a node reads and writes bfloat16 and adds up in float32;
constants are rounded once, at compile time. Everything else stays float32: elementwise operators
(whose kernels convert on the way, see `fuse_pointwise`), softmax, whatever the backend
has no row for. Which nodes those are is not listed here: `ask` asks the backend's own rows.

No conversion stays where a neighbour can do it: a product of integers writes bfloat16 itself, one
of bfloat16 writes float32, and what rounds to 8 bits reads bfloat16 as it is.

Note [Beside integers]: in a model of 8-bit products (``precision="int8"``) the pass begins only
where a row says that it gains there (`KernelSpec.beside_int8`), and only at nodes all of whose
operands are results of such products, moved perhaps, that nobody else reads: sums of 8-bit numbers
are no finer than bfloat16, and no tensor is converted for it. Constants and what is read in float32
(a cache of keys) stay as they are; but what moves an operand may convert others of a lower rank, or
constant ones (angles of a rotary embedding).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
import onnx_ir as ir

from zenith import ops
from zenith.ir import DOMAIN, GraphIR
from zenith.ops import linear, quantized
from zenith.passes.quantized import BYTES
from zenith.passes.rewrite import (
    FLOAT_KEY,
    Array,
    Rewriter,
    array,
    const_shape,
    is_op,
    produced_by,
    rank,
    sole_user,
)

__all__ = ["GAINS", "LowerPrecision"]

GAINS = "bf16"  # the tag of a kernel row that is worth a conversion of its operands
Ask = Callable[[ir.Node], frozenset[str] | None]

_WIDE, _LOW = ir.DataType.FLOAT, ir.DataType.BFLOAT16
# The last step of a product whose result has the type, by operator.
_WRITES = {
    linear.NAME: {_WIDE: "float32"},
    quantized.LINEAR: {_LOW: "bfloat16"},
    quantized.CONV: {_LOW: "bfloat16"},
}
_BETWEEN = "between products of integers"
_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


@dataclass(frozen=True)
class LowerPrecision:
    """ask: the tags of the kernel that takes a node (which need not be in the graph), None when no
    kernel does. Without it, as in ``precision="fp32"``, the pass does nothing.
    beside_int8: in a model of 8-bit products, None where it pays to begin at a node that gains
    (given in bfloat16), else why not; see Note [Beside integers].
    """

    name: ClassVar[str] = "lower_precision"
    ask: Ask | None = None
    beside_int8: Callable[[ir.Node], str | None] | None = None

    def run(self, graph: GraphIR) -> int:
        return 0 if self.ask is None else _Lowering(graph, self.ask, self.beside_int8).run()


@dataclass(frozen=True)
class _Places:
    """Which inputs and outputs of a node change their type; no outputs: it ends in 8 bits."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


class _Lowering:
    def __init__(
        self, graph: GraphIR, ask: Ask, beside_int8: Callable[[ir.Node], str | None] | None
    ) -> None:
        self._graph = graph
        self._ask = ask
        self._beside_int8 = beside_int8
        self._rewriter = Rewriter(graph)
        self._low: dict[ir.Value, ir.Value] = {}  # by float32 value: the same in bfloat16

    def run(self) -> int:
        able: dict[ir.Node, _Places] = {}
        begins: set[ir.Node] = set()
        for node in self._graph.nodes:
            places = _places(node)
            if places is None or self._ask(node) is None:
                continue
            low = self._lowered(node, places, _pretended)
            tags = self._ask(low)
            gains = tags is not None and GAINS in tags
            against = self._beside_int8(low) if gains and self._beside_int8 is not None else None
            _forget(low)
            if tags is None:
                continue
            if against is not None:
                _stays(node, against)
                continue
            able[node] = places
            if gains:
                begins.add(node)
        beside = self._beside_int8 is not None
        chosen = self._among_integers(able, begins) if beside else _spread(able, begins)
        rewritten = [(self._lower(n, p), p) for n, p in able.items() if n in chosen]
        for node, _ in rewritten:
            self._rewriter.remove_dead([use.node for out in node.outputs for use in out.uses()])
            self._write(node, _WIDE)
        for value in self._low.values():
            cast = produced_by(value, "Cast")
            source = cast.inputs[0] if cast is not None else None
            producer = source.producer() if source is not None else None
            if producer is not None:
                self._write(producer, _LOW)
        return sum(bool(places.outputs) for _, places in rewritten)

    def _among_integers(self, able: dict[ir.Node, _Places], begins: set[ir.Node]) -> set[ir.Node]:
        """See Note [Beside integers]."""
        while True:
            chosen = _spread(able, begins)
            foreign = {
                node: value
                for node in able
                if node in chosen
                and (value := self._foreign(node, able[node], chosen, node in begins)) is not None
            }
            if not foreign:
                return chosen
            for node, value in foreign.items():
                del able[node]
                if node in begins:
                    begins.remove(node)
                    _stays(node, f"bfloat16 would have to be made of '{value.name}'")

    def _foreign(
        self, node: ir.Node, places: _Places, chosen: set[ir.Node], begins: bool
    ) -> ir.Value | None:
        """An operand that is neither bfloat16 by itself nor worth a conversion."""
        first = node.inputs[places.inputs[0]]
        for index in places.inputs:
            value = node.inputs[index]
            assert value is not None
            producer = value.producer()
            if producer in chosen or self._can_write(producer, value, chosen):
                continue
            moved = not begins and value is not first
            if not moved or (const_shape(value) is None and rank(value) == rank(first)):
                return value
        return None

    def _can_write(self, producer: ir.Node | None, value: ir.Value, chosen: set[ir.Node]) -> bool:
        """Whether the node that makes `value` writes bfloat16, and all that read it want that."""
        if producer is None or value.is_graph_output():
            return False
        if not all(use.node in chosen for use in value.uses()):
            return False
        new = self._writing(producer, _LOW)
        if new is not None:
            _forget(new)
        return new is not None

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
        for made in (*casts, new):
            if FLOAT_KEY in made.metadata_props:
                made.metadata_props[FLOAT_KEY] = _BETWEEN
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

    def _write(self, node: ir.Node, dtype: ir.DataType) -> None:
        """Let a product whose result is only converted to `dtype` give it without more roundings
        or steps."""
        cast = sole_user(node.outputs[0])
        if cast is None or not is_op(cast, "Cast") or cast.outputs[0].dtype != dtype:
            return
        new = self._writing(node, dtype)
        if new is None:
            return
        ops.ensure(self._graph.model, new.op_type, new.overload)
        self._rewriter.replace([node, cast], {cast.outputs[0]: new.outputs[0]}, [new])
        new.metadata_props.pop(FLOAT_KEY, None)  # of the conversion

    def _writing(self, node: ir.Node, dtype: ir.DataType) -> ir.Node | None:
        """`node` with a result of `dtype` instead of its own, if a kernel gives that."""
        step = _WRITES.get(node.op_type, {}).get(dtype) if node.domain == DOMAIN else None
        if step is None or node.outputs[0].dtype not in (_WIDE, _LOW):
            return None
        attributes = {a.name: a.value for a in node.attributes.values()}
        overload = f"{node.overload}.{step}".lstrip(".")
        new = ir.node(node.op_type, list(node.inputs), attributes, domain=DOMAIN, overload=overload)
        new.name = node.name
        new.outputs[0].type, new.outputs[0].shape = ir.TensorType(dtype), node.outputs[0].shape
        if self._ask(new) is None:
            _forget(new)
            return None
        return new


def _forget(node: ir.Node) -> None:
    """Of a node that was only made to ask about: it reads nothing."""
    for index in range(len(node.inputs)):
        node.replace_input_with(index, None)


def _stays(node: ir.Node, why: str) -> None:
    said = node.metadata_props.get(FLOAT_KEY)
    node.metadata_props[FLOAT_KEY] = why if said is None else f"{said}; {why}"


def _spread(able: dict[ir.Node, _Places], begins: set[ir.Node]) -> set[ir.Node]:
    """Take in nodes between chosen ones, `begins` at first: all that read a result are chosen, or
    some that do and some that make an operand are; and what leads from one to 8 bits."""
    chosen, heading = set(begins), set[ir.Node]()

    def users(node: ir.Node) -> list[ir.Node]:
        return [use.node for i in able[node].outputs for use in node.outputs[i].uses()]

    def kept(node: ir.Node) -> bool:
        return any(node.outputs[i].is_graph_output() for i in able[node].outputs)

    for node in reversed(list(able)):
        if all(user in heading for user in users(node)) and not kept(node):
            heading.add(node)
    changed = True
    while changed:
        changed = False
        for node in reversed(list(able)):
            if node in chosen:
                continue
            readers = [user in chosen for user in users(node)]
            makers = [
                (v := node.inputs[i]) is not None and v.producer() in chosen
                for i in able[node].inputs
            ]
            between = any(readers) and (any(makers) or (all(readers) and not kept(node)))
            if between or (any(makers) and node in heading):
                chosen.add(node)
                changed = True
    return chosen


def _places(node: ir.Node) -> _Places | None:
    """The float32 inputs and outputs of a node that share their type, None without any.

    By the operator's schema; a fused operator's values all have one type. The first input counts
    as sharing it: the result of RMSNormalization has the type of the scale. A node with a used
    float32 result of another type (the mean of a normalisation) is left alone. What rounds its
    first input to 8 bits takes that, and nothing else, in any type of floats.
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
    if inputs == (0,) and of_inputs.count(of_inputs[0]) == 1 and _gives_bytes(node):
        return _Places(inputs, ())
    operands = {of_inputs[i] for i in inputs}
    outputs = tuple(i for i in wide if of_outputs[i] in operands)
    if not outputs or any(_used(node.outputs[i]) for i in wide if i not in outputs):
        return None
    return _Places(inputs, outputs)


def _gives_bytes(node: ir.Node) -> bool:
    return all(v.dtype in BYTES for v in node.outputs)


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
