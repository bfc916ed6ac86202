"""Calls: structures, names, types, symbolic sizes, what is refused, and calls inside a trace."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax_oracle import arrays, check, compare

import zenith
from zenith.errors import (
    CompilationError,
    ConfigurationError,
    UnsupportedOperationError,
    ValidationError,
    ZenithError,
)


class Pair(NamedTuple):
    left: Any
    right: Any


def _structured(x: Any, state: Any, *, scale: Any = 1.0) -> Any:
    total = x * scale + state["a"][0] - state["b"].left
    return {"out": Pair(total, (x.sum(), None)), "list": [x, total > 0]}


def test_structures() -> None:
    x, y, z = arrays((3,), (3,), (3,))
    state = {"a": [y], "b": Pair(z, None)}
    compiled = check(_structured, x, state)
    compare(compiled(x=x, state=state), _structured(x, state))
    assert compiled.input_names == ["x", "state.a.0", "state.b.left"]
    both = zenith.compile(_structured, sample_input=((x, state), {"scale": 2.0}))
    compare(both(x, state, scale=3.0), _structured(x, state, scale=3.0))
    named = zenith.compile(_structured, sample_input={"x": x, "state": state})
    compare(named(x=x, state=state), _structured(x, state))


def test_what_counts_as_a_model() -> None:
    (x,) = arrays((3,))
    params = {"w": arrays((3,), seed=1)[0]}
    apply = lambda p, x: p["w"] * x  # noqa: E731
    squares = jax.grad(lambda v: (v * v).sum())
    partial = functools.partial(jnp.add, 2.0)
    for model in (jnp.tanh, jax.jit(jnp.tanh), jax.vmap(jnp.tanh), squares, partial):
        compare(zenith.compile(model, sample_input=x)(x), model(x))
    compare(zenith.compile((apply, params), sample_input=x)(x), apply(params, x))
    compare(zenith.compile((jax.jit(apply), params), sample_input=x)(x), apply(params, x))


def test_constants_of_the_sample() -> None:
    def function(x: Any, kind: str, flag: bool) -> Any:
        return jnp.tanh(x) if kind == "tanh" and flag else x

    (x,) = arrays((3,))
    compiled = check(function, x, "tanh", True)
    with pytest.raises(ValidationError, match="'relu', but was 'tanh' in the sample"):
        compiled(x, "relu", True)
    with pytest.raises(ValidationError, match="False, but was True"):
        compiled(x, "tanh", False)


def test_inputs_of_other_types() -> None:
    (x,) = arrays((3,))
    compiled = zenith.compile(lambda x, s: x * s, sample_input=(x, 2.0))
    compare(compiled(np.asarray(x), 3), jnp.asarray(x) * 3)
    compare(compiled(np.asarray(x, np.float64), np.float32(0.5)), x * 0.5)  # as JAX takes it
    compare(compiled(x[::-1], 2.0), x[::-1] * 2)
    for bad, message in (
        ((x.astype(jnp.float16), 2.0), "float16"),
        ((np.arange(3), 2.0), "int"),
        (("x", 2.0), "str"),
        ((x,), "'s' is missing"),
        ((x, 2.0, 3.0), "3 positional"),
        (([x], 2.0), "structure"),
        ((jnp.ones((4,)), 2.0), r"shape \[4\]"),
    ):
        with pytest.raises(ValidationError, match=message):
            compiled(*bad)
    with pytest.raises(ValidationError, match="'t' was not"):
        compiled(x, 2.0, t=1)
    with pytest.raises(ValidationError, match="twice"):
        compiled(x, 2.0, s=1.0)
    whole = zenith.compile(lambda n: n * 2, sample_input=3)
    with pytest.raises(ValidationError, match="number 2.5"):
        whole(2.5)


def test_results_own_their_memory() -> None:
    (x,) = arrays((100,))
    compiled = zenith.compile(lambda x: (x + 1, x), sample_input=(x,))
    first = compiled(x)
    kept = np.array(first[0])
    for _ in range(5):
        compiled(x * 3)
    np.testing.assert_array_equal(np.asarray(first[0]), kept)


def test_symbolic_sizes() -> None:
    def function(x: Any, y: Any) -> Any:
        flat = x.reshape(-1) * 2
        mean = x.mean(0) + jnp.arange(x.shape[1])
        return flat, mean, jnp.concatenate([x, y]), jnp.broadcast_to(mean, x.shape) @ y.T

    x, y = arrays((2, 3), (4, 3))
    compiled = zenith.compile(
        function, sample_input=(x, y), dynamic={"x": {0: "n"}, 1: {0: "m"}}, fallback="error"
    )
    for n, m in ((2, 4), (1, 1), (5, 2)):
        x, y = arrays((n, 3), (m, 3))
        compare(compiled(x, y), function(x, y), atol=1e-5)
    with pytest.raises(ZenithError):
        compiled(*arrays((2, 4), (4, 3)))


def test_sizes_that_are_rounded() -> None:
    """JAX rounds quotients down, ONNX's Div towards zero."""

    def function(x: Any) -> Any:
        n = x.shape[1]
        pooled = lax.reduce_window(x, 0.0, lax.add, (1, 2), (1, 2), "SAME")
        near = lax.cummax(x, axis=1), lax.cummin(x, axis=1, reverse=True)
        return pooled, jnp.pad(x, ((0, 0), (n // 2, (n - 3) // 2 + 2))), near, x[:, : -(-n // 3)]

    compiled = zenith.compile(
        function, sample_input=arrays((2, 6))[0], dynamic={0: {0: "b", 1: "s"}}, fallback="error"
    )
    for shape in ((2, 6), (1, 5), (3, 1), (2, 2)):
        (x,) = arrays(shape)
        compare(compiled(x), function(x), atol=1e-5)


def test_sizes_of_the_users_own_scope() -> None:
    batch, length = jax.export.symbolic_shape("b, 2*s")
    described = jax.ShapeDtypeStruct((batch, length, 4), jnp.float32)
    function = lambda x: x.reshape(x.shape[0], -1, 8).sum(1)  # noqa: E731
    compiled = zenith.compile(function, sample_input=(described,))
    for b, s in ((1, 2), (3, 6)):
        (x,) = arrays((b, s, 4))
        compare(compiled(x), function(x), atol=1e-5)


def test_dynamic_is_checked() -> None:
    (x,) = arrays((2, 3))
    for dynamic, message in (
        ({"z": {0: "n"}}, "inputs are x"),
        ({"x": {5: "n"}}, "no axis 5"),
        ({"x": {0: "not a name"}}, "not a name"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            zenith.compile(jnp.tanh, sample_input=(x,), dynamic=dynamic)
    with pytest.raises(CompilationError, match="symbolic size"):
        zenith.compile(lambda x: x.sum() if x.shape[0] > 2 else x, sample_input=(x,),
                       dynamic={0: {0: "n"}})  # fmt: skip


def test_what_cannot_be_traced() -> None:
    (x,) = arrays((3,))
    with pytest.raises(ValidationError, match="traced on example inputs"):
        zenith.compile(jnp.tanh)
    with pytest.raises(ValidationError, match="does not fit the model's call"):
        zenith.compile(lambda x: x, sample_input=(x, x))
    with pytest.raises(CompilationError, match="needs the value of an input"):
        zenith.compile(lambda x: x if x.sum() > 0 else -x, sample_input=(x,))
    with pytest.raises(CompilationError, match="float8"):
        zenith.compile(lambda x: x, sample_input=(x.astype(jnp.float8_e5m2),))


def _inner(x: Any) -> Any:
    return jax.lax.linalg.hessenberg(x)[0]  # line of the first


def test_unknown_primitives_are_all_named_with_their_lines() -> None:
    def function(x: Any) -> Any:
        y = jax.jit(_inner)(x)
        y = jax.lax.fori_loop(0, 2, lambda i, v: jax.lax.linalg.schur(v)[0], y)
        return y + jax.pure_callback(jnp.sin, x, x)

    with pytest.raises(UnsupportedOperationError) as caught:
        zenith.compile(function, sample_input=arrays((3, 3))[0])
    text = str(caught.value)
    for name in ("hessenberg", "schur", "pure_callback"):
        assert name in text
    assert "jax.jit(_inner)(x)" in text or "line of the first" in text
    assert all("test_signature.py" in where for _, where in caught.value.operations)


def test_an_unknown_parameter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from zenith_jax.lower import HANDLERS

    monkeypatch.setitem(HANDLERS, "integer_pow", lambda b, x: x)
    with pytest.raises(UnsupportedOperationError, match=r"integer_pow \(with the parameter y\)"):
        zenith.compile(lambda x: x**3, sample_input=arrays((3,))[0])


def test_inside_a_trace() -> None:
    (x,) = arrays((4, 3))
    function = lambda x: {"y": jnp.tanh(x) * 2, "s": x.sum(1)}  # noqa: E731
    compiled = zenith.compile(function, sample_input=(x,), dynamic={"x": {0: "n"}})
    traced = jax.jit(lambda x: jax.tree.map(lambda v: v + 1, compiled(x * 2)))
    for rows in (4, 7):
        (x,) = arrays((rows, 3))
        compare(traced(x), jax.tree.map(lambda v: v + 1, function(x * 2)))
    stacked = jnp.stack([x, x + 1])
    compare(jax.vmap(compiled)(stacked), jax.vmap(function)(stacked))
    with pytest.raises(ValidationError, match="float16"):
        jax.jit(compiled)(x.astype(jnp.float16))
    with pytest.raises(ValidationError, match="compile the gradient instead"):
        jax.jit(jax.grad(lambda v: compiled(v)["y"].sum()))(x)


def test_a_torch_tensor_is_refused() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(ValidationError, match="torch"):
        zenith.compile(jnp.tanh, sample_input=(torch.ones(3),))
    module = torch.nn.Linear(3, 2).eval()
    assert zenith.plugins  # a module of torch stays torch's
    compiled = zenith.compile(module, sample_input=(torch.ones(1, 3),))
    assert isinstance(compiled(torch.ones(1, 3)), torch.Tensor)
