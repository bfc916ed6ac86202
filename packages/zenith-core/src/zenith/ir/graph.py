"""GraphIR: an `onnx_ir.Model` whose operators are ai.onnx opset 28 plus the ``zenith`` domain.

Adapters build one, passes rewrite it in place, backends read it. Nodes, values and tensors are
plain `onnx_ir` objects; what is ours is the contract (`verify`), shapes (`infer_shapes`), identity
(`fingerprint`) and the text form.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from zenith.errors import ValidationError
from zenith.ir import text as _text
from zenith.ir._describe import SOURCE_KEY, describe
from zenith.ir.export import exported
from zenith.ir.fingerprint import fingerprint
from zenith.ir.proto import from_proto
from zenith.ir.shapes import forget_results, infer_shapes
from zenith.ir.types import check_types
from zenith.ir.verifier import DOMAIN, DOMAIN_VERSION, OPSET, verify

if TYPE_CHECKING:
    import numpy as np
    import onnx

__all__ = ["DOMAIN", "DOMAIN_VERSION", "OPSET", "SOURCE_KEY", "GraphIR", "describe"]


_STATE_KEY = "zenith.state"


class GraphIR:
    """A graph of standard operators (opset 28) and zenith operators. Wraps `model`, no copy."""

    __slots__ = ("model",)

    def __init__(self, model: ir.Model) -> None:
        self.model = model

    @property
    def inputs(self) -> Sequence[ir.Value]:
        """The graph's inputs, without initializers."""
        return self.model.graph.inputs

    @property
    def outputs(self) -> Sequence[ir.Value]:
        return self.model.graph.outputs

    @property
    def nodes(self) -> Sequence[ir.Node]:
        """The top-level nodes as a list: safe to rewrite the graph while walking it."""
        return list(self.model.graph)

    @property
    def initializers(self) -> Mapping[str, ir.Value]:
        """Constant values by name."""
        return self.model.graph.initializers

    def __iter__(self) -> Iterator[ir.Node]:
        return iter(self.model.graph)

    def __len__(self) -> int:
        return self.model.graph.num_nodes()

    @property
    def state(self) -> dict[str, str]:
        """Input name -> output name: what one call leaves in the output is the next call's input.

        Both are ordinary edges of the graph; the pairs say that they belong together.
        """
        pairs: dict[str, str] = json.loads(self.model.metadata_props.get(_STATE_KEY, "{}"))
        return pairs

    @state.setter
    def state(self, pairs: Mapping[str, str]) -> None:
        self.model.metadata_props[_STATE_KEY] = json.dumps(dict(pairs))

    def verify(self, *, types: bool = True) -> GraphIR:
        """Raise `ValidationError` unless the graph is valid IR; return self.

        types: also demand that every used value has a type and a rank (true after
        `infer_shapes`).
        """
        verify(self.model, types=types)
        return self

    def infer_shapes(self) -> GraphIR:
        """Give every value its dtype and shape, in place; return self.

        Raises `ValidationError` naming the node (and its source line) that is wrong.
        """
        infer_shapes(self.model)
        return self

    def forget_results(self) -> GraphIR:
        """Infer types and sizes of all results anew from those of the inputs; return self."""
        forget_results(self.model)
        return self

    def check_types(self) -> GraphIR:
        """Raise `ValidationError` where a node's inputs have types it does not take; return self.

        To be called when types are known (`infer_shapes`).
        """
        check_types(self.model)
        return self

    def fingerprint(self) -> str:
        """Hex digest of the meaning: operators, attributes, edges, input and output names and
        types, weights. Names of nodes and inner values do not matter."""
        return fingerprint(self.model)

    def to_text(self, *, limit: int = 64) -> str:
        """ONNX text. Initializers above `limit` elements show as name, type and digest."""
        return _text.to_text(self.model, limit=limit)

    @classmethod
    def from_text(
        cls, text: str, weights: Mapping[str, np.ndarray[Any, Any]] | None = None
    ) -> GraphIR:
        """Parse `to_text`'s form. weights: data of the initializers it elides."""
        return cls(_text.from_text(text, weights or {}))

    def to_onnx(self, *, inline: bool = False, opset: int | None = None) -> onnx.ModelProto:
        """A ModelProto; zenith operators are local functions in it, so any ONNX tool reads it.

        inline: write the standard operators they stand for in their place.
        opset: declare an older ai.onnx opset, 21 or newer, for tools that know no newer one.
            Raises `ValidationError` naming the nodes it has no words for.
        """
        return ir.to_proto(exported(self.model, inline=inline, opset=opset))

    @classmethod
    def from_onnx(cls, proto: onnx.ModelProto) -> GraphIR:
        """Wrap an in-memory ModelProto that is already at GraphIR's opset."""
        model = from_proto(proto)
        version = model.opset_imports.get("", model.opset_imports.get("ai.onnx"))
        if version != OPSET:
            raise ValidationError(
                f"the model uses ai.onnx opset {version}, GraphIR needs {OPSET}",
                next="convert it, for example with onnx.version_converter.convert_version",
            )
        return cls(model)

    def clone(self) -> GraphIR:
        """A copy that shares tensors and nothing else."""
        try:
            return GraphIR(self.model.clone())
        except RuntimeError:  # a value that no list of the graph and no node defines
            self.verify(types=False)
            raise

    def __repr__(self) -> str:
        graph = self.model.graph
        return f"GraphIR({graph.name or 'unnamed'}: {len(self)} nodes)"
