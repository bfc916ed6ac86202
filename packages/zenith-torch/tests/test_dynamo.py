"""torch.compile(backend="zenith") for inference: values, shapes, graphs, options, partitions."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn

import zenith_torch
from zenith.errors import ConfigurationError, UnsupportedOperationError
from zenith.events import events
from zenith.runtime.stages import FallbackWarning


@pytest.fixture(autouse=True)
def _fresh() -> Any:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def small_net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


def same(got: Any, want: Any, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


def strict() -> Any:
    """A backend that refuses what Zenith does not run natively."""
    return zenith_torch.create_backend(fallback="error")


def test_entry_point_by_name() -> None:
    assert "zenith" in torch._dynamo.list_backends()
    model = small_net()
    compiled = torch.compile(model, backend="zenith")
    x = torch.randn(5, 4)
    with torch.no_grad():
        same(compiled(x), model(x))
    assert "linear_f32" in zenith_torch.explain()


def test_changing_shapes_take_few_compilations() -> None:
    model = small_net()
    backend = strict()
    compiled = torch.compile(model, backend=backend)
    finished: list[Any] = []
    stop = events.subscribe(lambda e: e.name == "compile_finished" and finished.append(e))
    try:
        with torch.no_grad():
            for rows in (7, 5, 9, 2, 33, 64):
                x = torch.randn(rows, 4)
                same(compiled(x), model(x))
    finally:
        stop()
    assert len(finished) == 2  # the first shape, then one graph for all
    assert [r.compilations for p in backend.programs for r in p.regions] == [1, 1]


def test_one_graph_when_told_that_sizes_change() -> None:
    def pieces(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.cat([x.flatten(1), y.mean(1)], 1) * x.shape[1] + y.shape[0]

    backend = strict()
    compiled = torch.compile(pieces, backend=backend, dynamic=True)
    for n, a, b in ((2, 3, 4), (5, 2, 9), (3, 7, 2)):
        x, y = torch.randn(n, a, 5), torch.randn(n, b, 6)
        same(compiled(x, y), pieces(x, y))
    assert len(backend.programs) == 1


def test_a_number_that_is_no_axis() -> None:
    def grow(x: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        return x * n, x.new_ones(n, 2) + x.sum()

    backend = strict()
    compiled = torch.compile(grow, backend=backend, dynamic=True)
    for n in (3, 5, 8):
        x = torch.randn(n + 4, 11)
        same(compiled(x, n), grow(x, n))
    assert len(backend.programs) == 1


def test_graph_breaks_make_several_programs() -> None:
    def broken(x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(x) + 1
        torch._dynamo.graph_break()
        return y.cos() * 2

    backend = strict()
    x = torch.randn(3, 4)
    same(torch.compile(broken, backend=backend)(x), broken(x))
    assert [p.kind for p in backend.programs] == ["inference", "inference"]


def test_buffers_are_written() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen.add_(x.sum(0))
            return x - self.seen

    eager, other = Counter(), Counter()
    backend = strict()
    compiled = torch.compile(other, backend=backend)
    with torch.no_grad():
        for _ in range(4):
            x = torch.randn(3, 4)
            same(compiled(x), eager(x))
            same(other.seen, eager.seen)
    assert [r.compilations for p in backend.programs for r in p.regions] == [1]


def test_batch_norm_in_training_mode_without_gradients() -> None:
    eager = nn.BatchNorm2d(3)
    other = nn.BatchNorm2d(3)
    compiled = torch.compile(other, backend=strict())
    with torch.no_grad():
        for _ in range(2):
            x = torch.randn(4, 3, 5, 5)
            same(compiled(x), eager(x))
    same(other.running_mean, eager.running_mean)
    same(other.running_var, eager.running_var)


@pytest.mark.parametrize("trained", [False, True])
def test_results_that_are_views_of_an_input_of_any_size(trained: bool) -> None:
    """One view for each input: AOTAutograd would take its strides from a copy of ours."""

    def views(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return x.expand(2, *x.shape), y.view(-1)[1::2], z[1:], z * 2

    compiled = torch.compile(views, backend=strict(), dynamic=True)
    for n in (4, 6):
        inputs = [torch.randn(n, 3, requires_grad=trained) for _ in range(3)]
        got, want = compiled(*inputs), views(*inputs)
        same(got, want)
        for mine, theirs in zip(got[:3], want[:3], strict=True):
            assert mine.stride() == theirs.stride() and mine.data_ptr() == theirs.data_ptr()


def test_inputs_and_outputs_that_alias() -> None:
    def views(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = x * 2
        return x, x.t(), y, y[1:], y.t()

    compiled = torch.compile(views, backend=strict())
    x = torch.randn(4, 6)
    got, want = compiled(x), views(x)
    for g, w in zip(got, want, strict=True):
        same(g, w)
        assert g.stride() == w.stride()
    assert got[0] is x and got[1].data_ptr() == x.data_ptr()
    got[2].fill_(7)
    assert (got[3] == 7).all() and (got[4] == 7).all()


def test_inputs_written_in_place() -> None:
    def write(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x[:, 1] = y
        return x.sum(1)

    compiled = torch.compile(write, backend=strict())
    x, y = torch.randn(3, 4), torch.randn(3)
    mine = x.clone()
    same(compiled(mine, y), write(x, y))
    same(mine, x)


def test_inputs_that_share_memory() -> None:
    def write(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x.add_(1)
        return y * 2

    compiled = torch.compile(write, backend=strict())
    base = torch.randn(6)
    mine = base.clone()
    same(compiled(mine[:4], mine[2:]), write(base[:4], base[2:]))
    same(mine, base)


@pytest.mark.parametrize("order", ["transposed", "strided", "expanded", "channels_last"])
def test_inputs_that_are_not_contiguous(order: str) -> None:
    base = torch.randn(2, 6, 4, 8)
    x = {
        "transposed": base.transpose(1, 3),
        "strided": base[:, ::2, :, 1::3],
        "expanded": base[:1].expand(3, 6, 4, 8),
        "channels_last": base.to(memory_format=torch.channels_last),
    }[order]

    def use(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x * 2 + 1, x.sum(-1)

    got, want = torch.compile(use, backend=strict())(x), use(x)
    same(got, want)
    if order in ("transposed", "channels_last"):
        assert got[0].stride() == want[0].stride()


def test_views_of_a_result_in_another_memory_order() -> None:
    """AOTAutograd makes the view from strides of the trace: the result must have them."""

    def use(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = x.transpose(0, 2) * 3
        return y, y.transpose(1, 2)[1]

    x = torch.randn(2, 3, 5)
    got, want = torch.compile(use, backend=strict())(x), use(x)
    same(got, want)
    assert [g.stride() for g in got] == [w.stride() for w in want]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(mode: Any) -> None:
    model = small_net()
    compiled = torch.compile(model, backend=strict())
    x = torch.randn(5, 4)
    with mode():
        got = compiled(x)
        same(got, model(x))
        assert got.is_inference() == (mode is torch.inference_mode)
        same(compiled(x + 1), model(x + 1))
    assert compiled(x).requires_grad


class Rare(nn.Module):
    """An operator in the middle that nobody lowered."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.special.bessel_j0(self.first(x).relu())
        return self.second(y) * y.sum()


@pytest.mark.parametrize("norm_first", [False, True])
def test_encoder_layers_that_torch_fuses_for_itself(norm_first: bool) -> None:
    """In evaluation a module is one operator, with masks of other kinds than a function's."""
    layer = nn.TransformerEncoderLayer(
        16, 4, 24, batch_first=True, norm_first=norm_first, activation="gelu"
    ).eval()
    x, ends = torch.randn(2, 6, 16), torch.arange(6).expand(2, 6) >= torch.tensor([[6], [4]])
    later = torch.ones(6, 6, dtype=torch.bool).triu(1)
    compiled = torch.compile(layer, backend=strict())
    for masks in ({}, {"src_mask": later}, {"src_mask": later, "src_key_padding_mask": ends}):
        with torch.no_grad():
            same(compiled(x, **masks), layer(x, **masks))


def test_unknown_operators_are_left_to_torch_and_named() -> None:
    model = Rare().eval()
    backend = zenith_torch.create_backend()
    compiled = torch.compile(model, backend=backend)
    found: list[Any] = []
    stop = events.subscribe(lambda e: e.name == "fallback" and found.append(e))
    x = torch.randn(5, 4)
    with torch.no_grad():
        with pytest.warns(FallbackWarning, match=r"aten\.special_bessel_j0\.default.*no lowering"):
            got = compiled(x)
        stop()
        same(got, model(x))
        model.second.weight.mul_(2)
        same(compiled(x), model(x))
    (program,) = backend.programs
    assert [row.op for row in program.left] == ["aten.special_bessel_j0.default"]
    assert "test_dynamo.py" in program.left[0].source
    assert len(program.regions) == 2
    assert [(e.op, e.backend) for e in found] == [("aten.special_bessel_j0.default", "torch")]
    assert "PyTorch runs" in backend.explain() and "linear_f32" in backend.explain()


def test_unknown_operators_can_be_refused() -> None:
    compiled = torch.compile(Rare().eval(), backend="zenith", options={"fallback": "error"})
    with (
        pytest.raises(UnsupportedOperationError, match=r"aten\.special_bessel_j0\.default"),
        torch.no_grad(),
    ):
        compiled(torch.randn(5, 4))


def test_quiet_fallback() -> None:
    compiled = torch.compile(Rare().eval(), backend="zenith", options={"fallback": "allow"})
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        compiled(torch.randn(5, 4))


def test_a_region_that_cannot_be_compiled_is_left_to_torch(monkeypatch: Any) -> None:
    from zenith.errors import CompilationError
    from zenith_torch.dynamo import region

    def fail(*args: Any, **options: Any) -> Any:
        raise CompilationError("out of ideas")

    monkeypatch.setattr(region.zenith, "compile", fail)
    model, x = small_net(), torch.randn(5, 4)
    backend = zenith_torch.create_backend()
    compiled = torch.compile(model, backend=backend)
    with torch.no_grad(), pytest.warns(FallbackWarning, match="PyTorch runs it.*out of ideas"):
        same(compiled(x), model(x))
    with torch.no_grad():
        same(compiled(x), model(x))
    assert "out of ideas" in backend.explain()
    torch._dynamo.reset()
    compiled = torch.compile(model, backend=strict())
    with pytest.raises(CompilationError, match="out of ideas"), torch.no_grad():
        compiled(x)


def test_a_result_that_only_some_lowering_gives() -> None:
    """An operator with a tuple of results stays whole, on one side or the other."""

    def use(x: torch.Tensor) -> torch.Tensor:
        values, places = torch.mode(x * 2, 1)
        return values + places

    x = torch.randint(0, 3, (4, 9)).float()
    compiled = torch.compile(use, backend=zenith_torch.create_backend(fallback="allow"))
    same(compiled(x), use(x))


@pytest.mark.parametrize(
    "given",
    [
        {"options": {"precision": "int3"}},
        {"options": {"target": "nowhere"}},
        {"options": {"unheard_of": 1}},
        {"options": {"threads": -1}},
        {"mode": "max-autotune-no-cudagraphs"},
    ],
)
def test_wrong_options_are_refused(given: dict[str, Any]) -> None:
    compiled = torch.compile(small_net(), backend="zenith", **given)
    kind = Exception if "target" in given.get("options", {}) else ConfigurationError
    with pytest.raises(kind) as caught, torch.no_grad():
        compiled(torch.randn(5, 4))
    assert type(caught.value).__module__ == "zenith.errors"


def test_right_options_are_taken() -> None:
    model, x = small_net(), torch.randn(5, 4)
    with torch.no_grad():
        for mode in ("reduce-overhead", "max-autotune"):
            by_mode = torch.compile(model, backend="zenith", mode=mode)
            same(by_mode(x), model(x))
            torch._dynamo.reset()
        options = {"target": "cpu", "threads": 1, "opt_level": 0, "fallback": "error"}
        same(torch.compile(model, backend="zenith", options=options)(x), model(x))


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")  # of torch.func
def test_second_derivatives_inside() -> None:
    """Forward mode gives the graphs tensors of zeros that have no memory."""
    x, w = torch.randn(4, requires_grad=True), torch.randn(3, 4)

    def use(x: torch.Tensor) -> torch.Tensor:
        return torch.func.hessian(lambda a: ((w @ a).tanh() ** 2).sum())(x)

    want = use(x)
    (slope,) = torch.autograd.grad(want.sum(), x)
    got = torch.compile(use, backend=zenith_torch.create_backend(fallback="allow"))(x)
    same(got, want)
    same(torch.autograd.grad(got.sum(), x)[0], slope)


def test_create_backend_checks_at_once() -> None:
    with pytest.raises(ConfigurationError, match="precision"):
        zenith_torch.create_backend(precision="fp7")
    with pytest.raises(ConfigurationError, match="surprise"):
        zenith_torch.create_backend(surprise=1)
    assert "target='cpu'" in repr(zenith_torch.create_backend(target="cpu"))


def test_integers_and_booleans() -> None:
    def use(x: torch.Tensor, m: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return x // 3, x % 3, m & (x > 2), torch.where(m, x, -x), x.sum(), m.any(1)

    x, m = torch.randint(-9, 9, (4, 5)), torch.rand(4, 5) > 0.5
    same(torch.compile(use, backend=strict())(x, m), use(x, m))


def test_operators_that_opinfo_found_wrong_or_missing() -> None:
    def use(x: torch.Tensor, m: torch.Tensor, i: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (
            torch.add(m, ~m, alpha=False),
            torch.masked_scatter(x[:1], m, x * 2),
            x.scatter_reduce(0, i, x + 1, "mean", include_self=False),
            x.scatter_reduce(0, i, x + 1, "amax", include_self=False),
            x[0, 0].scatter_reduce(0, i[0, 0], x[1, 1], "sum"),
            torch.atan2(x, x.flip(0)),
            (x > 0).sort(dim=1, stable=True).indices,
            x.round().sort(dim=1, descending=True, stable=True).indices,
        )

    x, m, i = torch.randn(4, 5), torch.rand(4, 5) > 0.5, torch.randint(0, 4, (4, 5))
    i[0, 0] = 0
    for got, want in zip(torch.compile(use, backend=strict())(x, m, i), use(x, m, i), strict=True):
        same(got, want)
