"""Plan stage of the CPU backend: nodes and their chosen kernels -> one native plan.

`PlanBuilder` records storages, operands and steps in Python (so that the plan can be printed) and
hands them to `_native.Plan` at the end. `NodeEmit` is the `Emit` interface for one node.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import sympy

from zenith import _native
from zenith.backends.cpu.joins import in_place
from zenith.backends.cpu.operand import (
    Operand,
    channels_last_order,
    dense_strides,
    dtype_code,
    item_bytes,
)
from zenith.backends.cpu.parts import in_parts
from zenith.backends.cpu.program import (
    NativeProgram,
    PackedConstant,
    Step,
    Storage,
    native_view,
)
from zenith.backends.cpu.size_code import size_code
from zenith.backends.cpu.size_rules import size_rules
from zenith.errors import CompilationError, ValidationError
from zenith.ir import describe
from zenith.ir.dims import Dim, exactly, product
from zenith.runtime.op_view import OpView, ValueView
from zenith.runtime.plan import tensor_specs

__all__ = ["NodeEmit", "PlanBuilder"]


class PlanBuilder:
    """Collects one plan. Call `node` for every node in order, then `finish`."""

    def __init__(self, isa: str, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value]) -> None:
        self.isa = isa
        self.steps: list[Step] = []
        self.storages: list[Storage] = []
        self.operands: dict[ir.Value, Operand] = {}
        self.current = -1
        self.graph_inputs = list(inputs)
        self.graph_outputs = list(outputs)
        self._output_index = {value: j for j, value in reversed(list(enumerate(outputs)))}
        self._views: dict[ir.Value, ValueView] = {}
        self._layouts: dict[tuple[ir.Value, str], Operand] = {}
        self._packed_storage: dict[Any, Operand] = {}
        self.packed: dict[ir.Value, PackedConstant] = {}
        self.constants: dict[ir.Value, np.ndarray] = {}
        self.symbols: list[sympy.Symbol] = []
        self.guards: dict[tuple[Dim, Dim], None] = {}
        self.rules: dict[Dim, str] = {}
        for index, value in enumerate(inputs):
            view = self.view(value)
            for dim in view.shape:
                if isinstance(dim, sympy.Symbol) and dim not in self.symbols:
                    self.symbols.append(dim)
            self.operands[value] = self._new("input", index, view.dtype, view.shape)

    # Values and memory.

    def view(self, value: ir.Value) -> ValueView:
        """The cached static facts of a value."""
        found = self._views.get(value)
        if found is None:
            found = self._views[value] = ValueView(value)
        return found

    def _new(
        self,
        place: str,
        index: int,
        dtype: str,
        shape: Sequence[Dim],
        order: Sequence[int] | None = None,
        array: np.ndarray | None = None,
    ) -> Operand:
        size = product(shape) * item_bytes(dtype)
        self.storages.append(Storage(place, index, size, array))
        return Operand(len(self.storages) - 1, dtype, tuple(shape), dense_strides(shape, order), 0)

    def arena(
        self, dtype: str, shape: Sequence[Dim], order: Sequence[int] | None = None
    ) -> Operand:
        """Memory that lives from its first to its last use."""
        return self._new("arena", -1, dtype, shape, order)

    def constant(self, array: np.ndarray) -> Operand:
        """A constant: an aligned row-major copy owned by the plan."""
        copy = _native.aligned_copy(native_view(array))
        return self._new("constant", -1, array.dtype.name, array.shape, None, copy)

    def packed_constant(
        self, key: Any, array: np.ndarray, packer: str, params: dict[str, Any]
    ) -> tuple[Operand, PackedConstant | None]:
        """A packed weight; equal keys share one copy."""
        found = self._packed_storage.get(key)
        if found is not None:
            return found, None
        data = _native.pack(self.isa, packer, native_view(array), params)
        operand = self._new("constant", -1, "uint8", data.shape, None, data)
        self._packed_storage[key] = operand
        return operand, PackedConstant(
            data, packer, params, tuple(array.shape), array.dtype, self.isa
        )

    def operand(self, value: ir.Value) -> Operand:
        """Where a value lies. Constants and known shape contents are materialised on first use."""
        found = self.operands.get(value)
        if found is not None:
            return found
        view = self.view(value)
        content = view.const
        if content is not None:
            operand = self.constant(content)
            array = self.storages[operand.storage].array
            assert array is not None
            self.constants[value] = array
        elif view.known is not None:
            from zenith.backends.cpu.kernels.generate import emit_known

            operand = self.arena(view.dtype, view.shape)
            emit_known(NodeEmit(self, None), operand, view.known)
        else:
            raise CompilationError(f"value '{view.name}' is used before it is computed")
        self.operands[value] = operand
        return operand

    def relaid(self, value: ir.Value, name: str, order: Sequence[int] | None, why: str) -> Operand:
        """The value in a dense axis order: as it is, or one copy shared by all who ask."""
        operand = self.operand(value)
        if operand.is_dense(order):
            return operand
        key = (value, name)
        if key not in self._layouts:
            target = self.arena(operand.dtype, operand.shape, order)
            self.copy(operand, target, why)
            self._layouts[key] = target
        return self._layouts[key]

    def output(self, value: ir.Value, order: Sequence[int] | None) -> Operand:
        """Memory for a node's output: the caller's own when it is a graph output."""
        view = self.view(value)
        row_major = order is None or tuple(order) == tuple(range(view.rank))
        if value in self._output_index and row_major:
            operand = self._new("output", self._output_index[value], view.dtype, view.shape)
        else:
            operand = self.arena(view.dtype, view.shape, order)
        self.operands[value] = operand
        return operand

    # Steps.

    def copy(self, source: Operand, target: Operand, why: str, joins: bool = False) -> None:
        """Append a copy between equal shapes."""
        batch = source.shape[0] if source.rank else 1
        self.add_step("copy", [source], [target], {}, why, batch, joins)

    def add_step(
        self,
        kernel: str,
        inputs: Sequence[Operand | None],
        outputs: Sequence[Operand | None],
        params: dict[str, Any],
        why: str = "",
        batch: Dim = 1,
        joins: bool = False,
    ) -> None:
        """Append one kernel call."""
        for operand in inputs:
            if operand is not None:
                self.guards.update(dict.fromkeys(operand.guards))
        isa = _native.kernel_isa(self.isa, kernel)
        operands = tuple(inputs), tuple(outputs)
        self.steps.append(
            Step(self.current, kernel, isa, *operands, params, why, batch, joins=joins)
        )

    def node(self, index: int, op: OpView, run: Any) -> None:
        """Let a kernel row emit its steps for one node."""
        self.current = index
        for rest, message in size_rules(op):
            rest = exactly(rest)
            if isinstance(rest, int) and rest != 0:
                raise ValidationError(f"{message}\n  {describe(op.node)}")
            if not isinstance(rest, int):
                self.rules[rest] = message
        run(NodeEmit(self, op))
        for value in op.node.outputs:
            if value.uses() and value not in self.operands:
                raise CompilationError(
                    f"kernel for node '{op.node.name}' ({op.key}) left output "
                    f"'{value.name}' without memory"
                )

    def finish(self, node_labels: Sequence[str]) -> NativeProgram:
        """Give every graph output its memory and hand the plan to the native runtime."""
        self.current = -1
        final: list[Operand] = []
        for index, value in enumerate(self.graph_outputs):
            operand = self.operand(value)
            storage = self.storages[operand.storage]
            own = storage.place == "output" and storage.index == index and operand.is_dense()
            if not own:
                target = self._new("output", index, operand.dtype, operand.shape)
                self.copy(operand, target, "a result is row-major memory of its own")
                operand = target
            final.append(operand)
        self.steps = in_parts(in_place(self.steps, self.storages), self.storages)
        plan, tensor_id = self._native_plan()
        return NativeProgram(
            plan=plan,
            isa=self.isa,
            symbols=self.symbols,
            inputs=tensor_specs(self.graph_inputs),
            outputs=tensor_specs(self.graph_outputs),
            output_tensors=[tensor_id(o) for o in final],
            storages=self.storages,
            steps=self.steps,
            node_labels=list(node_labels),
            packed=self.packed,
            constants=self.constants,
        )

    def _native_plan(self) -> tuple[Any, Any]:
        plan = _native.Plan(len(self.symbols))
        for storage in self.storages:
            if storage.array is not None:
                plan.constant(storage.array)
            elif storage.place == "arena":
                plan.arena(size_code(storage.bytes, self.symbols))
            else:
                getattr(plan, storage.place)(storage.index, size_code(storage.bytes, self.symbols))
        ids: dict[int, int] = {}
        alive: list[Operand] = []  # ids are by object identity

        def code(dim: Dim) -> int | list[int]:
            return size_code(dim, self.symbols)

        def tensor_id(operand: Operand | None) -> int:
            if operand is None:
                return -1
            found = ids.get(id(operand))
            if found is None:
                found = ids[id(operand)] = plan.tensor(
                    operand.storage,
                    dtype_code(operand.dtype),
                    [code(d) for d in operand.shape],
                    [code(d) for d in operand.strides],
                    code(operand.offset),
                )
                alive.append(operand)
            return found

        for step in self.steps:
            static, dynamic = _split_params(step.params, code)
            plan.step(
                self.isa,
                step.kernel,
                [tensor_id(o) for o in step.inputs],
                [tensor_id(o) for o in step.outputs],
                static,
                dynamic,
            )
        for size, target in self.guards:
            fits = sympy.Mul(size - 1, size - target, evaluate=False)
            plan.guard(code(fits), f"size {size} broadcasts to {target}, and is neither 1 nor that")
        for rest, message in self.rules.items():
            plan.guard(code(rest), message)
        return plan, tensor_id


def _split_params(params: dict[str, Any], code: Any) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """Params known now, and those that depend on dims (named ``x`` or ``x[i]``)."""
    static: dict[str, Any] = {}
    dynamic: dict[str, list[int]] = {}
    for name, value in params.items():
        if isinstance(value, sympy.Expr):
            resolved = code(value)
            if isinstance(resolved, int):
                static[name] = resolved
            else:
                dynamic[name] = resolved
        elif isinstance(value, list | tuple) and any(isinstance(v, sympy.Expr) for v in value):
            items = [code(v) if isinstance(v, sympy.Expr) else v for v in value]
            static[name] = [0 if isinstance(v, list) else v for v in items]
            dynamic |= {f"{name}[{i}]": v for i, v in enumerate(items) if isinstance(v, list)}
        else:
            static[name] = value
    return static, dynamic


class NodeEmit:
    """`Emit` for one node (see zenith.backends.cpu.emit). `op` is None between nodes."""

    def __init__(self, builder: PlanBuilder, op: OpView | None) -> None:
        self._builder = builder
        self._op = op

    @property
    def op(self) -> OpView:
        assert self._op is not None
        return self._op

    def _value(self, index: int) -> ir.Value | None:
        inputs = self.op.node.inputs
        return inputs[index] if index < len(inputs) else None

    def _required(self, index: int) -> ir.Value:
        value = self._value(index)
        if value is None:
            raise CompilationError(f"node '{self.op.node.name}' has no input {index}")
        return value

    def operand(self, index: int) -> Operand | None:
        value = self._value(index)
        return None if value is None else self._builder.operand(value)

    def dense(self, index: int) -> Operand:
        why = f"{self.op.type} reads row-major data"
        return self._builder.relaid(self._required(index), "dense", None, why)

    def inner(self, index: int) -> Operand:
        operand = self._builder.operand(self._required(index))
        if operand.rank == 0 or operand.strides[-1] == 1 or operand.shape[-1] == 1:
            return operand
        return self.dense(index)

    def channels_last(self, index: int) -> Operand:
        value = self._required(index)
        order = channels_last_order(self._builder.operand(value).rank)
        why = f"{self.op.type} reads channels-last data"
        return self._builder.relaid(value, "channels_last", order, why)

    def output(self, index: int, order: Sequence[int] | None = None) -> Operand:
        return self._builder.output(self.op.node.outputs[index], order)

    def temp(self, dtype: str, shape: Sequence[Dim]) -> Operand:
        return self._builder.arena(dtype, shape)

    def alias(self, index: int, operand: Operand) -> None:
        self._builder.operands[self.op.node.outputs[index]] = operand

    def copy(self, source: Operand, target: Operand) -> None:
        self._builder.copy(source, target, "")

    def join(self, source: Operand, target: Operand) -> None:
        self._builder.copy(source, target, "", joins=True)

    def const(self, array: np.ndarray) -> Operand:
        return self._builder.constant(array)

    def packed(self, index: int, packer: str, **params: Any) -> Operand:
        value = self._required(index)
        array = self._builder.view(value).const
        if array is None:
            raise CompilationError(f"input {index} of '{self.op.node.name}' is not constant")
        key = (value, packer, tuple(sorted((k, str(v)) for k, v in params.items())))
        operand, packed = self._builder.packed_constant(key, array, packer, params)
        if packed is not None:
            self._builder.packed[value] = packed
        return operand

    def packed_array(self, array: np.ndarray, packer: str, **params: Any) -> Operand:
        operand, _ = self._builder.packed_constant(object(), array, packer, params)
        return operand

    def step(
        self,
        kernel: str,
        inputs: Sequence[Operand | None],
        outputs: Sequence[Operand | None],
        **params: Any,
    ) -> None:
        self._builder.add_step(kernel, inputs, outputs, params)

    def batch_step(
        self,
        kernel: str,
        inputs: Sequence[Operand | None],
        outputs: Sequence[Operand | None],
        **params: Any,
    ) -> None:
        shape = self.op.outputs[0].shape
        batch = shape[0] if shape else 1
        self._builder.add_step(kernel, inputs, outputs, params, batch=batch)
