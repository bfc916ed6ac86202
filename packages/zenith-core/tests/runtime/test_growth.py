"""The work of compiling grows with the number of nodes, and no faster."""

from __future__ import annotations

import cProfile
from collections.abc import Callable
from typing import Any

import numpy as np

import zenith
from zenith.ir import GraphIR


def chain(graph_of: Callable[..., GraphIR], layers: int) -> GraphIR:
    """Layers with a residual and a skip over the whole net, so that lifetimes overlap."""
    rng = np.random.default_rng(0)
    lines, weights = ["h0 = Relu(x)"], {}
    for i in range(layers):
        weights[f"w{i}"] = rng.standard_normal((8, 8)).astype(np.float32)
        lines += [f"m{i} = MatMul(h{i}, w{i})", f"h{i + 1} = Add(m{i}, h{i})"]
    body = "\n".join([*lines, f"y = Mul(h{layers}, h0)"])
    return graph_of("(float[N,8] x) => (float[N,8] y)", body, weights)


def calls(graph: GraphIR) -> int:
    """Calls of Python functions, and of functions from Python, while `graph` is compiled."""
    profile = cProfile.Profile()
    profile.enable()
    zenith.compile(graph)
    profile.disable()
    counts: list[Any] = profile.getstats()
    return sum(entry.callcount for entry in counts)


def test_compiling_is_linear_in_nodes(graph_of: Callable[..., GraphIR]) -> None:
    graphs = [chain(graph_of, layers) for layers in (2, 20, 40, 80)]
    calls(graphs[0])  # what is made once per process
    first, second, third = (calls(graph) for graph in graphs[1:])
    per_node, later = (second - first) / 20, (third - second) / 40
    assert later < 1.15 * per_node, f"{per_node:.0f} calls for a layer, then {later:.0f}"
