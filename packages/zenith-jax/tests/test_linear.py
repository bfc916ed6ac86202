"""dot_general, convolutions and windows, in every arrangement of axes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax_oracle import arrays, check, compare, compiled_ops, integers

import zenith
from zenith.errors import UnsupportedOperationError

EINSUMS = {
    "ij,jk->ik": ((3, 4), (4, 5)),
    "ji,jk->ik": ((4, 3), (4, 5)),
    "ij,kj->ik": ((3, 4), (5, 4)),
    "ji,kj->ki": ((4, 3), (5, 4)),
    "bij,bjk->bik": ((2, 3, 4), (2, 4, 5)),
    "bij,jk->bik": ((2, 3, 4), (4, 5)),
    "ij,bjk->bik": ((3, 4), (2, 4, 5)),
    "bqhd,bkhd->bhqk": ((2, 5, 3, 4), (2, 6, 3, 4)),
    "bhqk,bkhd->bqhd": ((2, 3, 5, 6), (2, 6, 3, 4)),
    "bsd,dhe->bshe": ((2, 5, 4), (4, 3, 2)),
    "bshe,hed->bsd": ((2, 5, 3, 2), (3, 2, 4)),
    "i,i->": ((4,), (4,)),
    "i,ij->j": ((4,), (4, 5)),
    "ij,j->i": ((3, 4), (4,)),
    "i,j->ij": ((3,), (4,)),
    "bi,bj->bij": ((2, 3), (2, 4)),
    "bi,bi->b": ((2, 3), (2, 3)),
    "ijk,jil->kl": ((2, 3, 4), (3, 2, 5)),
    "bid,bjd->bij": ((1, 1, 4), (1, 6, 4)),
    "abcd,cdbe->abe": ((2, 3, 4, 5), (4, 5, 3, 6)),
}


@pytest.mark.parametrize("equation", EINSUMS)
def test_einsum(equation: str) -> None:
    x, y = arrays(*EINSUMS[equation])
    check(lambda x, y: jnp.einsum(equation, x, y), x, y, atol=1e-5)
    check(lambda x: jnp.einsum(equation, x, y), x, atol=1e-5)  # a weight on the right
    check(lambda y: jnp.einsum(equation, x, y), y, atol=1e-5)  # and on the left


@pytest.mark.parametrize("weight_first", [False, True])
def test_weights_become_linear(weight_first: bool) -> None:
    w, bias, x = arrays((16, 8), (16,), (4, 8))
    function = jax.vmap(lambda v: w @ v + bias) if weight_first else (lambda x: x @ w.T + bias)
    compiled = check(function, x, atol=1e-5)
    assert compiled_ops(compiled) == ["Linear.bias"]


def test_weights_of_heads_become_linear() -> None:
    w, bias, x = arrays((8, 2, 4), (2, 4), (3, 5, 8))
    function = lambda x: jnp.einsum("bsd,dhe->bshe", x, w) + bias  # noqa: E731
    compiled = check(function, x, atol=1e-5)
    assert "Linear.bias" in compiled_ops(compiled)


def test_products_of_integers() -> None:
    x, y = integers((3, 4), -9, 9), integers((4, 5), -9, 9)
    check(lambda x, y: x @ y, x, y)
    narrow = [v.astype(np.int8) for v in (x, y)]
    check(lambda x, y: lax.dot(x, y, preferred_element_type=jnp.int32), *narrow)
    check(lambda x, y: lax.dot(x, y), *narrow)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_products_kept_in_single(dtype: Any) -> None:
    x, y = (v.astype(dtype) for v in arrays((3, 8), (8, 4)))
    check(lambda x, y: lax.dot(x, y, preferred_element_type=jnp.float32), x, y, rtol=1e-3)


def test_a_convolution_without_an_axis_to_slide_along() -> None:
    x, w = arrays((2, 3), (4, 3))
    check(lambda x, w: lax.conv_general_dilated(x, w, (), []), x, w)


# --- convolutions ---------------------------------------------------------------------------------

CONVS: dict[str, dict[str, Any]] = {
    "plain": {},
    "same": {"padding": "SAME"},
    "strided": {"window_strides": (2, 2), "padding": "SAME"},
    "uneven pads": {"padding": ((0, 2), (1, 0))},
    "negative pads": {"padding": ((-1, 1), (2, -1))},
    "dilated": {"rhs_dilation": (2, 1), "padding": ((2, 2), (1, 1))},
    "transposed": {"lhs_dilation": (2, 2), "padding": ((1, 2), (2, 1))},
    "transposed wide": {"lhs_dilation": (3, 2), "padding": ((4, 5), (4, 2))},
    "transposed dilated": {
        "lhs_dilation": (2, 1),
        "rhs_dilation": (2, 2),
        "padding": ((1, 2), (2, 1)),
    },  # fmt: skip
    "transposed strided": {
        "lhs_dilation": (3, 3),
        "window_strides": (2, 2),
        "padding": ((2, 2), (3, 1)),
    },  # fmt: skip,
    "grouped": {"feature_group_count": 2, "padding": "SAME"},
    "grouped transposed": {
        "feature_group_count": 2,
        "lhs_dilation": (2, 2),
        "padding": ((1, 1), (2, 2)),
    },  # fmt: skip
}


@pytest.mark.parametrize("layout", [("NCHW", "OIHW", "NCHW"), ("NHWC", "HWIO", "NHWC")])
@pytest.mark.parametrize("name", CONVS)
def test_convolution(name: str, layout: tuple[str, str, str]) -> None:
    options = {"window_strides": (1, 1), "padding": "VALID", **CONVS[name]}
    groups = options.get("feature_group_count", 1)
    x, w = arrays((2, 4, 9, 8), (6, 4 // groups, 3, 3))
    if layout[0] == "NHWC":
        x, w = x.transpose(0, 2, 3, 1), w.transpose(2, 3, 1, 0)

    def function(x: Any, w: Any) -> Any:
        return lax.conv_general_dilated(x, w, dimension_numbers=layout, **options)

    check(function, x, w, atol=1e-5)
    check(lambda x: function(x, w), x, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 3])
def test_convolution_of_other_ranks(rank: int) -> None:
    x, w = arrays((2, 3, *([7] * rank)), (4, 3, *([3] * rank)))
    check(lambda x: lax.conv(x, w, (1,) * rank, "SAME"), x, atol=1e-5)


def test_groups_of_the_batch() -> None:
    x, w = arrays((4, 3, 6, 6), (6, 3, 3, 3))
    function = lambda x, w: lax.conv_general_dilated(  # noqa: E731
        x, w, (1, 1), "SAME", batch_group_count=2
    )
    check(function, x, w, atol=1e-5)


def test_conv_transpose() -> None:
    x, w = arrays((1, 5, 5, 3), (3, 3, 3, 2))
    check(lambda x: lax.conv_transpose(x, w, (2, 2), "SAME"), x, atol=1e-5)


def test_a_channels_last_net_has_no_transposes() -> None:
    w, v, bias, x = arrays((3, 3, 4, 8), (3, 3, 8, 8), (8,), (1, 12, 12, 4))

    def net(x: Any) -> Any:
        layout = ("NHWC", "HWIO", "NHWC")
        x = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=layout)
        x = jax.nn.relu(x + bias)
        skip = x
        x = lax.conv_general_dilated(x, v, (1, 1), "SAME", dimension_numbers=layout)
        x = jax.nn.relu(x * 0.5 + bias + skip)
        x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        return x.mean((1, 2))

    ops = compiled_ops(check(net, x, atol=1e-5))
    assert [op for op in ops if op.startswith("Conv")] == [
        "ConvBiasAct.bias.relu",
        "ConvBiasAct.bias.add.relu",
    ]
    assert ops.count("Transpose") <= 1


# --- windows --------------------------------------------------------------------------------------

WINDOWS: dict[str, dict[str, Any]] = {
    "plain": {"window_dimensions": (1, 2, 2, 1), "window_strides": (1, 2, 2, 1)},
    "same": {
        "window_dimensions": (1, 3, 3, 1),
        "window_strides": (1, 2, 2, 1),
        "padding": "SAME",
    },  # fmt: skip
    "dilated": {"window_dimensions": (1, 2, 3, 1), "window_dilation": (1, 2, 2, 1)},
    "channels": {"window_dimensions": (1, 1, 1, 3)},
    "all axes": {"window_dimensions": (2, 2, 2, 2)},
    "padded much": {
        "window_dimensions": (1, 2, 2, 1),
        "padding": ((0, 0), (3, 3), (2, 0), (0, 0)),
    },  # fmt: skip
    "base": {"window_dimensions": (1, 2, 2, 1), "base_dilation": (1, 2, 2, 1)},
}
KINDS: dict[str, Any] = {
    "max": (-np.inf, lax.max),
    "min": (np.inf, lax.min),
    "sum": (0.0, lax.add),
    "prod": (1.0, lax.mul),
}


def test_groups_of_rows() -> None:
    """Experts: groups may be empty; the sizes are data."""
    x, y = arrays((7, 4), (3, 4, 5))
    compiled = check(lax.ragged_dot, x, y, jnp.array([2, 0, 5]))
    for sizes in ([7, 0, 0], [1, 3, 3]):
        wanted = lax.ragged_dot(x, y, jnp.array(sizes))
        compare(compiled(x, y, jnp.array(sizes)), wanted)
    assert compiled_ops(compiled).count("Linear") + compiled_ops(compiled).count("MatMul") == 1
    with pytest.raises(UnsupportedOperationError, match="of other axes"):
        zenith.compile(
            jax.grad(lambda w: lax.ragged_dot(x, w, jnp.array([2, 0, 5])).sum()), sample_input=(y,)
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", WINDOWS)
def test_window(name: str, kind: str) -> None:
    options = {"window_strides": (1, 1, 1, 1), "padding": "VALID", **WINDOWS[name]}
    start, function = KINDS[kind]
    check(lambda x: lax.reduce_window(x, start, function, **options), *arrays((2, 9, 8, 4)))


def test_windows_of_integers() -> None:
    x = integers((2, 9), -50, 50)
    check(lambda x: lax.reduce_window(x, 0, lax.add, (1, 3), (1, 2), "SAME"), x)
    check(lambda x: lax.reduce_window(x, -(2**31), lax.max, (1, 3), (1, 2), "SAME"), x)


def test_an_average_pool_is_one_node() -> None:
    (x,) = arrays((2, 8, 8, 4))

    def function(x):
        return lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4

    ops = compiled_ops(check(function, x))
    assert "AveragePool" in ops and "Mul" not in ops and "Div" not in ops
