"""What `zenith` loads from this package's entry point; imports jax only for JAX models."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from zenith.runtime.adapter import ImportedModel

__all__ = ["ZENITH_API_VERSION", "JaxAdapter", "zenith_register_adapters"]

ZENITH_API_VERSION = 1
hookimpl = pluggy.HookimplMarker("zenith")

_FUNCTIONS = (
    types.FunctionType,
    types.MethodType,
    types.BuiltinFunctionType,
    functools.partial,
)
_MODULES = (("flax.nnx", "Module"), ("flax.linen", "Module"), ("equinox", "Module"))


class JaxAdapter:
    """Functions of JAX arrays, `(function, params)`, and modules of flax and equinox."""

    name = "jax"

    def accepts(self, model: object) -> bool:
        """Whether `model` is JAX's: nobody can have such a model without jax imported.

        A plain function says nothing about its framework; with jax imported it is taken as JAX's,
        and its `sample_input` must agree.
        """
        jax = sys.modules.get("jax")
        if jax is None:
            return False
        if isinstance(model, tuple):
            return len(model) == 2 and _is_function(model[0], jax) and _has_arrays(model[1], jax)
        return _is_function(model, jax)

    def import_model(
        self,
        model: Any,
        sample_input: Any,
        dynamic: Mapping[str | int, Any] | None = None,
    ) -> ImportedModel:
        """Trace `model` on `sample_input` and lower its jaxpr to GraphIR."""
        from zenith_jax.adapter import import_model

        return import_model(model, sample_input, dynamic)


def _is_function(model: object, jax: Any) -> bool:
    """A function, a function transformed by jax, or a module of a library built on it."""
    if not callable(model) or isinstance(model, type):
        return False
    if isinstance(model, _FUNCTIONS) or type(model).__module__.split(".")[0] in ("jax", "jaxlib"):
        return True
    for module_name, class_name in _MODULES:
        module = sys.modules.get(module_name)
        if module is not None and isinstance(model, getattr(module, class_name)):
            return True
    return not jax.tree_util.all_leaves([model])  # a callable that is a pytree of its weights


def _has_arrays(params: object, jax: Any) -> bool:
    """Whether a tree of parameters holds arrays, and nothing of another framework."""
    leaves = jax.tree_util.tree_leaves(params)
    kinds = (jax.Array, sys.modules["numpy"].ndarray, int, float, complex)
    return bool(leaves) and all(isinstance(leaf, kinds) for leaf in leaves)


@hookimpl
def zenith_register_adapters() -> list[JaxAdapter]:
    """The adapters of this package."""
    return [JaxAdapter()]
