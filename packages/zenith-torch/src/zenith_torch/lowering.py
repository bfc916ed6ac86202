"""The shared half of every import from PyTorch: nodes of a functional ATen graph become ONNX nodes.

Where the graph came from, `torch.export` (`importer`) or AOTAutograd (`dynamo.edges`), only the
edges differ: what the inputs and outputs are.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch

from zenith import ops
from zenith.errors import CompilationError, UnsupportedOperationError
from zenith.ir.complexes import Complex, separate
from zenith.ir.dims import Dim
from zenith_torch.builder import Builder, NotSupportedError
from zenith_torch.control import CONTROL
from zenith_torch.dims import SymbolNames, is_symbolic
from zenith_torch.dtypes import TO_ONNX
from zenith_torch.lower import HANDLERS
from zenith_torch.lower.complexes import complex_handler, has_complex, real_type
from zenith_torch.memory import whole_order
from zenith_torch.recompute import RECOMPUTED
from zenith_torch.source import node_line, short

__all__ = ["IR_VERSION", "OPSET", "Lowering", "operator_name"]

OPSET = 28
IR_VERSION = 14
_CHECKS = ("_assert", "sym_constrain", "assert_async", "_linalg_check_errors")


class Lowering:
    """One graph in the making.

    values: what each FX node became: an `onnx_ir.Value`, a size, a list of results, a constant.
    problems: (operator and reason, source line) of every use without a lowering; `failed` are the
    nodes, in the same order.
    """

    def __init__(self) -> None:
        self.builder = Builder()
        self.symbols = SymbolNames()
        self.values: dict[torch.fx.Node, Any] = {}
        self.problems: list[tuple[str, str]] = []
        self.failed: list[torch.fx.Node] = []
        self.hints: dict[str, None] = {}

    def model(
        self, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value], name: str = "main_graph"
    ) -> ir.Model:
        """What was written, as a model."""
        builder = self.builder
        graph = ir.Graph(
            [*inputs, *builder.extra_inputs],
            outputs,
            nodes=builder.nodes,
            initializers=builder.initializers(outputs),
            opset_imports={"": OPSET},
            name=name,
        )
        model = ir.Model(graph, ir_version=IR_VERSION, producer_name="zenith-torch")
        ops.add_functions(model)
        return model

    def check_type(self, tensor: torch.Tensor, what: str) -> None:
        """Raise unless Zenith has the tensor's type."""
        if real_type(tensor.dtype) not in TO_ONNX or tensor.layout is not torch.strided:
            kind = tensor.dtype if tensor.layout is torch.strided else tensor.layout
            raise CompilationError(f"{what} is {kind}, which Zenith does not compute with")

    def raise_problems(self) -> None:
        """All that cannot be lowered, in one error."""
        if not self.problems:
            return
        names = ", ".join(dict.fromkeys(name for name, _ in self.problems))
        raise UnsupportedOperationError(
            names,
            list(self.hints),
            operations=self.problems,
            next="rewrite these lines with supported operators, or report the operators",
        )

    def lower_nodes(self, graph: torch.fx.Graph, values: dict[torch.fx.Node, Any]) -> Any:
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
            return self.weight(owner, str(node.target))
        return owner

    def weight(self, tensor: torch.Tensor, name: str) -> Any:
        """A constant over a tensor's memory; over its two parts where it is complex."""
        if tensor.is_complex():
            parts = torch.view_as_real(tensor.detach().resolve_conj())
            return Complex(*(self.builder.weight(parts[..., i], name) for i in (0, 1)))
        return self.builder.weight(tensor, name)

    def input(self, name: str, tensor: torch.Tensor) -> tuple[ir.Value, Any]:
        """A graph input, and what the graph's nodes see of it."""
        shape = self.symbols.shape(tensor.shape)
        if tensor.is_complex():
            value = self.builder.input(name, real_type(tensor.dtype), (*shape, 2))
            return value, separate(self.builder, value)
        value = self.builder.input(name, tensor.dtype, shape)
        return value, value

    def _lower_node(self, node: torch.fx.Node, values: dict[torch.fx.Node, Any]) -> Any:
        val = node.meta.get("val")
        if is_symbolic(val) or (isinstance(val, (int, float, bool)) and val is not None):
            return self._number(node, val, values)
        if node.target is operator.getitem:
            source, position = node.args
            assert isinstance(source, torch.fx.Node) and isinstance(position, int)
            results = values[source]
            if results is None:  # of an operator that has no lowering, nor says what it gives
                return self._stand_in(val)
            if position >= len(results) and node.users:
                reason = f"its result {position} is used"
                return self._problem(source, operator_name(source.target), reason, val)
            return results[position] if position < len(results) else None
        name = operator_name(node.target)
        if _is_check(name):
            return None
        builder = self.builder
        builder.source, builder.label, builder.target = short(node_line(node)), node.name, name
        builder.used = _used_results(node)
        args, kwargs = self._arguments((node.args, node.kwargs), values)
        if name in _WRAPPERS:
            return self._inline(name, node, args)
        if name == "with_effects":  # its results are a token, which only keeps an order, and more
            token, target = args[0], operator_name(args[1])
            return [token] if _is_check(target) else self._problem(node, target, "", val)
        if name in RECOMPUTED:
            return RECOMPUTED[name](self, node, args, kwargs)
        if name in CONTROL:
            metas = list(val) if isinstance(val, (list, tuple)) else [val]
            return self._control(name, node, args, metas)
        return self.call(node, name, val, args, kwargs)

    def call(self, node: torch.fx.Node, name: str, val: Any, args: Any, kwargs: Any) -> Any:
        """An operator on lowered arguments, by its handler; `val` is what the capture says."""
        builder = self.builder
        metas = list(val) if isinstance(val, (list, tuple)) else [val]
        tensors = [v for v in metas if isinstance(v, torch.Tensor)]
        in_pairs = has_complex(args) or has_complex(kwargs) or any(t.is_complex() for t in tensors)
        handler = complex_handler(name) if in_pairs else _handler(name)
        if handler is None and name in HANDLERS:
            return self._problem(node, name, "complex numbers", val)
        if handler is None:
            return self._problem(node, name, "", val)
        if "as_strided" in name:
            order = _memory_of(node.args[0])
            if order is None or ("scatter" in name and order != tuple(range(len(order)))):
                return self._problem(node, name, "strides over memory that is not dense", val)
            args = (builder.transpose(args[0], order), *args[1:])
        if tensors:
            builder.out_dtypes = [real_type(t.dtype) for t in tensors]
            builder.out_dtype, builder.out_complex = builder.out_dtypes[0], tensors[0].is_complex()
            builder.out_shapes = [self.symbols.shape(t.shape) for t in tensors]
            builder.out_shape = builder.out_shapes[0]
        try:
            unknown = [t.dtype for t in tensors if real_type(t.dtype) not in TO_ONNX]
            if unknown:
                raise NotSupportedError(f"results of type {unknown[0]}")
            result = handler(builder, *args, **kwargs)
        except NotSupportedError as error:
            return self._problem(node, name, str(error), val)
        return self._checked(node, val, result)

    def _number(self, node: torch.fx.Node, val: Any, values: dict[torch.fx.Node, Any]) -> Any:
        """A Python number of the capture: a size, a constant, or a tensor's only element."""
        size = self.symbols.dim(val)
        if operator_name(node.target) != "aten._local_scalar_dense.default" or not is_symbolic(val):
            return size
        source = node.args[0]
        assert isinstance(source, torch.fx.Node)
        if not isinstance(val, torch.SymInt):
            return values[source]
        self.builder.tells(size, values[source])
        return size

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
            return self._problem(node, name, "autocast inside the model", node.meta.get("val"))
        inner: dict[torch.fx.Node, Any] = {}
        places = [n for n in body.graph.nodes if n.op == "placeholder"]
        inner.update(zip(places, operands, strict=True))
        return self.lower_nodes(body.graph, inner)

    def _control(self, name: str, node: torch.fx.Node, args: Any, metas: Sequence[Any]) -> Any:
        """An operator with bodies; what fails inside of them is a failure of it."""
        before = len(self.failed)
        try:
            return self._checked(node, metas, CONTROL[name](self, metas, *args))
        except NotSupportedError as error:
            return self._problem(node, name, str(error), metas)
        finally:
            self.failed[before:] = [node] * (len(self.failed) - before)

    def _problem(self, node: torch.fx.Node, name: str, reason: str, val: Any) -> Any:
        """Note an unsupported use, and stand in for its results so that the rest is looked at."""
        self.failed.append(node)
        line = node_line(node)
        where = f"{line[0]}:{line[1]}: {line[2]}" if line else ""
        self.problems.append((f"{name} ({reason})" if reason else name, where))
        if "depends on the data" in reason:
            self.hints["torch.where with a mask keeps the size; indexing by a mask does not"] = None
        return self._stand_in(val)

    def _stand_in(self, val: Any) -> Any:
        if isinstance(val, (list, tuple)):
            return [self._stand_in(item) for item in val]
        if not isinstance(val, torch.Tensor):
            return val
        dtype = real_type(val.dtype)
        dtype = dtype if dtype in TO_ONNX else torch.float32
        shape: tuple[Dim, ...] = self.symbols.shape(val.shape)
        value = ir.Value(name="unsupported", type=ir.TensorType(TO_ONNX[dtype]))
        self.builder.declare(value, shape)
        return Complex(value, value) if val.is_complex() else value

    def _checked(self, node: torch.fx.Node, val: Any, result: Any) -> Any:
        """Results must have the type and shape the capture found; they take the node's name."""
        several = isinstance(val, (list, tuple))
        results = list(result) if several else [result]
        wanted = list(val) if several else [val]
        for i, (value, meta) in enumerate(zip(results, wanted, strict=False)):
            if not isinstance(value, ir.Value) or not isinstance(meta, torch.Tensor):
                continue  # among them pairs, see Note [Complex values]
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


def _is_check(name: str) -> bool:
    """Operators that only raise: about data, when eager would."""
    return any(check in name for check in _CHECKS)


def _memory_of(node: Any) -> tuple[int, ...] | None:
    val = node.meta.get("val")
    return whole_order(val) if isinstance(val, torch.Tensor) else None


def _used_results(node: torch.fx.Node) -> frozenset[int]:
    """Which results of an operator of several are read."""
    gets = [user for user in node.users if user.target is operator.getitem and user.users]
    return frozenset(user.args[1] for user in gets if isinstance(user.args[1], int))


def _handler(name: str) -> Any:
    """An operator's handler; ``view_copy`` is ``view`` where nothing shares memory."""
    return HANDLERS.get(name) or HANDLERS.get(name.replace("_copy.", "."))


_WRAPPERS = {"wrap_with_set_grad_enabled": 1, "wrap_with_autocast": 4}


def operator_name(target: Any) -> str:
    """What handlers are registered for: ``aten.add.Tensor``."""
    if isinstance(target, torch._ops.OpOverload):
        return str(target)
    return getattr(target, "__name__", str(target))
