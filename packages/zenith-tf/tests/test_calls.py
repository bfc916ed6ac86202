"""What can be compiled, how it is called, and what is refused."""

from __future__ import annotations

import collections
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tf_oracle import assert_same, check, kernels

import zenith
import zenith_tf
from zenith.errors import (
    CompilationError,
    ConfigurationError,
    UnsupportedOperationError,
    ValidationError,
)

L = keras.layers
RNG = np.random.default_rng(0)


def f32(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def two_inputs(structure: Any) -> Any:
    a, b = keras.Input((3,), name="a"), keras.Input((3,), name="b")
    inputs = [a, b] if structure is list else {"a": a, "b": b}
    return keras.Model(inputs, {"sum": a + b, "parts": [a * 2, b * 3]})


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.dense, self.drop = L.Dense(4), L.Dropout(0.5)

    def call(self, x: Any, scale: Any = None, flip: bool = False, training: bool = False) -> Any:
        y = self.drop(self.dense(x), training=training)
        y = y if scale is None else y * scale
        return -y if flip else y


# --- how it is called ----------------------------------------------------------------------------


@pytest.mark.parametrize("structure", [list, dict])
def test_inputs_by_structure_name_and_keyword(structure: Any) -> None:
    model = two_inputs(structure)
    a, b = f32(2, 3), f32(2, 3)
    expected = model([a, b] if structure is list else {"a": a, "b": b})
    compiled = zenith.compile(model, fallback="error")
    calls = [lambda: compiled({"a": a, "b": b}), lambda: compiled(b=b, a=a)]
    if structure is list:
        calls += [lambda: compiled([a, b]), lambda: compiled(a, b), lambda: compiled(a, b=b)]
    for call in calls:
        assert_same(expected, call())
    assert_same(expected, compiled({"a": tf.constant(a), "b": tf.Variable(b)}))
    assert_same(expected, compiled(a=a, b=b, training=False))


def test_wrong_calls() -> None:
    compiled = zenith.compile(two_inputs(list))
    a = f32(2, 3)
    for call in (
        lambda: compiled(a),
        lambda: compiled([a, a, a]),
        lambda: compiled(a=a),
        lambda: compiled(a=a, b=a, c=a),
        lambda: compiled(a, a=a),
        lambda: compiled([a, f32(2, 4)]),
        lambda: compiled([a, f32(3, 3)]),
        lambda: compiled([a, None]),
        lambda: compiled([a, "text"]),
        lambda: compiled([a, a > 0]),
        lambda: compiled([a, a], training=True),
    ):
        with pytest.raises(ValidationError):
            call()


def test_numbers_are_converted_as_keras_does() -> None:
    x = keras.Input((3,), dtype="int32")
    model = keras.Model(x, L.Embedding(5, 2)(x))
    compiled = zenith.compile(model)
    assert_same(model(np.array([[1, 2, 4]])), compiled(np.array([[1, 2, 4]])))  # int64
    assert_same(model(np.array([[1, 2, 4]])), compiled([[1, 2, 4]]))
    with pytest.raises(ValidationError, match="values outside of int32"):
        compiled(np.array([[1, 2, 2**40]]))
    with pytest.raises(ValidationError, match="is float32, must be int32"):
        compiled(f32(1, 3))
    function = tf.function(lambda t: t * 2, input_signature=[tf.TensorSpec((None,))])
    with pytest.raises(ValidationError, match="float64"):
        zenith.compile(function)(tf.ones(3, tf.float64))


def test_symbolic_input_is_refused() -> None:
    compiled = zenith.compile(keras.Sequential([keras.Input((3,)), L.Dense(2)]))
    with pytest.raises(ValidationError):
        compiled(keras.Input((3,)))
    with pytest.raises(ValidationError, match="symbolic"):
        tf.function(lambda t: compiled(t), autograph=False)(tf.ones((1, 3)))


def test_results_own_their_memory() -> None:
    compiled = zenith.compile(keras.Sequential([keras.Input((3,)), L.Dense(2)]))
    x = f32(1, 3)
    first = compiled(x)
    copy = np.array(first)
    for _ in range(5):
        compiled(f32(1, 3))
    np.testing.assert_array_equal(copy, np.asarray(first))


Pair = collections.namedtuple("Pair", "left right")


def test_result_structures() -> None:
    def function(x: Any) -> Any:
        return {"pair": Pair(x, (x * 2, [x + 1])), "constant": 3, "none": None, "same": x}

    compiled = zenith.compile(tf.function(function), sample_input=f32(2))
    x = f32(2)
    found = compiled(x)
    assert isinstance(found["pair"], Pair) and found["constant"] == 3 and found["none"] is None
    np.testing.assert_allclose(found["pair"].right[1][0], x + 1)
    np.testing.assert_allclose(found["same"], x)


# --- what can be compiled ------------------------------------------------------------------------


def test_subclassed_model_takes_what_its_call_takes() -> None:
    model, x = Subclassed(), f32(2, 3)
    model(x)
    check(model, x, sample_input=x)
    compiled = zenith.compile(model, sample_input=((x,), {"scale": f32(4), "flip": True}))
    scale = f32(4)
    assert_same(model(x, scale=scale, flip=True), compiled(x, scale=scale, flip=True))
    assert_same(model(x, scale=scale, flip=True), compiled(x, scale, True))
    with pytest.raises(ValidationError, match="constant"):
        compiled(x, scale=scale, flip=False)
    with pytest.raises(ValidationError, match="scale.*missing"):
        compiled(x)
    with pytest.raises(ValidationError, match="sample"):
        zenith.compile(model)


def test_sequential_built_and_not() -> None:
    model = keras.Sequential([L.Dense(2)])
    x = f32(2, 3)
    with pytest.raises(ValidationError, match="sample"):
        zenith.compile(model)
    model(x)
    check(model, x, sample_input=x)
    check(keras.Sequential([keras.Input((3,)), L.Dense(2)]), x)
    check(L.Dense(2), x, sample_input=x)  # a layer


def test_functions() -> None:
    weight = tf.Variable(f32(3, 2))

    @tf.function(input_signature=[tf.TensorSpec((None, 3)), tf.TensorSpec((2,))])
    def declared(x: Any, b: Any) -> Any:
        return tf.matmul(x, weight) + b

    x, b = f32(4, 3), f32(2)
    check(declared, x, b)
    check(declared.get_concrete_function(), tf.constant(x), tf.constant(b))
    free = tf.function(lambda t, power=2: t**power)
    check(free, x, sample_input=x)
    with pytest.raises(ValidationError, match="sample"):
        zenith.compile(free)
    concrete = free.get_concrete_function(tf.TensorSpec((None, 3)), power=3)
    compiled = zenith.compile(concrete)
    assert_same(free(x, 3), compiled(x))
    assert_same(free(x, 3), zenith_tf.compile(concrete)(t=x))


class Module(tf.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = tf.Variable(f32(3, 2))

    @tf.function(input_signature=[tf.TensorSpec((None, 3))])
    def __call__(self, x: Any) -> Any:
        return tf.nn.relu(x @ self.weight)

    @tf.function
    def other(self, x: Any, y: Any) -> Any:
        return x + y


def test_module_and_method() -> None:
    module, x = Module(), f32(4, 3)
    check(module, x)
    check(module.other, x, x, sample_input=(x, x))


def test_saved_models(tmp_path: Path) -> None:
    left, right = keras.Input((3,), name="a"), keras.Input((3,), name="b")
    model = keras.Model({"a": left, "b": right}, {"sum": left + right, "b": L.Dense(2)(right)})
    model.export(tmp_path / "exported", verbose=False)
    a, b = f32(2, 3), f32(2, 3)
    expected = tf.saved_model.load(tmp_path / "exported").signatures["serving_default"](
        a=tf.constant(a), b=tf.constant(b)
    )
    for source in (
        tmp_path / "exported",
        str(tmp_path / "exported"),
        tf.saved_model.load(tmp_path / "exported"),
    ):
        compiled = zenith.compile(source)
        assert_same(expected, compiled(a=a, b=b))
        assert_same(expected, compiled({"a": a, "b": b}))
    tf.saved_model.save(Module(), tmp_path / "module")
    assert zenith.compile(tmp_path / "module")(a)["output_0"].shape == (2, 2)
    loaded = tf.saved_model.load(tmp_path / "module")
    check(loaded, a)  # called as the object itself is
    check(loaded, a, sample_input=a)


def test_saved_model_that_does_not_load_goes_by_its_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Optimizer slots of older versions: "_UserObject has no add_slot"."""
    module, x = Module(), f32(4, 3)
    tf.saved_model.save(module, tmp_path / "model")

    def fails(*_: Any, **__: Any) -> Any:
        raise AttributeError("'_UserObject' object has no attribute 'add_slot'")

    expected = module(x)
    monkeypatch.setattr(tf.saved_model, "load", fails)
    compiled = zenith.compile(tmp_path / "model", fallback="error")
    assert_same(expected, next(iter(compiled(x).values())))
    assert compiled(f32(7, 3))["output_0"].shape == (7, 2)


def test_saved_model_of_tensorflow_2_15() -> None:
    """Written by saved_models/write.py; it has slots of a Keras 2 optimizer."""
    directory = Path(__file__).parent / "saved_models"
    recorded = np.load(directory / "image.npz")
    with pytest.raises(AttributeError, match="add_slot"):
        tf.saved_model.load(directory / "image")
    compiled = zenith.compile(directory / "image", fallback="error")
    found = compiled(image=recorded["image"])["probabilities"]
    np.testing.assert_allclose(found, recorded["probabilities"], 1e-5, 1e-6)
    assert not any("BatchNormalization" in op for op in kernels(compiled))
    single = compiled(image=recorded["image"][:1])["probabilities"]
    np.testing.assert_allclose(single, recorded["probabilities"][:1], 1e-5, 1e-6)


def test_keras_file(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((3,)), L.Dense(2)])
    model.save(tmp_path / "model.keras")
    x = f32(2, 3)
    assert_same(model(x), zenith.compile(tmp_path / "model.keras")(x))


def test_broken_paths(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"nothing of the kind")
    with pytest.raises(ValidationError, match="cannot be read"):
        zenith.compile(tmp_path)
    (tmp_path / "x.keras").write_bytes(b"no zip")
    with pytest.raises(ValidationError, match="cannot be read"):
        zenith.compile(tmp_path / "x.keras")


# --- sizes ---------------------------------------------------------------------------------------


def test_declared_sizes_stay_open_and_samples_fix_them() -> None:
    x = keras.Input((None, 4), name="x")
    model = keras.Model(x, L.Dense(2)(x))
    compiled = zenith.compile(model, fallback="error")
    for shape in ((1, 1, 4), (3, 5, 4)):
        data = f32(*shape)
        assert_same(model(data), compiled(data))
    fixed = zenith.compile(model, sample_input=f32(2, 3, 4))
    with pytest.raises(ValidationError, match="dynamic"):
        fixed(f32(3, 3, 4))
    named = zenith.compile(model, sample_input=f32(1, 3, 4), dynamic={"x": {0: "n"}})
    assert named(f32(5, 3, 4)).shape == (5, 3, 2)
    with pytest.raises(ValidationError):
        named(f32(5, 4, 4))


def test_wrong_dynamic_and_sample() -> None:
    model = keras.Sequential([keras.Input((3,)), L.Dense(2)])
    with pytest.raises(ConfigurationError, match="no input"):
        zenith.compile(model, dynamic={"q": {0: "n"}})
    with pytest.raises(ConfigurationError, match="axis"):
        zenith.compile(model, dynamic={0: {5: "n"}})
    with pytest.raises(ValidationError, match="shape"):
        zenith.compile(model, sample_input=f32(2, 4))


def test_one_batch_for_all_inputs_of_a_keras_model() -> None:
    compiled = zenith.compile(two_inputs(list))
    assert {str(v.shape[0].value) for v in compiled.graph.inputs} == {"batch"}


def test_a_result_may_be_called_like_an_input() -> None:
    x = keras.Input((3,), name="x")
    compiled = check(keras.Model(x, {"x": x * 2, "x_output": x + 1}), f32(2, 3))
    assert list(compiled(f32(1, 3))) == ["x", "x_output"]


def test_unused_input() -> None:
    a, b = keras.Input((3,), name="a"), keras.Input((4,), name="b")
    model = keras.Model([a, b], L.Dense(2)(a))
    check(model, [f32(2, 3), f32(2, 4)])


def test_the_page_of_the_guide_runs() -> None:
    page = Path(__file__).parents[3] / "docs/USER_GUIDE/tensorflow-models.md"
    for block in re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE):
        exec(compile(block, page.name, "exec"), {})


# --- what is refused -----------------------------------------------------------------------------


def test_all_unsupported_operations_are_named_at_once() -> None:
    def function(x: Any) -> Any:
        values = tf.linalg.svd(x, compute_uv=False) + tf.linalg.eigvalsh(x)
        return values + tf.math.bessel_i0(x)

    with pytest.raises(UnsupportedOperationError) as caught:
        zenith.compile(tf.function(function), sample_input=f32(3, 3))
    assert set(caught.value.op_type.split(", ")) == {"Svd", "SelfAdjointEigV2", "BesselI0"}
    x = keras.Input((4, 4))
    y = L.Lambda(tf.linalg.eigvalsh, name="values_here")(x)
    with pytest.raises(UnsupportedOperationError, match="values_here.*SelfAdjointEigV2"):
        zenith.compile(keras.Model(x, y))


def test_what_a_handler_cannot_do_is_named_too() -> None:
    def function(x: Any) -> Any:
        nms = tf.image.non_max_suppression_with_scores
        return nms(x, x[:, 0], 2, soft_nms_sigma=0.5)[0]

    with pytest.raises(UnsupportedOperationError, match="only without softening"):
        zenith.compile(tf.function(function), sample_input=f32(3, 4))


def test_strings_ragged_and_nothing() -> None:
    with pytest.raises(ValidationError, match="string"):
        zenith.compile(tf.function(tf.strings.length), sample_input=tf.constant(["a"]))
    with pytest.raises(ValidationError, match="Ragged"):
        ragged = tf.function(lambda x: tf.RaggedTensor.from_tensor(x))
        zenith.compile(ragged, sample_input=f32(2, 3))
    with pytest.raises(ValidationError, match="no tensor"):
        zenith.compile(tf.function(lambda x: None), sample_input=f32(2))


@pytest.mark.parametrize(
    ("size", "rows", "place", "message"),
    [
        (4, 4, lambda i: 3 - i, "other than 0, 1, 2"),
        (4, 3, lambda i: i, "3 rows are written of an array of 4"),
        (1, 4, lambda i: 0, "other than 0, 1, 2"),
        (4, 4, lambda i: i, None),
    ],
)
def test_arrays_that_are_not_written_row_after_row(
    size: int, rows: int, place: Any, message: str | None
) -> None:
    """tf2onnx takes each write for the next row: such results would be wrong without a word."""

    @tf.function
    def function(x: Any) -> Any:
        array = tf.TensorArray(tf.float32, size=size)
        for i in tf.range(rows):
            array = array.write(place(i), x[i] * 2)
        return array.stack()

    x = f32(4, 3)
    if message is None:
        check(function, x, sample_input=x)
        return
    with pytest.raises(UnsupportedOperationError, match=message):
        zenith.compile(function, sample_input=x)


def test_variables_that_the_call_changes_are_named() -> None:
    x = keras.Input(batch_shape=(2, 5, 3))
    with pytest.raises(CompilationError, match=r"changes its variables.*gru"):
        zenith.compile(keras.Model(x, L.GRU(4, stateful=True)(x)))
    count = tf.Variable(0.0, name="count")

    @tf.function
    def function(t: Any) -> Any:
        for _ in tf.range(2):
            count.assign_add(1.0)
        return t * count

    with pytest.raises(CompilationError, match="changes its variables"):
        zenith.compile(function, sample_input=f32(2))


@pytest.mark.parametrize("layer", [L.LSTM, L.GRU, L.SimpleRNN])
def test_dropout_of_recurrent_layers_is_off(layer: Any) -> None:
    """Keras draws its masks in inference too, and then does not use them."""
    x = keras.Input((5, 3))
    model = keras.Model(x, layer(4, dropout=0.4, recurrent_dropout=0.2)(x))
    compiled = check(model, f32(2, 5, 3))
    assert not any("Loop" in op for op in kernels(compiled))


def test_random_numbers_that_are_read_are_named() -> None:
    x = keras.Input((8, 8, 3))
    layer = L.RandomGrayscale(0.5)
    model = keras.Model(x, L.Lambda(lambda y: layer(y, training=True))(x))
    with pytest.raises(UnsupportedOperationError, match="StatelessRandomUniformV2"):
        zenith.compile(model)


def test_a_model_that_fails_in_tracing() -> None:
    with pytest.raises(CompilationError):
        zenith.compile(tf.function(lambda x: x @ x), sample_input=f32(2, 3))
