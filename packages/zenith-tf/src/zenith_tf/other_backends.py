"""Keras models that JAX or PyTorch computes, handed to the adapter of that framework."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from zenith.errors import PluginError, ValidationError
from zenith.runtime.adapter import ImportedModel
from zenith_tf.keras_file import keras_backend, load_keras

__all__ = ["import_other"]


def import_other(
    model: Any, sample_input: Any, dynamic: Mapping[str | int, Any] | None
) -> ImportedModel:
    """Import a Keras model whose backend is not TensorFlow. Calls and results are that backend's.

    On torch the model is a `torch.nn.Module` already; on JAX it becomes a function with the state
    (weights, statistics) as constants, as it is in inference. Raises `PluginError` when no adapter
    takes that.
    """
    from zenith.plugins import plugin_manager

    backend = keras_backend(model)
    if isinstance(model, str | os.PathLike):
        model = load_keras(os.fspath(model))
    source = _jax_function(model, sample_input) if backend == "jax" else model
    try:
        adapter = plugin_manager().adapter_for(source)
    except PluginError as error:
        raise PluginError(
            f"this Keras model runs on {backend}, and no installed adapter takes its models",
            next=f"pip install zenith-{backend}, or set KERAS_BACKEND=tensorflow",
        ) from error
    imported: ImportedModel = adapter.import_model(source, sample_input, dynamic)
    return imported


def _jax_function(model: Any, sample_input: Any) -> Callable[..., Any]:
    if sample_input is None:
        raise ValidationError(
            "a Keras model on the JAX backend needs a sample",
            next="zenith.compile(model, sample_input=(x,))",
        )
    if not model.built:
        raise ValidationError("the model has no weights yet", next="call it once")
    trained = [v.value for v in model.trainable_variables]
    fixed = [v.value for v in model.non_trainable_variables]

    def function(*args: Any, **kwargs: Any) -> Any:
        outputs, _ = model.stateless_call(trained, fixed, *args, training=False, **kwargs)
        return outputs

    return function
