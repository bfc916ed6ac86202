"""One graph of AOTAutograd, compiled: as one region, or as regions with PyTorch in between."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from zenith.config import CompileConfig
from zenith.errors import UnsupportedOperationError
from zenith.events import events
from zenith.runtime.stages import FallbackWarning
from zenith_torch.dynamo.edges import unsupported
from zenith_torch.dynamo.partition import partition, replay_views
from zenith_torch.dynamo.region import Region

__all__ = ["LeftToTorch", "Program"]


@dataclass(frozen=True)
class LeftToTorch:
    """A node that PyTorch runs: its operator, why, and the source line ("" where unknown)."""

    node: str
    op: str
    why: str
    source: str


class Program:
    """What AOTAutograd calls, with a list of arguments that it may empty.

    kind: "inference", "forward" or "backward". held: placeholders that are parameters or buffers,
    where these become constants. returned: see `replay_views`.
    """

    def __init__(
        self,
        module: torch.fx.GraphModule,
        name: str,
        kind: str,
        held: Sequence[int],
        config: CompileConfig,
        returned: int | None = None,
    ) -> None:
        self._returned = returned
        self._boxed_call = True  # AOTAutograd's mark of this way of calling
        self.name = name
        self.kind = kind
        self.regions: list[Region] = []
        self.left: list[LeftToTorch] = []
        self._module = module
        self._held = tuple(held)
        self._config = config
        self._lock = threading.RLock()
        self._run: Callable[..., Any] | None = None

    def __call__(self, args: list[Any]) -> list[Any]:
        run = self._run
        if run is None:
            run = self._build(args)
        given = tuple(args)
        args.clear()
        return list(run(*given))

    def _build(self, args: Sequence[Any]) -> Callable[..., Any]:
        """Decide who runs what; at the first call, since only now the parameters are there."""
        with self._lock:
            if self._run is not None:
                return self._run
            constants = {position: args[position] for position in self._held}
            problems = self._problems(constants)
            if problems:
                self._report(problems)
            backward = self.kind == "backward"
            views = [] if backward else replay_views(self._module, self._returned)
            if problems or views:
                places = [n for n in self._module.graph.nodes if n.op == "placeholder"]
                held = {places[position].name for position in self._held}

                def make(region: torch.fx.GraphModule, operands: list[Any]) -> Region:
                    return self._region(
                        region, [i for i, n in enumerate(operands) if n.name in held]
                    )

                nodes = [*(node for node, _ in problems), *views]
                self._run = partition(self._module, nodes, make).forward
            else:
                self._run = self._region(self._module, self._held)
            return self._run

    def _problems(
        self, constants: dict[int, torch.Tensor]
    ) -> list[tuple[torch.fx.Node, LeftToTorch]]:
        """The nodes that cannot be lowered."""
        found = []
        for node, op, line in unsupported(self._module, constants):
            name, _, why = op.partition(" (")
            reason = why.removesuffix(")") or "no lowering"
            found.append((node, LeftToTorch(node.name, name, reason, line)))
        return found

    def _region(self, module: torch.fx.GraphModule, held: Sequence[int]) -> Region:
        suffix = f".{len(self.regions)}" if self.regions else ""
        region = Region(module, f"{self.name}{suffix}", held, self._config)
        self.regions.append(region)
        return region

    def _report(self, problems: Sequence[tuple[torch.fx.Node, LeftToTorch]]) -> None:
        self.left = [row for _, row in problems]
        names = ", ".join(dict.fromkeys(row.op for row in self.left))
        if self._config.fallback == "error":
            places = [(f"{row.op} ({row.why})", row.source) for row in self.left]
            raise UnsupportedOperationError(
                names, operations=places, next='fallback="warn" leaves them to PyTorch'
            )
        for row in self.left:
            events.emit("fallback", node=row.node, op=row.op, backend="torch", why=row.why)
        if self._config.fallback == "warn":
            lines = [f"  {row.op}: {row.why}    {row.source}".rstrip() for row in self.left]
            warnings.warn(
                f"{self.name}: PyTorch runs {names}\n" + "\n".join(dict.fromkeys(lines)),
                FallbackWarning,
                stacklevel=2,
            )

    def __str__(self) -> str:
        lines = [f"{self.name} ({self.kind}): {len(self.regions)} regions on Zenith"]
        for region in self.regions:
            if region.compiled is not None:
                text = str(region.compiled.explain())
                lines += [f"  {region.name}, compiled {region.compilations} times"]
                lines += [f"    {line}" for line in text.splitlines()]
            if region.failure is not None:
                lines.append(f"  PyTorch runs {region.name}: {region.failure.message}")
        for row in self.left:
            lines.append(
                f"  PyTorch runs {row.node} = {row.op}: {row.why}    {row.source}".rstrip()
            )
        return "\n".join(lines)
