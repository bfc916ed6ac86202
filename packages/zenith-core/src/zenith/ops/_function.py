"""Makes an `onnx_ir.Function` from ONNX text."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnx_ir as ir

from zenith.ir import DOMAIN, OPSET

__all__ = ["make_function"]


def make_function(
    name: str,
    overload: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    lines: Sequence[str],
    attributes: Sequence[str] = (),
) -> ir.Function:
    """The function ``zenith.<name>:<overload>`` whose body is the ONNX text `lines`."""
    attrs = f" <{', '.join(attributes)}>" if attributes else ""
    text = (
        f'<domain: "{DOMAIN}", opset_import: ["": {OPSET}]>\n'
        f"{name}{attrs} ({', '.join(inputs)}) => ({', '.join(outputs)})\n"
        "{\n" + "\n".join(lines) + "\n}"
    )
    proto = onnx.parser.parse_function(text)
    proto.overload = overload
    return ir.serde.deserialize_function(proto)
