"""Rows of the gemm family: a node through its emitter and the plan, against float64 numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from zenith import _native, ops
from zenith.backends.cpu.builder import PlanBuilder
from zenith.backends.cpu.kernels import gemm, views
from zenith.ir import DOMAIN, OPSET, GraphIR
from zenith.runtime.context import ExecutionContext
from zenith.runtime.kernel_registry import KernelRegistry
from zenith.runtime.op_view import OpView

Array = np.ndarray[Any, Any]
ISAS = _native.complete_isas()

REGISTRY = KernelRegistry()
REGISTRY.add("cpu", *gemm.SPECS, *views.SPECS)


def normal(shape: Sequence[int], *seed: int) -> Array:
    return np.random.default_rng([11, *seed, *shape]).standard_normal(shape).astype(np.float32)


class Node:
    """One node as a graph. constant: inputs that are initializers. permuted: inputs that come
    through a Transpose, so as strided views. dynamic: declared shapes of inputs."""

    def __init__(
        self,
        op: str,
        arrays: Sequence[Array | None],
        *,
        overload: str = "",
        domain: str = "",
        constant: Sequence[int] = (),
        permuted: dict[int, Sequence[int]] | None = None,
        dynamic: dict[int, Sequence[str | int]] | None = None,
        **attributes: Any,
    ) -> None:
        self.feeds: list[Array] = []
        given: list[ir.Value] = []
        values: list[ir.Value | None] = []
        nodes: list[ir.Node] = []
        initializers: list[ir.Value] = []
        for i, array in enumerate(arrays):
            if array is None:
                values.append(None)
                continue
            name, kind = f"x{i}", ir.TensorType(ir.DataType.from_numpy(array.dtype))
            if i in constant:
                tensor = ir.tensor(array, name=name)
                value = ir.Value(
                    name=name, shape=ir.Shape(array.shape), type=kind, const_value=tensor
                )
                initializers.append(value)
                values.append(value)
                continue
            perm = (permuted or {}).get(i)
            fed = array if perm is None else array.transpose(np.argsort(perm))
            shape = ir.Shape((dynamic or {}).get(i, fed.shape))
            value = ir.Value(name=name, shape=shape, type=kind)
            self.feeds.append(np.asarray(fed, order="C"))
            given.append(value)
            if perm is not None:
                turn = ir.node("Transpose", [value], {"perm": list(perm)}, name=f"turn{i}")
                turn.outputs[0].name = f"t{i}"
                nodes.append(turn)
                value = turn.outputs[0]
            values.append(value)
        node = ir.node(op, values, attributes, domain=domain, overload=overload, name="node")
        node.outputs[0].name = "y"
        graph = ir.Graph(
            given,
            node.outputs,
            nodes=[*nodes, node],
            initializers=initializers,
            opset_imports={"": OPSET},
            name="g",
        )
        model = ir.Model(graph, ir_version=10)
        if domain:
            ops.ensure(model, op, overload)
        self.graph = GraphIR(model).infer_shapes()

    @property
    def view(self) -> OpView:
        return OpView(self.graph.nodes[-1])

    def run(self, isa: str, threads: int = 2) -> tuple[Array, str, list[str]]:
        """Output, the chosen row, the kernels that ran."""
        builder = PlanBuilder(isa, self.graph.inputs, self.graph.outputs)
        row = ""
        for index, node in enumerate(self.graph.nodes):
            op = OpView(node)
            rows = [r for r in REGISTRY.candidates("cpu", op) if r.reason_against(op) is None]
            builder.node(index, op, rows[0].run)
            row = rows[0].name
        program = builder.finish([node.name or "" for node in self.graph.nodes])
        outputs = program.run_arrays(self.feeds, ExecutionContext(threads=threads))
        return np.asarray(outputs[0]), row, [step.kernel for step in program.steps]

    def check(self, want: Array, row: str, kernels: Sequence[str]) -> None:
        for isa in ISAS:
            got, chosen, ran = self.run(isa)
            assert (chosen, ran) == (row, list(kernels))
            assert got.dtype == np.float32 and got.shape == want.shape
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)


def double(*arrays: Array) -> list[Array]:
    return [a.astype(np.float64) for a in arrays]


def test_linear() -> None:
    x, w, b, r = normal((2, 5, 24)), normal((24, 37)), normal((37,)), normal((2, 5, 37))
    x64, w64, b64, r64 = double(x, w, b, r)
    node = Node("Linear", [x, w], domain=DOMAIN, constant=[1])
    node.check(x64 @ w64, "linear_f32", ["linear_f32"])
    node = Node("Linear", [x, w, b, r], overload="bias.add", domain=DOMAIN, constant=[1, 2])
    node.check(x64 @ w64 + b64 + r64, "linear_f32", ["linear_f32"])
    node = Node("Linear", [x, w, r], overload="mul.relu", domain=DOMAIN, constant=[1])
    node.check(np.maximum(x64 @ w64 * r64, 0), "linear_f32", ["linear_f32"])


def test_linear_reads_views_and_copies_only_when_it_must() -> None:
    x, w, r = normal((2, 5, 24)), normal((24, 37)), normal((2, 5, 37))
    want = np.matmul(*double(x, w)) + r
    for perm, copies in (((1, 0, 2), 1), ((0, 2, 1), 1)):
        node = Node(
            "Linear", [x, w, r], overload="add", domain=DOMAIN, constant=[1], permuted={0: perm}
        )
        node.check(want, "linear_f32", ["copy"] * copies + ["linear_f32"])
    rows = normal((1, 5, 24))
    node = Node("Linear", [rows, w], domain=DOMAIN, constant=[1], permuted={0: (1, 0, 2)})
    node.check(np.matmul(*double(rows, w)), "linear_f32", ["linear_f32"])


def test_linear_of_dynamic_and_empty_shapes() -> None:
    w, b = normal((24, 37)), normal((37,))
    for batch in ((2, 5), (1, 1), (0, 5), (2, 0)):
        x = normal((*batch, 24))
        node = Node(
            "Linear",
            [x, w, b],
            overload="bias.relu",
            domain=DOMAIN,
            constant=[1, 2],
            dynamic={0: ["b", "s", 24]},
        )
        want = np.maximum(np.matmul(*double(x, w)) + b, 0)
        node.check(want, "linear_f32", ["linear_f32"])
        node = Node("Linear", [x, w], domain=DOMAIN, constant=[1])
        node.check(np.matmul(*double(x, w)), "linear_f32", ["linear_f32"])


def test_linear_reasons() -> None:
    x, w = normal((2, 24)), normal((24, 37))
    spec = gemm.SPECS[0]
    node = Node("Linear", [x, w], domain=DOMAIN)
    assert spec.reason_against(node.view) == "the weights are not constant"
    node = Node("Linear", double(x, w), domain=DOMAIN, constant=[1])
    assert spec.reason_against(node.view) == "input 0 is float64, not float32"


MATMULS = [
    ((24,), (24,)),
    ((24,), (24, 7)),
    ((5, 24), (24,)),
    ((5, 24), (24, 7)),
    ((3, 5, 24), (24, 7)),
    ((3, 5, 24), (3, 24, 7)),
    ((2, 1, 5, 24), (3, 24, 7)),
    ((24,), (3, 24, 7)),
    ((3, 5, 24), (24,)),
    ((3, 0, 24), (24, 7)),
    ((0, 5, 24), (0, 24, 7)),
]


@pytest.mark.parametrize(("left", "right"), MATMULS)
def test_matmul(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    a, b = normal(left), normal(right)
    want = np.asarray(np.matmul(*double(a, b)))
    Node("MatMul", [a, b]).check(want, "matmul_f32", ["matmul_f32"])
    row = "matmul_packed_f32" if len(right) == 2 else "matmul_f32"
    kernel = "linear_f32" if len(right) == 2 else "matmul_f32"
    Node("MatMul", [a, b], constant=[1]).check(want, row, [kernel])


def test_matmul_of_dynamic_shapes() -> None:
    a, b = normal((2, 1, 5, 24)), normal((3, 24, 7))
    dynamic: dict[int, Sequence[str | int]] = {0: ["n", 1, "s", 24], 1: ["h", 24, "t"]}
    node = Node("MatMul", [a, b], dynamic=dynamic)
    node.check(np.matmul(*double(a, b)), "matmul_f32", ["matmul_f32"])


def test_matmul_takes_attention_views_without_copies() -> None:
    q, k = normal((2, 4, 9, 24)), normal((2, 4, 24, 13))
    node = Node("MatMul", [q, k], permuted={0: (0, 2, 1, 3), 1: (0, 2, 3, 1)})
    node.check(np.matmul(*double(q, k)), "matmul_f32", ["matmul_f32"])
    # A left side whose columns are contiguous is copied: its rows are read many times.
    node = Node("MatMul", [q, k], permuted={0: (0, 1, 3, 2)})
    node.check(np.matmul(*double(q, k)), "matmul_f32", ["copy", "matmul_f32"])


@pytest.mark.parametrize("constant", [(), (1,), (1, 2)])
@pytest.mark.parametrize("trans", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.5, 1.0), (2.0, -3.0)])
def test_gemm(constant: tuple[int, ...], trans: tuple[int, int], alpha: float, beta: float) -> None:
    a, b = normal((5, 24)), normal((24, 7))
    given_a, given_b = (a.T.copy() if trans[0] else a), (b.T.copy() if trans[1] else b)
    kernel = "linear_f32" if 1 in constant else "matmul_f32"
    kernels = ["copy", kernel] if trans[0] else [kernel]
    for shape in ((7,), (5, 1), (5, 7), (), None):
        c = None if shape is None else np.asarray(normal(shape))
        if c is None and 2 in constant:
            continue
        node = Node(
            "Gemm",
            [given_a, given_b] + ([] if c is None else [c]),
            constant=constant,
            alpha=alpha,
            beta=beta,
            transA=trans[0],
            transB=trans[1],
        )
        want = alpha * np.matmul(*double(a, b)) + (0 if c is None else beta * c)
        node.check(want, "gemm_f32", kernels)


def test_gemm_without_c_in_the_product() -> None:
    a, b, c = normal((5, 24)), normal((24, 7)), np.full((7,), np.inf, np.float32)
    node = Node("Gemm", [a, b, c], constant=[1], beta=0.0)
    node.check(np.matmul(*double(a, b)), "gemm_f32", ["linear_f32"])


def test_costs() -> None:
    a, b = normal((3, 5, 24)), normal((24, 7))
    for node in (Node("MatMul", [a, b]), Node("Gemm", [a[0].T.copy(), b], transA=1)):
        op = node.view
        cost = REGISTRY.candidates("cpu", op)[-1].cost(op)
        rows = 15 if op.type == "MatMul" else 5
        assert cost.flops == 2 * rows * 24 * 7
        assert cost.bytes == 4 * (rows * 24 + 24 * 7 + rows * 7)
