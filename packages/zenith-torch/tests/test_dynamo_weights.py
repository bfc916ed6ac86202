"""torch.compile(backend="zenith"): parameters are constants, and changes of them are noticed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import zenith_torch
from zenith_torch.dynamo import Backend, Region
from zenith_torch.dynamo.region import REPACKS, SETS


@pytest.fixture(autouse=True)
def _fresh() -> Any:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def made(model: nn.Module) -> tuple[Any, Backend]:
    backend = zenith_torch.create_backend(fallback="error")
    return torch.compile(model.eval(), backend=backend), backend


def regions(backend: Backend) -> list[Region]:
    return [region for program in backend.programs for region in program.regions]


def check(compiled: Any, model: nn.Module, x: torch.Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-5)


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))


def test_weights_are_packed_constants() -> None:
    compiled, backend = made(net())
    with torch.no_grad():
        compiled(torch.randn(5, 4))
    (region,) = regions(backend)
    assert region.compiled is not None
    assert len(region.compiled.input_names) == 1
    assert len(region.compiled.graph.initializers) > 0


def in_place(model: nn.Module) -> None:
    model[0].weight.mul_(-1.5)


def load(model: nn.Module) -> None:
    model.load_state_dict(net().state_dict())


def assign(model: nn.Module) -> None:
    model.load_state_dict(net().state_dict(), assign=True)


def data_replaced(model: nn.Module) -> None:
    model[2].bias.data = torch.randn(3)


def step(model: nn.Module) -> None:
    with torch.enable_grad():
        model(torch.randn(7, 4)).square().sum().backward()
    torch.optim.AdamW(model.parameters(), lr=0.3, foreach=True).step()


def buffer(model: nn.Module) -> None:
    model[1].running_mean.add_(3)


def through_a_view(model: nn.Module) -> None:
    model[0].weight.view(-1)[3] = 40.0


@pytest.mark.parametrize(
    "change", [in_place, load, assign, data_replaced, step, buffer, through_a_view]
)
def test_changes_are_noticed(change: Any) -> None:
    model = net()
    compiled, backend = made(model)
    x = torch.randn(5, 4)
    check(compiled, model, x)
    before = compiled(x).detach()
    with torch.no_grad():
        change(model)
    check(compiled, model, x)
    assert not torch.allclose(before, model(x))
    check(compiled, model, x)
    inference = [p for p in backend.programs if p.kind == "inference"]
    assert sum(r.compilations for p in inference for r in p.regions) == 2


def test_what_cannot_be_seen_has_a_call() -> None:
    model = net()
    compiled, _ = made(model)
    x = torch.randn(5, 4)
    check(compiled, model, x)
    model[0].weight.data.mul_(-2)
    zenith_torch.refresh(model)
    check(compiled, model, x)
    model[0].weight.data.mul_(-2)
    zenith_torch.refresh()
    check(compiled, model, x)


def test_tensors_of_inference_mode_have_no_version() -> None:
    with torch.inference_mode():
        model = net()
        compiled, _ = made(model)
        x = torch.randn(5, 4)
        check(compiled, model, x)
        model[0].weight.mul_(3)
        zenith_torch.refresh(model)
        check(compiled, model, x)


def test_refreshing_one_model_leaves_others() -> None:
    first, second = net(), net()
    (one, backend_one), (two, backend_two) = made(first), made(second)
    x = torch.randn(5, 4)
    check(one, first, x)
    check(two, second, x)
    zenith_torch.refresh(first)
    assert regions(backend_one)[0].compiled is None
    assert regions(backend_two)[0].compiled is not None


def test_weights_that_change_all_the_time_become_inputs() -> None:
    model = net()
    compiled, backend = made(model)
    x = torch.randn(5, 4)
    for _ in range(REPACKS + 5):
        check(compiled, model, x)
        with torch.no_grad():
            model[0].weight.mul_(1.1)
    (region,) = regions(backend)
    assert region.compilations == REPACKS + 2
    assert region.compiled is not None
    assert len(region.compiled.input_names) == 2  # x and the weight that moves; no other


def test_layers_of_one_shape_share_a_graph_not_their_weights() -> None:
    layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3)).eval()
    backend = zenith_torch.create_backend(fallback="error")

    def apply(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return layer(x).relu()

    compiled = torch.compile(apply, backend=backend)
    x = torch.randn(5, 4)
    with torch.no_grad():
        for _ in range(2):
            for layer in layers:
                torch.testing.assert_close(compiled(layer, x), apply(layer, x))
    assert sum(r.compilations for r in regions(backend)) == 3


def test_very_many_layers_stop_being_constants() -> None:
    layers = [nn.Linear(2, 2).eval() for _ in range(SETS + 4)]
    backend = zenith_torch.create_backend(fallback="error")

    def apply(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return layer(x)

    compiled = torch.compile(apply, backend=backend)
    x = torch.randn(3, 2)
    with torch.no_grad():
        for layer in (*layers, *layers):
            torch.testing.assert_close(compiled(layer, x), layer(x))
    assert max(r.compilations for r in regions(backend)) <= SETS + 1


def test_tied_weights_are_one_constant() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(50, 16), nn.Linear(16, 50, bias=False)
            self.head.weight = self.table.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.table(x))

    model = Tied()
    compiled, backend = made(model)
    x = torch.randint(0, 50, (3, 4))
    check(compiled, model, x)
    with torch.no_grad():
        model.table.weight[3] += 1
    check(compiled, model, x)
    assert len(regions(backend)) == 1


def test_the_source_may_go_away() -> None:
    model = net()
    compiled, backend = made(model)
    check(compiled, model, torch.randn(5, 4))
    del model, compiled
    torch._dynamo.reset()
    import gc

    gc.collect()
    assert backend.programs == []
    assert backend.explain() == "no graph was compiled yet"


def test_parameters_are_watched_natively() -> None:
    """Where PyTorch's own attributes are read, a call pays ten times as much."""
    from zenith._native import NativeReader
    from zenith_torch.dynamo.watch import _readers, snapshot

    assert all(isinstance(reader, NativeReader) for reader in _readers())
    tensors = [nn.Parameter(torch.randn(3)) for _ in range(6)]
    taken = snapshot(dict(enumerate(tensors)))
    assert taken.matches(tuple(tensors))
    with torch.no_grad():
        tensors[1].add_(1)
    tensors[2].data = torch.randn(3)
    other = nn.Parameter(torch.zeros(3))
    torch.utils.swap_tensors(tensors[3], other)
    given = list(tensors)
    given[4] = nn.Parameter(tensors[4].detach())
    assert not taken.matches(tuple(given))
    assert taken.changed(tuple(given)) == [1, 2, 3, 4]
