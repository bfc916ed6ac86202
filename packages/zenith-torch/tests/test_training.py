"""Training through torch.compile(backend="zenith"): gradients of single operators and layers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import zenith_torch


@pytest.fixture(autouse=True)
def _fresh() -> Any:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Layer(nn.Module):
    """A function of the input and of parameters of the given shapes."""

    def __init__(self, function: Any, *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.function = function
        self.weights = nn.ParameterList(torch.randn(shape) / 3 for shape in shapes)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.function(*inputs, *self.weights)


def gradients(model: Any, inputs: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """Of the inputs and parameters, for a loss that weighs every element differently."""
    inputs = tuple(
        x.detach().clone().requires_grad_() if x.is_floating_point() else x for x in inputs
    )
    results = model(*inputs)
    results = results if isinstance(results, tuple) else (results,)
    loss = sum(
        (r * torch.linspace(-1, 2, r.numel(), dtype=r.dtype).reshape(r.shape)).sum()
        for r in results
    )
    parameters = [p for p in model.parameters() if p.requires_grad]
    wanted = [x for x in inputs if x.requires_grad] + parameters
    return [r.detach() for r in results] + list(torch.autograd.grad(loss, wanted))


def relative(got: torch.Tensor, want: torch.Tensor) -> float:
    scale = want.norm().item()
    return (got.double() - want).norm().item() / (scale + 1e-9)


def check(model: nn.Module, *inputs: torch.Tensor, native: bool = True) -> Any:
    """Results and gradients against eager in float64; everything on Zenith where `native`."""
    backend = zenith_torch.create_backend(fallback="error" if native else "allow")
    exact = copy.deepcopy(model).double()
    wide = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    got = gradients(torch.compile(model, backend=backend), inputs)
    want = gradients(exact, wide)
    for number, (g, w) in enumerate(zip(got, want, strict=True)):
        assert g.shape == w.shape
        assert relative(g, w) < 2e-5, (number, relative(g, w))
    for mine, theirs in zip(model.buffers(), exact.buffers(), strict=True):
        torch.testing.assert_close(mine.double(), theirs.double(), rtol=1e-5, atol=1e-5)
    assert {p.kind for p in backend.programs} >= {"forward", "backward"}
    return backend


CONVS: dict[str, tuple[dict[str, Any], tuple[int, ...], tuple[int, ...]]] = {
    "plain": ({}, (2, 3, 8, 7), (4, 3, 3, 3)),
    "padded": ({"padding": 1}, (2, 3, 8, 7), (4, 3, 3, 3)),
    "strided": ({"stride": 2, "padding": 1}, (2, 3, 9, 8), (4, 3, 3, 3)),
    "uneven": ({"stride": (3, 2), "padding": (0, 1)}, (2, 3, 10, 9), (4, 3, 2, 3)),
    "dilated": ({"dilation": 2, "padding": 2}, (2, 3, 9, 9), (4, 3, 3, 3)),
    "all": ({"dilation": 2, "padding": 1, "stride": 2}, (3, 2, 12, 11), (4, 2, 3, 2)),
    "groups": ({"groups": 2, "padding": 1}, (3, 4, 8, 7), (6, 2, 3, 3)),
    "depthwise": ({"groups": 4, "stride": 2, "padding": 1}, (2, 4, 9, 9), (8, 1, 3, 3)),
    "pointwise": ({}, (2, 5, 6, 6), (7, 5, 1, 1)),
    "one axis": ({"padding": 2, "stride": 2}, (2, 3, 15), (4, 3, 5)),
    "three axes": ({"padding": 1}, (2, 2, 5, 6, 5), (3, 2, 3, 3, 3)),
}


@pytest.mark.parametrize("case", CONVS)
def test_convolution(case: str) -> None:
    options, shape, weight = CONVS[case]
    function = [F.conv1d, F.conv2d, F.conv3d][len(shape) - 3]
    layer = Layer(lambda x, w, b: function(x, w, b, **options), weight, (weight[0],))
    check(layer, torch.randn(shape))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2, "padding": 1, "output_padding": 1},
        {"groups": 2, "stride": 2},
        {"dilation": 2, "padding": 1},
    ],
)
def test_transposed_convolution(options: dict[str, Any]) -> None:
    groups = options.get("groups", 1)
    layer = Layer(lambda x, w: F.conv_transpose2d(x, w, None, **options), (4, 6 // groups, 3, 3))
    check(layer, torch.randn(2, 4, 5, 6))


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 2},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": 3, "stride": 1, "dilation": 2},
        {"kernel_size": 3, "stride": 2, "ceil_mode": True},
    ],
)
def test_max_pool(options: dict[str, Any]) -> None:
    check(Layer(lambda x: F.max_pool2d(x, **options)), torch.randn(2, 3, 10, 9))


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 2},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": (3, 2), "stride": (2, 1)},
        {"kernel_size": 3, "stride": 2, "ceil_mode": True},
        {"kernel_size": 3, "stride": 2, "padding": 1, "count_include_pad": False},
        {"kernel_size": (2, 3), "padding": 1, "ceil_mode": True, "divisor_override": 5},
    ],
)
def test_average_pool(options: dict[str, Any]) -> None:
    check(Layer(lambda x: F.avg_pool2d(x, **options)), torch.randn(2, 3, 10, 9))


@pytest.mark.parametrize("size", [1, 3, (2, 4)])
def test_adaptive_average_pool(size: Any) -> None:
    check(Layer(lambda x: F.adaptive_avg_pool2d(x, size)), torch.randn(2, 3, 10, 9))


def test_batch_norm_moves_its_statistics() -> None:
    check(nn.BatchNorm2d(3, momentum=0.3), torch.randn(4, 3, 5, 6))
    check(nn.BatchNorm1d(3), torch.randn(9, 3) * 4 + 1)
    check(nn.BatchNorm2d(3).eval(), torch.randn(4, 3, 5, 6))
    check(nn.BatchNorm2d(3, affine=False, track_running_stats=False), torch.randn(4, 3, 5, 6))


@pytest.mark.parametrize(
    "layer",
    [nn.LayerNorm(6), nn.LayerNorm((5, 6)), nn.GroupNorm(2, 4), nn.RMSNorm(6)],
    ids=lambda layer: type(layer).__name__,
)
def test_norms(layer: nn.Module) -> None:
    check(layer, torch.randn(3, 4, 5, 6))


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *mask: torch.Tensor, **options: Any
) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, k, v, *mask, **options)


@pytest.mark.parametrize("case", ["plain", "causal", "boolean", "added", "scaled", "odd"])
def test_attention(case: str) -> None:
    q, k, v = (torch.randn(2, 3, n, 8) for n in (6, 7, 7))
    mask, options = [], {}
    if case == "causal":
        k, v, options = k[:, :, :6], v[:, :, :6], {"is_causal": True}
    if case == "boolean":
        mask = [torch.rand(2, 1, 6, 7) > 0.3]
        mask[0][..., 0] = True
    if case == "added":
        mask = [torch.randn(2, 3, 6, 7)]
    if case == "scaled":
        options = {"scale": 0.7}
    if case == "odd":
        q, k, v = (torch.randn(1, 2, 5, 8) for _ in range(3))
    if case == "added":  # eager's own operator has no gradient for a mask
        mask = [mask[0].round()]
        layer = Layer(lambda q, k, v: attention(q, k, v, mask[0].to(q.dtype)))
        check(layer, q, k, v)
        return
    check(Layer(lambda *args: attention(*args, **options)), q, k, v, *mask)


def test_attention_of_rows_that_see_nothing() -> None:
    """As in a padded batch: such rows give zeros, and no gradient."""
    q, k, v = (torch.randn(2, 2, 4, 8) for _ in range(3))
    mask = torch.ones(2, 1, 4, 4, dtype=torch.bool)
    mask[0, 0, 2] = False
    check(Layer(attention), q, k, v, mask)


def test_embedding_adds_up_repeated_rows() -> None:
    layer = Layer(lambda i, w: F.embedding(i, w, padding_idx=2), (7, 4))
    check(layer, torch.tensor([[1, 2, 1], [6, 1, 0]]))


def test_indexing() -> None:
    places = torch.tensor([3, 0, 3, 1])
    check(Layer(lambda x: x[places] * x[1:5]), torch.randn(6, 3))
    check(Layer(lambda x: x.gather(0, places[:, None])), torch.randn(6, 3))
    check(Layer(lambda x: x.scatter(0, places[:, None], 2.0)), torch.randn(6, 1))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy(reduction: str) -> None:
    target = torch.tensor([0, 2, -100, 4, 1])
    loss = Layer(lambda x, w: F.cross_entropy(x @ w, target, reduction=reduction), (3, 5))
    check(loss, torch.randn(5, 3))
    smooth = Layer(lambda x: F.cross_entropy(x, target, label_smoothing=0.1))
    check(smooth, torch.randn(5, 6))


ELEMENTWISE: dict[str, Any] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "relu": F.relu,
    "leaky": lambda x: F.leaky_relu(x, 0.2),
    "elu": F.elu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
    "hardswish": F.hardswish,
    "mish": F.mish,
    "softmax": lambda x: F.softmax(x, 1),
    "log_softmax": lambda x: F.log_softmax(x, 0),
    "max": lambda x: x.max(1).values,
    "amax": lambda x: x.amax(0),
    "std": lambda x: x.std(1),
    "cumsum": lambda x: x.cumsum(1),
    "norm": lambda x: x.norm(dim=1),
    "prod": lambda x: (x.abs() + 0.5).prod(1),
    "sort": lambda x: x.sort(1).values,
    "topk": lambda x: x.topk(2, 1).values,
    "flip": lambda x: x.flip(0) * x,
    "pad": lambda x: F.pad(x, (1, 2, 0, 1)),
    "cat": lambda x: torch.cat([x, x * 2], 1),
    "clamp": lambda x: x.clamp(-0.5, 0.7),
    "where": lambda x: torch.where(x > 0, x * x, x.exp()),
    "logsumexp": lambda x: x.logsumexp(1),
    "pow": lambda x: (x.abs() + 0.1) ** 1.7,
}


def test_elementwise_and_reductions() -> None:
    """All in one graph: one compilation for all cases."""
    names = list(ELEMENTWISE)

    def everything(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(ELEMENTWISE[name](x) for name in names)

    backend = zenith_torch.create_backend(fallback="error")
    x = torch.randn(5, 7, requires_grad=True)
    wide = x.detach().double().requires_grad_()
    got, want = torch.compile(everything, backend=backend)(x), everything(wide)
    for name, g, w in zip(names, got, want, strict=True):
        assert relative(g.detach(), w.detach()) < 1e-5, name
        (dg,) = torch.autograd.grad(g.square().sum(), x, retain_graph=True)
        (dw,) = torch.autograd.grad(w.square().sum(), wide, retain_graph=True)
        assert relative(dg, dw) < 2e-5, name


def test_dynamic_batch_in_training() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3))
    exact = copy.deepcopy(model).double()
    backend = zenith_torch.create_backend(fallback="error")
    compiled = torch.compile(model, backend=backend, dynamic=True)
    for rows in (5, 3, 8):
        x = torch.randn(rows, 4)
        got = torch.autograd.grad(compiled(x).square().sum(), list(model.parameters()))
        want = torch.autograd.grad(exact(x.double()).square().sum(), list(exact.parameters()))
        assert max(relative(g, w) for g, w in zip(got, want, strict=True)) < 2e-5
    assert len(backend.programs) == 2  # one forward, one backward


def test_convolutions_of_any_number_of_images_in_training() -> None:
    """The last batch of an epoch is smaller than the others."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, groups=2), nn.AvgPool2d(2), nn.ConvTranspose2d(8, 4, 2, stride=2),
    )  # fmt: skip
    exact = copy.deepcopy(model).double()
    backend = zenith_torch.create_backend(fallback="error")
    compiled = torch.compile(model, backend=backend)
    for batch in (6, 6, 2, 5):
        x = torch.randn(batch, 3, 12, 12)
        got = torch.autograd.grad(compiled(x).square().sum(), list(model.parameters()))
        want = torch.autograd.grad(exact(x.double()).square().sum(), list(exact.parameters()))
        assert max(relative(g, w) for g, w in zip(got, want, strict=True)) < 2e-5
    assert len(backend.programs) == 4  # for the first batch, and for all others


def test_convolutions_over_images_of_any_size_in_training() -> None:
    """Gradients of weights are a product per tap there, and those of inputs are cut to size."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, (3, 2), dilation=2, groups=4),
        nn.Conv2d(8, 4, 3, stride=(3, 2)),
        nn.ConvTranspose2d(4, 2, 2, stride=2),
        nn.AdaptiveAvgPool2d((3, 1)),
    )
    exact = copy.deepcopy(model).double()
    backend = zenith_torch.create_backend(fallback="error")
    compiled = torch.compile(model, backend=backend, dynamic=True)
    for batch, high, wide in ((2, 20, 21), (3, 22, 18), (2, 33, 24)):
        x = torch.randn(batch, 3, high, wide, requires_grad=True)
        y = x.detach().double().requires_grad_()
        got = torch.autograd.grad(compiled(x).square().sum(), [x, *model.parameters()])
        want = torch.autograd.grad(exact(y).square().sum(), [y, *exact.parameters()])
        assert max(relative(g, w) for g, w in zip(got, want, strict=True)) < 2e-5
    assert len(backend.programs) == 2  # one forward, one backward


def test_unknown_operators_in_training_are_left_to_torch() -> None:
    layer = Layer(lambda x, w: torch.igamma(torch.ones(3, 5), (x @ w).exp()), (4, 5))
    backend = check(layer, torch.randn(3, 4), native=False)
    assert {row.op for p in backend.programs for row in p.left} >= {"aten.igamma.default"}


def test_gradients_of_inputs_that_share_a_graph_with_frozen_weights() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    model[0].weight.requires_grad_(False)
    check(model, torch.randn(5, 4))


def test_views_of_one_result_at_any_size() -> None:
    """With dynamic sizes AOTAutograd takes the strides of a view from the tensor we return."""

    def use(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, ...]:
        z = torch.tanh(x @ w).reshape(x.shape[0], -1, 2)
        return z, z[:, 0], z.transpose(0, 1)

    compiled = torch.compile(use, backend=zenith_torch.create_backend(fallback="error"))
    w = torch.randn(4, 6, requires_grad=True)
    for n in (3, 5, 7):
        x = torch.randn(n, 4)
        got, want = compiled(x, w), use(x, w)
        for mine, eager in zip(got, want, strict=True):
            assert mine.stride() == eager.stride()
            torch.testing.assert_close(mine, eager)
        (mine,) = torch.autograd.grad(sum(g.sin().sum() for g in got), w)
        (eager,) = torch.autograd.grad(sum(g.sin().sum() for g in want), w)
        torch.testing.assert_close(mine, eager)


@pytest.mark.parametrize("trained", [False, True])
def test_attention_with_a_bias_of_minus_infinity(trained: bool) -> None:
    """Zero and not NaN, also where the mask is a bias that is trained."""
    query, key, value = (torch.randn(2, 3, n, 8, requires_grad=True) for n in (5, 7, 7))
    seen = torch.ones(2, 1, 5, 7, dtype=torch.bool)
    seen[0, 0, 2] = False
    bias = torch.randn(2, 1, 5, 7).masked_fill(~seen, -torch.inf).requires_grad_(trained)
    attend = F.scaled_dot_product_attention
    compiled = torch.compile(attend, backend=zenith_torch.create_backend(fallback="error"))
    for mask in (bias, seen):
        over = [query, key, value, *([bias] if trained and mask is bias else [])]
        got, want = compiled(query, key, value, mask), attend(query, key, value, mask)
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
        mine = torch.autograd.grad(got.sin().sum(), over)
        for one, other in zip(mine, torch.autograd.grad(want.sin().sum(), over), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
