"""The CPU backend: probe, lowering passes, plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from zenith import _native
from zenith.backends.cpu.builder import PlanBuilder
from zenith.backends.cpu.program import NativeProgram
from zenith.errors import CompilationError, ZenithError
from zenith.plugins import BackendStatus, State
from zenith.runtime.backend import Backend, Program
from zenith.runtime.dispatcher import Selection
from zenith.runtime.partition import describe_node

if TYPE_CHECKING:
    from zenith.config import CompileConfig
    from zenith.ir import GraphIR

__all__ = ["CpuBackend"]


class CpuBackend(Backend):
    """Native kernels for the best instruction set here (`ZENITH_ISA` forces a lower one)."""

    name = "cpu"
    plans_sizes = True
    precisions = frozenset({"fp32", "bf16"})

    def __init__(self) -> None:
        self.isa: str = _native.isas()[0]

    def probe(self) -> BackendStatus:
        if self.isa == "sse4":
            return BackendStatus(
                State.READY, "no AVX2 here (or ZENITH_ISA forbids it): kernels run on baseline SSE4"
            )
        return BackendStatus()

    def describe(self) -> str:
        return f"cpu({self.isa})"

    def pipeline(self, opt_level: int) -> Sequence[str]:
        from zenith.passes.pipelines import LOWER_CPU

        return LOWER_CPU[opt_level]

    def kernel_names(self, selections: Sequence[Selection], program: Program) -> list[str]:
        assert isinstance(program, NativeProgram)
        return [
            f"{selection.spec.name}_{isa}"
            for selection, isa in zip(selections, program.node_isas(), strict=True)
        ]

    def build(
        self, graph: GraphIR, selections: Sequence[Selection], config: CompileConfig
    ) -> NativeProgram:
        builder = PlanBuilder(self.isa, graph.inputs, graph.outputs)
        labels = []
        for index, selection in enumerate(selections):
            labels.append(describe_node(selection.op))
            try:
                builder.node(index, selection.op, selection.spec.run)
            except ZenithError:
                raise
            except Exception as error:
                raise CompilationError(
                    f"kernel row '{selection.spec.name}' failed to plan a node: "
                    f"{type(error).__name__}: {error}\n  at     {labels[-1]}"
                ) from error
        return builder.finish(labels)
