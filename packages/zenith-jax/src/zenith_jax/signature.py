"""How one call crosses the boundary: JAX arrays to dense buffers, and results back."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_dtypes  # noqa: F401 - gives numpy the names of bfloat16 and its kin
import numpy as np

from zenith.errors import ValidationError
from zenith_jax.capture import Captured, Leaf, is_array
from zenith_jax.dims import largest, sizes
from zenith_jax.dtypes import described, is_complex, is_key, physical

__all__ = ["JaxSignature"]

Array = np.ndarray[Any, Any]
_ALIGNMENT = 64  # what XLA wants of a buffer that it does not copy
# kinds of a number and of an input that would lose something of it
_DROPS = {("f", "i"), ("f", "u"), ("f", "b"), ("c", "i"), ("c", "u"), ("c", "b"), ("c", "f")}


class JaxSignature:
    """Made once per compiled model. Between the edges everything is numpy, which shares buffers
    with JAX's CPU arrays."""

    def __init__(self, captured: Captured) -> None:
        self.input_names: Sequence[str] = captured.input_names
        self.output_names: Sequence[str] = list(captured.output_names)
        self._parameters = captured.parameters
        self._positional = captured.positional
        self._names = [name for name, _, _ in captured.parameters]
        in_avals, out_avals = captured.closed.in_avals, captured.closed.out_avals
        self._types = [
            (name, _given_type(a), a.ndim, a.dtype if is_key(a.dtype) else None)
            for name, a in zip(self.input_names, in_avals, strict=True)
        ]
        self._in_shapes = [sizes(physical(a)[1]) for a in in_avals]
        self._limits = [
            (place, axis, limit)
            for place, aval in enumerate(in_avals)
            for axis, dim in enumerate(aval.shape)
            if not isinstance(dim, int) and (limit := largest(dim)) is not None
        ]
        self._out_types = [(np.dtype(physical(a)[0]), sizes(physical(a)[1])) for a in out_avals]
        self._keys = [a.dtype._impl.name if is_key(a.dtype) else None for a in out_avals]
        self._in_pairs = [is_complex(a) for a in out_avals]
        self._out_tree = captured.out_tree
        self._constants = list(captured.outputs)
        self._wide = [dtype.itemsize == 8 for dtype, _ in self._out_types]

    # --- inputs -------------------------------------------------------------------------------

    def flatten(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Array]:
        """Graph inputs in order; see `zenith.runtime.adapter.Signature.flatten`."""
        tensors = [self._convert(i, leaf) for i, leaf in enumerate(self._leaves(args, kwargs))]
        for place, axis, limit in self._limits:
            shape = tensors[place].shape
            if axis < len(shape) and shape[axis] > limit:
                raise self._wrong(
                    f"axis {axis} of input '{self.input_names[place]}' is {shape[axis]} long, but "
                    f"the model is good for {limit} at most"
                )
        return tensors

    def _leaves(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
        """The traced leaves of a call."""
        if len(args) > len(self._parameters):
            raise self._wrong(
                f"{len(args)} positional inputs were given, at most {len(self._parameters)} exist"
            )
        given: dict[str, Any] = dict(zip(self._names, args, strict=False))
        for name, value in kwargs.items():
            if name in given:
                raise self._wrong(f"input '{name}' was given twice")
            if name not in self._names:
                raise self._wrong(f"input '{name}' was not in sample_input")
            given[name] = value
        tensors: list[Any] = []
        for name, tree, slots in self._parameters:
            if name not in given:
                raise self._wrong(f"input '{name}' is missing")
            leaves, found = jax.tree_util.tree_flatten(given[name])
            if found != tree:
                raise self._wrong(f"input '{name}' has not the structure it had in sample_input")
            for leaf, slot in zip(leaves, slots, strict=True):
                if slot.traced:
                    tensors.append(leaf)
                elif not _same_constant(leaf, slot):
                    raise self._wrong(
                        f"input '{slot.name}' is {leaf!r}, but was {slot.value!r} in the sample, "
                        "which made it a constant of the compiled model"
                    )
        return tensors

    def _convert(self, position: int, leaf: Any) -> Array:
        name, dtype, rank, key = self._types[position]
        if isinstance(leaf, jax.Array):
            if key is not None:
                if leaf.dtype != key:
                    raise self._wrong(f"input '{name}' is {leaf.dtype}, but must be {key}")
                leaf = jax.random.key_data(leaf)
            if leaf.dtype != dtype:
                raise self._wrong(
                    f"input '{name}' is {leaf.dtype}, but the model was compiled for {dtype}",
                    f"pass {name}.astype('{dtype}'), or compile with such a sample_input",
                )
            array = np.ascontiguousarray(leaf) if rank or key is not None else np.asarray(leaf)
            return _in_parts(array)
        if (
            not is_array(leaf)
            and not isinstance(leaf, bool)
            or isinstance(leaf, jax.ShapeDtypeStruct)
        ):
            raise self._wrong(
                f"input '{name}' is a {type(leaf).__name__}, but must be an array of {dtype}"
            )
        array = np.asarray(leaf)
        number = isinstance(leaf, bool | int | float | complex)
        if number and (array.dtype.kind, dtype.kind) in _DROPS:
            raise self._wrong(f"input '{name}' is the number {leaf}, but must be {dtype}")
        # numpy arrays and numbers become what JAX makes of them
        if not number and jax.dtypes.canonicalize_dtype(array.dtype) != dtype:
            raise self._wrong(
                f"input '{name}' is an array of {array.dtype}, but the model was compiled for "
                f"{dtype}"
            )
        return _in_parts(np.require(array.astype(dtype, copy=False), requirements=["C", "A"]))

    def _wrong(self, problem: str, step: str | None = None) -> ValidationError:
        expected = ", ".join(f"{n}: {d} with {r} axes" for n, d, r, _ in self._types)
        return ValidationError(problem, next=step or f"inputs are: {expected}")

    # --- tensors ------------------------------------------------------------------------------

    def maker(self, dtype: str, shape: Sequence[int]) -> Callable[[], Array]:
        return functools.partial(self._buffer, dtype, tuple(shape))

    def _buffer(self, dtype: str, shape: tuple[int, ...]) -> Array:
        """A buffer that JAX takes over without a copy."""
        kind = np.dtype(dtype)
        size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        raw = np.empty(size + _ALIGNMENT, np.uint8)
        start = -raw.ctypes.data % _ALIGNMENT
        return raw[start : start + size].view(kind).reshape(shape)

    def to_numpy(self, tensor: Array) -> Array:
        return tensor

    def from_numpy(self, array: Array) -> Array:
        return array

    # --- outputs ------------------------------------------------------------------------------

    def unflatten(self, outputs: Sequence[Array]) -> Any:
        """JAX arrays in the function's own structure."""
        whole = [
            a.view(np.result_type(a.dtype, np.complex64))[..., 0] if pair else a
            for a, pair in zip(outputs, self._in_pairs, strict=True)
        ]
        if any(self._wide) and jax.dtypes.canonicalize_dtype(np.float64) != np.float64:
            with jax.enable_x64(True):
                arrays = [jax.numpy.asarray(a) for a in whole]
        else:
            arrays = [jax.numpy.asarray(a) for a in whole]
        return self._build(arrays)

    def _build(self, arrays: Sequence[Any]) -> Any:
        found = iter(
            a if impl is None else jax.random.wrap_key_data(a, impl=impl)
            for a, impl in zip(arrays, self._keys, strict=True)
        )
        leaves = [next(found) if array else value for array, value in self._constants]
        return jax.tree_util.tree_unflatten(self._out_tree, leaves)

    # --- inside a trace -----------------------------------------------------------------------

    def staged(self, compiled: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The call as part of a traced function; NotImplemented when no input is traced.

        The compiled model runs in a `jax.pure_callback`; it cannot be differentiated.
        """
        tracer = jax.core.Tracer
        if not any(isinstance(v, tracer) for v in jax.tree_util.tree_leaves((args, kwargs))):
            return NotImplemented
        leaves = self._leaves(args, kwargs)
        data = []
        for leaf, (name, dtype, _, key) in zip(leaves, self._types, strict=True):
            leaf = jax.random.key_data(leaf) if key is not None else jax.numpy.asarray(leaf)
            if leaf.dtype != dtype:
                raise self._wrong(f"input '{name}' is {leaf.dtype}, but must be {dtype}")
            if dtype.kind == "c":
                leaf = jax.numpy.stack([leaf.real, leaf.imag], -1)
            data.append(leaf)
        known = {
            size: length
            for leaf, shape in zip(data, self._in_shapes, strict=True)
            for size, length in zip(shape, leaf.shape, strict=False)
            if not isinstance(size, int)
        }
        results = [
            described([d if isinstance(d, int) else int(d.subs(known)) for d in shape], dtype)
            for dtype, shape in self._out_types
        ]

        def call(*arrays: Any) -> list[Array]:
            feeds = [np.ascontiguousarray(a) for a in arrays]
            found = compiled.run(dict(zip(compiled.input_names, feeds, strict=True)))
            return list(found.values())

        @jax.custom_jvp
        def run(*data: Any) -> Any:
            return jax.pure_callback(call, results, *data, vmap_method="sequential")

        run.defjvp(_no_gradient)
        arrays = run(*data)
        whole = [
            jax.lax.complex(a[..., 0], a[..., 1]) if pair else a
            for a, pair in zip(arrays, self._in_pairs, strict=True)
        ]
        return self._build(whole)


def _no_gradient(*_: Any) -> Any:
    raise ValidationError(
        "a compiled model cannot be differentiated inside a JAX program",
        next="compile the gradient instead: zenith.compile(jax.grad(function), ...)",
    )


def _given_type(aval: Any) -> np.dtype[Any]:
    """The type of what a caller gives for an abstract value; a key is known by its data."""
    dtype: np.dtype[Any] = physical(aval)[0] if is_key(aval.dtype) else aval.dtype
    return dtype


def _in_parts(array: Array) -> Array:
    """The joined parts of complex numbers: how they lie in memory."""
    if array.dtype.kind != "c":
        return array
    return array[..., None].view(np.finfo(array.dtype).dtype)


def _same_constant(value: Any, slot: Leaf) -> bool:
    if value is slot.value:
        return True
    if is_array(value):
        return False
    return type(value) is type(slot.value) and bool(value == slot.value)
