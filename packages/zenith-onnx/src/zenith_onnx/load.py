"""Reading a model from a path, bytes or a ModelProto."""

from __future__ import annotations

import os

import onnx

__all__ = ["load"]


def load(source: str | os.PathLike[str] | bytes | onnx.ModelProto) -> onnx.ModelProto:
    """The model as a ModelProto with its external data loaded."""
    if isinstance(source, onnx.ModelProto):
        return source
    if isinstance(source, bytes):
        return onnx.load_model_from_string(source)
    return onnx.load(source)
