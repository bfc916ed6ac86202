"""zenith.Pointwise: a straight-line chain of elementwise operators as one node.

Its overload is a digest of its canonical body, so equal chains share one function. The body
cannot be told from the digest: the function is made by whoever fuses, and lives in the model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import onnx_ir as ir

from zenith.ops._function import make_function

NAME = "Pointwise"


def overload(inputs: int, lines: Sequence[str], outputs: Sequence[str]) -> str:
    """Digest of a canonical body: inputs named i0, i1, ..., one text line an operator."""
    text = "\n".join([str(inputs), *lines, *outputs])
    return "p" + hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def function(inputs: int, lines: Sequence[str], outputs: Sequence[str]) -> ir.Function:
    """The function of a body over inputs i0 .. i<inputs-1>."""
    names = [f"i{k}" for k in range(inputs)]
    return make_function(NAME, overload(inputs, lines, outputs), names, outputs, lines)
