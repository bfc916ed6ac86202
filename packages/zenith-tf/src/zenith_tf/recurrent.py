"""Keras' GRU and SimpleRNN as one operation each, in place of a loop over its steps.

While a model is traced its recurrent layers write CudnnRNN, TensorFlow's operation for a whole
layer, with the weights in the order it has for them; `zenith_tf.handlers` makes GRU and RNN of it.
What that operation does not mean (a mask, other activations) stays the loop Keras writes. LSTM is
found in its loop by tf2onnx.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

__all__ = ["whole_layers"]


@contextmanager
def whole_layers(model: Any) -> Iterator[None]:
    """Within it, calls of the model's recurrent layers are one operation where they can be."""
    changed = [layer for layer in _layers(model) if _mode(layer) is not None]
    for layer in changed:  # past Keras' own bookkeeping of attributes
        object.__setattr__(layer, "inner_loop", functools.partial(_inner_loop, layer))
    try:
        yield
    finally:
        for layer in changed:
            object.__delattr__(layer, "inner_loop")


def _layers(model: Any) -> Iterator[Any]:
    import keras

    known = (keras.layers.RNN.inner_loop, keras.layers.GRU.inner_loop)
    seen = set()
    for layer in model._flatten_layers(include_self=True, recursive=True):
        recurrent = isinstance(layer, keras.layers.RNN) and type(layer).inner_loop in known
        if recurrent and id(layer) not in seen:
            seen.add(id(layer))
            yield layer


def _mode(layer: Any) -> str | None:
    """The operation's name for the layer's cell, None where it has none."""
    import keras

    cell, of = layer.cell, keras.activations
    if layer.compute_dtype != "float32":
        return None
    if type(cell) is keras.layers.GRUCell:
        usual = cell.activation is of.tanh and cell.recurrent_activation is of.sigmoid
        return "gru" if usual and cell.reset_after else None
    if type(cell) is keras.layers.SimpleRNNCell:
        return {of.tanh: "rnn_tanh", of.relu: "rnn_relu"}.get(cell.activation)
    return None


def _inner_loop(
    layer: Any, sequences: Any, initial_state: Any, mask: Any, training: Any = False
) -> Any:
    """What `RNN.inner_loop` returns: the last output, all of them, and the states."""
    if training or any(m is not None for m in tf.nest.flatten(mask)):
        return type(layer).inner_loop(layer, sequences, initial_state, mask, training)
    (state,) = tf.nest.flatten(initial_state)
    if layer.go_backwards:
        sequences = tf.reverse(sequences, [1])
    mode = _mode(layer)
    assert mode is not None
    units = layer.cell.units
    weights, biases = _gates(layer.cell, 3 if mode == "gru" else 1)
    how = {"rnn_mode": mode, "input_mode": "linear_input", "direction": "unidirectional"}
    params = tf.raw_ops.CudnnRNNCanonicalToParams(
        num_layers=1,
        num_units=units,
        input_size=sequences.shape[-1],
        weights=weights,
        biases=biases,
        **how,
    )
    first = tf.expand_dims(state, 0)
    steps = tf.transpose(sequences, [1, 0, 2])
    found = tf.raw_ops.CudnnRNN(
        input=steps, input_h=first, input_c=first, params=params, is_training=False, **how
    )
    batch, length = sequences.shape[:2]
    outputs = tf.ensure_shape(tf.transpose(found.output, [1, 0, 2]), [batch, length, units])
    last = outputs[:, -1]
    return last, outputs, [last]


def _gates(cell: Any, count: int) -> tuple[list[Any], list[Any]]:
    """Weights [units, inputs] per gate and two biases per gate: of the inputs, of the state.

    Keras has the gates of a GRU as update, reset, new; the operation as reset, update, new.
    """
    order = [1, 0, 2] if count == 3 else [0]
    weights = [
        tf.transpose(part[i])
        for part in (tf.split(w, count, 1) for w in (cell.kernel, cell.recurrent_kernel))
        for i in order
    ]
    if cell.bias is None:
        return weights, [tf.zeros([cell.units])] * (2 * count)
    rows = tf.convert_to_tensor(cell.bias)
    if rows.shape.rank == 1:
        rows = tf.stack([rows, tf.zeros_like(rows)])
    return weights, [tf.split(rows[row], count)[i] for row in (0, 1) for i in order]
