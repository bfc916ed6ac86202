"""What the user gave -> one callable over named tensors: Keras, functions and SavedModels alike."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from zenith.errors import ConfigurationError, ValidationError
from zenith_tf.inputs import Call, Inputs, NamedInputs, from_call
from zenith_tf.keras_file import load_keras
from zenith_tf.recurrent import whole_layers
from zenith_tf.saved_model import load_saved_model, served
from zenith_tf.structure import make_template, rebuild

__all__ = ["Source", "find_source"]

Sample = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass
class Source:
    """A model as `run(tensors) -> its own result`, tensors in the order of `inputs.leaves`.

    keras: its None sizes on axis 0 are one batch, and calls convert numbers as Keras does.
    """

    inputs: Inputs
    run: Callable[[list[Any]], Any]
    keras: bool = False


def find_source(model: Any, sample: Sample | None) -> Source:
    """The callable behind any model the adapter accepts.

    Raises `ValidationError` when a sample is needed to know the inputs and there is none.
    """
    if isinstance(model, str | os.PathLike):
        path = os.fspath(model)
        if path.endswith(".keras"):
            return find_source(load_keras(path), sample)
        return _signature(load_saved_model(path))
    keras = sys.modules.get("keras")
    if keras is not None and isinstance(model, keras.Layer):
        return _keras_source(model, sample)
    if isinstance(model, tf.types.experimental.ConcreteFunction):
        return _signature(model)
    if isinstance(model, tf.types.experimental.GenericFunction):
        return _function(model, model, sample)
    function = served(model)
    if callable(model):
        restored = getattr(model.__call__, "concrete_functions", [])
        if sample is not None or len(restored) == 1 or function is None:
            return _function(model, model.__call__, sample)
    if function is not None:
        return _signature(function)
    raise ValidationError(
        f"this {type(model).__name__} has no signature to serve and cannot be called",
        next="compile one of its functions",
    )


# --- Keras -------------------------------------------------------------------------------------


def _keras_source(model: Any, sample: Sample | None) -> Source:
    import keras

    options = _inference_options(model)
    declared = _declared_inputs(model)
    if declared is not None:
        found: list[tuple[str, Any]] = []
        template = make_template(
            declared, lambda v: isinstance(v, keras.KerasTensor), found, "input"
        )
        leaves = [
            (name, tf.TensorSpec(t.shape, tf.as_dtype(t.dtype), name))
            for name, t in _unique([(_leaf_name(key, t), t) for key, t in found])
        ]
        for key, tensor in found:
            if getattr(tensor, "sparse", False) or getattr(tensor, "ragged", False):
                raise ValidationError(
                    f"input '{key}' is sparse or ragged; only dense ones are known"
                )
        inputs: Inputs = NamedInputs(leaves, {"inputs": template}, ["inputs"])

        def run(tensors: list[Any]) -> Any:
            with whole_layers(model):
                return model(rebuild(template, tensors), **options)

        return Source(inputs, run, keras=True)
    if sample is None:
        raise ValidationError(
            f"{type(model).__name__} does not declare its inputs: a sample is needed",
            next="zenith.compile(model, sample_input=(x,))",
        )
    signature = inspect.signature(model.call)
    args, kwargs = sample
    inputs, call = from_call(signature, args, kwargs, keras.config.floatx())
    if "training" in inputs.templates:
        options = {}
    elif "training" in inputs.parameters:
        inputs.defaults["training"] = False
    caller = _caller(model, _by_keyword(signature, call), options)

    def run_call(tensors: list[Any]) -> Any:
        with whole_layers(model):
            return caller(tensors)

    return Source(inputs, run_call, keras=True)


def _by_keyword(signature: inspect.Signature, call: Call) -> Call:
    """Keras takes only tensors by position: what follows the first goes by name where it can."""
    parameters = list(signature.parameters.values())
    if any(p.kind is not p.POSITIONAL_OR_KEYWORD for p in parameters[1 : len(call.args)]):
        return call
    named = dict(zip([p.name for p in parameters[1:]], call.args[1:], strict=False))
    return Call(call.args[:1], {**named, **call.kwargs})


def _inference_options(model: Any) -> dict[str, Any]:
    """`training=False`, where the model's call knows it."""
    parameters = inspect.signature(model.call).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return {"training": False} if takes_all or "training" in parameters else {}


def _declared_inputs(model: Any) -> Any:
    """The structure of a functional or built Sequential model's inputs; None for other models."""
    import keras

    if isinstance(model, keras.Sequential):
        inputs = model.inputs if model.built else None
        return inputs[0] if inputs else None
    if isinstance(model, keras.Model) and type(model).call is _functional().call:
        return model.input
    return None


def _functional() -> Any:
    import keras

    tensor = keras.Input((1,))
    return type(keras.Model(tensor, tensor))


def _leaf_name(key: str, tensor: Any) -> str:
    """A dict's key, else the name of the `keras.Input`."""
    return key if not key.startswith("input") else str(tensor.name or key)


def _unique(pairs: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    seen: dict[str, int] = {}
    result = []
    for name, value in pairs:
        seen[name] = seen.get(name, -1) + 1
        result.append((f"{name}_{seen[name]}" if seen[name] else name, value))
    return result


# --- functions ---------------------------------------------------------------------------------


def _caller(
    function: Any, call: Call, options: Mapping[str, Any] | None = None
) -> Callable[[list[Any]], Any]:
    extra = dict(options or {})

    def run(tensors: list[Any]) -> Any:
        args = [rebuild(t, tensors) for t in call.args]
        kwargs = {k: rebuild(t, tensors) for k, t in call.kwargs.items()}
        return function(*args, **{**extra, **kwargs})

    return run


def _function(model: Any, function: Any, sample: Sample | None) -> Source:
    """A `tf.function`, or a module's `__call__`."""
    declared = getattr(function, "input_signature", None)
    python = getattr(function, "python_function", function)
    if sample is not None:
        inputs, call = from_call(_python_signature(python), *sample, None)
        return Source(inputs, _caller(model, call))
    if declared is None:
        restored = getattr(function, "concrete_functions", None)
        if restored and len(restored) == 1:
            return _signature(restored[0])
        raise ValidationError(
            "this tf.function has no input_signature: a sample is needed",
            next="zenith.compile(function, sample_input=(x,))",
        )
    return _signature(function.get_concrete_function())


def _python_signature(function: Any) -> inspect.Signature:
    signature = inspect.signature(function)
    names = list(signature.parameters)
    if names[:1] == ["self"]:  # tf.function on a method keeps it
        rest = [signature.parameters[name] for name in names[1:]]
        signature = signature.replace(parameters=rest)
    return signature


def _signature(function: Any) -> Source:
    """A concrete function: its structured signature says all."""
    structured = function.structured_input_signature
    if structured is None:
        raise ConfigurationError("this ConcreteFunction does not tell its inputs")
    args, kwargs = structured
    found: list[tuple[str, Any]] = []

    def is_spec(value: Any) -> bool:
        return isinstance(value, tf.TensorSpec)

    if not args:
        template = make_template(kwargs, is_spec, found, "")
        if len(kwargs) == 1 and len(found) == 1:
            (key,) = kwargs
            template = make_template(kwargs[key], is_spec, [], "")
            run: Callable[[list[Any]], Any] = lambda ts: function(**{key: ts[0]})  # noqa: E731
        else:
            run = lambda ts: function(**rebuild(template, ts))  # noqa: E731
        leaves = [(name, spec) for name, spec in found]
        return Source(NamedInputs(leaves, {"inputs": template}, ["inputs"]), run)
    names = [str(name) for name in function.function_type.parameters]
    templates: dict[str, Any] = {}
    call = Call()
    for name, value in zip(names, args, strict=False):
        templates[name] = make_template(value, is_spec, found, name)
        call.args += (templates[name],)
    for name, value in kwargs.items():
        templates[name] = call.kwargs[name] = make_template(value, is_spec, found, name)
    inputs = Inputs(found, templates, [*names, *(k for k in kwargs if k not in names)])
    return Source(inputs, _caller(function, call))
