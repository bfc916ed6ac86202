"""Frozen TensorFlow graph -> ONNX model by tf2onnx, with our handlers, and nothing left unsaid.

tf2onnx writes what it cannot convert to its log and goes on: a model comes back in any case. Here
everything it logs as an error is collected, and any of it fails the conversion.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tf2onnx import optimizer, tf_utils, tfonnx, utils
from tf2onnx.optimizer import back_to_back_optimizer
from tf2onnx.optimizer.const_fold_optimizer import ConstFoldOptimizer
from tf2onnx.optimizer.identity_optimizer import IdentityOptimizer
from tf2onnx.optimizer.loop_optimizer import LoopOptimizer
from tf2onnx.optimizer.transpose_optimizer import TransposeOptimizer

from zenith.errors import CompilationError, UnsupportedOperationError
from zenith_tf.complexes import complex_splitter
from zenith_tf.freeze import Frozen
from zenith_tf.functions import Functions
from zenith_tf.handlers import handlers, refuse_forms

__all__ = ["TF2ONNX_OPSET", "to_onnx"]

TF2ONNX_OPSET = 18  # the newest tf2onnx writes; the ONNX adapter brings it to GraphIR's

_lock = threading.Lock()  # tf2onnx keeps the functions of the graph at hand in globals


@contextmanager
def _bfloat16() -> Iterator[None]:
    """tf2onnx takes bfloat16 for float16, whose range is another; here it is what it is."""
    names, arrays = tf_utils.TF_TO_ONNX_DTYPE, utils.ONNX_TO_NUMPY_DTYPE
    kind, plain = types_pb2.DT_BFLOAT16, onnx.TensorProto.BFLOAT16
    before = names[kind]
    names[kind], arrays[plain] = plain, np.dtype(ml_dtypes.bfloat16)
    try:
        yield
    finally:
        names[kind] = before
        del arrays[plain]


@contextmanager
def _casts() -> Iterator[None]:
    """tf2onnx drops a Cast before another, also one to a type that holds less: here it stays."""
    rules = back_to_back_optimizer._func_map
    rule = rules.pop(("Cast",))
    try:
        yield
    finally:
        rules[("Cast",)] = rule


class _Transposes(TransposeOptimizer):  # type: ignore[misc]
    """Moves transposes together until they cancel.

    A constant added behind a convolution stays an Add: tf2onnx makes it the bias whenever its only
    large axis is as long as there are channels, even if that axis is another one.
    """

    def _add_handler(self, trans: Any, node: Any) -> Any:
        return self._handle_node_having_branches(trans, node)


# What keeps NHWC models free of transposes. All else is done by Zenith's own passes.
_OPTIMIZERS = {
    "optimize_transpose": _Transposes,
    "fold_constants": ConstFoldOptimizer,
    "loop_optimizer": LoopOptimizer,
    "remove_identity": IdentityOptimizer,
    "remove_back_to_back": back_to_back_optimizer.BackToBackOptimizer,
}


def to_onnx(frozen: Frozen, input_names: Sequence[str]) -> onnx.ModelProto:
    """An ONNX model with the given names of inputs, and results named as in `frozen`.

    Raises `UnsupportedOperationError` naming every operation without a handler and every node that
    could not be converted, with the names TensorFlow gives them (they begin with the layer's).
    """
    inputs = [f"{name}" for name in frozen.inputs]
    outputs = [tensor for tensor, _ in frozen.outputs]
    renamed = dict(zip(inputs, input_names, strict=True))
    renamed.update(frozen.outputs)
    functions = Functions()
    operations = {node.name: node.op for node in _all_nodes(frozen.graph)}
    with (
        _lock,
        _bfloat16(),
        _casts(),
        _problems(operations) as problems,
        tf.Graph().as_default() as graph,
    ):
        tf.import_graph_def(frozen.graph, name="")
        try:
            converted = tfonnx.process_tf_graph(
                graph,
                continue_on_error=True,
                opset=TF2ONNX_OPSET,
                custom_rewriter=[refuse_forms, complex_splitter(functions)],
                custom_op_handlers=handlers(functions),
                input_names=inputs,
                output_names=outputs,
                tensors_to_rename=renamed,
            )
        except Exception as error:
            problems.check()  # what went wrong before is the better message
            raise CompilationError(
                f"tf2onnx failed on this model: {type(error).__name__}: {error}"
            ) from error
        problems.check()
        converted = optimizer.optimize_graph(converted, False, optimizers=_OPTIMIZERS)
        problems.check()
        model: onnx.ModelProto = converted.make_model("zenith-tf")
    functions.go_with(model)
    return model


def _all_nodes(graph: Any) -> Iterator[Any]:
    yield from graph.node
    for function in graph.library.function:
        yield from function.node_def


@dataclass
class _Problems(logging.Handler):
    """Everything tf2onnx logs as an error: (operation, "node: reason")."""

    operations: dict[str, str]
    found: list[tuple[str, str]] = field(default_factory=list)
    other: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(logging.ERROR)

    __hash__ = logging.Handler.__hash__

    def emit(self, record: logging.LogRecord) -> None:
        args = record.args if isinstance(record.args, tuple) else ()
        if record.msg.startswith("Tensorflow op [") and len(args) == 2:
            self.found.append((str(args[1]), str(args[0])))
        elif record.msg.startswith("Failed to convert node") and args:
            name = str(args[0])
            reason = record.exc_info[1] if record.exc_info else ""
            self.found.append((self.operations.get(name, "?"), f"{name}: {reason}"))
        elif not record.msg.startswith("Unsupported ops"):
            self.other.append(record.getMessage())

    def check(self) -> None:
        """Raise when anything was logged."""
        if self.found:
            names = ", ".join(dict.fromkeys(name for name, _ in self.found))
            raise UnsupportedOperationError(
                names,
                operations=self.found,
                next="put other layers in the place of these",
            )
        if self.other:
            raise CompilationError("tf2onnx could not convert this model: " + "; ".join(self.other))


@contextmanager
def _problems(operations: dict[str, str]) -> Iterator[_Problems]:
    """Collect what tf2onnx logs, in place of printing it."""
    logger = logging.getLogger("tf2onnx")
    problems = _Problems(operations)
    handlers, propagate, level = logger.handlers[:], logger.propagate, logger.level
    logger.handlers[:] = [problems]
    logger.propagate = False
    logger.setLevel(logging.WARNING)
    try:
        yield problems
    finally:
        logger.handlers[:] = handlers
        logger.propagate = propagate
        logger.setLevel(level)
