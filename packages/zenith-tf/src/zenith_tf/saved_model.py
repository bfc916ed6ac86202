"""SavedModel directories and loaded SavedModels: the function that serves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from zenith.errors import ValidationError

__all__ = ["load_saved_model", "served"]

_SERVING = "serving_default"


def served(loaded: Any) -> Any:
    """The serving signature of a loaded SavedModel; None when the object is no such thing.

    A signature named "serving_default" comes first; an only one needs no name.
    """
    signatures = getattr(loaded, "signatures", None)
    if not signatures:
        return None
    if _SERVING in signatures:
        return signatures[_SERVING]
    if len(signatures) == 1:
        return next(iter(signatures.values()))
    raise ValidationError(
        f"the SavedModel has several signatures: {', '.join(sorted(signatures))}",
        next="load it with tf.saved_model.load and compile one: loaded.signatures['...']",
    )


def load_saved_model(path: str) -> Any:
    """The function a SavedModel directory serves.

    Objects that this TensorFlow cannot restore (optimizers of older versions) do not matter for
    serving: then the graph is taken as TensorFlow 1 took it. Raises `ValidationError`.
    """
    try:
        loaded = tf.saved_model.load(path)
    except (AttributeError, ValueError, KeyError, TypeError, NotImplementedError) as error:
        return _load_graph(path, error)
    except (OSError, tf.errors.OpError) as error:
        raise ValidationError(f"the SavedModel '{path}' cannot be read: {error}") from error
    function = served(loaded)
    if function is not None:
        loaded_call = function
    elif callable(loaded):
        call = loaded.__call__
        concrete = getattr(call, "concrete_functions", [])
        if len(concrete) != 1:
            raise ValidationError(
                f"the SavedModel '{path}' has no signature, and {len(concrete)} traces of __call__",
                next="load it with tf.saved_model.load and compile a function of it",
            )
        loaded_call = concrete[0]
    else:
        raise ValidationError(f"the SavedModel '{path}' has no signature and cannot be called")
    # Variables are held weakly by functions: the object must live as long as its function.
    loaded_call._zenith_owner = loaded
    return loaded_call


def _load_graph(path: str, cause: Exception) -> Any:
    """The serving signature by the loader of TensorFlow 1, frozen, as a ConcreteFunction."""
    v1 = tf.compat.v1
    try:
        with tf.Graph().as_default(), v1.Session() as session:
            meta = v1.saved_model.load(session, ["serve"], path)
            signatures = {k: v for k, v in meta.signature_def.items() if not k.startswith("_")}
            name = _SERVING if _SERVING in signatures else next(iter(signatures), None)
            if name is None:
                raise ValidationError(f"the SavedModel '{path}' has no signature") from cause
            wanted = signatures[name]
            inputs = {k: v.name for k, v in sorted(wanted.inputs.items())}
            outputs = {k: v.name for k, v in sorted(wanted.outputs.items())}
            graph_def = v1.graph_util.convert_variables_to_constants(
                session,
                session.graph.as_graph_def(),
                [tensor.split(":")[0] for tensor in outputs.values()],
            )
    except (OSError, RuntimeError, tf.errors.OpError) as error:
        raise ValidationError(
            f"the SavedModel '{path}' cannot be read: {cause}; by the loader of TensorFlow 1: "
            f"{error}"
        ) from cause
    whole = v1.wrap_function(lambda: tf.import_graph_def(graph_def, name=""), [])
    tensors = {k: whole.graph.as_graph_element(t) for k, t in inputs.items()}
    function = whole.prune(
        list(tensors.values()),
        {k: whole.graph.as_graph_element(t) for k, t in outputs.items()},
    )
    specs = {k: tf.TensorSpec(t.shape, t.dtype, k) for k, t in tensors.items()}
    return _GraphFunction(function, ((), specs))


@dataclass(frozen=True)
class _GraphFunction:
    """A pruned graph that is called by the names of its signature."""

    function: Any
    structured_input_signature: tuple[tuple[()], dict[str, Any]]

    def __call__(self, **tensors: Any) -> Any:
        return self.function(*(tensors[name] for name in self.structured_input_signature[1]))
