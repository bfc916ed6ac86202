"""Execute stage: walk the plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zenith.runtime.backend import own_results
from zenith.runtime.context import ExecutionContext
from zenith.runtime.plan import ExecutionPlan

__all__ = ["GraphExecutor"]


class GraphExecutor:
    """Runs an `ExecutionPlan`. Stateless: one serves every plan and every thread."""

    def run(
        self,
        plan: ExecutionPlan,
        context: ExecutionContext,
        inputs: Sequence[Any],
        *,
        own: bool = True,
    ) -> list[Any]:
        """Outputs for numpy inputs in the plan's order (a sequence is a list, an absent optional
        None).

        own: every result is memory of its own. Without it a result may be an input or a constant.

        Models that are one native program do not come through here on a call: `CompiledModel`
        hands the framework's pointers to the program directly.
        """
        slots: list[Any] = [*inputs, *[None] * (plan.n_slots - len(inputs))]
        for slot, constant in plan.constants.items():
            slots[slot] = constant
        for partition in plan.partitions:
            arguments = [slots[i] for i in partition.inputs]
            computed = partition.program.run_arrays(arguments, context)
            for slot, value in zip(partition.outputs, computed, strict=True):
                slots[slot] = value
        results = [slots[slot] for slot in plan.output_slots]
        return own_results(results, [*inputs, *plan.constants.values()]) if own else results
