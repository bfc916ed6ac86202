"""How one call crosses the boundary: PyTorch arguments to dense tensors, and outputs back."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from zenith.errors import ValidationError
from zenith_torch.dtypes import FROM_NUMPY_NAME, array_view, resolved, tensor_view

__all__ = ["TensorAccess", "TorchSignature", "leaf_names"]

Tensor = torch.Tensor
_STRIDED = torch.strided  # a global of this module is found faster
Build = Callable[[Sequence[Any]], Any]


class TensorAccess:
    """What `zenith.runtime.adapter.Signature` asks of single tensors."""

    def maker(self, dtype: str, shape: Sequence[int]) -> Callable[[], Tensor]:
        # With strides it takes two thirds of the time of torch.empty.
        strides = [math.prod(max(1, n) for n in shape[axis + 1 :]) for axis in range(len(shape))]
        return functools.partial(
            torch.empty_strided, tuple(shape), tuple(strides), dtype=FROM_NUMPY_NAME[dtype]
        )

    def to_numpy(self, tensor: Tensor) -> np.ndarray[Any, Any]:
        return array_view(tensor)

    def from_numpy(self, array: np.ndarray[Any, Any]) -> Tensor:
        return tensor_view(np.asarray(array))


class TorchSignature(TensorAccess):
    """Made once per compiled model; `flatten` and `unflatten` are all a call pays for.

    parameters, positional, order, defaults: see `Captured`.
    in_spec: tree of the captured (args, kwargs); out_spec: tree of the result.
    inputs, outputs: what each leaf is, see `Imported`.
    input_types: (name, dtype, rank) of the graph's inputs.
    """

    def __init__(
        self,
        *,
        parameters: Sequence[str],
        positional: int,
        order: Sequence[str],
        defaults: Mapping[str, Any],
        in_spec: pytree.TreeSpec,
        out_spec: pytree.TreeSpec,
        inputs: Sequence[tuple[str, Any]],
        outputs: Sequence[tuple[str, Any]],
        input_types: Sequence[tuple[str, torch.dtype, int]],
        output_names: Sequence[str],
        device: torch.device,
    ) -> None:
        self.input_names: Sequence[str] = [name for name, _, _ in input_types]
        self.output_names: Sequence[str] = list(output_names)
        self._types = list(input_types)
        self._dtypes = [dtype for _, dtype, _ in input_types]
        self._parameters = list(parameters)
        self._order = list(order)
        self._defaults = dict(defaults)
        self._device = device
        self._elsewhere = device.type != "cpu"
        args_spec, kwargs_spec = in_spec.children()
        self._children = [*args_spec.children(), *kwargs_spec.children()]
        self._leaves = list(inputs)
        plain = all(child.is_leaf() for child in self._children)
        all_tensors = all(kind == "tensor" for kind, _ in inputs)
        self._plain_count = len(self._parameters) if plain and all_tensors else -1
        in_call_order = self._parameters == self._order[: len(self._parameters)]
        self._plain_positional = self._plain_count if in_call_order else -1
        self._key_order = tuple(self._parameters)
        self._build = _compile_output(out_spec, outputs)

    # --- inputs -------------------------------------------------------------------------------

    def flatten(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
        """Graph inputs in order; see `zenith.runtime.adapter.Signature.flatten`."""
        if not kwargs and len(args) == self._plain_positional:
            leaves: Sequence[Any] = args
        elif not args and len(kwargs) == self._plain_count and tuple(kwargs) == self._key_order:
            leaves = tuple(kwargs.values())
        else:
            leaves = self._bind(args, kwargs)
        result: list[Tensor] = []
        for leaf, dtype in zip(leaves, self._dtypes, strict=False):
            if (
                type(leaf) is Tensor
                and leaf.dtype is dtype
                and leaf.is_cpu
                and leaf.layout is _STRIDED
                and leaf.is_contiguous()
                and not leaf.is_neg()
                and not leaf._is_zerotensor()
            ):
                result.append(leaf)
            else:
                result.append(self._convert(len(result), leaf))
        return result

    def _bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
        """Tensor leaves from arguments given in any allowed way."""
        given: dict[str, Any] = {}
        if len(args) > len(self._order):
            raise self._wrong(
                f"{len(args)} positional inputs were given, at most {len(self._order)} exist"
            )
        for name, value in zip(self._order, args, strict=False):
            given[name] = value
        for name, value in kwargs.items():
            if name in given:
                raise self._wrong(f"input '{name}' was given twice")
            given[name] = value
        tensors: list[Any] = []
        position = 0
        for name, child in zip(self._parameters, self._children, strict=True):
            count = child.num_leaves
            slots = self._leaves[position : position + count]
            position += count
            if name in given:
                value = given.pop(name)
            elif name in self._defaults and all(kind == "constant" for kind, _ in slots):
                value = self._defaults[name]
            else:
                raise self._wrong(f"input '{name}' is missing")
            leaves = [value] if child.is_leaf() else self._open(name, value, child)
            for leaf, (kind, content) in zip(leaves, slots, strict=True):
                if kind == "tensor":
                    tensors.append(leaf)
                elif not _same_constant(leaf, content):
                    raise self._wrong(
                        f"input '{name}' is {_describe(leaf)}, but was {content!r} in the sample, "
                        "which made it a constant of the compiled model"
                    )
        for name, value in given.items():
            if name in self._defaults and _same_constant(value, self._defaults[name]):
                continue
            if value is not None:
                raise self._wrong(f"input '{name}' was not in sample_input")
        return tensors

    def _open(self, name: str, value: Any, spec: pytree.TreeSpec) -> list[Any]:
        leaves, found = pytree.tree_flatten(value)
        if found != spec:
            raise self._wrong(f"input '{name}' has not the structure it had in sample_input")
        return leaves

    def _convert(self, position: int, leaf: Any) -> Tensor:
        """A leaf that is not simply a dense CPU tensor of the right type."""
        name, dtype, rank = self._types[position]
        if isinstance(leaf, np.ndarray):
            try:
                leaf = tensor_view(leaf)
            except TypeError:
                raise self._wrong(f"input '{name}' is an array of {leaf.dtype}") from None
        elif isinstance(leaf, (bool, int, float)) and rank == 0:
            if isinstance(leaf, float) and not dtype.is_floating_point:
                raise self._wrong(
                    f"input '{name}' is the number {leaf}, but must be {_name(dtype)}"
                )
            return torch.tensor(leaf, dtype=dtype)
        if not isinstance(leaf, Tensor):
            raise self._wrong(
                f"input '{name}' is {_describe(leaf)}, but must be a tensor of {_name(dtype)}"
            )
        if leaf.layout is not torch.strided:
            raise self._wrong(f"input '{name}' is {leaf.layout}; give a dense tensor")
        if leaf.dtype is not dtype:
            raise self._wrong(
                f"input '{name}' is {_name(leaf.dtype)}, but the model was compiled for "
                f"{_name(dtype)}",
                f"pass {name}.to(torch.{_name(dtype)}), or compile with such a sample_input",
            )
        if leaf.device.type == "meta":
            raise self._wrong(f"input '{name}' is on the meta device: it has no data")
        leaf = leaf.detach()
        if leaf.device.type != "cpu":
            leaf = leaf.cpu()
        dense: Tensor = resolved(leaf).contiguous()
        return dense

    def _wrong(self, problem: str, step: str | None = None) -> ValidationError:
        expected = ", ".join(f"{n}: {_name(d)} with {r} axes" for n, d, r in self._types)
        return ValidationError(problem, next=step or f"inputs are: {expected}")

    # --- outputs ------------------------------------------------------------------------------

    def unflatten(self, outputs: Sequence[Tensor]) -> Any:
        """The model's own structure around the graph's outputs."""
        if self._elsewhere:
            outputs = [tensor.to(self._device) for tensor in outputs]
        return self._build(outputs)


def _same_constant(value: Any, captured: Any) -> bool:
    if value is captured:
        return True
    if isinstance(value, (Tensor, np.ndarray)) or isinstance(captured, (Tensor, np.ndarray)):
        return False
    return type(value) is type(captured) and bool(value == captured)


def _describe(value: Any) -> str:
    if isinstance(value, (bool, int, float, str)) or value is None:
        return repr(value)
    return f"a {type(value).__name__}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _compile_output(spec: pytree.TreeSpec, leaves: Sequence[tuple[str, Any]]) -> Build:
    """A function that rebuilds the structure; plain containers need no generic tree code."""
    if spec.is_leaf():
        kind, content = leaves[0]
        if kind == "constant":
            return lambda outputs: content
        if kind == "size":
            return lambda outputs: int(outputs[content])
        return lambda outputs: outputs[content]
    parts: list[Build] = []
    position = 0
    for child in spec.children():
        parts.append(_compile_output(child, leaves[position : position + child.num_leaves]))
        position += child.num_leaves
    if spec.type is tuple:
        return lambda outputs: tuple([part(outputs) for part in parts])
    if spec.type is list:
        return lambda outputs: [part(outputs) for part in parts]
    if spec.type is dict:
        pairs = list(zip(spec.context, parts, strict=True))
        return lambda outputs: {key: part(outputs) for key, part in pairs}
    rebuild, context = pytree.SUPPORTED_NODES[spec.type].unflatten_fn, spec.context
    return lambda outputs: rebuild([part(outputs) for part in parts], context)


def leaf_names(spec: pytree.TreeSpec) -> list[str]:
    """A name for each output leaf: keys and positions, "output" for a single tensor."""
    names = [".".join(path) for path in _paths(spec)]
    return [f"output_{n}" if n[:1].isdigit() else n or "output" for n in names]


def _paths(spec: pytree.TreeSpec) -> list[list[str]]:
    if spec.is_leaf():
        return [[]]
    children = spec.children()
    keys = _keys(spec.context, len(children))
    return [
        [key, *path] for key, child in zip(keys, children, strict=True) for path in _paths(child)
    ]


def _keys(context: Any, count: int) -> list[str]:
    """A container's keys, where its tree context tells them; else positions."""
    for keys in (context, context[0] if isinstance(context, (list, tuple)) and context else None):
        if not isinstance(keys, (list, tuple)) or len(keys) != count:
            continue
        if all(isinstance(key, (str, int)) for key in keys):
            return [str(key) for key in keys]
    return [str(i) for i in range(count)]
