"""shard_map and what works across devices, where there is one: every axis of devices has size 1.

The name of an axis that `vmap` made is the number of an array's axis by the time it is seen here;
any other name belongs to a mesh, which `shard_map` has found to be one device.
"""

from __future__ import annotations

from typing import Any

import jax.extend.core
import onnx_ir as ir

from zenith_jax.builder import Builder, NotSupportedError
from zenith_jax.lower.reduce import widened
from zenith_jax.lower.registry import lower

__all__: list[str] = []


@lower("shard_map", writes="what it contains, on a mesh of one device")
def shard_map(b: Builder, *values: ir.Value, mesh: Any, jaxpr: Any, **how: Any) -> list[ir.Value]:
    if mesh.size != 1:
        raise NotSupportedError(f"across {mesh.size} devices")
    return b.inline(jax.extend.core.ClosedJaxpr(jaxpr, []), values)


def _combined(name: str, op_type: str) -> None:
    @lower(name, writes=f"{op_type} of an axis that vmap names; nothing on one device")
    def handler(
        b: Builder, *values: ir.Value, axes: Any, axis_index_groups: Any = None
    ) -> list[ir.Value]:
        if axis_index_groups is not None:
            raise NotSupportedError("of groups")
        own = [axis for axis in axes if isinstance(axis, int)]
        return [b.reduce(op_type, widened(b, x), own, False) if own else x for x in values]


_combined("psum", "ReduceSum")
_combined("psum_invariant", "ReduceSum")
_combined("pmax", "ReduceMax")
_combined("pmin", "ReduceMin")


@lower(
    "all_gather",
    "all_gather_invariant",
    "all_to_all",
    "reduce_scatter",
    writes="Reshape, on one device",
)
def exchanged(b: Builder, x: ir.Value, *, axis_name: Any, **how: Any) -> ir.Value:
    names = axis_name if isinstance(axis_name, tuple) else (axis_name,)
    if not all(isinstance(name, str) for name in names) or how.get("axis_size", 1) != 1:
        raise NotSupportedError("of an axis that vmap names")
    return b.reshape(x, b.out_shape)


@lower("ppermute", writes="nothing: the value itself, on one device")
def ppermute(b: Builder, x: ir.Value, *, axis_name: Any, perm: Any) -> ir.Value:
    return x if perm else b.full(0, x.dtype, b.shape_of(x))


@lower("axis_index", writes="a constant: 0, on one device")
def axis_index(b: Builder, *, axis_name: Any) -> ir.Value:
    return b.number(0, b.out_dtype)
