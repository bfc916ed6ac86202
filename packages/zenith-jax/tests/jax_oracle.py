"""JAX itself as the oracle: a compiled function against the function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

import zenith

__all__ = ["arrays", "check", "compiled_ops", "integers"]


def arrays(*shapes: Sequence[int], seed: int = 0, dtype: Any = np.float32) -> list[jax.Array]:
    """Normally distributed arrays."""
    rng = np.random.default_rng(seed)
    return [jax.numpy.asarray(rng.standard_normal(shape).astype(dtype)) for shape in shapes]


def integers(shape: Sequence[int], low: int, high: int, dtype: Any = np.int32) -> jax.Array:
    return jax.numpy.asarray(np.random.default_rng(7).integers(low, high, shape).astype(dtype))


def check(
    function: Any,
    *args: Any,
    rtol: float = 2e-5,
    atol: float = 1e-6,
    fallback: str = "error",
    model: Any = None,
    jit: bool = False,
    **options: Any,
) -> Any:
    """Compile `function` on `args`, and compare structure, types and numbers with calling it.

    jit: call it under `jax.jit`, which is quicker for a model than operation by operation.
    """
    source = function if model is None else model
    compiled = zenith.compile(source, sample_input=args, fallback=fallback, **options)
    wanted = (jax.jit(lambda *a: function(*a)) if jit else function)(*args)
    compare(compiled(*args), wanted, rtol, atol)
    return compiled


def compare(results: Any, wanted: Any, rtol: float = 2e-5, atol: float = 1e-6) -> None:
    assert jax.tree_util.tree_structure(results) == jax.tree_util.tree_structure(wanted)
    pairs = zip(jax.tree_util.tree_leaves(results), jax.tree_util.tree_leaves(wanted), strict=True)
    for result, expected in pairs:
        expected = jax.numpy.asarray(expected)
        assert isinstance(result, jax.Array)
        assert result.dtype == expected.dtype
        assert result.shape == expected.shape
        if jax.dtypes.issubdtype(expected.dtype, jax.dtypes.prng_key):
            result, expected = jax.random.key_data(result), jax.random.key_data(expected)
        if np.dtype(expected.dtype).kind in "biu":
            np.testing.assert_array_equal(np.asarray(result), np.asarray(expected))
        else:
            kind = np.complex128 if np.dtype(expected.dtype).kind == "c" else np.float64
            wide = np.asarray(result, kind), np.asarray(expected, kind)
            np.testing.assert_allclose(*wide, rtol, atol)


def compiled_ops(compiled: Any) -> list[str]:
    """The operators of the plan, without their domain."""
    return [node.op.split(":")[1] for node in compiled.explain().nodes]


Function = Callable[..., Any]
