"""Functions that ONNX has no operator for, by series and rational approximations: for adapters.

The coefficients of erfc are a Chebyshev fit of exp(x^2) erfc(x) (1 + x) in (x - 2) / (x + 2);
those of erf_inv are from M. Giles, "Approximating the erfinv function" (GPU Computing Gems, 2011).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from zenith.ir.builder import GraphBuilder

__all__ = ["digamma", "erf_inv", "erfc", "erfcx", "lgamma", "ndtri"]

BOOL, DOUBLE = ir.DataType.BOOL, ir.DataType.DOUBLE

# Lowest power first.
_ERFC_SINGLE = (
    0.7661870289, -0.2599745546, 0.03781376242, 0.04253059168, -0.02524084088, -0.0004844135902,
    0.0039226371, 5.946691953e-05, -0.0006725986404, -3.631643058e-05, 8.481480283e-05,
)  # fmt: skip
_ERFC_DOUBLE = (
    0.7661870289315172, -0.2599748369998517, 0.03781389831358849, 0.04253634950879088,
    -0.025243554293845526, -0.0005182766692849322, 0.003937755311811833, 0.00014468092984369402,
    -0.0007066291539643154, -0.00013998944223398774, 0.00011694601723018665,
    6.172727975926443e-05, -7.735529118268947e-06, -1.7506736171272113e-05,
    -4.8721747020681985e-06, 2.430322624055123e-06, 2.4068967051062116e-06,
    5.409301558865592e-07, -4.1867392641532057e-07, -4.360565087607437e-07,
    -9.447334050976853e-08, 1.2558351379109378e-07, 7.995169099278027e-08,
    -1.7689789834936837e-08, -2.1771634751333865e-08, 8.130310157486669e-10,
    2.4218661648198184e-09,
)  # fmt: skip
_ERFINV_CENTRE = (
    1.50140941, 0.246640727, -0.00417768164, -0.00125372503, 0.00021858087, -4.39150654e-06,
    -3.5233877e-06, 3.43273939e-07, 2.81022636e-08,
)  # fmt: skip
_ERFINV_TAIL = (
    2.83297682, 1.00167406, 0.00943887047, -0.0076224613, 0.00573950773, -0.00367342844,
    0.00134934322, 0.000100950558, -0.000200214257,
)  # fmt: skip
# Lanczos, g = 7, nine terms.
_LANCZOS = (
    0.99999999999980993, 676.5203681218851, -1259.1392167224028, 771.32342877765313,
    -176.61502916214059, 12.507343278686905, -0.13857109526572012, 9.9843695780195716e-6,
    1.5056327351493116e-7,
)  # fmt: skip


def _polynomial(b: GraphBuilder, x: ir.Value, coefficients: Sequence[float]) -> ir.Value:
    """Horner's scheme."""
    result = b.number(coefficients[-1], x.dtype)
    for coefficient in reversed(coefficients[:-1]):
        product = b.pointwise("Mul", result, x)
        result = b.pointwise("Add", product, b.number(coefficient, x.dtype))
    return result


def _op(b: GraphBuilder, op_type: str, x: ir.Value, number: float) -> ir.Value:
    return b.pointwise(op_type, x, b.number(number, x.dtype))


def _where(b: GraphBuilder, condition: ir.Value, x: ir.Value, y: ir.Value) -> ir.Value:
    return b.pointwise("Where", condition, x, y, dtype=x.dtype)


def _less(b: GraphBuilder, x: ir.Value, number: float) -> ir.Value:
    return b.pointwise("Less", x, b.number(number, x.dtype), dtype=BOOL)


def erfc(b: GraphBuilder, x: ir.Value) -> ir.Value:
    """1 - erf(x), with all its digits."""
    # 1 - erf(x) has no digits left in the tail; exp(-x^2) times something smooth has.
    size = b.pointwise("Abs", x)
    falling = b.pointwise("Exp", b.pointwise("Neg", b.pointwise("Mul", x, x)))
    tail = b.pointwise("Mul", falling, _scaled_tail(b, size))
    near = b.pointwise("Sub", b.number(1, x.dtype), b.pointwise("Erf", x))
    far = b.pointwise("Greater", x, b.number(0.5, x.dtype), dtype=BOOL)
    return _where(b, far, tail, near)


def _scaled_tail(b: GraphBuilder, x: ir.Value) -> ir.Value:
    """exp(x^2) erfc(x), where x is not negative."""
    t = b.pointwise("Div", _op(b, "Sub", x, 2), _op(b, "Add", x, 2))
    smooth = _polynomial(b, t, _ERFC_DOUBLE if x.dtype == DOUBLE else _ERFC_SINGLE)
    tail = b.pointwise("Div", smooth, _op(b, "Add", x, 1))
    return _where(b, b.pointwise("IsInf", x, dtype=BOOL), b.number(0, x.dtype), tail)


def erfcx(b: GraphBuilder, x: ir.Value) -> ir.Value:
    """exp(x^2) erfc(x)."""
    size = b.pointwise("Abs", x)
    tail = _scaled_tail(b, size)
    # A square's rounding is an error of its exponential: few bits of x are squared exactly.
    short = _op(b, "Div", b.pointwise("Floor", _op(b, "Mul", size, 64)), 64)
    rest = b.pointwise("Mul", b.pointwise("Sub", size, short), b.pointwise("Add", size, short))
    square = b.pointwise("Mul", short, short)
    growing = b.pointwise("Mul", b.pointwise("Exp", square), b.pointwise("Exp", rest))
    below = b.pointwise("Sub", _op(b, "Mul", growing, 2), tail)
    infinite = _where(b, _less(b, x, -30), b.number(np.inf, x.dtype), below)
    return _where(b, _less(b, x, 0), infinite, tail)


def ndtri(b: GraphBuilder, p: ir.Value) -> ir.Value:
    """The number below which a standard normal one lies with probability p."""
    centre = _op(b, "Mul", erf_inv(b, _op(b, "Sub", _op(b, "Mul", p, 2), 1)), np.sqrt(2))
    # In the tail by Newton's method on the logarithm of the probability, log(erfcx(x / sqrt 2) / 2)
    # - x^2 / 2, whose slope is -sqrt(2 / pi) / erfcx(x / sqrt 2).
    one = b.number(1, p.dtype)
    upper = b.pointwise("Greater", p, b.number(0.5, p.dtype), dtype=BOOL)
    log = b.pointwise("Log", _where(b, upper, b.pointwise("Sub", one, p), p))
    x = b.pointwise("Sqrt", _op(b, "Max", _op(b, "Mul", _op(b, "Add", log, 1.5), -2), 0.25))
    for _ in range(6 if p.dtype == DOUBLE else 4):
        scaled = _scaled_tail(b, _op(b, "Mul", x, np.sqrt(0.5)))
        half_square = _op(b, "Mul", b.pointwise("Mul", x, x), 0.5)
        have = b.pointwise("Sub", b.pointwise("Log", _op(b, "Mul", scaled, 0.5)), half_square)
        slope = b.pointwise("Div", b.number(np.sqrt(2 / np.pi), p.dtype), scaled)
        x = b.pointwise("Add", x, b.pointwise("Div", b.pointwise("Sub", have, log), slope))
    end = b.pointwise("IsInf", log, dtype=BOOL)
    x = _where(b, end, b.number(np.inf, p.dtype), x)
    tail = _where(b, upper, x, b.pointwise("Neg", x))
    middle = _less(b, b.pointwise("Abs", _op(b, "Sub", p, 0.5)), 0.375)
    return _where(b, middle, centre, tail)


def erf_inv(b: GraphBuilder, x: ir.Value) -> ir.Value:
    """The number whose erf is x."""
    one = b.number(1, x.dtype)
    inside = b.pointwise("Mul", b.pointwise("Sub", one, x), b.pointwise("Add", one, x))
    w = b.pointwise("Neg", b.pointwise("Log", inside))
    centre = _polynomial(b, _op(b, "Sub", w, 2.5), _ERFINV_CENTRE)
    tail = _polynomial(b, _op(b, "Sub", b.pointwise("Sqrt", w), 3), _ERFINV_TAIL)
    result = b.pointwise("Mul", _where(b, _less(b, w, 5), centre, tail), x)
    if x.dtype == DOUBLE:  # the series is for single precision: two steps of Newton's method
        for _ in range(2):
            error = b.pointwise("Sub", b.pointwise("Erf", result), x)
            square = b.pointwise("Neg", b.pointwise("Mul", result, result))
            slope = _op(b, "Mul", b.pointwise("Exp", square), 2 / np.sqrt(np.pi))
            result = b.pointwise("Sub", result, b.pointwise("Div", error, slope))
    infinite = b.pointwise("Equal", b.pointwise("Abs", x), one, dtype=BOOL)
    return _where(b, infinite, _op(b, "Mul", x, np.inf), result)


def lgamma(b: GraphBuilder, x: ir.Value) -> ir.Value:
    """log |gamma(x)|."""
    below = _less(b, x, 0.5)
    one = b.number(1, x.dtype)
    z = _op(b, "Sub", _where(b, below, b.pointwise("Sub", one, x), x), 1)
    series = b.number(_LANCZOS[0], x.dtype)
    for place, coefficient in enumerate(_LANCZOS[1:], 1):
        term = b.pointwise("Div", b.number(coefficient, x.dtype), _op(b, "Add", z, place))
        series = b.pointwise("Add", series, term)
    t = _op(b, "Add", z, 7.5)
    # (z + 1/2) log t - t, in a form whose parts do not cancel
    grown = b.pointwise("Mul", _op(b, "Add", z, 0.5), _op(b, "Sub", b.pointwise("Log", t), 1))
    log = b.pointwise("Add", b.pointwise("Log", series), grown)
    log = _op(b, "Add", log, 0.5 * np.log(2 * np.pi) - 7)
    # reflection: log(pi / |sin(pi x)|) - lgamma(1 - x)
    size = b.pointwise("Abs", x)
    part = b.pointwise("Sub", size, b.pointwise("Floor", size))
    wave = b.pointwise("Abs", b.pointwise("Sin", _op(b, "Mul", part, np.pi)))
    mirrored = b.pointwise("Sub", b.number(np.log(np.pi), x.dtype), b.pointwise("Log", wave))
    result = _where(b, below, b.pointwise("Sub", mirrored, log), log)
    return _where(b, b.pointwise("IsInf", x, dtype=BOOL), size, result)


def digamma(b: GraphBuilder, x: ir.Value) -> ir.Value:
    """The derivative of lgamma; NaN at its poles."""
    below = _less(b, x, 0.5)
    one = b.number(1, x.dtype)
    z = _where(b, below, b.pointwise("Sub", one, x), x)
    # ten steps up, digamma(z) = digamma(z + 1) - 1 / z, then the asymptotic series
    steps = b.pointwise("Div", one, z)
    for place in range(1, 10):
        steps = b.pointwise("Add", steps, b.pointwise("Div", one, _op(b, "Add", z, place)))
    y = _op(b, "Add", z, 10)
    inverse = b.pointwise("Div", one, b.pointwise("Mul", y, y))
    series = (0.0, 1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132)
    rest = b.pointwise("Add", b.pointwise("Div", b.number(0.5, x.dtype), y),
                       _polynomial(b, inverse, series))  # fmt: skip
    up = b.pointwise("Sub", b.pointwise("Sub", b.pointwise("Log", y), rest), steps)
    part = b.pointwise("Sub", x, b.pointwise("Floor", x))
    wave = b.pointwise("Div", b.number(np.pi, x.dtype),
                       b.pointwise("Tan", _op(b, "Mul", part, np.pi)))  # fmt: skip
    result = _where(b, below, b.pointwise("Sub", up, wave), up)
    whole = b.pointwise("Equal", part, b.number(0, x.dtype), dtype=BOOL)
    pole = b.pointwise(
        "And", whole, b.pointwise("LessOrEqual", x, b.number(0, x.dtype), dtype=BOOL)
    )
    return _where(b, pole, b.number(np.nan, x.dtype), result)
