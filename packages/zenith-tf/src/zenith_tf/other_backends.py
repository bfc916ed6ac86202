"""Keras models that run on JAX: as a JAX function, for the adapter that knows those."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from zenith.errors import ConfigurationError, PluginError, ValidationError
from zenith.runtime.adapter import ImportedModel
from zenith_tf.source import load_keras

__all__ = ["import_jax_model"]


def import_jax_model(
    model: Any, sample_input: Any, dynamic: Mapping[str | int, Any] | None
) -> ImportedModel:
    """Import `model`, a Keras model whose backend is JAX, through the adapter of JAX functions.

    The state (weights, statistics) is a constant of the function, as in inference it is. Results
    are jax arrays. Raises `PluginError` when no adapter takes JAX functions.
    """
    from zenith.plugins import plugin_manager

    if isinstance(model, str | os.PathLike):
        model = load_keras(os.fspath(model))
    if sample_input is None:
        raise ValidationError(
            "a Keras model on the JAX backend needs a sample",
            next="zenith.compile(model, sample_input=(x,))",
        )
    if not model.built:
        raise ConfigurationError("the model has no weights yet", next="call it once")
    trained = [v.value for v in model.trainable_variables]
    fixed = [v.value for v in model.non_trainable_variables]

    def function(*args: Any, **kwargs: Any) -> Any:
        outputs, _ = model.stateless_call(trained, fixed, *args, training=False, **kwargs)
        return outputs

    try:
        adapter = plugin_manager().adapter_for(function)
    except PluginError as error:
        raise PluginError(
            "this Keras model runs on JAX, and no installed adapter takes JAX functions",
            next="pip install zenith-jax, or set KERAS_BACKEND=tensorflow",
        ) from error
    imported: ImportedModel = adapter.import_model(function, sample_input, dynamic)
    return imported
