"""How one call crosses the boundary: tensors and arrays in, the model's structure of tensors out.

Between the two the engine sees numpy arrays: they share memory with TensorFlow's tensors.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from zenith.errors import ValidationError
from zenith.runtime.numpy_signature import numpy_dtype
from zenith_tf.inputs import Inputs
from zenith_tf.structure import rebuild

__all__ = ["TensorFlowSignature"]

_ALIGNMENT = 64  # bytes: what TensorFlow's own kernels expect of a tensor


class TensorFlowSignature:
    """See `zenith.runtime.adapter.Signature`. Made once per compiled model.

    inputs: how calls map to the leaves; kept: which leaves the graph takes, in its order.
    convert: tensors of another float or int type are converted, as Keras does. spectra: which
    results are complex; the graph has both parts of such ones, and of inputs, along a last axis.
    """

    def __init__(
        self,
        inputs: Inputs,
        kept: Sequence[int],
        output: Any,
        output_names: Sequence[str],
        *,
        convert: bool,
        spectra: frozenset[int] = frozenset(),
    ) -> None:
        self._inputs = inputs
        self._kept = list(kept)
        self._types = [
            (name, np.dtype(spec.dtype.as_numpy_dtype), spec.shape.rank)
            for name, spec in inputs.leaves
        ]
        self._output = output
        self._convert = convert
        self._spectra = spectra
        self.input_names: Sequence[str] = [inputs.leaves[i][0] for i in kept]
        self.output_names: Sequence[str] = list(output_names)

    def flatten(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[NDArray[Any]]:
        """Graph inputs in order; see `zenith.runtime.adapter.Signature.flatten`."""
        values = self._inputs.bind(args, kwargs)
        arrays = [self._array(i, value) for i, value in enumerate(values)]
        return [arrays[i] for i in self._kept]

    def _array(self, index: int, value: Any) -> NDArray[Any]:
        name, dtype, _ = self._types[index]
        if tf.is_tensor(value):
            array = self._dense(name, value)
        elif isinstance(value, np.ndarray | np.generic):
            array = np.asarray(value)
        elif isinstance(value, bool | int | float | list | tuple):
            try:
                array = np.asarray(value)
            except ValueError as error:
                raise self._inputs.wrong(f"input '{name}' is no tensor: {error}") from error
        else:
            raise self._inputs.wrong(f"input '{name}' is a {type(value).__name__}, not a tensor")
        if array.dtype != dtype:
            array = self._cast(name, array, dtype, free=self._convert or not tf.is_tensor(value))
        array = np.asarray(array, order="C")
        if dtype.kind != "c":
            return array
        return array.view(array.real.dtype).reshape(*array.shape, 2)

    def _dense(self, name: str, value: Any) -> NDArray[Any]:
        if isinstance(value, tf.Variable):
            value = value.value()
        if not isinstance(value, tf.Tensor):
            raise self._inputs.wrong(f"input '{name}' is a {type(value).__name__}, not dense")
        if not hasattr(value, "numpy"):
            raise ValidationError(
                f"input '{name}' is symbolic: a compiled model is called with values",
                next="call it outside tf.function and keras.Model construction, "
                "or by way of tf.numpy_function",
            )
        return np.asarray(value)

    def _cast(
        self, name: str, array: NDArray[Any], dtype: np.dtype[Any], *, free: bool
    ) -> NDArray[Any]:
        """Another type of number, where TensorFlow itself converts: never a loss of meaning."""
        kinds = {"f": "f", "V": "f", "i": "i", "u": "i", "b": "b"}
        have, want = kinds.get(array.dtype.kind), kinds.get(dtype.kind)
        if free and have is not None and (have == want or (have == "i" and want == "f")):
            with np.errstate(over="ignore"):
                converted = array.astype(dtype)
            if have != "i" or want != "i" or bool((converted == array).all()):
                return converted
            raise self._inputs.wrong(f"input '{name}' has values outside of {dtype.name}")
        raise self._inputs.wrong(f"input '{name}' is {array.dtype.name}, must be {dtype.name}")

    # --- tensors ------------------------------------------------------------------------------

    def maker(self, dtype: str, shape: Sequence[int]) -> Callable[[], NDArray[Any]]:
        return functools.partial(self._memory, dtype, tuple(shape))

    def _memory(self, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
        kind = numpy_dtype(dtype)
        count = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        memory = np.empty(count + _ALIGNMENT, np.uint8)
        begin = -memory.ctypes.data % _ALIGNMENT
        return memory[begin : begin + count].view(kind).reshape(shape)

    def to_numpy(self, tensor: NDArray[Any]) -> NDArray[Any]:
        return tensor

    def from_numpy(self, array: NDArray[Any]) -> NDArray[Any]:
        return array

    def unflatten(self, outputs: Sequence[NDArray[Any]]) -> Any:
        """The model's own structure around the graph's outputs."""
        tensors = [
            _tensor(_complex(array) if place in self._spectra else array)
            for place, array in enumerate(outputs)
        ]
        return rebuild(self._output, tensors)


def _complex(array: NDArray[Any]) -> NDArray[Any]:
    parts = np.ascontiguousarray(array)
    return parts.view(np.result_type(parts, np.complex64))[..., 0]


def _tensor(array: NDArray[Any]) -> Any:
    """A tensor that shares the array's memory where TensorFlow can, else a copy."""
    shareable = (
        array.flags.c_contiguous
        and array.flags.writeable
        and array.dtype.kind in "fiub"
        and array.ctypes.data % _ALIGNMENT == 0
    )
    if shareable:
        return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    return tf.constant(array)
