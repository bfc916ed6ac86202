"""What `zenith` loads from this package's entry point; imports onnx only for ONNX models."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from zenith.runtime.adapter import ImportedModel

__all__ = ["ZENITH_API_VERSION", "OnnxAdapter", "zenith_register_adapters"]

ZENITH_API_VERSION = 1
_OTHER_FORMATS = (".keras",)  # files of other frameworks, whose adapters take them
hookimpl = pluggy.HookimplMarker("zenith")


class OnnxAdapter:
    """`onnx.ModelProto`, `onnx_ir.Model`, bytes of a model, and paths of ONNX files."""

    name = "onnx"

    def accepts(self, model: object) -> bool:
        """Whether `model` is ONNX: a path is, unless it is a directory or of another format."""
        if isinstance(model, bytes | bytearray | memoryview):
            return True
        if isinstance(model, str | os.PathLike):
            ending = os.path.splitext(os.fsdecode(model))[1]
            return ending not in _OTHER_FORMATS and not os.path.isdir(model)
        onnx, onnx_ir = sys.modules.get("onnx"), sys.modules.get("onnx_ir")
        if onnx is not None and isinstance(model, onnx.ModelProto):
            return True
        return onnx_ir is not None and isinstance(model, onnx_ir.Model)

    def import_model(
        self,
        model: Any,
        sample_input: Any,
        dynamic: Mapping[str | int, Any] | None = None,
    ) -> ImportedModel:
        """Read `model`, bring it to GraphIR's opset, and take sizes as it declares them."""
        from zenith_onnx.adapter import import_model

        return import_model(model, dynamic)


@hookimpl
def zenith_register_adapters() -> list[OnnxAdapter]:
    """The adapters of this package."""
    return [OnnxAdapter()]
