"""The PyTorch adapter: captures a module and gives the engine a graph and a signature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from zenith.ir import GraphIR
from zenith.runtime.adapter import ImportedModel
from zenith_torch.capture import Captured, capture
from zenith_torch.importer import import_program
from zenith_torch.signature import TorchSignature, leaf_names

__all__ = ["import_model"]


def import_model(
    model: Any, sample_input: Any, dynamic: Mapping[str | int, Any] | None = None
) -> ImportedModel:
    """GraphIR and call signature of a module, exported program or FX graph."""
    device = _device_of(model)
    captured = capture(model, sample_input, dynamic)
    return import_captured(captured, device)


def import_captured(captured: Captured, device: torch.device) -> ImportedModel:
    """Graph and call signature of a captured program; nothing of them refers to the program."""
    names = leaf_names(captured.out_spec)
    imported = import_program(captured.program, captured.axis_names, captured.leaf_names, names)
    signature = TorchSignature(
        parameters=captured.parameters,
        positional=captured.positional,
        order=captured.order,
        defaults=captured.defaults,
        in_spec=captured.in_spec,
        out_spec=captured.out_spec,
        inputs=imported.inputs,
        outputs=imported.outputs,
        input_types=imported.input_types,
        output_names=[str(v.name) for v in imported.model.graph.outputs],
        device=device,
    )
    graph = GraphIR(imported.model)
    graph.state = {source: target for source, target, _ in imported.state}
    return ImportedModel(
        graph=graph,
        signature=signature,
        ranges=imported.ranges,
        state={source: initial for source, _, initial in imported.state},
    )


def _device_of(model: Any) -> torch.device:
    tensors = model.parameters() if hasattr(model, "parameters") else ()
    if isinstance(model, torch.export.ExportedProgram):
        tensors = iter(model.state_dict.values())
    return next((t.device for t in tensors), torch.device("cpu"))
