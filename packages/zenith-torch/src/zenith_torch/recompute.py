"""Random operators that backward computes again: torch.utils.checkpoint.

Note [Recomputed numbers]: AOTAutograd wraps operators that may draw random numbers. The forward
graph keeps the generator's state of before, the backward graph draws from it once more. Here a key
stands for that state: drawn from the call's own (see `lower.random`), and written over the seed in
the bytes of a valid state, which is all of it for an operator that draws nothing.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
import torch

from zenith_torch.builder import Builder
from zenith_torch.lower.random import random_bits

if TYPE_CHECKING:
    from zenith_torch.lowering import Lowering

__all__ = ["RECOMPUTED", "draws_again"]

_KEY_BYTES = 8


def _saved(
    lowering: Lowering, node: torch.fx.Node, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[Any]:
    """The state, and the operator's results."""
    b = lowering.builder
    outer = b.random_key
    drawn: list[ir.Value] = []

    def fresh() -> ir.Value:
        if not drawn:
            with _numbers(b, outer, b.streams):
                drawn.append(random_bits(b, (2,)))
        return drawn[0]

    with _numbers(b, fresh, 0):
        result = lowering.call(node, str(args[0]), _meta(node, 1), args[1:], kwargs)
    b.streams += len(drawn)
    state = _state(b, drawn[0]) if drawn else b.constant(torch.get_rng_state().numpy())
    size = _meta(node, 0)
    if size is not None:
        b.knows(lowering.symbols.shape(size.shape)[0], state, 0)
    return [state, result]


def _again(
    lowering: Lowering, node: torch.fx.Node, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """The same results from the state."""
    state, target, *rest = args
    b = lowering.builder
    with _numbers(b, lambda: _key(b, state), 0):
        return lowering.call(node, str(target), node.meta.get("val"), rest, kwargs)


@contextmanager
def _numbers(b: Builder, key: Callable[[], ir.Value], streams: int) -> Iterator[None]:
    """Random numbers of another key, counted from `streams`."""
    saved = b.random_key, b.streams
    b.random_key, b.streams = key, streams
    try:
        yield
    finally:
        b.random_key, b.streams = saved


def _meta(node: torch.fx.Node, position: int) -> Any:
    """What the capture says of one of the wrapped results; it says nothing of all together."""
    gets = [u for u in node.users if u.target is operator.getitem and u.args[1] == position]
    return gets[0].meta.get("val") if gets else None


def _state(b: Builder, key: ir.Value) -> ir.Value:
    """A generator's state with the key in its first bytes."""
    shifts = b.number([[0, 8, 16, 24]], torch.uint32, (1, 4))
    parts = b.op("BitShift", b.reshape(key, (2, 1)), shifts, direction="RIGHT")
    low = b.op("BitwiseAnd", parts, b.number(255, torch.uint32))
    rest = b.constant(torch.get_rng_state()[_KEY_BYTES:].numpy())
    return b.concat([b.reshape(b.cast(low, torch.uint8), (_KEY_BYTES,)), rest], 0)


def _key(b: Builder, state: ir.Value) -> ir.Value:
    """The key that `_state` has hidden."""
    low = b.reshape(b.cast(b.slice(state, 0, 0, _KEY_BYTES), torch.uint32), (2, 4))
    shifts = b.number([[0, 8, 16, 24]], torch.uint32, (1, 4))
    parts = b.op("BitShift", low, shifts, direction="LEFT")
    return b.reduce("ReduceSum", parts, [1], keepdims=False)


RECOMPUTED: Mapping[str, Callable[..., Any]] = {
    "run_and_save_rng_state": _saved,
    "run_with_rng_state": _again,
}


def draws_again(graph: torch.fx.Graph) -> bool:
    """Whether a graph is one half of such a pair: forward and backward must run on one side."""
    return any(getattr(node.target, "__name__", "") in RECOMPUTED for node in graph.nodes)
