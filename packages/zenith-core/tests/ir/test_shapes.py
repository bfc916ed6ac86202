"""Sizes: of control flow, what is not yet known may be later; of symbols, what can be said."""

from __future__ import annotations

import pytest
import sympy

from zenith.errors import ValidationError
from zenith.ir import GraphIR
from zenith.ir.dims import floor_div, never_negative, parse_dim, symbol

HEAD = '<ir_version: 10, opset_import: ["" : 28]>\n'


def shapes(text: str) -> dict[str, list[object] | None]:
    """Sizes of the results after inference; a size that has no name of the model is '?'."""
    graph = GraphIR.from_text(HEAD + text).infer_shapes()
    return {str(v.name): None if v.shape is None else [*map(_size, v.shape)] for v in graph.outputs}


def _size(dim: object) -> object:
    return dim if isinstance(dim, int) else "?" if str(dim).startswith("_c") else str(dim)


def test_a_branch_that_reads_a_loop_is_known_once_the_loop_is() -> None:
    """The inner If is looked at before the loop it reads from."""
    text = """g (float[N, 4] x, int64 n, bool c) => (y) {
        true = Constant <value = bool {1}> ()
        s = Loop (n, true, x) <body = b (int64 i, bool go, t) => (go2, u)
            { go2 = Identity(go) u = Relu(t) }>
        y = If (c) <then_branch = p () => (a) { a = Neg(s) },
                    else_branch = q () => (b) { b = Abs(s) }>
    }"""
    assert shapes(text) == {"y": ["N", 4]}


def test_scan_results_of_an_inner_loop() -> None:
    text = """g (float[4] x, int64 n) => (y) {
        true = Constant <value = bool {1}> ()
        last, y = Loop (n, true, x) <body = b (int64 i, bool go, t) => (go2, u, row)
            { go2 = Identity(go) u = Relu(t)
              k, row = Loop (n, go, u) <body = c (int64 j, bool on, v) => (on2, w, out)
                 { on2 = Identity(on) w = Neg(v) out = Abs(v) }> }>
    }"""
    assert shapes(text) == {"y": ["?", "?", 4]}


def test_a_state_whose_rank_grows_has_none() -> None:
    text = """g (float[4] x, int64 n) => (y, z) {
        true = Constant <value = bool {1}> ()
        axes = Constant <value = int64[1] {0}> ()
        y = Loop (n, true, x) <body = b (int64 i, bool go, t) => (go2, u)
            { go2 = Identity(go) u = Unsqueeze(t, axes) }>
        z = Loop (n, true, y) <body = b2 (int64 i2, bool go3, t2) => (go4, u2)
            { go4 = Identity(go3) u2 = Relu(t2) }>
    }"""
    assert shapes(text) == {"y": None, "z": None}


def test_branches_of_different_ranks_have_no_rank() -> None:
    text = """g (float[4] x, bool c) => (y) {
        axes = Constant <value = int64[1] {0}> ()
        y = If (c) <then_branch = p () => (a) { a = Neg(x) },
                    else_branch = q () => (b) { b = Unsqueeze(x, axes) }>
    }"""
    assert shapes(text) == {"y": None}


def test_a_slice_to_the_end_however_it_is_written() -> None:
    text = """g (float[N, 8] x) => (y, z) {
        axes = Constant <value = int64[1] {0}> ()
        zero = Constant <value = int64[1] {0}> ()
        two = Constant <value = int64[1] {2}> ()
        end = Constant <value = int64[1] {1000000000}> ()
        y = Slice (x, zero, end, axes)
        z = Slice (x, two, end, axes)
    }"""
    assert shapes(text) == {"y": ["N", 8], "z": ["Max(0, N - 2)", 8]}


def test_windows_padded_to_the_same_size_round_up() -> None:
    """Pooling as convolution; and what is written of a rounded size can be read again."""
    text = """g (float[N, 3, H, 9] x, float[3, 3, 2, 2] w) => (a, p, c, n) {
        a = AveragePool <kernel_shape = [2, 2], strides = [2, 3], auto_pad = "SAME_UPPER"> (x)
        p = MaxPool <kernel_shape = [2, 2], auto_pad = "SAME_LOWER"> (x)
        c = Conv <kernel_shape = [2, 2], strides = [2, 3], auto_pad = "SAME_UPPER"> (x, w)
        n = Concat <axis = 2> (c, c)
    }"""
    found = shapes(text)
    assert found["a"] == found["c"] == ["N", 3, "ceiling(H/2)", 3]
    assert found["p"] == ["N", 3, "H", 9]
    assert found["n"] == ["N", 3, "2*ceiling(H/2)", 3]


def test_a_difference_of_sizes_that_is_a_number_counts_as_one() -> None:
    """Cut by as much as there is too much: what tf2onnx makes of a transposed convolution."""
    text = """g (float[N] x) => (y) {
        zero = Constant <value = int64[1] {0}> ()
        one = Constant <value = int64[1] {1}> ()
        d = Concat <axis = 0> (x, x)
        n = Shape (x)
        more = Add (n, one)
        over = Sub (more, n)
        start = Max (over, zero)
        y = Slice (d, start, more, zero)
    }"""
    assert shapes(text) == {"y": ["N"]}


def test_quotients_and_remainders_of_sizes() -> None:
    """Div rounds towards zero: what cannot be negative is a plain quotient."""
    text = """g (float[N] x) => (half, rest, down, up) {
        two = Constant <value = int64[1] {2}> ()
        four = Constant <value = int64[1] {4}> ()
        n = Shape (x)
        halves = Div (n, two)
        rests = Mod (n, two)
        less = Sub (n, four)
        over = Mod (less, four)
        whole = Sub (less, over)
        downs = Div (whole, four)
        shifted = Add (downs, two)
        ups = Div (less, four)
        more = Add (ups, two)
        zero = Constant <value = float[1] {0}> ()
        half = Expand (zero, halves)
        rest = Expand (zero, rests)
        down = Expand (zero, shifted)
        up = Expand (zero, more)
    }"""
    found = shapes(text)
    for n in (1, 2, 3, 4, 7, 9):
        value = {k: int(parse_dim(str(v[0])).subs({symbol("N"): n})) for k, v in found.items()}
        assert (value["half"], value["rest"]) == (n // 2, n % 2)
        assert (value["down"], value["up"]) == ((n - 4) // 4 + 2, int((n - 4) / 4) + 2)


def test_pooling_with_auto_pad_of_named_sizes() -> None:
    """As many windows as strides cover the axis: an expression, not a size of its own."""
    node = 'y = MaxPool<kernel_shape = [2, 3], strides = [2, 1], auto_pad = "SAME_UPPER">(x)'
    text = f'<ir_version: 10, opset_import: ["" : 28]>\ng (float[N,3,H,W] x) => (y) {{ {node} }}'
    shape = GraphIR.from_text(text).infer_shapes().nodes[0].outputs[0].shape
    assert shape is not None
    n, channels, height, width = (parse_dim(str(d)) for d in shape)
    assert (str(n), str(channels), str(width)) == ("N", "3", "W")
    (symbol,) = height.free_symbols
    assert (str(symbol), [height.subs(symbol, h) for h in (1, 2, 5, 6)]) == ("H", [1, 1, 3, 3])


@pytest.mark.parametrize(
    "node",
    ["Reshape(x, s)", "Expand(x, s)", "ConstantOfShape(s)", "Unsqueeze(x, s)", "AffineGrid(t, s)"],
)
def test_a_rank_beyond_reason_is_refused_at_once(node: str) -> None:
    text = f"{HEAD}g (float[4] x, float[1,2,3] t, int64[2000000000] s) => (y) {{ y = {node} }}"
    with pytest.raises(ValidationError, match="a result of 2000000000 axes"):
        GraphIR.from_text(text).infer_shapes()


def test_a_target_of_expand_says_nothing_about_larger_data() -> None:
    """What a Scan gives is known only when its body was looked at."""
    text = """g (float[3, 4] x) => (y) <int64[2] target = {5, 1}, int64[1] zero = {0}> {
        s = Scan <num_scan_inputs = 1, body = b (float[4] t) => (u) { u = Neg(t) }> (x)
        r = ReduceSum (s, zero)
        y = Expand (r, target)
    }"""
    assert shapes(text) == {"y": [5, 4]}


def test_contents_of_sizes_are_followed_in_vectors_only() -> None:
    """Rows and columns of sizes broadcast: what is known of them goes element by element."""
    import numpy as np

    import zenith

    text = """g (float[N, 4] x) => (y) {
        sizes = Shape (x)
        zero = Constant <value = int64[1] {0}> ()
        one = Constant <value = int64[1] {1}> ()
        row = Unsqueeze (sizes, zero)
        column = Unsqueeze (sizes, one)
        y = Add (row, column)
    }"""
    compiled = zenith.compile(GraphIR.from_text(HEAD + text), opt_level=0, fallback="error")
    x = np.zeros((7, 4), np.float32)
    np.testing.assert_array_equal(compiled(x), [[14, 11], [11, 8]])


def test_quotients_of_the_most() -> None:
    """sympy takes an even number over 6 for an integer (its floor then does nothing)."""
    n, m = symbol("n"), symbol("m")
    up = sympy.ceiling(n / 2)
    sizes = [
        sympy.Max(0, 16 * up + 12),
        3 * sympy.Max(4 * n, 6 * m + 2) + m,
        n - sympy.Min(2 * n, 4 * m) + 2 * sympy.Max(2 * n, 8),
    ]
    for size in sizes:
        for by in (3, 6, 12):
            quotient = floor_div(size, by)
            for a, b in ((0, 1), (5, 3), (7, 11), (128, 40)):
                at = {n: a, m: b}
                assert quotient.subs(at) == int(size.subs(at)) // by


def test_what_is_never_negative() -> None:
    n = symbol("n")
    assert never_negative(3 * sympy.ceiling(sympy.ceiling(n / 2) / 2) + 1)
    assert not never_negative(sympy.ceiling((n - 5) / 2))
