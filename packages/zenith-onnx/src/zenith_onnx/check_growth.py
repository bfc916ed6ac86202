"""What a whole model adds up to: how large it gets when functions are inlined, and in which order
its nodes can run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

import onnx

from zenith.errors import ValidationError
from zenith_onnx.check_tensor import quoted

__all__ = ["LIMITS", "Body", "FunctionKey", "Limits", "check_expansion", "complain_of_order"]

FunctionKey = tuple[str, str, str]  # domain, name, overload


@dataclass(frozen=True)
class Limits:
    """What a model may ask for. None of these is met by a model that a framework wrote.

    depth: graphs within graphs (bodies of If, Loop, Scan), after functions are inlined.
    calls: functions calling functions.
    nodes: nodes after functions are inlined, if that is also more than `growth` times what the
        file holds.
    edges: inputs of one node, and outputs: replacing one takes time with their number.
    list_items: items of a list attribute of a standard operator other than Constant.
    model_items: the same of ai.onnx.ml, where such lists are what the model learned.
    text_bytes: bytes of a string attribute of the same.
    """

    depth: int = 32
    calls: int = 64
    nodes: int = 100_000
    growth: int = 8
    edges: int = 4096
    list_items: int = 1 << 16
    model_items: int = 1 << 24
    text_bytes: int = 1 << 16


LIMITS = Limits()


@dataclass
class Body:
    """What inlining needs to know of a graph or function: its own nodes, how deep its graphs go,
    and how often and how deep it calls each function."""

    nodes: int = 0
    depth: int = 0
    calls: dict[FunctionKey, tuple[int, int]] = field(default_factory=dict)


def complain_of_order(name: str, nodes: list[onnx.NodeProto], where: str) -> NoReturn:
    """`name` is not defined where it is used: never, later, or in a cycle."""
    makers = {out: node for node in nodes for out in node.output if out}
    if name not in makers:
        raise ValidationError(
            f"{where} reads {quoted(name)}, which is no input, initializer or result of a node",
            next="check the name; an initializer may have been lost",
        )
    ring = _find_cycle(name, makers)
    if ring:
        raise ValidationError(
            f"the graph has a cycle: {where} depends on itself by way of "
            f"{' <- '.join(quoted(n) for n in ring[:8])}{' ...' if len(ring) > 8 else ''}"
        )
    raise ValidationError(
        f"{where} reads '{name}' before it is computed: the nodes are not in order",
        next="sort the nodes topologically and save the model again",
    )


def _find_cycle(start: str, makers: Mapping[str, onnx.NodeProto]) -> list[str]:
    """Values that depend on each other in a ring, of those `start` depends on; [] for none."""
    on_path: dict[str, Iterator[str]] = {start: iter(makers[start].input)}
    finished: set[str] = set()
    while on_path:
        current, rest = next(reversed(on_path.items()))
        following = next((n for n in rest if n in makers and n not in finished), None)
        if following is None:
            finished.add(current)
            del on_path[current]
        elif following in on_path:
            path = list(on_path)
            return path[path.index(following) :]
        else:
            on_path[following] = iter(makers[following].input)
    return []


def check_expansion(main: Body, bodies: Mapping[FunctionKey, Body], limits: Limits) -> None:
    """Bound what inlining would make, without making it: no recursion, no explosion."""
    done: dict[FunctionKey, tuple[int, int]] = {}  # nodes, graph depth
    for start in main.calls:
        stack, path = [start], list[FunctionKey]()
        while stack:
            key = stack[-1]
            if key in done:
                stack.pop()
                continue
            if path and path[-1] == key:  # all it calls is known
                done[key] = _total(bodies[key], done)
                path.pop()
                stack.pop()
                continue
            path.append(key)
            if len(path) > limits.calls:
                raise ValidationError(
                    f"functions call functions more than {limits.calls} deep, down to '{key[1]}'",
                    next="inline some of them",
                )
            for called in bodies[key].calls:
                if called in path:
                    ring = [k[1] for k in path[path.index(called) :]]
                    raise ValidationError(
                        f"function '{called[1]}' calls itself: {' -> '.join([*ring, called[1]])}"
                    )
                if called not in done:
                    stack.append(called)
    nodes, depth = _total(main, done)
    held = main.nodes + sum(body.nodes for body in bodies.values())
    if nodes > max(limits.nodes, limits.growth * held):
        raise ValidationError(
            f"the model's {held} nodes become {nodes:.3g} when its functions are inlined; the "
            f"limit is {max(limits.nodes, limits.growth * held)}",
            next="a model that a framework wrote does not do this; do not trust the file",
        )
    if depth > limits.depth:
        raise ValidationError(
            f"graphs are nested {depth} deep when functions are inlined; the limit is "
            f"{limits.depth}"
        )


def _total(body: Body, done: Mapping[FunctionKey, tuple[int, int]]) -> tuple[int, int]:
    nodes, depth = body.nodes, body.depth
    for key, (count, at) in body.calls.items():
        nodes += count * done[key][0]
        depth = max(depth, at + done[key][1])
    return min(nodes, 1 << 62), depth
