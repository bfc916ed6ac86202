"""Sizes that data decides: computed at run time, checked, and everything after them native."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import zenith
from zenith.errors import KernelError, ValidationError, ZenithError

CASES: list[tuple[str, str, str, tuple[Any, ...]]] = [
    ("int64[2] s", "r = Reshape(x, s)", "reshape", (np.array([-1, 8]),)),
    ("int64[2] s", "r = Reshape(x, s)", "reshape", (np.array([0, 4]),)),
    ("int64[3] s", "r = Expand(x, s)", "expand", (np.array([3, 1, 4]),)),
    ("int64[1] a, int64[1] b", "r = Slice(x, a, b)", "slice", (np.array([1]), np.array([-1]))),
    ("int64[2] s", "r = Tile(x, s)", "tile", (np.array([2, 3]),)),
    ("int64[4] p", "r = Pad(x, p)", "pad", (np.array([1, 0, 2, 3]),)),
    ("int64[1] k", "r, i = TopK<axis = 1>(x, k)", "topk", (np.array([3]),)),
    ("int64[1] s", "r = Unsqueeze(x, s)", "unsqueeze", (np.array([1]),)),
]


def want(name: str, x: Any, args: tuple[Any, ...]) -> Any:
    if name == "reshape":
        return x.reshape([x.shape[i] if n == 0 else n for i, n in enumerate(args[0])])
    if name == "expand":
        return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(args[0])))
    if name == "slice":
        return x[args[0][0] : args[1][0]]
    if name == "tile":
        return np.tile(x, args[0])
    if name == "pad":
        return np.pad(x, np.array(args[0]).reshape(2, -1).T)
    if name == "topk":
        return -np.sort(-x, axis=1)[:, : args[0][0]]
    return np.expand_dims(x, tuple(args[0]))


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[2]}{c[3][0].tolist()}")
@pytest.mark.parametrize("level", [0, 2])
def test_parameters_from_inputs(
    case: tuple[str, str, str, tuple[Any, ...]], level: int, graph_of: Any, array: Any
) -> None:
    inputs, node, name, args = case
    graph = graph_of(f"(float[n,4] x, {inputs}) => (y)", f"{node} y = Relu(r)")
    compiled = zenith.compile(graph, fallback="error", opt_level=level)
    for rows in (4, 1, 2) if name != "expand" else (1,):
        x = array(rows, 4, seed=rows)
        if name == "reshape" and x.size % max(8, 1) and args[0][-1] == 8:
            continue
        np.testing.assert_array_equal(compiled(x, *args), np.maximum(want(name, x, args), 0))


def test_what_follows_late_sizes_is_planned_natively(graph_of: Any, array: Any) -> None:
    body = """
        r = Reshape(x, s)
        t = Transpose<perm = [1, 0]>(r)
        m = MatMul(t, r)
        y = Softmax(m)
    """
    compiled = zenith.compile(graph_of("(float[n,4] x, int64[2] s) => (y)", body), fallback="error")
    kinds = [(p.backend, len(p.selections)) for p in compiled.plan.partitions]
    assert kinds == [("cpu", 1), ("cpu", 3)]
    for rows, shape in ((4, (2, 8)), (6, (8, 3)), (4, (2, 8))):
        x = array(rows, 4)
        r = x.reshape(shape).astype(np.float64)
        e = np.exp(r.T @ r - (r.T @ r).max(-1, keepdims=True))
        y = compiled(x, np.array(shape))
        np.testing.assert_allclose(y, e / e.sum(-1, keepdims=True), atol=1e-5)


def test_shape_arithmetic_on_a_size_from_data(graph_of: Any, array: Any) -> None:
    body = """
        i = NonZero(x)
        s = Shape<start = 1, end = 2>(i)
        two = Constant<value_ints = [2]>()
        d = Mul(s, two)
        z = ConstantOfShape(d)
        f = Cast<to = 1>(i)
        c = Concat<axis = 1>(f, f)
        y = Add(c, z)
    """
    compiled = zenith.compile(graph_of("(float[n,3] x) => (y)", body), fallback="allow")
    for rows in (1, 5):
        x = np.round(array(rows, 3, seed=rows))
        i = np.array(np.nonzero(x), np.float32)
        np.testing.assert_array_equal(compiled(x), np.concatenate([i, i], 1))


def test_bad_parameters_are_errors_that_name_the_node(graph_of: Any, array: Any) -> None:
    graph = graph_of("(float[n,4] x, int64[2] s) => (y)", "y = Reshape(x, s)")
    compiled = zenith.compile(graph)
    with pytest.raises(KernelError, match="Reshape"):
        compiled(array(2, 4), np.array([3, 5]))
    np.testing.assert_array_equal(compiled(array(2, 4), np.array([8, 1])).shape, (8, 1))


def test_absurd_sizes_are_refused_before_memory_is_asked_for(graph_of: Any) -> None:
    graph = graph_of("(int64[2] s) => (y)", "y = ConstantOfShape(s)")
    with pytest.raises(MemoryError) as caught:
        zenith.compile(graph)(np.array([1 << 30, 1 << 30]))
    assert isinstance(caught.value, ZenithError)
    graph = graph_of(
        "(int64 n) => (y)",
        "z = Constant<value_int = 0>() o = Constant<value_int = 1>() y = Range(z, n, o)",
    )
    with pytest.raises(MemoryError):
        zenith.compile(graph)(np.array(1 << 50))


BROADCAST = """
    s = Add(x, y)
    five = Constant<value = float[5] {1.0, 2.0, 3.0, 4.0, 5.0}>()
    z5 = Mul(z, five)
    q = ReduceSum<keepdims = 0>(z5)
    o = Mul(s, q)
    m = MatMul(o, w)
"""


@pytest.mark.parametrize(
    "sizes",
    [
        ((2, 3), (2, 3), 5, 2),
        ((2, 3), (1, 3), 1, 1),
        ((2, 3), (1, 1), 5, 2),
        ((1, 3), (2, 1), 1, 2),
    ],
)
def test_a_size_may_be_one_or_the_others(sizes: tuple[Any, ...], graph_of: Any, array: Any) -> None:
    graph = graph_of(
        "(float[a,b,4] x, float[c,d,4] y, float[e] z, float[f,4,3] w) => (o, m)", BROADCAST
    )
    compiled = zenith.compile(graph, fallback="error")
    x, y = array(*sizes[0], 4), array(*sizes[1], 4, seed=1)
    z, w = array(sizes[2], seed=2), array(sizes[3], 4, 3, seed=3)
    o, m = compiled(x, y, z, w)
    wanted = (x + y) * (z * np.arange(1, 6, dtype=np.float32)).sum(dtype=np.float64)
    np.testing.assert_allclose(o, wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(m, wanted @ w, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sizes", [((2, 3), (3, 3), 5), ((2, 3), (2, 3), 4)])
def test_sizes_that_do_not_broadcast_are_refused(
    sizes: tuple[Any, ...], graph_of: Any, array: Any
) -> None:
    graph = graph_of(
        "(float[a,b,4] x, float[c,d,4] y, float[e] z, float[f,4,3] w) => (o, m)", BROADCAST
    )
    compiled = zenith.compile(graph)
    with pytest.raises(ValidationError, match="is neither 1 nor that"):
        compiled(array(*sizes[0], 4), array(*sizes[1], 4), array(sizes[2]), array(2, 4, 3))


def test_a_thousand_shapes_one_compile_flat_memory(graph_of: Any) -> None:
    resource = pytest.importorskip("resource")
    body = """
        h = Concat<axis = 1>(x, x)
        t = Transpose<perm = [0, 2, 1]>(h)
        m = MatMul(h, t)
        p = Softmax(m)
        y = MatMul(p, h)
    """
    compiled = zenith.compile(graph_of("(float[b,s,8] x) => (y)", body), fallback="error")
    program = compiled.plan.partitions[0].program
    rng = np.random.default_rng(0)

    def call(batch: int, length: int) -> None:
        x = rng.standard_normal((batch, length, 8)).astype(np.float32)
        h = np.concatenate([x, x], 1).astype(np.float64)
        m = h @ h.transpose(0, 2, 1)
        e = np.exp(m - m.max(-1, keepdims=True))
        np.testing.assert_allclose(compiled(x), e / e.sum(-1, keepdims=True) @ h, atol=1e-5)

    shapes = [(1 + i % 8, 1 + i // 8) for i in range(1000)]
    order = rng.permutation(1000)
    for index in order[:300]:
        call(*shapes[index])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for index in order[300:]:
        call(*shapes[index])
    assert any("plans bound to sizes: 1000, dropped: 936" in n for n in compiled.explain().notes)
    assert program.memory.binds == 1000 and program.memory.evictions == 1000 - 64
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_binding_is_announced(graph_of: Any, array: Any) -> None:
    from zenith.events import events

    compiled = zenith.compile(graph_of("(float[n,4] x) => (y)", "y = Relu(x)"))
    seen: list[Any] = []
    stop = events.subscribe(seen.append)
    try:
        for rows in (1, 2, 1, *range(3, 67)):
            compiled(array(rows, 4))
    finally:
        stop()
    bound = [e for e in seen if e.name == "bound"]
    assert [e.dims["n"] for e in bound] == list(range(1, 67))
    assert [e.dims for e in seen if e.name == "evicted"] == [{"n": 2}, {"n": 1}]


def test_indices_from_data_are_no_sizes(graph_of: Any, array: Any) -> None:
    """Elements of small integer tensors have names in inference; a native kernel runs them."""
    graph = graph_of(
        "(int32[5] i, float[4,6] x) => (float[6] y)"
        "<int64[1] n0 = {0}, int64[1] n1 = {1}, int64[1] n2 = {2}, int64[1] n3 = {3},"
        "int32 four = {4}>",
        """a = Slice(i, n1, n2, n0) b = Slice(i, n2, n3, n0) c = Concat<axis = 0>(a, b)
        d = Slice(c, n0, n1, n0) e = Add(d, four) f = Mod(e, four) y1 = Gather<axis = 0>(x, f)
        y = Squeeze(y1, n0)""",
    )
    compiled = zenith.compile(graph, fallback="error")
    x, places = array(4, 6), np.array([9, -1, 2, 0, 1], np.int32)
    np.testing.assert_array_equal(compiled(places, x), x[3])


@pytest.mark.parametrize("op", ["HannWindow", "HammingWindow", "BlackmanWindow"])
@pytest.mark.parametrize("periodic", [0, 1])
def test_windows_of_computed_length(op: str, periodic: int, graph_of: Any) -> None:
    body = f"w = {op}<periodic = {periodic}>(n) y = Mul(w, two)"
    graph = graph_of("(int64 n, float[1] two) => (y)", body)
    compiled = zenith.compile(graph, fallback="error")
    c = {"HannWindow": (0.5, 0.5, 0.0), "HammingWindow": (25 / 46, 21 / 46, 0.0)}
    a, b, d = c.get(op, (0.42, 0.5, 0.08))
    for n in (1, 2, 7, 400):
        turns = 2 * np.pi * np.arange(n) / max(n if periodic else n - 1, 1)
        want = 2 * (a - b * np.cos(turns) + d * np.cos(2 * turns))
        got = compiled(np.array(n), np.array([2], np.float32))
        np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize("corners", [0, 1])
@pytest.mark.parametrize("sizes", [(3, 5), (4, 2, 3), (1, 1)])
def test_grids_of_computed_size(
    corners: int, sizes: tuple[int, ...], graph_of: Any, array: Any
) -> None:
    rank = len(sizes)
    body = f"y = AffineGrid<align_corners = {corners}>(t, s)"
    graph = graph_of(f"(float[n,{rank},{rank + 1}] t, int64[{rank + 2}] s) => (y)", body)
    compiled = zenith.compile(graph, fallback="error")
    theta = array(2, rank, rank + 1)
    got = compiled(theta, np.array([2, 7, *sizes]))
    assert got.shape == (2, *sizes, rank)
    for index in np.ndindex(*sizes):
        at = [
            (-1 + 2 * i / (n - 1) if n > 1 else -1) if corners else (2 * i + 1) / n - 1
            for i, n in zip(index, sizes, strict=True)
        ]
        np.testing.assert_allclose(got[(0, *index)], theta[0] @ [*at[::-1], 1], atol=1e-5)


def test_middle_of_computed_size(graph_of: Any, array: Any) -> None:
    graph = graph_of("(float[n,m] x, int64[2] s) => (y)", "y = CenterCropPad(x, s)")
    compiled = zenith.compile(graph, fallback="error")
    x = array(5, 4)
    np.testing.assert_array_equal(compiled(x, np.array([2, 4])), x[1:3])
    want = np.zeros((8, 3), np.float32)
    want[1:6] = x[:, :3]
    np.testing.assert_array_equal(compiled(x, np.array([8, 3])), want)


@pytest.mark.parametrize("op", ["HannWindow(n)", "ConstantOfShape(s)"])
def test_no_memory_for_a_size_from_data(op: str, graph_of: Any) -> None:
    compiled = zenith.compile(graph_of("(int64 n, int64[1] s) => (y)", f"y = {op}"))
    with pytest.raises(ZenithError, match="memory"):
        compiled(np.array(1 << 50), np.array([1 << 50]))
