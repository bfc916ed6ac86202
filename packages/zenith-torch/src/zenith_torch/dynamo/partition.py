"""Graphs with operators nobody lowered: Zenith runs regions, PyTorch what is between them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch.fx.passes.infra.partitioner import CapabilityBasedPartitioner
from torch.fx.passes.operator_support import OperatorSupportBase

from zenith_torch.lowering import operator_name

__all__ = ["partition", "replay_views"]

MakeRegion = Callable[[torch.fx.GraphModule, list[torch.fx.Node]], Callable[..., Any]]

# A region of these alone would only copy.
_VIEWS = frozenset(
    f"aten.{name}"
    for name in (
        *("alias.default", "detach.default", "view.default", "permute.default", "t.default"),
        *("transpose.int", "expand.default", "unsqueeze.default", "squeeze.dim", "squeeze.dims"),
        *("squeeze.default", "slice.Tensor", "select.int", "split.Tensor", "as_strided.default"),
        *("split_with_sizes.default", "_unsafe_view.default", "lift_fresh_copy.default"),
    )
)


class _Known(OperatorSupportBase):
    def __init__(self, excluded: Collection[torch.fx.Node]) -> None:
        self._excluded = excluded

    def is_node_supported(self, submodules: Mapping[str, Any], node: torch.fx.Node) -> bool:
        return node.op in ("call_function", "get_attr") and node not in self._excluded


def partition(
    module: torch.fx.GraphModule, unknown: Collection[torch.fx.Node], make: MakeRegion
) -> torch.fx.GraphModule:
    """The module with its regions replaced by what `make(region, its arguments)` returns.

    unknown: the nodes that stay as they are.
    """
    excluded = set(unknown)
    for node in module.graph.nodes:  # results of an operator belong to it
        if any(source in excluded for source in node.all_input_nodes) and _is_part(node):
            excluded.add(node)
        if node.op == "get_attr" and not excluded.isdisjoint(node.users):
            excluded.add(node)  # the body of an operator that stays
    partitioner = CapabilityBasedPartitioner(
        module, _Known(excluded), allows_single_node_partition=True
    )
    proposed = partitioner.propose_partitions()
    worth = [p for p in proposed if any(_computes(node) for node in p.nodes)]
    split = partitioner.fuse_partitions(worth)
    for node in list(split.graph.nodes):
        if node.op == "call_module":
            region = split.get_submodule(str(node.target))
            assert isinstance(region, torch.fx.GraphModule)
            call = _Call(make(region, list(node.args)))
            setattr(split, str(node.target), call)
    split.recompile()
    return split


def replay_views(module: torch.fx.GraphModule, returned: int | None = None) -> list[torch.fx.Node]:
    """Let results that share memory in the trace share it again; gives the nodes to leave to torch.

    A result of ours owns its memory. Where a result is a view of an argument, or several are views
    of one tensor, the chain of views is repeated behind it, for PyTorch to run: of the arguments
    AOTAutograd makes its own views by the strides that it finds in ours.
    returned: at training, how many results are the caller's. The views of one tensor among these
    AOTAutograd makes itself, from what it noted when it traced; from our strides where sizes are
    dynamic.
    """
    replayed_by_us = returned is None or _has_dynamic_sizes(module)
    output = module.graph.output_node()
    results: Any = output.args[0]
    leaves = [leaf for leaf in results[:returned] if isinstance(leaf, torch.fx.Node)]
    given = {_storage(node) for node in module.graph.nodes if node.op == "placeholder"}
    homes: dict[Any, list[torch.fx.Node]] = {}
    for leaf in dict.fromkeys(leaves):
        homes.setdefault(_storage(leaf), []).append(leaf)
    added: list[torch.fx.Node] = []
    copies: dict[torch.fx.Node, torch.fx.Node] = {}
    for storage, group in homes.items():
        shared = len(group) > 1 and replayed_by_us
        if storage is None or not (shared or storage in given):
            continue
        for leaf in group:
            chain = []
            node = leaf
            while operator_name(node.target) in _VIEWS and _storage(node) == storage:
                chain.append(node)
                node = node.all_input_nodes[0]
            for view in reversed(chain):
                if view not in copies:
                    with module.graph.inserting_before(output):
                        copies[view] = module.graph.node_copy(view, lambda n: copies.get(n, n))
                    added.append(copies[view])
    replayed = [copies.get(leaf, leaf) for leaf in results[:returned]]
    output.args = ((*replayed, *results[len(replayed) :]),)
    return added


def _has_dynamic_sizes(module: torch.fx.GraphModule) -> bool:
    values = [node.meta.get("val") for node in module.graph.nodes if node.op == "placeholder"]
    sizes = [size for v in values if isinstance(v, torch.Tensor) for size in v.shape]
    return any(isinstance(size, torch.SymInt) for size in (*values, *sizes))


def _storage(node: torch.fx.Node) -> Any:
    val = node.meta.get("val")
    return val.untyped_storage()._cdata if isinstance(val, torch.Tensor) else None


class _Call(torch.nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self._function = function

    def forward(self, *args: Any) -> Any:
        return self._function(*args)


def _is_part(node: torch.fx.Node) -> bool:
    return getattr(node.target, "__name__", "") == "getitem"


def _computes(node: torch.fx.Node) -> bool:
    kinds = (torch._ops.OpOverload, torch._ops.HigherOrderOperator)
    if node.op != "call_function" or not isinstance(node.target, kinds):
        return False
    return operator_name(node.target) not in _VIEWS
