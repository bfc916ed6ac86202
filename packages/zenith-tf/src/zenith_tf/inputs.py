"""How a model is called: names of its parameters, tensors among them, and how calls map to them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from zenith.errors import ValidationError
from zenith_tf.structure import Constant, Leaf, collect, make_template

__all__ = ["Call", "Inputs", "NamedInputs", "is_tensor", "with_sample"]


def is_tensor(value: Any) -> bool:
    """Whether an argument is data, and not an option of the call."""
    return isinstance(value, np.ndarray | np.generic) or tf.is_tensor(value)


@dataclass
class Call:
    """Arguments as the model's own callable takes them, with templates in the place of values."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass
class Inputs:
    """A callable with a Python signature: `parameters` in order, each with its template.

    leaves: name and spec of every tensor. keyword_only: parameters that have no position.
    defaults: what parameters outside `templates` are when they are not given.
    """

    leaves: list[tuple[str, tf.TensorSpec]]
    templates: dict[str, Any]
    parameters: list[str]
    keyword_only: frozenset[str] = frozenset()
    defaults: dict[str, Any] = field(default_factory=dict)

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
        """The tensors of a call, in the order of `leaves`."""
        positional = [p for p in self.parameters if p not in self.keyword_only]
        if len(args) > len(positional):
            raise self.wrong(f"{len(args)} positional inputs were given")
        given = dict(zip(positional, args, strict=False))
        for name, value in kwargs.items():
            if name in given:
                raise self.wrong(f"input '{name}' was given twice")
            given[name] = value
        found: list[Any] = [None] * len(self.leaves)
        for name, template in self.templates.items():
            if name in given:
                collect(template, given.pop(name), found, f"input '{name}'")
            elif not isinstance(template, Constant):
                raise self.wrong(f"input '{name}' is missing")
        for name, value in given.items():
            if name not in self.parameters:
                raise self.wrong(f"there is no input '{name}'")
            if value is not self.defaults.get(name):
                raise self.wrong(f"input '{name}' was not in sample_input")
        return found

    def wrong(self, problem: str) -> ValidationError:
        """An error that says what the inputs are."""
        described = ", ".join(
            f"{name}: {spec.dtype.name}{_shape_text(spec)}" for name, spec in self.leaves
        )
        return ValidationError(problem, next=f"the inputs are {described}")


@dataclass
class NamedInputs(Inputs):
    """One structure of named tensors, as functional Keras models and SavedModel signatures take it.

    It may come as the structure itself, as a dict by name, as keywords by name, and, where the
    structure is a tensor or a list, as one positional argument each.
    """

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
        names = [name for name, _ in self.leaves]
        options = {k: v for k, v in kwargs.items() if k in ("training", "mask") and k not in names}
        if options.get("training") or options.get("mask") is not None:
            raise self.wrong("a compiled model is for inference: no training=True, no mask=")
        named = {k: v for k, v in kwargs.items() if k not in options}
        if "inputs" in named and "inputs" not in names and not args:
            args = (named.pop("inputs"),)
        template = self.templates["inputs"]
        found: list[Any] = [None] * len(names)
        if len(args) == 1 and not named:
            (value,) = args
            by_name = isinstance(value, Mapping) and isinstance(template, Leaf | type(_LIST))
            if not by_name:
                if isinstance(template, Leaf) and isinstance(value, list | tuple):
                    value = value[0] if len(value) == 1 and is_tensor(value[0]) else value
                collect(template, value, found, "the input")
                return found
            args, named = (), dict(value)
        if args and (isinstance(template, type(_DICT)) or len(args) > len(names)):
            raise self.wrong(f"{len(args)} positional inputs were given")
        given = dict(zip(names, args, strict=False))
        twice = [k for k in named if k in given]
        unknown = [k for k in named if k not in names]
        given.update(named)
        missing = [n for n in names if n not in given]
        if twice or unknown or missing:
            raise self.wrong(
                f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}"
                f"; given twice: {', '.join(twice) or 'none'}"
            )
        return [given[name] for name in names]


_LIST = make_template([], is_tensor, [], "")
_DICT = make_template({}, is_tensor, [], "")


def with_sample(inputs: Inputs, values: Sequence[Any]) -> list[tuple[str, tf.TensorSpec]]:
    """The leaves with the sizes that the sample's tensors have."""
    leaves = []
    for (name, spec), value in zip(inputs.leaves, values, strict=True):
        shape = tf.TensorShape(np.shape(value) if not tf.is_tensor(value) else value.shape)
        if not spec.shape.is_compatible_with(shape):
            raise inputs.wrong(f"input '{name}' of sample_input has the shape {tuple(shape)}")
        leaves.append((name, tf.TensorSpec(shape, spec.dtype, name)))
    return leaves


def from_call(
    signature: inspect.Signature,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    default_float: Any,
) -> tuple[Inputs, Call]:
    """The inputs of a callable as one call of it shows them, and the call with templates.

    default_float: what numpy's float64 becomes, None to keep it.
    """
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise ValidationError(f"sample_input does not fit the model's call: {error}") from error
    found: list[tuple[str, Any]] = []
    templates: dict[str, Any] = {}
    by_position: list[Any] = []
    by_name: dict[str, Any] = {}
    parameters: list[str] = []
    keyword_only: set[str] = set()
    defaults: dict[str, Any] = {}
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            for i, value in enumerate(bound.arguments.get(name, ())):
                key = f"{name}_{i}"
                templates[key] = make_template(value, is_tensor, found, key)
                parameters.append(key)
                by_position.append(templates[key])
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            for key, value in bound.arguments.get(name, {}).items():
                templates[key] = by_name[key] = make_template(value, is_tensor, found, key)
                parameters.append(key)
                keyword_only.add(key)
            continue
        parameters.append(name)
        if parameter.default is not parameter.empty:
            defaults[name] = parameter.default
        if parameter.kind is parameter.KEYWORD_ONLY:
            keyword_only.add(name)
        if name not in bound.arguments:
            continue
        templates[name] = make_template(bound.arguments[name], is_tensor, found, name)
        if parameter.kind is parameter.POSITIONAL_ONLY or (
            parameter.kind is parameter.POSITIONAL_OR_KEYWORD
            and len(by_position) == len(parameters) - 1
        ):
            by_position.append(templates[name])
        else:
            by_name[name] = templates[name]
    leaves = [(name, _spec(value, name, default_float)) for name, value in found]
    inputs = Inputs(leaves, templates, parameters, frozenset(keyword_only), defaults)
    return inputs, Call(tuple(by_position), by_name)


def _spec(value: Any, name: str, default_float: Any) -> tf.TensorSpec:
    if tf.is_tensor(value):
        if not isinstance(value, tf.Tensor | tf.Variable):
            raise ValidationError(
                f"input '{name}' is a {type(value).__name__}", next="pass dense tensors"
            )
        return tf.TensorSpec(value.shape, value.dtype, name)
    dtype = value.dtype
    if dtype == np.float64 and default_float is not None:
        dtype = default_float
    try:
        return tf.TensorSpec(value.shape, tf.as_dtype(dtype), name)
    except TypeError as error:
        raise ValidationError(f"input '{name}': {error}") from error


def _shape_text(spec: tf.TensorSpec) -> str:
    dims = "?" if spec.shape.rank is None else ", ".join(str(d or "?") for d in spec.shape)
    return f"[{dims}]"
