"""Trace and freeze: a callable over named tensors becomes one GraphDef without variables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import convert_to_constants
from tf2onnx import tf_loader

from zenith.errors import CompilationError, ValidationError
from zenith_tf.arrays import called, check_arrays
from zenith_tf.cases import cases_to_ifs, keeping_cases
from zenith_tf.structure import make_template

__all__ = ["Frozen", "freeze"]

_WRITES = ("AssignVariable", "AssignAdd", "AssignSub", "ResourceScatter", "ResourceApply")
# Keras' name for the state of random numbers. Its layers draw some that nobody reads in inference
# (masks for dropout in recurrences); those that are read have no operation here, and are named.
_SEED = "seed_generator_state"
_STRING_KINDS = (tf.string, tf.variant, tf.resource)


@dataclass(frozen=True)
class Frozen:
    """graph: the frozen graph. inputs: tensor names, one per leaf. outputs: tensor names, with
    their names for the user. output: the template of the result. At the edges a complex tensor is a
    real one whose last axis has both parts: `spectra` are the places of such results."""

    graph: Any
    inputs: list[str]
    outputs: list[tuple[str, str]]
    output: Any
    spectra: frozenset[int]


def freeze(run: Callable[[list[Any]], Any], leaves: Sequence[tuple[str, tf.TensorSpec]]) -> Frozen:
    """Trace `run` on the leaves' specs; variables and captured tensors become constants.

    Raises `ValidationError` for inputs or results that are no dense numbers.
    """
    for name, spec in leaves:
        if spec.dtype in _STRING_KINDS:
            raise ValidationError(
                f"input '{name}' is of type {spec.dtype.name}: only numbers are known"
            )
        if spec.shape.rank is None:
            raise ValidationError(
                f"input '{name}' has no known number of axes",
                next="give a sample: zenith.compile(model, sample_input=(x,))",
            )
    template: Any = None
    names: list[str] = []
    spectra: frozenset[int] = frozenset()

    def flat(*tensors: Any) -> Any:
        nonlocal template, names, spectra
        found: list[tuple[str, Any]] = []
        pairs = zip(tensors, leaves, strict=True)
        result = run([_complex(t) if spec.dtype.is_complex else t for t, (_, spec) in pairs])
        template = make_template(result, lambda v: tf.is_tensor(v), found, "")
        for name, value in found:
            if not isinstance(value, tf.Tensor | tf.Variable):
                raise ValidationError(
                    f"the model returns a {type(value).__name__}"
                    + (f" as '{name}'" if name else ""),
                    next="return dense tensors",
                )
        names = _output_names([name for name, _ in found], {name for name, _ in leaves})
        values = [value for _, value in found]
        spectra = frozenset(i for i, value in enumerate(values) if value.dtype.is_complex)
        values = [_parts(value) if value.dtype.is_complex else value for value in values]
        return [tf.identity(value, name=f"zenith_output_{i}") for i, value in enumerate(values)]

    specs = [_edge(spec, f"zenith_input_{i}") for i, (_, spec) in enumerate(leaves)]
    function = tf.function(flat, autograph=False).get_concrete_function(*specs)
    if not names:
        raise ValidationError("the model returns no tensor")
    _check_variables(function)
    inputs = [t.name for t in function.inputs[: len(leaves)]]
    frozen = _frozen(function)
    outputs = [t.name for t in frozen.outputs]
    graph = frozen.graph.as_graph_def(add_shapes=True)
    _let_inline(graph)
    cases_to_ifs(graph)
    check_arrays(graph)
    with tf.Graph().as_default():
        tf.import_graph_def(graph, name="")
        graph = tf_loader.tf_optimize(inputs, outputs, graph)
    return Frozen(graph, inputs, list(zip(outputs, names, strict=True)), template, spectra)


def _edge(spec: tf.TensorSpec, name: str) -> tf.TensorSpec:
    if spec.dtype.is_complex:
        return tf.TensorSpec([*spec.shape, 2], spec.dtype.real_dtype, name)
    return tf.TensorSpec(spec.shape, spec.dtype, name)


def _complex(parts: Any) -> Any:
    return tf.complex(parts[..., 0], parts[..., 1])


def _parts(value: Any) -> Any:
    return tf.stack([tf.math.real(value), tf.math.imag(value)], -1)


def _frozen(function: Any) -> Any:
    """The function with constants for variables, and without the writes that are let pass."""
    with keeping_cases():
        found = convert_to_constants._FunctionConverterDataInEager(
            func=function, lower_control_flow=False, aggressive_inlining=True
        )
    graph, converted = convert_to_constants._replace_variables_by_constants(converter_data=found)
    for nodes in (graph.node, *(f.node_def for f in graph.library.function)):
        writes = [node for node in nodes if node.op.startswith(_WRITES)]
        waits = {f"^{node.name}" for node in writes}
        for node in writes:
            nodes.remove(node)
        for node in nodes if writes else ():
            kept = [name for name in node.input if name not in waits]
            del node.input[:]
            node.input.extend(kept)
    return convert_to_constants._construct_concrete_function(function, graph, converted)


def _check_variables(function: Any) -> None:
    """A frozen graph has constants for variables: one that is written cannot be one of them."""
    names = {id(v.handle): v.name.split(":")[0] for v in function.graph.variables}
    outer = {id(inner): names.get(id(handle)) for handle, inner in function.graph.captures}
    written = [
        outer.get(id(op.inputs[0])) or op.name
        for op in function.graph.get_operations()
        if op.type.startswith(_WRITES) and op.inputs[0].dtype == tf.resource
    ]
    written = [name for name in written if not name.endswith(_SEED)]
    written += [
        node.name
        for inner in called(function.graph.as_graph_def())
        for node in inner.node_def
        if node.op.startswith(_WRITES)
    ]
    if written:
        raise CompilationError(
            f"the model changes its variables in the call: {', '.join(dict.fromkeys(written))}",
            next="take the state as an input and return the new one (a stateful Keras layer: "
            "stateful=False, with initial_state and return_state)",
        )


def _let_inline(graph: Any) -> None:
    """Functions marked for XLA are functions like others here: their calls shall be inlined."""
    nodes = list(graph.node)
    for function in graph.library.function:
        function.attr.pop("_noinline", None)
        function.attr.pop("_XlaMustCompile", None)
        nodes += function.node_def
    for node in nodes:
        node.attr.pop("_XlaMustCompile", None)


def _output_names(paths: Sequence[str], taken: set[str]) -> list[str]:
    """Names for results: their keys and positions, unlike each other and the inputs' names."""
    names = [f"output_{p}" if p[:1].isdigit() else p or "output" for p in paths]
    unique: list[str] = []
    for name in names:
        if name in taken:
            name = f"{name}_output"
        count, plain = 1, name
        while name in unique or name in taken:
            name, count = f"{plain}_{count}", count + 1
        unique.append(name)
    return unique
