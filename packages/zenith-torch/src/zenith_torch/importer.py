"""Second half of the adapter stage: a functional ATen program becomes an ONNX graph."""

from __future__ import annotations

import operator
from typing import Any

import onnx_ir as ir
import torch
from torch.export.graph_signature import (
    ConstantArgument,
    InputKind,
    OutputKind,
    SymIntArgument,
    TensorArgument,
)

from zenith.errors import CompilationError, UnsupportedOperationError
from zenith.ir.dims import Dim
from zenith_torch.builder import Builder, NotSupportedError
from zenith_torch.dims import SymbolNames, is_symbolic
from zenith_torch.dtypes import TO_ONNX
from zenith_torch.lower import HANDLERS
from zenith_torch.source import node_line, short

__all__ = ["IR_VERSION", "OPSET", "Imported", "import_program"]

OPSET = 28
IR_VERSION = 14
_CHECKS = ("_assert", "sym_constrain", "assert_async")


class Imported:
    """The ONNX model and what calls need to know about its edges.

    inputs: per user input leaf, the graph input's index, or the constant it was captured with.
    outputs: per user output leaf, ("tensor", i), ("size", i) or ("constant", value).
    """

    def __init__(self) -> None:
        self.model: ir.Model
        self.inputs: list[tuple[str, Any]] = []
        self.outputs: list[tuple[str, Any]] = []
        self.input_types: list[tuple[str, torch.dtype, int]] = []
        self.ranges: dict[str, tuple[int, int | None]] = {}


def import_program(
    program: torch.export.ExportedProgram,
    axis_names: list[dict[int, str]],
    input_names: list[str],
    output_names: list[str],
) -> Imported:
    """Lower every node of the program; all that cannot be lowered is reported at once."""
    return _Importer(program, axis_names, input_names, output_names).run()


class _Importer:
    def __init__(
        self,
        program: torch.export.ExportedProgram,
        axis_names: list[dict[int, str]],
        input_names: list[str],
        output_names: list[str],
    ) -> None:
        self.program = program
        self.axis_names = axis_names
        self.input_names = input_names
        self.output_names = output_names
        self.builder = Builder()
        self.symbols = SymbolNames()
        self.values: dict[torch.fx.Node, Any] = {}
        self.problems: list[tuple[str, str]] = []
        self.hints: dict[str, None] = {}
        self.result = Imported()

    def run(self) -> Imported:
        graph_inputs = self._inputs()
        self._lower_nodes(self.program.graph, self.values)
        if self.problems:
            names = ", ".join(dict.fromkeys(name for name, _ in self.problems))
            raise UnsupportedOperationError(
                names,
                list(self.hints),
                operations=self.problems,
                next="rewrite these lines with supported operators, or report the operators",
            )
        graph_outputs = self._outputs()
        builder = self.builder
        graph = ir.Graph(
            graph_inputs,
            graph_outputs,
            nodes=builder.nodes,
            initializers=builder.initializers(graph_outputs),
            opset_imports={"": OPSET},
            name="main_graph",
        )
        self.result.model = ir.Model(graph, ir_version=IR_VERSION, producer_name="zenith-torch")
        self._ranges()
        return self.result

    # --- edges --------------------------------------------------------------------------------

    def _inputs(self) -> list[ir.Value]:
        program, builder = self.program, self.builder
        specs = program.graph_signature.input_specs
        nodes = [n for n in program.graph.nodes if n.op == "placeholder"]
        user = [n for n, s in zip(nodes, specs, strict=True) if s.kind is InputKind.USER_INPUT]
        for node, names in zip(user, self.axis_names, strict=True):
            val = node.meta.get("val")
            if isinstance(val, torch.Tensor):
                for axis, name in names.items():
                    self.symbols.bind(val.shape[axis], name)
        graph_inputs: list[ir.Value] = []
        # First of all, so that inputs keep their own names.
        for node, name in zip(user, self.input_names, strict=True):
            val = node.meta.get("val")
            if not isinstance(val, torch.Tensor):
                self.result.inputs.append(("constant", val))
                self.values[node] = val
                continue
            self._check_type(val, f"input '{name}'")
            value = builder.input(name, val.dtype, self.symbols.shape(val.shape))
            self.result.inputs.append(("tensor", len(graph_inputs)))
            self.result.input_types.append((str(value.name), val.dtype, val.dim()))
            graph_inputs.append(value)
            self.values[node] = value
        shared: dict[tuple[Any, ...], ir.Value] = {}
        for node, spec in zip(nodes, specs, strict=True):
            if spec.kind is InputKind.USER_INPUT:
                continue
            if spec.kind is InputKind.TOKEN:  # orders side effects; they are reported where used
                self.values[node] = None
                continue
            if spec.kind not in _WEIGHTS:
                raise CompilationError(f"the program takes an input of kind {spec.kind.name}")
            self.values[node] = self._weight(str(spec.target), shared)
        return graph_inputs

    def _weight(self, name: str, shared: dict[tuple[Any, ...], ir.Value]) -> ir.Value | None:
        """A parameter, buffer or lifted constant; tied ones are one value."""
        state, constants = self.program.state_dict, self.program.constants
        tensor: Any = state[name] if name in state else constants[name]
        if not isinstance(tensor, torch.Tensor):
            return None
        self._check_type(tensor, f"'{name}'")
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() == 0 or key not in shared:
            shared[key] = self.builder.weight(tensor, name)
        return shared[key]

    def _check_type(self, tensor: torch.Tensor, what: str) -> None:
        if tensor.dtype not in TO_ONNX or tensor.layout is not torch.strided:
            kind = tensor.dtype if tensor.layout is torch.strided else tensor.layout
            raise CompilationError(f"{what} is {kind}, which Zenith does not compute with")

    def _outputs(self) -> list[ir.Value]:
        output_node = next(n for n in self.program.graph.nodes if n.op == "output")
        specs = self.program.graph_signature.output_specs
        graph_outputs: list[ir.Value] = []
        names = iter(self.output_names)
        used = {v.name for n in self.builder.nodes for v in n.inputs if v is not None}
        for node, spec in zip(output_node.args[0], specs, strict=True):
            if spec.kind is OutputKind.TOKEN:
                continue
            if spec.kind is not OutputKind.USER_OUTPUT:
                raise CompilationError(
                    f"the model changes its own state '{spec.target}' in forward",
                    next="return the new state instead of writing it in place",
                )
            name = next(names)
            if isinstance(spec.arg, ConstantArgument) or node is None:
                constant = getattr(spec.arg, "value", node)
                self.result.outputs.append(("constant", constant))
                continue
            value = self.values[node] if isinstance(node, torch.fx.Node) else node
            kind = "tensor" if isinstance(spec.arg, TensorArgument) else "size"
            if isinstance(spec.arg, SymIntArgument) and isinstance(value, int):
                self.result.outputs.append(("constant", value))
                continue
            if not isinstance(value, ir.Value):
                value = self.builder.size_scalar(value)
            fresh = value.producer() is not None and value not in graph_outputs
            if not fresh or value.name in used and kind == "size":
                self.builder.label, self.builder.source = "", ""
                value = self.builder.op("Identity", value)
            self.builder.rename(value, name)
            self.result.outputs.append((kind, len(graph_outputs)))
            graph_outputs.append(value)
        return graph_outputs

    def _ranges(self) -> None:
        for symbol, bounds in self.program.range_constraints.items():
            if not getattr(symbol, "is_Symbol", False):
                continue
            lower, upper = bounds.lower, bounds.upper
            low = int(lower) if lower.is_Integer and int(lower) > 2 else 0
            high = int(upper) if upper.is_Integer and int(upper) < 2**31 else None
            self.result.ranges[self.symbols.named(symbol).name] = (low, high)

    # --- nodes --------------------------------------------------------------------------------

    def _lower_nodes(self, graph: torch.fx.Graph, values: dict[torch.fx.Node, Any]) -> Any:
        """Lower a graph's nodes; gives what its output node names."""
        for node in graph.nodes:
            if node.op == "placeholder":
                continue
            if node.op == "output":
                return torch.fx.node.map_arg(node.args[0], lambda n: values[n])
            if node.op == "get_attr":
                values[node] = self._attribute(node)
                continue
            if node.op != "call_function":
                raise CompilationError(
                    f"unexpected node in the captured program: {node.format_node()}"
                )
            values[node] = self._lower_node(node, values)
        return None

    def _attribute(self, node: torch.fx.Node) -> Any:
        owner: Any = node.graph.owning_module
        for part in str(node.target).split("."):
            owner = getattr(owner, part)
        if isinstance(owner, torch.Tensor):
            return self.builder.weight(owner, str(node.target))
        return owner

    def _lower_node(self, node: torch.fx.Node, values: dict[torch.fx.Node, Any]) -> Any:
        val = node.meta.get("val")
        if is_symbolic(val) or (isinstance(val, (int, float, bool)) and val is not None):
            return self.symbols.dim(val)
        if node.target is operator.getitem:
            source, position = node.args
            assert isinstance(source, torch.fx.Node) and isinstance(position, int)
            results = values[source]
            if position >= len(results) and node.users:
                reason = f"its result {position} is used"
                return self._problem(_operator_name(source.target), node_line(source), reason, val)
            return results[position] if position < len(results) else None
        name = _operator_name(node.target)
        if any(check in name for check in _CHECKS):
            return None
        line = node_line(node)
        builder = self.builder
        builder.source, builder.label, builder.target = short(line), node.name, name
        args, kwargs = self._arguments((node.args, node.kwargs), values)
        if name in _WRAPPERS:
            return self._inline(name, node, args)
        metas = [v for v in (val if isinstance(val, (list, tuple)) else [val])]
        tensors = [v for v in metas if isinstance(v, torch.Tensor)]
        handler = HANDLERS.get(name)
        if handler is None:
            return self._problem(name, line, "", val)
        if tensors:
            builder.out_dtype = tensors[0].dtype
            builder.out_shapes = [self.symbols.shape(t.shape) for t in tensors]
            builder.out_shape = builder.out_shapes[0]
        try:
            unknown = [t.dtype for t in tensors if t.dtype not in TO_ONNX]
            if unknown:
                raise NotSupportedError(f"results of type {unknown[0]}")
            result = handler(builder, *args, **kwargs)
        except NotSupportedError as error:
            return self._problem(name, line, str(error), val)
        return self._checked(node, val, result)

    def _arguments(self, tree: Any, values: dict[torch.fx.Node, Any]) -> Any:
        if isinstance(tree, torch.fx.Node):
            return values[tree]
        if isinstance(tree, (list, tuple)):
            return type(tree)(self._arguments(item, values) for item in tree)
        if isinstance(tree, dict):
            return {key: self._arguments(item, values) for key, item in tree.items()}
        return tree

    def _inline(self, name: str, node: torch.fx.Node, args: Any) -> Any:
        """Regions that only set a mode (autocast off, no gradients): their body, in place."""
        skip = _WRAPPERS[name]
        body, operands = args[skip], args[skip + 1 :]
        if name.endswith("autocast") and args[2]:
            line = node_line(node)
            return self._problem(name, line, "autocast inside the model", node.meta.get("val"))
        inner: dict[torch.fx.Node, Any] = {}
        places = [n for n in body.graph.nodes if n.op == "placeholder"]
        inner.update(zip(places, operands, strict=True))
        return self._lower_nodes(body.graph, inner)

    def _problem(self, name: str, line: Any, reason: str, val: Any) -> Any:
        """Note an unsupported use, and stand in for its results so that the rest is looked at."""
        where = f"{line[0]}:{line[1]}: {line[2]}" if line else ""
        self.problems.append((f"{name} ({reason})" if reason else name, where))
        if "depends on the data" in reason:
            self.hints["torch.where with a mask keeps the size; indexing by a mask does not"] = None

        def stand_in(item: Any) -> Any:
            if not isinstance(item, torch.Tensor):
                return item
            dtype = item.dtype if item.dtype in TO_ONNX else torch.float32
            shape: tuple[Dim, ...] = self.symbols.shape(item.shape)
            value = ir.Value(name="unsupported", type=ir.TensorType(TO_ONNX[dtype]))
            return self.builder.declare(value, shape)

        if isinstance(val, (list, tuple)):
            return [stand_in(item) for item in val]
        return stand_in(val)

    def _checked(self, node: torch.fx.Node, val: Any, result: Any) -> Any:
        """Results must have the type and shape the capture found; they take the node's name."""
        several = isinstance(val, (list, tuple))
        results = list(result) if several else [result]
        wanted = list(val) if several else [val]
        for i, (value, meta) in enumerate(zip(results, wanted, strict=False)):
            if not isinstance(value, ir.Value) or not isinstance(meta, torch.Tensor):
                continue
            shape = self.symbols.shape(meta.shape)
            have = self.builder.shape_of(value)
            same_rank = len(shape) == len(have)
            sizes_agree = same_rank and all(
                a == b or not (isinstance(a, int) and isinstance(b, int))
                for a, b in zip(shape, have, strict=True)
            )
            if value.dtype != TO_ONNX[meta.dtype] or not sizes_agree:
                raise CompilationError(
                    f"lowering of {node.target} gave {value.dtype}{list(have)}, "
                    f"the capture says {TO_ONNX[meta.dtype]}{list(shape)}: {node.format_node()}"
                )
            producer = value.producer()
            if producer is not None and (value.name or "").startswith(f"{node.name}."):
                if have != shape:
                    self.builder.declare(value, shape)
                self.builder.rename(value, f"{node.name}_{i}" if several else node.name)
        return results if several else result


_WEIGHTS = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
_WRAPPERS = {"wrap_with_set_grad_enabled": 1, "wrap_with_autocast": 4}


def _operator_name(target: Any) -> str:
    if isinstance(target, torch._ops.OpOverload):
        return str(target)
    return getattr(target, "__name__", str(target))
