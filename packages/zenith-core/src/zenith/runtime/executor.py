"""Execute stage: walk the plan."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zenith.runtime.context import ExecutionContext
from zenith.runtime.plan import ExecutionPlan

__all__ = ["GraphExecutor"]


class GraphExecutor:
    """Runs an `ExecutionPlan`. Stateless: one serves every plan and every thread."""

    def run(
        self, plan: ExecutionPlan, context: ExecutionContext, inputs: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """Outputs for dense numpy inputs in the plan's order.

        Models that are one native program do not come through here on a call: `CompiledModel`
        hands the framework's pointers to the program directly.
        """
        slots: dict[int, np.ndarray] = {**plan.constants, **dict(enumerate(inputs))}
        shared = set(slots)
        for partition in plan.partitions:
            arguments = [slots[i] for i in partition.inputs]
            computed = partition.program.run_arrays(arguments, context)
            slots.update(zip(partition.outputs, computed, strict=True))
        results = []
        for slot in plan.output_slots:  # every result is memory of its own
            results.append(slots[slot].copy() if slot in shared else slots[slot])
            shared.add(slot)
        return results
