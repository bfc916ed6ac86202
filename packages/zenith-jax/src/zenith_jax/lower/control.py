"""scan, while and cond: Scan, Loop and If. Bodies read outer values by name, as ONNX has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from zenith.ir.dims import Dim
from zenith_jax.builder import Builder
from zenith_jax.dims import size
from zenith_jax.lower.registry import lower

__all__: list[str] = []

BOOL, INT64 = ir.DataType.BOOL, ir.DataType.INT64
Facts = list[tuple[ir.DataType, tuple[Dim, ...]]]


def _facts(b: Builder, variables: Sequence[Any]) -> Facts:
    return [b.physical(v.aval) for v in variables]


@lower("scan", writes="Scan")
def scan(
    b: Builder,
    *values: ir.Value,
    jaxpr: Any,
    length: Any,
    num_consts: int,
    num_carry: int,
    reverse: bool,
    unroll: Any = 1,
    linear: Any = None,
) -> list[ir.Value]:
    first = num_consts + num_carry
    consts, carry, scanned = values[:num_consts], values[num_consts:first], list(values[first:])
    formal = _facts(b, jaxpr.jaxpr.invars[num_consts:])
    if not scanned:  # Scan runs as often as its first scanned input is long
        scanned = [b.range_of(size(length), INT64)]
        formal.append((INT64, ()))
    own = len(jaxpr.jaxpr.invars) - num_consts

    def write(inputs: list[ir.Value]) -> list[ir.Value]:
        return b.inline(jaxpr, [*consts, *inputs[:own]])

    results = _facts(b, jaxpr.jaxpr.outvars)
    outer = [*results[:num_carry], *((t, (size(length), *s)) for t, s in results[num_carry:])]
    body = b.body("scan_body", formal, write)
    directions = {
        "scan_input_directions": [1] * len(scanned),
        "scan_output_directions": [1] * (len(results) - num_carry),
    }
    if not reverse:
        directions = {}
    if not outer:
        return []
    return b.ops(
        "Scan",
        *carry,
        *scanned,
        results=outer,
        body=body,
        num_scan_inputs=len(scanned),
        **{k: v for k, v in directions.items() if v},
    )


@lower("while", writes="Loop")
def while_(
    b: Builder,
    *values: ir.Value,
    cond_jaxpr: Any,
    body_jaxpr: Any,
    cond_nconsts: int,
    body_nconsts: int,
) -> list[ir.Value]:
    first = cond_nconsts + body_nconsts
    cond_consts, body_consts = values[:cond_nconsts], values[cond_nconsts:first]
    carry = values[first:]

    def goes_on(state: Sequence[ir.Value]) -> tuple[ir.Value, ir.Value]:
        """(whether any, whether each): a mapped loop runs until all of its parts are done."""
        each = b.inline(cond_jaxpr, [*cond_consts, *state])[0]
        if not b.rank_of(each):
            return each, each
        return b.cast(b.reduce("ReduceMax", b.cast(each, INT64), None, False), BOOL), each

    start, first_each = goes_on(carry)
    mapped = b.rank_of(first_each) > 0
    formal = [(INT64, ()), (BOOL, ()), *_facts(b, body_jaxpr.jaxpr.invars[body_nconsts:])]

    def write(inputs: list[ir.Value]) -> list[ir.Value]:
        old = inputs[2:]
        state = b.inline(body_jaxpr, [*body_consts, *old])
        each = goes_on(old)[1] if mapped else None
        if each is not None:
            pairs = zip(map(b.whole, state), old, strict=True)
            state = [_where(b, each, new, kept) for new, kept in pairs]
        return [goes_on(state)[0], *state]

    body = b.body("while_body", formal, write)
    results = _facts(b, body_jaxpr.jaxpr.outvars)
    return b.ops("Loop", None, start, *carry, results=results, body=body)


def _where(b: Builder, each: ir.Value, new: ir.Value, old: ir.Value) -> ir.Value:
    """`new` in the parts of the leading axes that `each` names, `old` in the others."""
    each = b.unsqueeze(each, *range(b.rank_of(each), b.rank_of(new)))
    return b.pointwise("Where", each, new, old, dtype=new.dtype)


@lower("cond", writes="If")
def cond(
    b: Builder, which: ir.Value, *values: ir.Value, branches: Any, branches_platforms: Any = None
) -> list[ir.Value]:
    number = b.constant_of(which)
    if number is not None:
        return b.inline(branches[min(max(int(number), 0), len(branches) - 1)], values)
    return _branch(b, which, values, branches, 0)


def _branch(
    b: Builder, which: ir.Value, values: Sequence[ir.Value], branches: Any, first: int
) -> list[ir.Value]:
    """The branches from `first` on: that one, or the rest."""
    if first == len(branches) - 1:
        return b.inline(branches[first], values)
    if which.dtype == BOOL:
        here = b.op("Not", which)
    else:
        here = b.op("LessOrEqual", which, b.number(first, which.dtype), dtype=BOOL)
    results = _facts(b, branches[first].jaxpr.outvars)
    if not results:
        return []
    mine = b.body("branch", [], lambda _: b.inline(branches[first], values))
    rest = b.body("branch", [], lambda _: _branch(b, which, values, branches, first + 1))
    return b.conditional(here, mine, rest, results)


@lower("platform_index", writes="a constant")
def platform_index(b: Builder, *, platforms: Any) -> ir.Value:
    for index, names in enumerate(platforms):
        if names is None or "cpu" in names:
            return b.number(index, b.out_dtype)
    return b.number(len(platforms) - 1, b.out_dtype)
