"""What `zenith` loads from this package's entry point; imports TensorFlow only for its models."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from zenith.runtime.adapter import ImportedModel

__all__ = ["ZENITH_API_VERSION", "TensorFlowAdapter", "zenith_register_adapters"]

ZENITH_API_VERSION = 1
hookimpl = pluggy.HookimplMarker("zenith")


class TensorFlowAdapter:
    """Keras models and layers, `tf.function`, `ConcreteFunction`, SavedModels and their paths."""

    name = "tf"

    def accepts(self, model: object) -> bool:
        """Whether `model` is TensorFlow's or Keras'; a path is one that holds such a model.

        A Keras model on the torch backend is a `torch.nn.Module`: the torch adapter takes it.
        """
        if isinstance(model, str | os.PathLike):
            path = os.fspath(model)
            if not isinstance(path, str):
                return False
            return path.endswith(".keras") or os.path.isfile(os.path.join(path, "saved_model.pb"))
        keras = sys.modules.get("keras")
        if keras is not None and isinstance(model, keras.Layer):
            return bool(keras.backend.backend() != "torch")
        tf = sys.modules.get("tensorflow")
        if tf is None:
            return False
        functions = tf.types.experimental
        return isinstance(
            model, tf.Module | functions.GenericFunction | functions.ConcreteFunction
        ) or (
            hasattr(model, "signatures") and isinstance(model, tf.__internal__.tracking.Trackable)
        )

    def import_model(
        self,
        model: Any,
        sample_input: Any,
        dynamic: Mapping[str | int, Any] | None = None,
    ) -> ImportedModel:
        """Trace `model`, convert the frozen graph and bring it to GraphIR.

        A Keras model or .keras file on another backend goes through that framework's adapter.
        """
        from zenith_tf.keras_file import keras_backend

        if keras_backend(model) != "tensorflow":
            from zenith_tf.other_backends import import_other

            return import_other(model, sample_input, dynamic)
        from zenith_tf.adapter import import_model

        return import_model(model, sample_input, dynamic)


@hookimpl
def zenith_register_adapters() -> list[TensorFlowAdapter]:
    """The adapters of this package."""
    return [TensorFlowAdapter()]
