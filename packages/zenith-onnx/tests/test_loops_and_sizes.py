"""Loops, branches and sizes that data decides, against ONNX Runtime: one compile, many calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import onnx
import onnxruntime
import pytest

import zenith

Feeds = Mapping[str, np.ndarray]
HEADER = '<ir_version: 10, opset_import: ["" : 21]>\ng '


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


MODELS: dict[str, tuple[str, Callable[[], Iterator[Feeds]]]] = {}


def model(text: str) -> Callable[[Callable[[], Iterator[Feeds]]], None]:
    """Register ONNX text with the calls to make of it."""

    def register(calls: Callable[[], Iterator[Feeds]]) -> None:
        MODELS[calls.__name__] = (text, calls)

    return register


@model(
    """(float[N,K] x, int64 n) => (float[N,K] y, int64 steps)
  <bool yes = {1}, int64 zero = {0}, int64 one = {1}> {
  y, steps = Loop (n, yes, x, zero) <body = outer
    (int64 i, bool c, float[N,K] v, int64 s) => (bool go, float[N,K] w, int64 t) {
      go = Identity (c)
      inner_n = Add (i, one)
      w, t = Loop (inner_n, c, v, s) <body = inner
        (int64 j, bool d, float[N,K] p, int64 q) => (bool more, float[N,K] r, int64 u) {
          more = Identity (d)
          f = Cast <to = 1> (j)
          g = Add (f, p)
          h = Mul (g, x)
          r = Tanh (h)
          u = Add (q, i)
        }>
    }>
  }"""
)
def nested_loops_with_captures() -> Iterator[Feeds]:
    for n, k, count in ((2, 3, 0), (2, 3, 3), (1, 5, 4), (4, 1, 1)):
        yield {"x": noise(n, n, k), "n": np.array(count)}


@model("""(float[N,K] x, int64 n) => (float[M,K] y) <bool yes = {1}> {
  y = Loop (n, yes, x) <body = b (int64 i, bool c, float[P,K] v) => (bool go, float[Q,K] w) {
      go = Identity (c)
      w = Concat <axis = 0> (v, x)
    }>
  }""")
def state_that_grows() -> Iterator[Feeds]:
    for rows, k, count in ((1, 2, 0), (2, 2, 3), (3, 4, 5)):
        yield {"x": noise(rows, rows, k), "n": np.array(count)}


@model(
    """(float[N] x, float limit) => (float[N] y, int64 steps, float[S,N] all)
<int64 most = {100}, bool yes = {1}, int64 zero = {0}, int64 one = {1}, float two = {2}> {
  y, steps, all = Loop (most, yes, x, zero) <body = b
    (int64 i, bool c, float[N] v, int64 s) => (bool go, float[N] w, int64 t, float[N] seen) {
      w = Mul (v, two)
      size = ReduceMax <keepdims = 0> (w)
      go = Less (size, limit)
      t = Add (i, one)
      seen = Sub (w, v)
    }>
  }"""
)
def early_exit() -> Iterator[Feeds]:
    for n, limit in ((3, 1.0), (3, 40.0), (5, 1e4), (1, 0.0)):
        yield {"x": np.abs(noise(n, n)) + 0.5, "limit": np.array(limit, np.float32)}


@model(
    """(float[N] x, float[N] z, int64 n) => (float[N] a, float[N] b, float[S,N] p, float[S,N] q)
<bool yes = {1}, float tenth = {0.1}> {
  a, b, p, q = Loop (n, yes, x, z) <body = body
    (int64 i, bool c, float[N] v, float[N] w)
      => (bool go, float[N] first, float[N] second, float[N] seen, float[N] again) {
      go = Identity (c)
      sum = Add (v, w)
      second = Mul (sum, tenth)
      first = Identity (w)
      seen = Identity (second)
      again = Identity (second)
    }>
  }"""
)
def states_that_swap_and_are_stacked() -> Iterator[Feeds]:
    for n, count in ((3, 1), (3, 2), (3, 7), (1, 0), (2, 9000)):
        yield {"x": noise(n, n), "z": noise(n + 1, n), "n": np.array(count)}


@model(
    """(float[N] x, int64 stop) => (float[N] y, int64[S] seen)
<int64 most = {100000}, bool yes = {1}, float step = {0.001}> {
  y, seen = Loop (most, yes, x) <body = b
    (int64 i, bool c, float[N] v) => (bool go, float[N] w, int64 at) {
      w = Add (v, step)
      go = Less (i, stop)
      at = Identity (i)
    }>
  }"""
)
def condition_that_ends_many_iterations() -> Iterator[Feeds]:
    for n, stop in ((2, 0), (2, 4094), (2, 4095), (3, 4096), (2, 9999)):
        yield {"x": noise(n, n), "stop": np.array(stop)}


@model("""(float[N] x, bool start) => (float[N] y, float[S,2] all) <int64 n = {4}> {
  y, all = Loop (n, start, x) <body = b
    (int64 i, bool c, float[N] v) => (bool go, float[N] w, float[2] seen) {
      go = Identity (c)
      w = Neg (v)
      seen = Constant <value = float[2] {1, 2}> ()
    }>
  }""")
def no_iterations() -> Iterator[Feeds]:
    for flag, n in ((True, 2), (False, 2), (False, 5)):
        yield {"x": noise(n, n), "start": np.array(flag)}


@model(
    """(float[N,T] x, float[N] h) => (float[N] last, float[N,T] all) <float half = {0.5}> {
  last, all = Scan <num_scan_inputs = 1, scan_input_axes = [1], scan_input_directions = [1],
    scan_output_axes = [1], scan_output_directions = [1],
    body = b (float[N] s, float[N] xi) => (float[N] t, float[N] seen) {
      u = Mul (s, half)
      t = Add (u, xi)
      seen = Tanh (t)
    }> (h, x)
  }"""
)
def scan_backwards_along_the_last_axis() -> Iterator[Feeds]:
    for n, t in ((2, 3), (1, 6), (3, 1)):
        yield {"x": noise(t, n, t), "h": noise(n, n)}


@model(
    """(float[N,K] x, float c) => (float[A,B] y, int64[1] rows)
  <int64[1] last = {1}, int64[1] zero = {0},
  int64[1] one = {1}, int64[1] two = {2}, int64 nought = {0}, int64 step = {1}> {
  positive = Greater (x, c)
  flags = Cast <to = 6> (positive)
  any = ReduceMax <keepdims = 0> (flags, last)
  found = NonZero (any)
  index = Squeeze (found, zero)
  picked = Gather <axis = 0> (x, index)
  rows = Shape <start = 0, end = 1> (picked)
  half = Div (rows, two)
  k = Add (half, one)
  most = Shape <start = 0, end = 1> (picked)
  sure = Min (k, most)
  top, at = TopK <axis = 0> (picked, sure)
  flat = Squeeze (sure, zero)
  places = Range (nought, flat, step)
  wide = Unsqueeze (places, last)
  other = Cast <to = 1> (wide)
  filled = ConstantOfShape <value = float[1] {2}> (rows)
  sum = ReduceSum <keepdims = 0> (filled)
  t = Add (top, other)
  y = Mul (t, sum)
}"""
)
def sizes_from_data_to_data() -> Iterator[Feeds]:
    for n, k, limit in ((4, 3, 0.0), (6, 2, 0.5), (2, 5, -9.0), (3, 3, 0.8)):
        yield {"x": noise(n * k, n, k), "c": np.array(limit, np.float32)}


@model("""(float[N,K] x, int64 n) => (float[A,K] y, int64 length) <bool yes = {1}> {
  empty = SequenceEmpty ()
  s = Loop (n, yes, empty) <body = b
    (int64 i, bool c, seq(float[M,K]) v) => (bool go, seq(float[M,K]) w) {
      go = Identity (c)
      f = Cast <to = 1> (i)
      shifted = Add (x, f)
      one = Constant <value = int64 {1}> ()
      to = Add (i, one)
      zero = Constant <value = int64[1] {0}> ()
      ends = Unsqueeze (to, zero)
      part = Slice (shifted, zero, ends, zero)
      w = SequenceInsert (v, part)
    }>
  y = ConcatFromSequence <axis = 0> (s)
  length = SequenceLength (s)
}""")
def sequence_that_a_loop_fills() -> Iterator[Feeds]:
    for rows, k, count in ((3, 2, 1), (3, 2, 3), (2, 5, 4)):
        yield {"x": noise(rows, rows, k), "n": np.array(count)}


@model("""(float[N,K] x, int64 n) => (float[N,K] y)
  <bool yes = {1}, int64 two = {2}, int64 zero = {0}> {
  y = Loop (n, yes, x) <body = b (int64 i, bool c, float[N,K] v) => (bool go, float[N,K] w) {
      go = Identity (c)
      rest = Mod (i, two)
      even = Equal (rest, zero)
      w = If (even) <
        then_branch = p () => (float[N,K] a) { a = Add (v, x) },
        else_branch = q () => (float[N,K] d) { e = Mul (v, x) d = Sub (e, v) }>
    }>
  }""")
def branches_in_a_loop() -> Iterator[Feeds]:
    for rows, k, count in ((2, 3, 0), (2, 3, 5), (1, 4, 2)):
        yield {"x": noise(k, rows, k), "n": np.array(count)}


@model(
    """(float[T,N,K] x, float[K,K] w) => (float[N,K] h, float[T,N,K] y, float[N,T] norm)
  <int64[1] axis = {1}> {
  sizes = Shape <start = 1> (x)
  h0 = ConstantOfShape (sizes)
  h, y, norm = Scan <num_scan_inputs = 1, scan_output_axes = [0, 1],
    body = b (float[N,K] s, float[N,K] xi) => (float[N,K] t, float[N,K] out, float[N] size) {
      p = MatMul (s, w)
      q = Add (p, xi)
      t = Tanh (q)
      out = Identity (t)
      size = ReduceL2 <keepdims = 0> (t, axis)
    }> (h0, x)
  }"""
)
def a_recurrent_cell() -> Iterator[Feeds]:
    for t, n, k in ((4, 2, 3), (1, 1, 3), (7, 3, 5)):
        yield {"x": noise(t, t, n, k), "w": noise(k, k, k)}


@model(
    """(float[N,4] boxes, float[N] scores, float limit) => (float[M,4] kept, float[M] best)
  <int64[1] zero = {0}, int64[2] first = {0, 1}, int64[1] most = {5},
  float[1] overlap = {0.5}, int64 two = {2}> { limit1 = Unsqueeze (limit, zero)
  b = Unsqueeze (boxes, zero)
  s = Unsqueeze (scores, first)
  chosen = NonMaxSuppression (b, s, most, overlap, limit1)
  columns = Gather <axis = 1> (chosen, two)
  kept = Gather <axis = 0> (boxes, columns)
  best = Gather <axis = 0> (scores, columns)
}"""
)
def boxes_that_stay() -> Iterator[Feeds]:
    for n, limit in ((8, 0.1), (3, 0.0), (12, 0.6)):
        corner = np.abs(noise(n, n, 2))
        boxes = np.concatenate([corner, corner + 1 + np.abs(noise(n + 1, n, 2))], axis=1)
        yield {
            "boxes": boxes,
            "scores": np.abs(noise(n, n)),
            "limit": np.array(limit, np.float32),
        }


@model(
    """(float[N,C,H,W] x) => (float[N,C,P,Q] y, float[N,R] flat)
  <int64[1] two = {2}, int64[1] one = {1}, int64[1] minus = {-1}> {
  sizes = Shape <start = 2> (x)
  twice = Mul (sizes, two)
  less = Sub (twice, one)
  lead = Shape <start = 0, end = 2> (x)
  target = Concat <axis = 0> (lead, less)
  big = Resize <mode = "linear", coordinate_transformation_mode = "align_corners"> (x, , , target)
  y = AveragePool <kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1> (big)
  batch = Shape <start = 0, end = 1> (x)
  shape = Concat <axis = 0> (batch, minus)
  flat = Reshape (y, shape)
}"""
)
def sizes_computed_from_sizes() -> Iterator[Feeds]:
    for n, c, h, w in ((1, 2, 3, 4), (2, 2, 5, 3), (1, 2, 4, 4)):
        yield {"x": noise(h * w, n, c, h, w)}


@model("""(float[N,K] x, int64 n) => (float[A,B] y) <bool yes = {1}, int64 two = {2}> {
  y = Loop (n, yes, x) <body = b (int64 i, bool c, float[P,Q] v) => (bool go, float[R,S] w) {
      go = Identity (c)
      t = Transpose <perm = [1, 0]> (v)
      rows = Shape <start = 0, end = 1> (t)
      one = Constant <value = int64[1] {1}> ()
      zero = Constant <value = int64[1] {0}> ()
      fewer = Sub (rows, one)
      least = Max (fewer, one)
      w = Slice (t, zero, least, zero)
    }>
  }""")
def state_that_turns_and_shrinks() -> Iterator[Feeds]:
    for rows, k, count in ((4, 3, 0), (4, 3, 1), (5, 5, 4), (2, 6, 3)):
        yield {"x": noise(rows, rows, k), "n": np.array(count)}


@model(
    """(int64[N] ids, float[V,D] table) => (float[S,D] y, int64[M] uniq, int64[N] back)
  <int64[1] one = {1}> {
  uniq, first, back, counts = Unique <sorted = 1> (ids)
  rows = Gather <axis = 0> (table, uniq)
  many = Cast <to = 1> (counts)
  column = Unsqueeze (many, one)
  y = Mul (rows, column)
}"""
)
def unique_rows_of_a_table() -> Iterator[Feeds]:
    for n, v in ((5, 4), (9, 3), (1, 6)):
        ids = np.random.default_rng(n).integers(0, v, n)
        yield {"ids": ids, "table": noise(v, v, 3)}


@model("""(float[N,K] x, bool[N] mask, int64[2] pads) =>
  (float[A,K] y, float[B,K] z, float[C,D] p) {
  y = Compress <axis = 0> (x, mask)
  not = Not (mask)
  z = Compress <axis = 0> (x, not)
  both = Concat <axis = 0> (y, z)
  amounts = Concat <axis = 0> (pads, pads)
  p = Pad (both, amounts)
}""")
def rows_by_mask() -> Iterator[Feeds]:
    for n, k, pad in ((4, 2, (0, 1)), (6, 3, (2, 0)), (1, 1, (1, 1))):
        mask = np.random.default_rng(n).random(n) > 0.5
        yield {"x": noise(n, n, k), "mask": mask, "pads": np.array(pad)}


@pytest.mark.parametrize("name", MODELS)
def test_against_onnx_runtime(name: str) -> None:
    text, calls = MODELS[name]
    proto = onnx.parser.parse_model(HEADER + text)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    compiled = zenith.compile(proto, fallback="allow")
    wanted = [session.run(None, dict(feeds)) for feeds in calls()]
    for _ in range(2):  # the second time all sizes are known
        for feeds, expected in zip(calls(), wanted, strict=True):
            for result, value in zip(compiled.run(feeds).values(), expected, strict=True):
                assert result.dtype == value.dtype
                assert result.shape == value.shape
                np.testing.assert_allclose(result, value, rtol=1e-5, atol=1e-5)
