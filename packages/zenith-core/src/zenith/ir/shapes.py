"""Shape inference of GraphIR: the one place that calls the inference package.

The package types straight-line graphs. What a loop may do to the sizes of its state, and in which
branch a result was made, is worked out here: control-flow nodes are hidden from the package, and
their results and the inputs of their bodies are widened until nothing changes any more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import onnx_ir as ir
from onnx_shape_inference import (
    SYM_DATA_KEY,
    OpUsageError,
    ShapeInferenceError,
    infer_symbolic_shapes,
    registry,
)

from zenith.errors import CompilationError, ValidationError
from zenith.ir import shape_rules as shape_rules  # registers them
from zenith.ir import shape_tables as shape_tables
from zenith.ir._describe import describe
from zenith.ir.axes import check_axes
from zenith.ir.control import reads, subgraphs
from zenith.ir.dims import dim_names

__all__ = ["forget_results", "generated", "infer_shapes"]

_HIDDEN = "zenith.hidden"
_TYPED_HERE = frozenset({"If", "Loop", "Scan"})
_ROUNDS = 200  # a round widens something; no model seen takes more than a dozen
_GENERATED = re.compile(r"_d\d+")  # how the package names sizes that data decides
_Dim = int | ir.SymbolicDim


_in_order: ContextVar[Callable[[ir.Node], None]] = ContextVar("in_order")
registry.register(_HIDDEN, "If", since_version=1)(lambda ctx, node: _in_order.get()(node))


def infer_shapes(model: ir.Model) -> None:
    """Set dtype and shape of every value in place; dims that are numbers become ints."""
    nodes = list(model.graph.all_nodes())
    for index, node in enumerate(nodes):
        if not node.name:
            node.name = f"node_{index}"
    controls = [n for n in nodes if n.op_type in _TYPED_HERE and n.domain in ("", "ai.onnx")]
    if not controls:
        _run(model)
    else:
        _Bodies(model, controls).infer()
    for node in model.graph.all_nodes():
        for value in node.outputs:
            _normalise(value)
    _drop_contents_that_are_no_sizes(model)
    check_axes(model)


def generated(dim: int | ir.SymbolicDim) -> bool:
    """Whether a size depends on data, and has its name from the inference."""
    return isinstance(dim, ir.SymbolicDim) and bool(_GENERATED.fullmatch(dim.value or ""))


def forget_results(model: ir.Model) -> None:
    """Infer types and sizes of all results anew: what a graph from outside says of them may be
    wrong, and kernels would believe it. What inference cannot tell keeps its type and rank."""
    before = {v: (v.type, v.shape) for n in model.graph.all_nodes() for v in n.outputs}
    for value in before:
        value.type = value.shape = value.const_value = None
        value.metadata_props.pop(SYM_DATA_KEY, None)
    for weight in model.graph.initializers.values():
        tensor = weight.const_value
        if tensor is not None:  # the data says what it is
            weight.type, weight.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
    infer_shapes(model)
    for value, (kind, shape) in before.items():
        value.type = value.type or kind
        if value.shape is None and shape is not None:
            value.shape = ir.Shape([None] * len(shape))


def _run(model: ir.Model) -> None:
    try:
        infer_symbolic_shapes(model, policy="refine", warn_on_missing=False)
    except OpUsageError as error:
        raise ValidationError(f"{error.message}\n  {describe(error.node)}") from error
    except ShapeInferenceError as error:
        cause = f": {error.__cause__}" if error.__cause__ is not None else ""
        where = _find(model, error)
        raise ValidationError(
            f"shapes do not fit: {error.message}{cause}" + (f"\n  {where}" if where else "")
        ) from error
    except ValueError as error:
        raise CompilationError(
            f"sizes of this model are beyond shape inference: {error}",
            next="name fewer axes in dynamic=",
        ) from error


def _find(model: ir.Model, error: ShapeInferenceError) -> str:
    for node in model.graph.all_nodes():
        if node.name == error.node_name and node.op_type == error.op_type:
            return describe(node)
    return ""


class _Bodies:
    """Types of control-flow nodes: a fixed point over all of them."""

    def __init__(self, model: ir.Model, controls: Sequence[ir.Node]) -> None:
        self.model = model
        self.controls = list(reversed(controls))  # inner ones first
        self.taken = {s for v in _values(model.graph) for s in _symbols(v.shape)}
        self.declared = {s for v in model.graph.inputs for s in _symbols(v.shape)}
        self.rankless: set[ir.Value] = set()  # of which even the rank varies
        self.started: set[ir.Value] = set()
        self.minted: set[str] = set()
        self.widened = self.changed = self.final = False
        owned = {v for node in controls for v in node.outputs}
        self.inferred = {
            v: v.shape for n in model.graph.all_nodes() for v in n.outputs if v not in owned
        }

    def infer(self) -> None:
        for node in self.controls:
            for value in node.outputs:  # declared ones may promise what no loop keeps
                value.shape = None
        self._forget()
        self._until_nothing_changes()
        if not all(self._settled(v) for v in self._governed()):
            self.final = True  # what is unknown now stays unknown
            self._until_nothing_changes()
        for value, shape in self.inferred.items():
            if value.shape is None:
                value.shape = shape

    def _governed(self) -> Iterator[ir.Value]:
        """Results of control flow, and what enters its bodies."""
        for node in self.controls:
            yield from node.outputs
            for body in subgraphs(node).values():
                yield from body.inputs

    def _until_nothing_changes(self) -> None:
        self.changed = True
        for _ in range(_ROUNDS):
            if not self.changed:
                return
            self.changed = self.widened = False
            with self._hidden():
                _run(self.model)
            self.changed = self.changed or self.widened
            for node in self.controls:
                getattr(self, f"_{node.op_type.lower()}")(node)
            if self.widened:
                self._forget()
        raise CompilationError(
            f"sizes inside the control flow of this model do not settle in {_ROUNDS} rounds",
            next="report the model: this is a fault of shape inference",
        )

    @contextmanager
    def _hidden(self) -> Iterator[None]:
        before = _in_order.set(self._branched)
        try:
            for node in self.controls:
                node.domain = _HIDDEN
            yield
        finally:
            _in_order.reset(before)
            for node in self.controls:
                node.domain = ""

    def _forget(self) -> None:
        """Let the package find every shape anew: some rest on a narrower one."""
        for value in self.inferred:
            value.shape = None
            value.metadata_props.pop(SYM_DATA_KEY, None)
            value.const_value = None

    def _branched(self, node: ir.Node) -> None:
        """The results of If, when inference has come by its branches: what follows is still ahead
        in the same round, so this makes no other one necessary."""
        changed = self.changed
        self._if(node)
        self.changed = changed

    # The three kinds of node.

    def _if(self, node: ir.Node) -> None:
        branches = [node.attributes[n].as_graph() for n in ("then_branch", "else_branch")]
        for value, a, b in zip(node.outputs, *(g.outputs for g in branches), strict=True):
            self._type(value, a, b)
            if self._settled(a) and self._settled(b):
                self._shape(node, value, _join(self._dims(a), self._dims(b)))

    def _loop(self, node: ir.Node) -> None:
        body = node.attributes["body"].as_graph()
        for value, dtype in zip(
            body.inputs[:2], (ir.DataType.INT64, ir.DataType.BOOL), strict=True
        ):
            value.type = value.type or ir.TensorType(dtype)
            value.shape = ir.Shape(())
        count = len(node.inputs) - 2
        for index in range(count):
            self._state(node, node.inputs[index + 2], body.inputs[index + 2],
                        body.outputs[index + 1], node.outputs[index])  # fmt: skip
        for value, result in zip(node.outputs[count:], body.outputs[count + 1 :], strict=True):
            self._type(value, result)
            if self._settled(result):
                dims = self._dims(result)
                self._shape(node, value, None if dims is None else (None, *dims))

    def _scan(self, node: ir.Node) -> None:
        body = node.attributes["body"].as_graph()
        slices = node.attributes["num_scan_inputs"].as_int()
        states = len(node.inputs) - slices
        for index in range(states):
            self._state(node, node.inputs[index], body.inputs[index], body.outputs[index],
                        node.outputs[index])  # fmt: skip
        length: _Dim | None = None
        axes = _ints(node, "scan_input_axes", slices)
        for value, axis, formal in zip(
            node.inputs[states:], axes, body.inputs[states:], strict=True
        ):
            assert value is not None
            self._type(formal, value)
            dims = self._dims(value)
            if dims is not None:
                if not -len(dims) <= axis < len(dims):
                    raise ValidationError(
                        f"a scanned input of rank {len(dims)} has no axis {axis}\n"
                        f"  {describe(node)}"
                    )
                at = axis % len(dims)
                length = length if isinstance(length, int) else dims[at]
                self._set(formal, (*dims[:at], *dims[at + 1 :]))
        outputs = node.outputs[states:]
        axes = _ints(node, "scan_output_axes", len(outputs))
        for value, axis, result in zip(outputs, axes, body.outputs[states:], strict=True):
            self._type(value, result)
            if self._settled(result):
                dims = self._dims(result)
                rank = len(dims) + 1 if dims is not None else abs(axis) + 1
                if not -rank <= axis < rank:
                    raise ValidationError(
                        f"a stacked output of rank {rank} has no axis {axis}\n  {describe(node)}"
                    )
                at = axis % rank
                whole = None if dims is None else (*dims[:at], length, *dims[at:])
                self._shape(node, value, whole)

    # What they have in common.

    def _state(
        self,
        node: ir.Node,
        initial: ir.Value | None,
        formal: ir.Value,
        result: ir.Value,
        output: ir.Value,
    ) -> None:
        """A value carried from one iteration to the next."""
        for value in (formal, output):
            self._type(value, *(v for v in (initial, result) if v is not None))
        if initial is None or formal in self.rankless or not self._settled(initial):
            return
        before = self._dims(initial)
        if before is None:
            self._set(formal, None)
            self._set(output, None)
            return
        if formal not in self.started:  # what it declares may not be kept
            self.started.add(formal)
            formal.shape = None
            self._set(formal, before)
        mine = self._dims(formal)
        after = self._dims(result)
        joined = _join(mine, before)
        if self._settled(result):
            joined = _join(joined, after)
        self._set(formal, joined)
        self._shape(node, output, self._dims(formal))

    def _settled(self, value: ir.Value) -> bool:
        """Whether the rank is known, or known to stay unknown."""
        return self.final or value.shape is not None or value in self.rankless

    def _type(self, value: ir.Value, *sources: ir.Value) -> None:
        if value.type is None:
            for source in sources:
                if source.type is not None:
                    value.type = source.type
                    self.changed = True
                    return

    def _dims(self, value: ir.Value) -> list[_Dim | None] | None:
        """The sizes as they are known; one that the package named in this run has no name here: it
        may get another in the next, and the names of sizes must settle."""
        if value.shape is None:
            return None
        return [d if isinstance(d, int) or self._lasts(d) else None for d in value.shape]

    def _lasts(self, dim: ir.SymbolicDim) -> bool:
        return dim.value is not None and not any(
            _GENERATED.fullmatch(name) and name not in self.declared for name in dim_names(dim)
        )

    def _shape(self, node: ir.Node, value: ir.Value, dims: Sequence[_Dim | None] | None) -> None:
        """The shape of a result, in symbols that mean something outside the node."""
        if dims is not None:
            outside = _known_outside(node)
            dims = [d if d is not None and dim_names(d) <= outside else None for d in dims]
        self._set(value, dims)

    def _set(self, value: ir.Value, dims: Sequence[_Dim | None] | None) -> None:
        """Widen a shape to `dims`; None is a size of its own. A name once given stays."""
        if dims is None:
            if value.shape is not None and value not in self.rankless:
                self.widened = True
            if value not in self.rankless:
                self.rankless.add(value)
                self.changed = True
            value.shape = None
            return
        old = value.shape
        if old is not None and old.rank() == len(dims):
            new = [
                mine if d is None and not isinstance(mine, int) and mine.value in self.minted else d
                for mine, d in zip(old, dims, strict=True)
            ]
        else:
            new = list(dims)
        shape = ir.Shape([self._fresh() if d is None else d for d in new])
        if old is None or list(old) != list(shape):
            self.widened = self.widened or old is not None
            self.changed = True
            value.shape = shape

    def _fresh(self) -> ir.SymbolicDim:
        number = len(self.taken)
        while f"_c{number}" in self.taken:
            number += 1
        self.taken.add(f"_c{number}")
        self.minted.add(f"_c{number}")
        return ir.SymbolicDim(f"_c{number}")


def _join(
    a: Sequence[_Dim | None] | None, b: Sequence[_Dim | None] | None
) -> list[_Dim | None] | None:
    """What two shapes have in common; None for an unknown rank, and for sizes that differ."""
    if a is None or b is None or len(a) != len(b):
        return None
    return [x if x is not None and x == y else None for x, y in zip(a, b, strict=True)]


def _symbols(shape: ir.Shape | None) -> set[str]:
    return set().union(*(dim_names(d) for d in shape or ()))


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    for node in ir.traversal.RecursiveGraphIterator(graph):
        yield from node.outputs
        for nested in subgraphs(node).values():
            yield from nested.inputs


def _known_outside(node: ir.Node) -> set[str]:
    """Symbols in sizes and contents of what the node reads."""
    found: set[str] = set()
    for value in reads(node):
        found |= _symbols(value.shape)
        for item in json.loads(value.metadata_props.get(SYM_DATA_KEY, "[]")):
            if isinstance(item, str):
                found |= dim_names(ir.SymbolicDim(item))
    return found


def _drop_contents_that_are_no_sizes(model: ir.Model) -> None:
    """Inference gives every element of a small integer tensor a name in case it becomes a size.

    Contents with names that no size has are data, such as indices; kernels compute those.
    """
    values = [*model.graph.inputs, *(v for n in model.graph.all_nodes() for v in n.outputs)]
    for node in model.graph.all_nodes():
        for nested in subgraphs(node).values():
            values.extend(nested.inputs)
    sizes: set[str] | None = None
    for value in values:
        text = value.metadata_props.get(SYM_DATA_KEY)
        if text is None:
            continue
        if sizes is None:
            sizes = set().union(*(_symbols(v.shape) for v in values))
        names = (dim_names(ir.SymbolicDim(d)) for d in json.loads(text) if isinstance(d, str))
        if not set().union(*names) <= sizes:
            value.metadata_props.pop(SYM_DATA_KEY)


def _ints(node: ir.Node, name: str, count: int) -> Sequence[int]:
    found = node.attributes.get(name)
    if found is None:
        return [0] * count
    values = list(found.as_ints())
    if len(values) != count:
        raise ValidationError(f"{name} has {len(values)} items, not {count}\n  {describe(node)}")
    return values


def _normalise(value: ir.Value) -> None:
    """Dims such as SymbolicDim("8"), which the package yields at times, become ints; only integers
    have contents that are sizes."""
    if value.dtype is not None and value.dtype.is_floating_point():
        value.metadata_props.pop(SYM_DATA_KEY, None)
    shape = value.shape
    if shape is None:
        return
    for dim in shape:
        if not isinstance(dim, int) and dim.value is not None and dim.value.lstrip("-").isdigit():
            break
    else:
        return
    value.shape = ir.Shape(
        int(d.value)
        if not isinstance(d, int) and d.value is not None and d.value.lstrip("-").isdigit()
        else d
        for d in shape
    )
