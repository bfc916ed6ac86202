"""Second half of the adapter stage: an exported program becomes an ONNX graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch.export.graph_signature import (
    ConstantArgument,
    InputKind,
    OutputKind,
    SymIntArgument,
    TensorArgument,
)

from zenith.errors import CompilationError
from zenith.ir.complexes import Complex
from zenith_torch.dtypes import array_view
from zenith_torch.lowering import Lowering

__all__ = ["Imported", "import_program"]


class Imported:
    """The ONNX model and what calls need to know about its edges.

    inputs: per user input leaf, the graph input's index, or the constant it was captured with.
    outputs: per user output leaf, ("tensor", i), ("size", i) or ("constant", value).
    state: of each buffer that forward changes, its input's and output's name and its value.
    """

    def __init__(self) -> None:
        self.model: ir.Model
        self.inputs: list[tuple[str, Any]] = []
        self.outputs: list[tuple[str, Any]] = []
        self.input_types: list[tuple[str, torch.dtype, int]] = []
        self.ranges: dict[str, tuple[int, int | None]] = {}
        self.state: list[tuple[str, str, np.ndarray[Any, Any]]] = []


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
        self.lowering = Lowering()
        self.builder = self.lowering.builder
        self.symbols = self.lowering.symbols
        self.values = self.lowering.values
        self.result = Imported()

    def run(self) -> Imported:
        graph_inputs = self._inputs()
        self.lowering.lower_nodes(self.program.graph, self.lowering.values)
        self.lowering.raise_problems()
        graph_outputs = self._outputs()
        self.result.model = self.lowering.model(graph_inputs, graph_outputs)
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
            self.lowering.check_type(val, f"input '{name}'")
            if val.is_complex():
                raise CompilationError(
                    f"input '{name}' is {val.dtype}",
                    next="give torch.view_as_real of it, and use torch.view_as_complex inside",
                )
            value = builder.input(name, val.dtype, self.symbols.shape(val.shape))
            self.result.inputs.append(("tensor", len(graph_inputs)))
            self.result.input_types.append((str(value.name), val.dtype, val.dim()))
            graph_inputs.append(value)
            self.values[node] = value
        changed = set(program.graph_signature.buffers_to_mutate.values())
        for node, spec in zip(nodes, specs, strict=True):
            if spec.target in changed:
                self.values[node] = self._state_input(str(spec.target))
                graph_inputs.append(self.values[node])
        shared: dict[tuple[Any, ...], Any] = {}
        for node, spec in zip(nodes, specs, strict=True):
            if node in self.values:
                continue
            if spec.kind is InputKind.TOKEN:  # orders side effects; they are reported where used
                self.values[node] = None
                continue
            if spec.kind not in _WEIGHTS:
                raise CompilationError(f"the program takes an input of kind {spec.kind.name}")
            self.values[node] = self._weight(str(spec.target), shared)
        return graph_inputs

    def _state_input(self, name: str) -> ir.Value:
        """A buffer that forward changes: an input, whose next value is an output."""
        tensor = self._held(name)
        assert isinstance(tensor, torch.Tensor)
        self.lowering.check_type(tensor, f"'{name}'")
        if tensor.is_complex():
            raise CompilationError(
                f"the model changes its buffer '{name}' in forward, which is {tensor.dtype}",
                next="keep torch.view_as_real of it",
            )
        sharers = [
            other
            for other, held in (*self.program.state_dict.items(), *self.program.constants.items())
            if other != name and isinstance(held, torch.Tensor) and _same_memory(held, tensor)
        ]
        if sharers:
            raise CompilationError(
                f"the model changes its buffer '{name}' in forward, which shares memory with "
                f"{', '.join(sharers)}",
                next="give each buffer memory of its own",
            )
        value = self.builder.input(name, tensor.dtype, tuple(tensor.shape))
        dense = array_view(tensor.detach().cpu().contiguous())
        self.result.state.append((str(value.name), "", np.array(dense)))
        return value

    def _held(self, name: str) -> Any:
        state, constants = self.program.state_dict, self.program.constants
        return state[name] if name in state else constants[name]

    def _weight(self, name: str, shared: dict[tuple[Any, ...], Any]) -> Any:
        """A parameter, buffer or lifted constant; tied ones are one value."""
        tensor = self._held(name)
        if not isinstance(tensor, torch.Tensor):
            return None
        self.lowering.check_type(tensor, f"'{name}'")
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() == 0 or key not in shared:
            shared[key] = self.lowering.weight(tensor, name)
        return shared[key]

    def _outputs(self) -> list[ir.Value]:
        output_node = next(n for n in self.program.graph.nodes if n.op == "output")
        specs = self.program.graph_signature.output_specs
        graph_outputs: list[ir.Value] = []
        names = iter(self.output_names)
        state: dict[str, ir.Value] = {}  # the next values of buffers, by the input's name
        used = {v.name for n in self.builder.nodes for v in n.inputs if v is not None}
        for node, spec in zip(output_node.args[0], specs, strict=True):
            if spec.kind is OutputKind.TOKEN:
                continue
            if spec.kind is OutputKind.BUFFER_MUTATION:
                state[str(spec.target)] = self.values[node]
                continue
            if spec.kind is not OutputKind.USER_OUTPUT:
                user = self.program.graph_signature.user_inputs
                names_by_target = dict(zip(user, self.input_names, strict=True))
                written = names_by_target.get(str(spec.target), spec.target)
                raise CompilationError(
                    f"the model writes to its input '{written}' in forward",
                    next="return the new value, or keep it in a buffer of the model: then it is "
                    "state, see CompiledModel.new_state",
                )
            name = next(names)
            if isinstance(spec.arg, ConstantArgument) or node is None:
                constant = getattr(spec.arg, "value", node)
                self.result.outputs.append(("constant", constant))
                continue
            value = self.values[node] if isinstance(node, torch.fx.Node) else node
            if isinstance(value, Complex):
                raise CompilationError(
                    f"output '{name}' is complex", next="return torch.view_as_real of it"
                )
            kind = "tensor" if isinstance(spec.arg, TensorArgument) else "size"
            if isinstance(spec.arg, SymIntArgument) and isinstance(value, int):
                self.result.outputs.append(("constant", value))
                continue
            if not isinstance(value, ir.Value):
                value = self.builder.size_scalar(value)
            own = value.name in used and kind == "size"
            self.result.outputs.append((kind, len(graph_outputs)))
            graph_outputs.append(self._output(value, name, graph_outputs, own=own))
        for i, (name, _, initial) in enumerate(self.result.state):
            value = self._output(state[name], f"{name}.next", graph_outputs)
            self.result.state[i] = (name, str(value.name), initial)
            graph_outputs.append(value)
        return graph_outputs

    def _output(
        self, value: ir.Value, name: str, taken: list[ir.Value], *, own: bool = False
    ) -> ir.Value:
        """`value` as a graph output of this name; an Identity of it where it cannot be renamed."""
        if own or value.producer() is None or value in taken:
            self.builder.label, self.builder.source = "", ""
            value = self.builder.op("Identity", value)
        self.builder.rename(value, name)
        return value

    def _ranges(self) -> None:
        for symbol, bounds in self.program.range_constraints.items():
            if not getattr(symbol, "is_Symbol", False):
                continue
            lower, upper = bounds.lower, bounds.upper
            low = int(lower) if lower.is_Integer and int(lower) > 2 else 0
            high = int(upper) if upper.is_Integer and int(upper) < 2**31 else None
            self.result.ranges[self.symbols.named(symbol).name] = (low, high)


def _same_memory(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr() and a.numel() > 0


_WEIGHTS = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
