"""Execute stage: walk the plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zenith.errors import DeviceOutOfMemoryError
from zenith.runtime.backend import own_results
from zenith.runtime.context import ExecutionContext
from zenith.runtime.plan import ExecutionPlan

__all__ = ["GraphExecutor"]


class GraphExecutor:
    """Runs an `ExecutionPlan`. Stateless: one serves every plan and every thread."""

    def run(
        self, plan: ExecutionPlan, context: ExecutionContext, inputs: Sequence[Any]
    ) -> list[Any]:
        """Outputs for numpy inputs in the plan's order (a sequence is a list, an absent optional
        None). Every result is memory of its own.

        Models that are one native program do not come through here on a call: `CompiledModel`
        hands the framework's pointers to the program directly.
        """
        try:
            results = plan.walk.run(inputs, context)
        except DeviceOutOfMemoryError:
            raise
        except MemoryError as error:
            raise DeviceOutOfMemoryError(
                f"no memory left for a result: {error}", next="use a machine with more memory"
            ) from error
        return own_results(results, [*inputs, *plan.constants.values()])
