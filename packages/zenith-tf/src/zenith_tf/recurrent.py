"""Keras' LSTM, GRU and SimpleRNN as one operation each, in place of a loop over their steps.

While a model is traced its recurrent layers write CudnnRNN, TensorFlow's operation for a whole
layer, with the weights in the order it has for them; `zenith_tf.handlers` makes LSTM, GRU and RNN
of it. What that operation does not mean (other activations) stays the loop Keras writes. In graphs
that come traced, LSTM is found in its loop by tf2onnx.

Note [Masks]: a step that is masked leaves the state and repeats the output before it, or gives 0.
So the steps that are not masked are moved to the front, those are run (the operation takes their
number), and each output is fetched from where its last unmasked step went.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf
from tensorflow.core.framework.attr_value_pb2 import AttrValue

__all__ = ["RESET_BEFORE", "whole_layers"]

# On the operation of a GRU whose reset gate comes before the product: TensorFlow has none of those.
RESET_BEFORE = "_zenith_reset_before"


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

    kinds = (keras.layers.RNN, keras.layers.GRU, keras.layers.LSTM)
    known = [kind.inner_loop for kind in kinds]
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
    if type(cell) is keras.layers.SimpleRNNCell:
        return {of.tanh: "rnn_tanh", of.relu: "rnn_relu"}.get(cell.activation)
    gated = {keras.layers.GRUCell: "gru", keras.layers.LSTMCell: "lstm"}.get(type(cell))
    if gated and cell.activation is of.tanh and cell.recurrent_activation is of.sigmoid:
        return gated
    return None


def _inner_loop(
    layer: Any, sequences: Any, initial_state: Any, mask: Any, training: Any = False
) -> Any:
    """What `RNN.inner_loop` returns: the last output, all of them, and the states."""
    if training:
        return type(layer).inner_loop(layer, sequences, initial_state, mask, training)
    first = tf.nest.flatten(initial_state)
    mask = next((m for m in tf.nest.flatten(mask) if m is not None), None)
    if layer.go_backwards:
        sequences = tf.reverse(sequences, [1])
        mask = None if mask is None else tf.reverse(mask, [1])
    if mask is None:
        outputs, states = _operation(layer, sequences, first, None)
    else:
        outputs, states = _masked(layer, sequences, first, mask)
    outputs = tf.ensure_shape(outputs, [*sequences.shape[:2], layer.cell.units])
    last = outputs[:, -1]
    return last, outputs, states if mask is not None else [last, *states[1:]]


def _masked(layer: Any, sequences: Any, first: list[Any], mask: Any) -> tuple[Any, list[Any]]:
    """All outputs, and the states after the last unmasked step; see Note [Masks]."""
    kept = tf.cast(mask, tf.int32)
    seen, lengths = tf.cumsum(kept, axis=1), tf.reduce_sum(kept, 1)
    steps = tf.shape(mask)[1]
    order = tf.math.top_k(kept * steps - tf.range(steps), steps).indices
    packed = tf.gather(sequences, order, batch_dims=1)
    outputs, states = _operation(layer, packed, first, lengths)
    outputs = tf.gather(outputs, tf.maximum(seen - 1, 0), batch_dims=1)
    shown = kept if layer.zero_output_for_mask else seen
    outputs = tf.where(shown[:, :, None] > 0, outputs, 0.0)
    any_step = lengths[:, None] > 0
    return outputs, [tf.where(any_step, s, f) for s, f in zip(states, first, strict=True)]


def _operation(layer: Any, sequences: Any, first: list[Any], lengths: Any) -> tuple[Any, list[Any]]:
    """The layer as one operation: outputs [batch, steps, units], states [batch, units]."""
    mode, cell = _mode(layer), layer.cell
    assert mode is not None
    weights, biases = _gates(cell, {"gru": 3, "lstm": 4}.get(mode, 1))
    how = {"rnn_mode": mode, "input_mode": "linear_input", "direction": "unidirectional"}
    params = tf.raw_ops.CudnnRNNCanonicalToParams(
        num_layers=1,
        num_units=cell.units,
        input_size=sequences.shape[-1],
        weights=weights,
        biases=biases,
        **how,
    )
    h, c = (tf.expand_dims(s, 0) for s in (first[0], first[-1]))
    given = {"input_h": h, "input_c": c, "params": params, "is_training": False, **how}
    steps = tf.transpose(sequences, [1, 0, 2])
    marks = {} if getattr(cell, "reset_after", True) else {RESET_BEFORE: AttrValue(b=True)}
    with tf.compat.v1.get_default_graph()._attr_scope(marks):
        if lengths is None:
            found = tf.raw_ops.CudnnRNN(input=steps, **given)
        else:
            found = tf.raw_ops.CudnnRNNV3(input=steps, sequence_lengths=lengths, **given)
    states = [found.output_h, found.output_c][: len(first)]
    return tf.transpose(found.output, [1, 0, 2]), [tf.squeeze(s, [0]) for s in states]


def _gates(cell: Any, count: int) -> tuple[list[Any], list[Any]]:
    """Weights [units, inputs] per gate and two biases per gate: of the inputs, of the state.

    Keras has the gates of a GRU as update, reset, new; the operation as reset, update, new.
    """
    order = [1, 0, 2] if count == 3 else range(count)
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
