"""Whether the results of a function depend on one of its arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.interpreters.partial_eval import dce_jaxpr

from zenith_jax.dtypes import described

__all__ = ["depends"]


def depends(function: Callable[..., Any], random: Any, args: Any, kwargs: Any) -> bool:
    """Whether a result of `function(random, args, kwargs)` can change with `random`."""
    own, tree = jax.tree_util.tree_flatten(random)
    leaves, structure = jax.tree_util.tree_flatten((args, kwargs))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, jax.core.Tracer)]

    def flat(own: list[Any], traced: list[Any]) -> list[Any]:
        filled = list(leaves)
        for place, value in zip(places, traced, strict=True):
            filled[place] = value
        state = jax.tree_util.tree_unflatten(tree, own)
        result = function(state, *jax.tree_util.tree_unflatten(structure, filled))
        return [
            leaf
            for leaf in jax.tree_util.tree_leaves(result)
            if isinstance(leaf, jax.Array | np.ndarray)
        ]

    shaped = [described(leaves[i].shape, leaves[i].dtype) for i in places]
    jaxpr = jax.make_jaxpr(flat)(own, shaped).jaxpr
    _, used = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return any(used[: len(own)])
