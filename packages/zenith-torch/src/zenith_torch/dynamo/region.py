"""A graph that runs on Zenith, with the parameters it has at the moment built in.

Note [Parameters as constants]: at inference, parameters and buffers are weights of the compiled
model: packed once, in the order the kernels want. Dynamo passes them with every call, so each call
can look whether they are still the same tensors (`is`), with the same memory (`data_ptr`), and
unwritten since (`_version`; see `watch`). If not, the model is compiled again with what they hold
now. A graph whose parameters change all the time stops building them in: after `REPACKS` such
compilations those that changed become ordinary inputs. One graph may serve many modules (the
layers of a network): each set of parameters has a model of its own, `SETS` at most; later sets are
inputs.
"""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Collection, Sequence
from typing import Any

import torch

import zenith
from zenith.config import CompileConfig
from zenith.errors import CompilationError, ConfigurationError, ZenithError
from zenith.events import events
from zenith.runtime.compiled_model import CompiledModel
from zenith.runtime.stages import FallbackWarning
from zenith_torch.builder import NotSupportedError
from zenith_torch.dynamo.edges import import_graph
from zenith_torch.dynamo.signature import assemble
from zenith_torch.dynamo.watch import snapshot
from zenith_torch.recompute import draws_again

__all__ = ["REPACKS", "SETS", "Region", "refresh"]

REPACKS = 3
SETS = 32

_regions: weakref.WeakSet[Region] = weakref.WeakSet()


class Region:
    """Compiled at the first call, when the parameters are there.

    module: a functional ATen graph; name: what the events of its compilations say.
    held: the placeholders, by position, that become constants.
    """

    def __init__(
        self,
        module: torch.fx.GraphModule,
        name: str,
        held: Sequence[int],
        config: CompileConfig,
    ) -> None:
        self.module = module
        self.name = name
        self.compilations = 0
        self.failure: ZenithError | None = None
        self._config = config
        self._held = tuple(held)
        self._lock = threading.RLock()
        self._current: _Packed | None = None
        self._sets: dict[tuple[int, ...], _Packed] = {}
        self._changed: set[int] = set()  # held no more: they change too often
        self._repacks = 0
        _regions.add(self)

    def __call__(self, *args: Any) -> Any:
        """The graph's results; a list, or the one result of a graph that returns no tuple."""
        packed = self._current
        if packed is None or not packed.serves(args):
            try:
                packed = self._find(args)
            except ZenithError as error:
                # What was asked for and cannot be had is no reason to give something else; and
                # PyTorch would draw other random numbers than the other half of a training did.
                wanted = self._config.fallback == "error" or isinstance(error, ConfigurationError)
                if wanted or draws_again(self.module.graph):
                    raise
                self._give_up(error)
                return self.module(*args)
        return packed(args)

    @property
    def compiled(self) -> CompiledModel | None:
        """The model of the latest call; None before the first."""
        return None if self._current is None else self._current.compiled

    def forget(self, tensors: Collection[int] | None = None) -> None:
        """Drop the models that hold any of the tensors (by id); all of them by default."""
        with self._lock:
            kept = {} if tensors is None else self._sets
            self._sets = {
                key: packed
                for key, packed in kept.items()
                if not any(id(t) in (tensors or ()) for t in packed.tensors)
            }
            if self._current not in self._sets.values():
                self._current, self._repacks = None, 0
                self._changed.clear()

    def _find(self, args: tuple[Any, ...]) -> _Packed:
        with self._lock:
            held = [position for position in self._held if position not in self._changed]
            key = tuple(id(args[position]) for position in held)
            packed = self._sets.get(key)
            if packed is not None and not packed.serves(args):
                del self._sets[key]
                self._repacks += 1
                if self._repacks > REPACKS:
                    self._changed.update(packed.changed(args))
                return self._find(args)
            if packed is None and len(self._sets) >= SETS and held:
                self._changed.update(held)
                return self._find(args)
            if packed is None:
                packed = self._sets[key] = self._compile(args, held)
            self._current = packed
            return packed

    def _give_up(self, error: ZenithError) -> None:
        """PyTorch runs the region from now on: what it consists of is known, this use is not."""
        if self.failure is not None:
            return
        self.failure = error
        events.emit("fallback", node=self.name, op="graph", backend="torch", why=error.message)
        if self._config.fallback == "warn":
            warnings.warn(f"{self.name}: PyTorch runs it: {error}", FallbackWarning, stacklevel=2)

    def _compile(self, args: Sequence[Any], held: Sequence[int]) -> _Packed:
        constants = {position: args[position] for position in held}
        if self.failure is not None:
            raise self.failure
        try:
            edges = import_graph(self.module, constants, self.name)
        except NotSupportedError as error:
            raise CompilationError(f"a result of the graph: {error}") from error
        config = self._config
        self.compilations += 1
        compiled = zenith.compile(
            edges.model,
            target=config.target,
            precision=config.precision,
            opt_level=config.opt_level,
            mode=config.mode,
            fallback=config.fallback,
            threads=config.threads,
            cache=config.cache,
            backend_options=config.backend_options,
        )
        return _Packed(compiled, edges.results, edges.single, constants)


class _Packed:
    """A compiled model and the state of the tensors it was made with."""

    def __init__(
        self,
        compiled: CompiledModel,
        results: Sequence[Any],
        single: bool,
        constants: dict[int, torch.Tensor],
    ) -> None:
        self.compiled = compiled
        self._results = results
        self._single = single
        self.tensors = list(constants.values())
        self._snapshot = snapshot(constants)

    def serves(self, args: tuple[Any, ...]) -> bool:
        """Whether the constants are what the arguments hold: a few nanoseconds for each."""
        return self._snapshot.matches(args)

    def changed(self, args: tuple[Any, ...]) -> list[int]:
        """The positions of constants that are not what they were."""
        return self._snapshot.changed(args)

    def __call__(self, args: Sequence[Any]) -> Any:
        results = assemble(self._results, args, self.compiled(*args))
        return results[0] if self._single else results


def refresh(model: torch.nn.Module | None = None) -> None:
    """Forget the packed weights of `model` (of all models by default); the next call packs anew.

    Needed only after writes that PyTorch does not count: through `.data` (``p.data.add_(1)``), by
    way of numpy or another library into the tensor's memory, or to tensors made in
    `torch.inference_mode`, which have no version. `load_state_dict`, optimizer steps, in-place
    operators and ``p.data = tensor`` are noticed without it.
    """
    tensors = None
    if model is not None:
        tensors = {id(t) for t in (*model.parameters(), *model.buffers())}
    for region in list(_regions):
        region.forget(tensors)
