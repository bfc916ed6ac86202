"""Writes the SavedModel beside it, with TensorFlow 2.15 (Keras 2): `python write.py`.

Newer versions cannot write such: it has the slots of an optimizer whose objects TensorFlow 2.21
does not restore. `image.npz` has an input and what TensorFlow 2.15 made of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

HERE = Path(__file__).parent
L = keras.layers
RNG = np.random.default_rng(15)


def image_model() -> Any:
    """Batch norm after a convolution with a bias and after one without, depthwise too."""
    image = keras.Input((None, None, 3), name="image")
    x = L.Conv2D(4, 3, padding="same", use_bias=False)(image)
    x = L.ReLU()(L.BatchNormalization()(x))
    x = L.DepthwiseConv2D(3, strides=2, padding="same")(x)
    x = L.Activation("swish")(L.BatchNormalization()(x))
    x = L.GlobalAveragePooling2D()(L.MaxPool2D()(x))
    return keras.Model(image, L.Dense(5, activation="softmax", name="probabilities")(x))


def randomise(model: Any) -> None:
    for weight in model.weights:
        positive = "variance" in weight.name or "gamma" in weight.name
        draw = RNG.uniform(0.5, 1.5, weight.shape) if positive else RNG.normal(0, 0.4, weight.shape)
        weight.assign(draw)


if __name__ == "__main__":
    model, images = image_model(), RNG.normal(size=(3, 8, 8, 3)).astype(np.float32)
    model.compile(keras.optimizers.legacy.SGD(momentum=0.9), "sparse_categorical_crossentropy")
    model.fit(images, np.arange(3), verbose=0)
    randomise(model)
    served = tf.function(lambda image: {"probabilities": model(image)})
    served = served.get_concrete_function(tf.TensorSpec(model.input_shape, name="image"))
    model.save(HERE / "image", save_traces=False, signatures={"serving_default": served})
    for unused in ("keras_metadata.pb", "fingerprint.pb"):
        (HERE / "image" / unused).unlink()
    found = served(tf.constant(images))["probabilities"].numpy()
    np.savez(HERE / "image.npz", image=images, probabilities=found)
