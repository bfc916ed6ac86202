"""How a compiled GraphIR is called: numpy arrays in the graph's order or by name."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from zenith.errors import ValidationError
from zenith.ir import GraphIR

__all__ = ["NumpySignature", "numpy_dtype", "open_constant"]


@functools.cache
def numpy_dtype(name: str) -> np.dtype[Any]:
    """numpy dtype of a name as `ValueView.dtype` gives it (bfloat16 and float8 by ml_dtypes)."""
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes

        found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return found


class NumpySignature:
    """Positional arrays, or keywords by input name; one array back, or a tuple of several.

    A sequence is a list of arrays, an optional may be None, strings are arrays of objects.
    constants: inputs of the source model that have a value there, and are no inputs here.
    """

    def __init__(self, graph: GraphIR, constants: Sequence[str] = ()) -> None:
        self.constants = frozenset(constants)
        self.input_names: Sequence[str] = [str(v.name) for v in graph.inputs]
        self.output_names: Sequence[str] = [str(v.name) for v in graph.outputs]
        self._converters = [_converter(_checked(v)) for v in graph.inputs]

    def flatten(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
        given: dict[str, Any] = dict(zip(self.input_names, args, strict=False))
        unknown = [k for k in kwargs if k not in self.input_names or k in given]
        missing = [n for n in self.input_names if n not in given and n not in kwargs]
        if len(args) > len(self.input_names) or unknown or missing:
            raise ValidationError(
                f"the model takes {', '.join(self.input_names)}; missing: "
                f"{', '.join(missing) or 'none'}; unknown or given twice: "
                f"{', '.join(unknown) or 'none'}; positional: {len(args)}",
                next=open_constant(self.constants, unknown),
            )
        given.update(kwargs)
        return [
            convert(given[name])
            for name, convert in zip(self.input_names, self._converters, strict=True)
        ]

    def maker(self, dtype: str, shape: Sequence[int]) -> Callable[[], NDArray[Any]]:
        return functools.partial(np.empty, tuple(shape), numpy_dtype(dtype))

    def to_numpy(self, tensor: NDArray[Any]) -> NDArray[Any]:
        return tensor

    def from_numpy(self, array: NDArray[Any]) -> NDArray[Any]:
        return array

    def unflatten(self, outputs: Sequence[NDArray[Any]]) -> Any:
        return outputs[0] if len(outputs) == 1 else tuple(outputs)


def open_constant(constants: Collection[str], given: Iterable[str]) -> str | None:
    """What to do about `given` names of inputs that are constants of the compiled model."""
    names = [name for name in given if name in constants]
    if not names:
        return None
    entries = ", ".join(f'"{name}": {{}}' for name in names)
    return (
        f"{', '.join(names)} has a value in the model, which the compiled model keeps; compile "
        f"with dynamic={{{entries}}} to give it in every call"
    )


def _checked(value: ir.Value) -> ir.TypeProtocol:
    if value.type is None or value.dtype is None:
        raise ValidationError(f"input '{value.name}' has no element type")
    return value.type


def _converter(kind: ir.TypeProtocol) -> Callable[[Any], Any]:
    """What makes the array, list or None that programs take of what is given for a type; sizes are
    checked when the model is bound."""
    if isinstance(kind, ir.OptionalType):
        return functools.partial(_optional, _converter(kind.elem_type))
    if isinstance(kind, ir.SequenceType):
        return functools.partial(_sequence, _converter(kind.elem_type))
    if kind.dtype == ir.DataType.STRING:
        return _strings
    return functools.partial(_tensor, kind.dtype.numpy())


def _optional(convert: Callable[[Any], Any], given: Any) -> Any:
    return None if given is None else convert(given)


def _sequence(convert: Callable[[Any], Any], given: Any) -> list[Any]:
    if not isinstance(given, list | tuple):
        raise ValidationError(f"a sequence is given as a list, not {type(given).__name__}")
    return [convert(item) for item in given]


def _strings(given: Any) -> NDArray[Any]:
    return np.asarray(np.asarray(given), dtype=object, order="C")


def _tensor(dtype: np.dtype[Any], given: Any) -> NDArray[Any]:
    array = np.asarray(given, order="C")
    if array.dtype != dtype and isinstance(given, int | float | bool | list):
        array = array.astype(dtype)  # Python scalars and lists have no dtype of their own
    return array
