"""The backend of `torch.compile`: graphs of Dynamo through AOTAutograd to compiled programs."""

from __future__ import annotations

import functools
import itertools
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch._decomp import core_aten_decompositions
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._guards import TracingContext

from zenith.config import CompileConfig
from zenith.errors import ConfigurationError, ZenithError
from zenith.plugins import plugin_manager
from zenith_torch.dynamo.program import Program
from zenith_torch.functions import FUNCTIONS
from zenith_torch.fused import FUSED
from zenith_torch.lower import HANDLERS

__all__ = ["Backend"]

OPTIONS = ("target", "precision", "mode", "opt_level", "fallback", "threads", "cache",
           "backend_options")  # fmt: skip

# PyTorch's decompositions of these give results that its own backward formula does not expect: the
# forward one hands the attention matrix to the backward operator, which wants the sums of the
# softmax. Both operators have handlers; none of the two may ever be decomposed.
_NEVER = ("aten._scaled_dot_product_flash_attention_for_cpu",)

# These change weights, which are none of a training's constants.
_WITHOUT_GRADIENTS = ("int8", "int4-weight")

_numbers = itertools.count()


class Backend:
    """A backend for `torch.compile`: ``torch.compile(model, backend=Backend(...))``.

    options: those of `zenith.compile` that say how to compile: target, precision, mode,
    opt_level, fallback, threads, cache, backend_options.
    """

    __name__ = "zenith"

    def __init__(self, **options: Any) -> None:
        self._options = dict(options)
        self._programs: list[weakref.ref[Program]] = []
        _config(options)

    def __call__(
        self,
        module: torch.fx.GraphModule,
        example_inputs: Sequence[Any],
        *,
        options: Mapping[str, Any] | None = None,
        mode: str | None = None,
    ) -> Callable[..., Any]:
        """Compile one graph of Dynamo. `options` and `mode` are what `torch.compile` was given.

        Wrong ones raise `ConfigurationError` when the compiled function is called: what a backend
        raises itself, Dynamo replaces by an error of its own.
        """
        merged = {**self._options, **(options or {}), **({"mode": mode} if mode else {})}
        try:
            config = _config(merged)
        except ZenithError as error:
            return _raising(error)
        number = next(_numbers)

        def compiler(kind: str) -> Callable[..., Any]:
            def compile_graph(graph: torch.fx.GraphModule, inputs: Sequence[Any]) -> Any:
                if kind != "inference" and config.precision in _WITHOUT_GRADIENTS:
                    return _raising(_no_training(config))
                held = _constants_of(graph) if kind == "inference" else []
                returned = _returned_of_training() if kind == "forward" else None
                program = Program(graph, f"{kind}_{number}", kind, held, config, returned)
                self._programs.append(weakref.ref(program))
                return program

            return compile_graph

        return aot_autograd(
            fw_compiler=compiler("forward"),
            bw_compiler=compiler("backward"),
            inference_compiler=compiler("inference"),
            decompositions=dict(decompositions()),
            partition_fn=min_cut_rematerialization_partition,
        )(module, example_inputs)

    @property
    def programs(self) -> list[Program]:
        """The compiled graphs that are alive, in the order they came."""
        self._programs = [ref for ref in self._programs if ref() is not None]
        return [program for ref in self._programs if (program := ref()) is not None]

    def explain(self) -> str:
        """For each compiled graph: its kernels, and what was left to PyTorch and why."""
        return "\n".join(map(str, self.programs)) or "no graph was compiled yet"

    def __repr__(self) -> str:
        options = ", ".join(f"{k}={v!r}" for k, v in self._options.items())
        return f"zenith_torch.create_backend({options})"


def _config(options: Mapping[str, Any]) -> CompileConfig:
    unknown = [name for name in options if name not in OPTIONS]
    if unknown:
        raise ConfigurationError(
            f"torch.compile options {unknown} do not exist", next=f"options: {', '.join(OPTIONS)}"
        )
    config = CompileConfig(**options)
    plugin_manager().check(config)
    return config


def _no_training(config: CompileConfig) -> ZenithError:
    return ConfigurationError(
        f"precision={config.precision!r} is for inference, and this graph computes gradients",
        next="call it under torch.no_grad(), or train with another precision",
    )


def _raising(error: ZenithError) -> Callable[..., Any]:
    def refuse(*args: Any) -> Any:
        raise error.with_traceback(None)

    return refuse


@functools.cache
def decompositions() -> dict[Any, Any]:
    """Core ATen, with every operator kept that has a handler of ours. Slow to make, so kept."""
    table: Any = {**core_aten_decompositions(), **FUNCTIONS, **FUSED}
    return {
        operator: rule
        for operator, rule in table.items()
        if str(operator) not in HANDLERS and not str(operator).startswith(_NEVER)
    }


def _returned_of_training() -> int:
    """How many of a forward graph's results are not for the backward graph alone."""
    context = TracingContext.try_get()
    metadata = None if context is None else context.fw_metadata
    return 0 if metadata is None else int(metadata.num_forward_returns)


def _constants_of(graph: torch.fx.GraphModule) -> list[int]:
    """Placeholders that are parameters or buffers, and that the graph does not write."""
    context = TracingContext.try_get()
    metadata = None if context is None else context.fw_metadata
    if metadata is None:
        return []
    places = [node for node in graph.graph.nodes if node.op == "placeholder"]
    written = {i for i, info in enumerate(metadata.input_info) if info.mutates_data}
    return [
        position
        for position in metadata.static_input_indices
        if position < len(places)
        and position not in written
        and isinstance(places[position].meta.get("val"), torch.Tensor)
    ]
