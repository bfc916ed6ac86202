"""Group or instance normalisation and the activation behind it -> zenith.GroupNorm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from zenith.ir import GraphIR
from zenith.passes.epilogues import activation
from zenith.passes.rewrite import Rewriter, attr, dims, is_op, sole_user

_NORMS = ("GroupNormalization", "InstanceNormalization")
_TYPES = (ir.DataType.FLOAT, ir.DataType.BFLOAT16)


@dataclass(frozen=True)
class FuseGroupNorm:
    """A normalisation of a known number of channels whose only user is an activation. An instance
    is a group of one channel."""

    name: ClassVar[str] = "fuse_group_norm"

    def run(self, graph: GraphIR) -> int:
        rewriter = Rewriter(graph)
        return sum(_fuse(rewriter, node) for node in graph.nodes if is_op(node, *_NORMS))


def _fuse(rw: Rewriter, norm: ir.Node) -> bool:
    user = sole_user(norm.outputs[0])
    step = activation(user) if user is not None and user.graph is norm.graph else None
    sizes = dims(norm.inputs[0])
    if user is None or step is None or sizes is None or len(sizes) < 2:
        return False
    channels = sizes[1]
    if norm.outputs[0].dtype not in _TYPES or not isinstance(channels, int):
        return False
    if attr(norm, "stash_type", 1) != 1:
        return False
    groups = int(attr(norm, "num_groups", channels))
    if groups < 1 or channels % groups != 0:
        return False
    attributes = {"num_groups": groups, "epsilon": float(attr(norm, "epsilon", 1e-5))}
    new = rw.fused("GroupNorm", step, list(norm.inputs), attributes)
    return rw.replace([norm, user], {user.outputs[0]: new.outputs[0]}, [new])
