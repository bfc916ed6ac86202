"""Keras itself, whatever backend computes its models: which one it is, and `.keras` files."""

from __future__ import annotations

import importlib
import os
import sys
import zipfile
from typing import Any

from zenith.errors import ValidationError

__all__ = ["keras_backend", "load_keras"]


def keras_backend(model: Any) -> str:
    """What computes a Keras model or a .keras file; "tensorflow" for everything else."""
    is_file = isinstance(model, str | os.PathLike) and os.fspath(model).endswith(".keras")
    keras = importlib.import_module("keras") if is_file else sys.modules.get("keras")
    if keras is None or not (is_file or isinstance(model, keras.Layer)):
        return "tensorflow"
    return str(keras.backend.backend())


def load_keras(path: str) -> Any:
    """The model of a .keras file, loaded in safe mode: no code of the file's runs.

    Raises `ValidationError` for what cannot be read so.
    """
    import keras

    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise ValidationError(
            f"'{path}' cannot be read: {error}",
            next="a model with Lambda layers or own classes: load it yourself, then compile it",
        ) from error
