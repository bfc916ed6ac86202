"""What `zenith` loads from this package's entry point; imports torch only for torch models."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from zenith.runtime.adapter import ImportedModel

__all__ = ["ZENITH_API_VERSION", "TorchAdapter", "zenith_register_adapters"]

ZENITH_API_VERSION = 1
hookimpl = pluggy.HookimplMarker("zenith")


class TorchAdapter:
    """`torch.nn.Module` (with `torch.fx.GraphModule`) and `torch.export.ExportedProgram`."""

    name = "torch"

    def accepts(self, model: object) -> bool:
        """Whether `model` is PyTorch's: nobody can have such a model without torch imported."""
        torch = sys.modules.get("torch")
        if torch is None:
            return False
        if isinstance(model, torch.nn.Module):
            return True
        export = sys.modules.get("torch.export")
        return export is not None and isinstance(model, export.ExportedProgram)

    def import_model(
        self,
        model: Any,
        sample_input: Any,
        dynamic: Mapping[str | int, Any] | None = None,
    ) -> ImportedModel:
        """Capture `model` on `sample_input` and lower it to GraphIR."""
        from zenith_torch.adapter import import_model

        return import_model(model, sample_input, dynamic)


@hookimpl
def zenith_register_adapters() -> list[TorchAdapter]:
    """The adapters of this package."""
    return [TorchAdapter()]
