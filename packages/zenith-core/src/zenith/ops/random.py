"""zenith.ThreeFry2x32: random bits by a counter, with 20 rounds (Salmon, Moraes, Dror and Shaw,
"Parallel random numbers: as easy as 1, 2, 3", 2011).

(k0, k1, x0, x1) -> (y0, y1), all uint32; the key halves k0, k1 broadcast over the counter halves
x0, x1, which have one shape. Every (key, counter) gives its own 64 bits and depends on nothing
else: frameworks make their counters in operators of their own, and the results are bit-exact.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnx_shape_inference import registry

from zenith.errors import ValidationError
from zenith.ir import DOMAIN, DOMAIN_VERSION, OPSET
from zenith.ops._function import make_function

NAME = "ThreeFry2x32"

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA  # the constant of the key schedule, from the Skein hash


def function(overload: str) -> ir.Function:
    """The rounds in integer operators; the key is mixed in before them and after every fourth."""
    if overload:
        raise ValidationError(f"zenith.{NAME} has no overload '{overload}'")
    lines = [_constant("parity", _PARITY), "k01 = BitwiseXor (k0, k1)"]
    lines.append("k2 = BitwiseXor (k01, parity)")
    lines += [_constant(f"n{n}", n) for n in (*range(1, 6), *_shifts())]
    lines += ["a = Add (x0, k0)", "b = Add (x1, k1)"]
    a, b = "a", "b"
    keys = ("k0", "k1", "k2")
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            at = f"{group}_{rotation}"
            lines += [
                f"a{at} = Add ({a}, {b})",
                f'l{at} = BitShift <direction = "LEFT"> ({b}, n{rotation})',
                f'r{at} = BitShift <direction = "RIGHT"> ({b}, n{32 - rotation})',
                f"o{at} = BitwiseOr (l{at}, r{at})",
                f"b{at} = BitwiseXor (a{at}, o{at})",
            ]
            a, b = f"a{at}", f"b{at}"
        first, second = keys[(group + 1) % 3], keys[(group + 2) % 3]
        new_a, new_b = ("y0", "y1") if group == 4 else (f"a{group}", f"b{group}")
        lines += [
            f"{new_a} = Add ({a}, {first})",
            f"s{group} = Add ({second}, n{group + 1})",
            f"{new_b} = Add ({b}, s{group})",
        ]
        a, b = new_a, new_b
    return make_function(NAME, "", ["k0", "k1", "x0", "x1"], ["y0", "y1"], lines)


def _shapes(ctx: Any, node: ir.Node) -> None:
    """Keys and counters, broadcast: no walk through the hundred nodes of the body at each draw."""
    broadcast = registry.get("", "Max", version=OPSET)
    assert broadcast is not None
    broadcast(ctx, node)
    first, second = node.outputs
    ctx.set_shape_and_dtype(second, first.shape, first.dtype)


registry.register(DOMAIN, NAME, since_version=DOMAIN_VERSION)(_shapes)


def _shifts() -> list[int]:
    amounts = {r for group in _ROTATIONS for r in group}
    return sorted((amounts | {32 - r for r in amounts}) - set(range(1, 6)))


def _constant(name: str, value: int) -> str:
    return f"{name} = Constant <value = uint32 {{{value}}}> ()"
