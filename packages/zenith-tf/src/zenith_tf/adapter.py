"""The TensorFlow adapter: trace, freeze, convert to ONNX, and take the ONNX adapter's import."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from zenith.errors import ConfigurationError
from zenith.runtime.adapter import ImportedModel, split_sample
from zenith_onnx.adapter import import_model as import_onnx
from zenith_tf.convert import to_onnx
from zenith_tf.freeze import freeze
from zenith_tf.inputs import Inputs, with_sample
from zenith_tf.signature import TensorFlowSignature
from zenith_tf.source import find_source

__all__ = ["import_model"]

Leaves = list[tuple[str, tf.TensorSpec]]
Names = dict[str | int, dict[int, str]]


def import_model(
    model: Any, sample_input: Any, dynamic: Mapping[str | int, Mapping[int, str]] | None = None
) -> ImportedModel:
    """GraphIR and call signature of any model the adapter accepts.

    Without a sample the model's own declaration holds: sizes of None become named dimensions (axis
    0 of a Keras model is "batch"). A sample fixes every size that `dynamic` does not name.
    """
    sample = split_sample(sample_input)
    with tf.device("/cpu:0"):
        source = find_source(model, sample)
        inputs = source.inputs
        leaves = inputs.leaves
        if sample is not None:
            leaves = with_sample(inputs, inputs.bind(*sample))
        leaves, names = _named(inputs, leaves, dynamic or {}, keras=source.keras)
        frozen = freeze(source.run, leaves)
        proto = to_onnx(frozen, [name for name, _ in leaves])
    imported = import_onnx(proto, names)
    taken = [str(v.name) for v in imported.graph.inputs]
    positions = {name: i for i, (name, _) in enumerate(leaves)}
    signature = TensorFlowSignature(
        dataclasses.replace(inputs, leaves=leaves),
        [positions[name] for name in taken],
        frozen.output,
        [str(v.name) for v in imported.graph.outputs],
        convert=source.keras,
        spectra=frozen.spectra,
    )
    return ImportedModel(imported.graph, signature, imported.ranges)


def _named(
    inputs: Inputs,
    leaves: Leaves,
    dynamic: Mapping[str | int, Mapping[int, str]],
    *,
    keras: bool,
) -> tuple[Leaves, Names]:
    """The leaves with dynamic sizes None, and a name for every one of these."""
    order = [name for name, _ in leaves]
    wanted: Names = {}
    for key, axes in dynamic.items():
        name = order[key] if isinstance(key, int) and -len(order) <= key < len(order) else key
        if name not in order:
            raise ConfigurationError(
                f"dynamic: the model has no input {key!r}; it takes {', '.join(order)}"
            )
        wanted.setdefault(str(name), {}).update(axes)
    result: Leaves = []
    names: Names = {}
    for name, spec in leaves:
        dims = list(spec.shape) if spec.shape.rank is not None else None
        if dims is None:
            result.append((name, spec))
            continue
        given: dict[int, str] = {}
        for axis, label in wanted.get(name, {}).items():
            if not -len(dims) <= axis < len(dims):
                raise ConfigurationError(f"dynamic: input {name!r} has no axis {axis}")
            dims[axis % len(dims)] = None
            given[axis % len(dims)] = label
        for axis, size in enumerate(dims):
            if size is None:
                own = "batch" if keras and axis == 0 else _identifier(f"{name}_{axis}")
                given.setdefault(axis, own)
        if given:
            names[name] = given
        result.append((name, tf.TensorSpec(dims, spec.dtype, name)))
    return result, names


def _identifier(text: str) -> str:
    plain = re.sub(r"\W+", "_", text, flags=re.ASCII)
    return plain if not plain[:1].isdigit() else f"size_{plain}"
