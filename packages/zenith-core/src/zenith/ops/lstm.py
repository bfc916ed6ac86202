"""zenith.QuantizedLSTM: an LSTM whose state enters its product rounded to 8 bits.

(x [T, B, I], w [D, 4H, I], r [D, 4H, H], b [D, 8H], h0 [D, B, H], c0 [D, B, H]) ->
(y [T, D, B, H], h, c [D, B, H]), as ONNX has LSTM, all float32. In each step and direction the
hidden state of the whole batch is quantized dynamically (DynamicQuantizeLinear). The overload is
the direction: forward, reverse or bidirectional.
"""

from __future__ import annotations

import onnx_ir as ir

from zenith.errors import ValidationError
from zenith.ops._function import make_function

NAME = "QuantizedLSTM"

_STEP = """
    step (h, c, g) => (h_next, c_next, h_seen) {{
      q, scale, zero = DynamicQuantizeLinear (h)
      rounded = DequantizeLinear (q, scale, zero)
      product = MatMul (rounded, r{d})
      total = Add (g, product)
      gi, go, gf, gc = Split <axis = -1, num_outputs = 4> (total)
      i = Sigmoid (gi)
      o = Sigmoid (go)
      f = Sigmoid (gf)
      n = Tanh (gc)
      kept = Mul (f, c)
      new = Mul (i, n)
      c_next = Add (kept, new)
      seen = Tanh (c_next)
      h_next = Mul (o, seen)
      h_seen = Identity (h_next)
    }}"""

_DIRECTION = """
  at{d} = Constant <value = int64 {{{d}}}> ()
  w{d}_ = Gather (w, at{d})
  w{d} = Transpose <perm = [1, 0]> (w{d}_)
  r{d}_ = Gather (r, at{d})
  r{d} = Transpose <perm = [1, 0]> (r{d}_)
  b{d} = Gather (b, at{d})
  bw{d}, br{d} = Split <axis = 0, num_outputs = 2> (b{d})
  x{d} = MatMul (x, w{d})
  xw{d} = Add (x{d}, bw{d})
  gates{d} = Add (xw{d}, br{d})
  g{d} = {turned_gates}
  hs{d} = Gather (h0, at{d})
  cs{d} = Gather (c0, at{d})
  h_{d}, c_{d}, seen{d} = Scan <num_scan_inputs = 1, body = {step}> (hs{d}, cs{d}, g{d})
  y_{d} = {turned_seen}"""


def _turned(name: str, back: bool) -> str:
    """A sequence, backwards or as it is. (The evaluator of onnx has no Scan that runs back.)"""
    reverse = "ReverseSequence <time_axis = 0, batch_axis = 1>"
    return f"{reverse} ({name}, lengths)" if back else f"Identity ({name})"


def function(overload: str) -> ir.Function:
    """The meaning of one overload."""
    directions = {"forward": [0], "reverse": [1], "bidirectional": [0, 1]}.get(overload)
    if directions is None:
        raise ValidationError(f"zenith.{NAME} has no overload '{overload}'")
    lines = ["zero_axis = Constant <value = int64[1] {0}> ()",
             "one_axis = Constant <value = int64[1] {1}> ()",
             "time = Shape <start = 0, end = 1> (x)",
             "batch = Shape <start = 1, end = 2> (x)",
             "lengths = Expand (time, batch)"]  # fmt: skip
    stacks: dict[str, list[str]] = {"y": [], "h": [], "c": []}
    for d, back in enumerate(directions):
        turned = {f"turned_{name}": _turned(f"{name}{d}", bool(back)) for name in ("gates", "seen")}
        lines.append(_DIRECTION.format(d=d, step=_STEP.format(d=d), **turned))
        for name, parts in stacks.items():
            axis = "one_axis" if name == "y" else "zero_axis"
            lines.append(f"{name}_{d}_ = Unsqueeze ({name}_{d}, {axis})")
            parts.append(f"{name}_{d}_")
    for name, parts in stacks.items():
        lines.append(f"{name} = Concat <axis = {int(name == 'y')}> ({', '.join(parts)})")
    inputs = ["x", "w", "r", "b", "h0", "c0"]
    return make_function(NAME, overload, inputs, ["y", "h", "c"], lines)
