"""How one call of a compiled graph crosses the boundary: flat arguments in, flat results out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from zenith_torch.dtypes import resolved
from zenith_torch.signature import TensorAccess

__all__ = ["KEY", "GraphSignature", "Result", "Slot", "assemble"]

KEY = -1


class Slot(NamedTuple):
    """One graph input: the argument at `position`; kind "tensor", "size" or "key"; a tensor's type.

    A complex tensor is given as its `view_as_real`, a size as a tensor of shape (size, 0); a key is
    new random bits for every call, from PyTorch's own generator, so that `torch.manual_seed`
    repeats them.
    """

    position: int
    kind: str
    dtype: torch.dtype = torch.float32


class Result(NamedTuple):
    """One result: "tensor", "complex" or "size" number `content` of the outputs, "input" number
    `content` of the arguments, or the "constant" `content`. order: how a tensor's axes are to be
    permuted."""

    kind: str
    content: Any
    order: tuple[int, ...] | None = None


class GraphSignature(TensorAccess):
    """Takes shapes and devices as AOTAutograd guarantees them.

    Types are converted where they differ from the trace: PyTorch's own operators give statistics of
    mixed-precision norms in another type than their traces say.
    """

    def __init__(
        self, *, slots: Sequence[Slot], input_names: Sequence[str], output_names: Sequence[str]
    ) -> None:
        self.input_names = list(input_names)
        self.output_names = list(output_names)
        self._tensors = [(s.position, s.dtype) for s in slots if s.kind == "tensor"]
        self._sizes = [slot.position for slot in slots if slot.kind == "size"]
        self._takes_key = any(slot.kind == "key" for slot in slots)

    def flatten(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
        """Dense tensors for the graph's inputs: tensors, then sizes, then the key."""
        tensors = []
        for position, dtype in self._tensors:
            tensor = args[position]
            if tensor.dtype is not dtype:
                tensor = tensor.detach().to(dtype)
            if not tensor.is_contiguous() or tensor.is_neg() or tensor._is_zerotensor():
                tensor = resolved(tensor.detach()).contiguous()
            if dtype.is_complex:
                tensor = torch.view_as_real(tensor.detach().resolve_conj())
            tensors.append(tensor)
        for position in self._sizes:
            tensors.append(torch.empty((int(args[position]), 0), dtype=torch.uint8))
        if self._takes_key:
            tensors.append(torch.randint(0, 2**32, (2,), dtype=torch.int64).to(torch.uint32))
        return tensors

    def unflatten(self, outputs: Sequence[torch.Tensor]) -> Any:
        return list(outputs)


def assemble(
    results: Sequence[Result], args: Sequence[Any], outputs: Sequence[torch.Tensor]
) -> list[Any]:
    """The graph's results from its arguments and the model's outputs."""
    found: list[Any] = []
    for kind, content, order in results:
        if kind == "tensor":
            found.append(outputs[content] if order is None else outputs[content].permute(order))
        elif kind == "complex":
            tensor = torch.view_as_complex(outputs[content])
            found.append(tensor if order is None else tensor.permute(order))
        elif kind == "input":
            found.append(args[content])
        elif kind == "size":
            found.append(int(outputs[content]))
        else:
            found.append(content)
    return found
