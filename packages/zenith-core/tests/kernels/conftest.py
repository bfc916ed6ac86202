"""`row_outputs`: one ONNX node through the CPU backend's rows, without the rest of the compiler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from zenith import _native
from zenith.backends.cpu.builder import PlanBuilder
from zenith.ir import OPSET, GraphIR
from zenith.runtime.context import ExecutionContext
from zenith.runtime.kernel_registry import KernelSpec
from zenith.runtime.op_view import OpView

Array = np.ndarray[Any, Any]


class Row:
    """One node: what the reference says, why no row takes it, and what the chosen row computes."""

    def __init__(
        self,
        specs: Sequence[KernelSpec],
        op: str,
        inputs: Sequence[Array | None],
        constant: Sequence[int] = (),
        dynamic: dict[int, Sequence[str | int]] | None = None,
        outputs: int = 1,
        permuted: dict[int, Sequence[int]] | None = None,
        **attributes: Any,
    ) -> None:
        """constant: inputs that are initializers. dynamic: declared shape of an input.
        permuted: inputs that reach the node through a Transpose, so as strided views."""
        names = ["" if a is None else f"x{i}" for i, a in enumerate(inputs)]
        permuted = permuted or {}
        nodes, infos, initializers = [], [], []
        self.feeds: dict[str, Array] = {}
        for i, array in enumerate(inputs):
            if array is None:
                continue
            if i in constant:
                initializers.append(onnx.numpy_helper.from_array(array, names[i]))
                continue
            fed, name = array, names[i]
            if i in permuted:
                perm = permuted[i]
                fed, name = array.transpose(np.argsort(perm)), f"t{i}"
                nodes.append(onnx.helper.make_node("Transpose", [name], [names[i]], perm=perm))
            code = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            shape = (dynamic or {}).get(i, fed.shape)
            infos.append(onnx.helper.make_tensor_value_info(name, code, shape))
            self.feeds[name] = np.ascontiguousarray(fed).reshape(fed.shape)
        results = [f"y{i}" for i in range(outputs)]
        nodes.append(onnx.helper.make_node(op, names, results, name="node", **attributes))
        graph = onnx.helper.make_graph(
            nodes, "row", infos, [onnx.ValueInfoProto(name=r) for r in results], initializers
        )
        opset = onnx.helper.make_opsetid("", OPSET)
        self.proto = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=12)
        self.graph = GraphIR.from_onnx(self.proto).infer_shapes()
        self.specs = {spec.op: spec for spec in specs}

    @property
    def view(self) -> OpView:
        return OpView(self.graph.nodes[-1])

    def expected(self) -> list[Array]:
        return [np.asarray(a) for a in ReferenceEvaluator(self.proto).run(None, self.feeds)]

    def reason(self) -> str | None:
        return self.specs[self.view.key].reason_against(self.view)

    def run(self, isa: str, threads: int = 2) -> tuple[list[Array], list[str]]:
        """Outputs, and the names of the kernels that ran."""
        builder = PlanBuilder(isa, self.graph.inputs, self.graph.outputs)
        for index, node in enumerate(self.graph.nodes):
            op = OpView(node)
            builder.node(index, op, self.specs[op.key].run)
        program = builder.finish([node.name or "" for node in self.graph.nodes])
        given = [self.feeds[value.name or ""] for value in self.graph.inputs]
        context = ExecutionContext(threads=threads)
        return program.run_arrays(given, context), [step.kernel for step in program.steps]

    def check(self, exact: bool = True) -> list[str]:
        """The row's outputs equal the reference's on every instruction set; the kernels' names."""
        assert self.reason() is None
        kernels: list[str] = []
        for isa in _native.complete_isas():
            for threads in (1, 2):
                got, kernels = self.run(isa, threads)
                for y, wanted in zip(got, self.expected(), strict=True):
                    assert y.dtype == wanted.dtype and y.shape == wanted.shape
                    if exact:
                        np.testing.assert_array_equal(y, wanted)
                    else:
                        np.testing.assert_allclose(y, wanted, rtol=1e-6)
        return kernels


@pytest.fixture
def make_row() -> Callable[..., Row]:
    """`Row`: arguments as its own."""
    return Row


@pytest.fixture
def two_products() -> Callable[[int | str, int, int], Any]:
    """(rows, k, n) -> a model of a product with what is fused behind it, and a bare one."""
    normal = np.random.default_rng(13).standard_normal

    def build(m: int | str, k: int, n: int) -> Any:
        """x W + b, gelu; then times V."""
        node, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
        nodes = [
            node("MatMul", ["x", "w"], ["a"]),
            node("Add", ["a", "b"], ["c"]),
            node("Gelu", ["c"], ["d"]),
            node("MatMul", ["d", "v"], ["y"]),
        ]
        weights = {"w": normal((k, n)) / k**0.5, "b": normal(n), "v": normal((n, k)) / n**0.5}
        graph = onnx.helper.make_graph(
            nodes,
            "products",
            [info("x", onnx.TensorProto.FLOAT, [m, k])],
            [info("y", onnx.TensorProto.FLOAT, [m, k])],
            [onnx.numpy_helper.from_array(a.astype(np.float32), n) for n, a in weights.items()],
        )
        opset = onnx.helper.make_opsetid("", OPSET)
        return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=12)

    return build
