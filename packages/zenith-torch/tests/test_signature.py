"""What calls accept and give back, and what errors say."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections import namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch_oracle import assert_same, check, import_raw

import zenith
from zenith.errors import CompilationError, UnsupportedOperationError, ValidationError
from zenith_torch.lower import HANDLERS
from zenith_torch.plugin import TorchAdapter, zenith_register_adapters
from zenith_torch.signature import TensorAccess

Point = namedtuple("Point", "x y")


class Two(nn.Module):
    """Two inputs, one of them optional."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor, mask: torch.Tensor, scale: float = 2.0) -> torch.Tensor:
        return self.layer(x) * mask * scale


class Nested(nn.Module):
    """A tree in, a tree out."""

    def forward(self, batch: dict[str, Any], extra: list[torch.Tensor]) -> dict[str, Any]:
        x, y = batch["x"], batch["pair"][0]
        return {"sum": x + y, "pair": (extra[0], [x, x]), "point": Point(x * 2, None), "n": 3}


@pytest.mark.parametrize("shape", [(), (3,), (2, 0, 3), (2, 1, 3), (0, 4), (1, 1, 5)])
def test_results_lie_as_new_tensors_of_torch_do(shape: tuple[int, ...]) -> None:
    made = TensorAccess().maker("float32", shape)()
    assert made.shape == shape and made.dtype == torch.float32
    assert made.stride() == torch.empty(shape).stride()


def test_arguments_by_position_and_name() -> None:
    model, x, mask = Two().eval(), torch.randn(2, 4), torch.ones(2, 3)
    program = check(model, (x, mask))
    want = model(x, mask)
    assert_same(program(x, mask=mask), want)
    assert_same(program(mask=mask, x=x), want)
    assert_same(program(x, mask, 2.0), want)
    assert_same(program(x.numpy(), mask.numpy()), want)
    assert_same(program(torch.randn(4, 2).t().copy_(x), mask), want)
    by_name = import_raw(model, {"mask": mask, "x": x})
    assert_same(by_name(x, mask), want)
    assert by_name.signature.input_names == ["mask", "x"]


@pytest.mark.parametrize(
    ("args", "kwargs", "says"),
    [
        ((), {}, "'x' is missing"),
        ((torch.ones(2, 4),), {}, "'mask' is missing"),
        ((torch.ones(2, 4), torch.ones(2, 3), 3.0), {}, "was not in sample_input"),
        ((torch.ones(2, 4), torch.ones(2, 3), 2.0, 1), {}, "positional"),
        ((torch.ones(2, 4), torch.ones(2, 3)), {"x": torch.ones(2, 4)}, "given twice"),
        ((torch.ones(2, 4), torch.ones(2, 3)), {"z": torch.ones(1)}, "'z'"),
        ((torch.ones(2, 4).double(), torch.ones(2, 3)), {}, r"x.to\(torch.float32\)"),
        ((torch.ones(2, 4), [1.0]), {}, "a list"),
        ((torch.ones(2, 4), None), {}, "None"),
        ((torch.ones(2, 4).to_sparse(), torch.ones(2, 3)), {}, "sparse"),
        ((torch.ones(2, 4, device="meta"), torch.ones(2, 3)), {}, "meta"),
    ],
)
def test_wrong_calls(args: Any, kwargs: Any, says: str) -> None:
    program = import_raw(Two().eval(), (torch.ones(2, 4), torch.ones(2, 3)))
    with pytest.raises(ValidationError, match=says):
        program.signature.flatten(args, kwargs)


def test_trees() -> None:
    x = torch.randn(1, 2)
    sample = ({"x": x, "pair": (x + 1, 5)}, [x * 3])
    dynamic = {0: {"x": {0: "n"}, "pair": [{0: "n"}]}, "extra.0": {0: "n"}}
    y = torch.randn(3, 2)
    program = check(Nested().eval(), sample, dynamic, [({"x": y, "pair": (y, 5)}, [y])])
    assert program.signature.output_names[0] == "sum"
    with pytest.raises(ValidationError, match="constant"):
        program({"x": x, "pair": (x + 1, 6)}, [x])
    with pytest.raises(ValidationError, match="structure"):
        program({"x": x}, [x])


def test_outputs_that_are_inputs_constants_or_each_other() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.arange(3.0))

        def forward(self, x: torch.Tensor) -> Any:
            y = x + 1
            return x, y, y, self.table, None, x.shape[0], "name"

    program = check(Model().eval(), (torch.randn(1, 2),), {0: {0: "n"}}, [(torch.randn(4, 2),)])
    assert program(torch.zeros(5, 2))[5] == 5


def test_numbers_for_scalars() -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
            return x * s

    program = check(Model().eval(), (torch.ones(2), torch.tensor(3.0)))
    assert_same(program(torch.ones(2), 4), torch.full((2,), 4.0))


def test_tensors_whose_values_are_not_in_memory() -> None:
    """PyTorch's zeros of automatic differentiation have no memory, a negated view other values."""
    layer = nn.Linear(3, 2).eval()
    fast = zenith.compile(layer, sample_input=(torch.ones(2, 3),))
    for x in (torch._efficientzerotensor((2, 3)), torch._neg_view(torch.randn(2, 3))):
        assert_same(fast(x), layer(x.clone()).detach())


def test_tied_and_transposed_weights_share_memory() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(10, 4)
            self.head = nn.Linear(4, 10, bias=False)
            self.head.weight = self.table.weight

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.table(ids))

    model = Tied().eval()
    program = check(model, (torch.tensor([[1, 2]]),))
    initializers = program.model.graph.initializers
    assert set(initializers) == {"table.weight", "table.weight.T"}
    for value in initializers.values():
        assert np.shares_memory(value.const_value.numpy(), model.table.weight.detach().numpy())


def test_training_mode_warns_and_is_kept() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.BatchNorm1d(3))
    model[0].eval()
    with pytest.warns(UserWarning, match="training mode"):
        program = import_raw(model, (torch.ones(2, 3),))
    assert [m.training for m in model] == [False, True, True]
    assert_same(program(torch.ones(2, 3)), model.eval()(torch.ones(2, 3)))


def test_nothing_keeps_the_model_alive() -> None:
    model = Two().eval()
    ref = weakref.ref(model)
    program = import_raw(model, (torch.ones(2, 4), torch.ones(2, 3)))
    del model
    gc.collect()
    assert ref() is None
    assert program(torch.ones(2, 4), torch.ones(2, 3)).shape == (2, 3)


def test_all_unsupported_operators_at_once_with_lines() -> None:
    class Bad(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.linalg.eigvalsh(x)
            z = torch.special.bessel_j0(y)
            return torch.special.i0(z)

    with pytest.raises(UnsupportedOperationError) as caught:
        import_raw(Bad().eval(), (torch.eye(3),))
    text = str(caught.value)
    assert "linalg_eigh" in text and "bessel_j0" in text and "aten.i0" in text
    assert "test_signature.py:" in text and "torch.linalg.eigvalsh(x)" in text


def test_data_dependent_control_flow_shows_the_line() -> None:
    class Branch(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.sum() > 0:
                return x
            return -x

    with pytest.raises(CompilationError) as caught:
        import_raw(Branch().eval(), (torch.ones(3),))
    assert "if x.sum() > 0" in str(caught.value) and "torch.where" in str(caught.value)


def test_missing_sample_and_wrong_dynamic() -> None:
    model, x = nn.Linear(4, 3).eval(), torch.ones(1, 4)
    with pytest.raises(ValidationError, match="sample_input"):
        import_raw(model, None)
    with pytest.raises(ValidationError, match="'y'"):
        import_raw(model, (x,), {"y": {0: "n"}})
    with pytest.raises(ValidationError, match="2 axes"):
        import_raw(model, (x,), {0: {2: "n"}})
    with pytest.raises(CompilationError, match="dynamic"):
        import_raw(model, (x,), {0: {1: "features"}})


def test_exported_programs_and_fx_graphs() -> None:
    model, x = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval(), torch.randn(2, 4)
    check(torch.fx.symbolic_trace(model), (x,))
    batch = torch.export.Dim("batch")
    program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},))
    imported = import_raw(program, None)
    assert_same(imported(torch.ones(5, 4)), model(torch.ones(5, 4)).detach())
    named = import_raw(program, None, {0: {0: "rows"}})
    assert str(named.model.graph.inputs[0].shape[0]) == "rows"


def test_every_value_has_a_shape_and_a_source() -> None:
    program = import_raw(
        Two().eval(), (torch.ones(1, 4), torch.ones(1, 3)), {0: {0: "n"}, 1: {0: "n"}}
    )
    for node in program.model.graph:
        assert node.metadata_props["zenith.source"].startswith("test_signature.py:")
        assert [str(d) for d in node.outputs[0].shape] == ["n", "3"]


def test_low_precision_weights_are_views() -> None:
    model = nn.Linear(4, 3).bfloat16().eval()
    program = import_raw(model, (torch.ones(1, 4, dtype=torch.bfloat16),))
    weight = program.model.graph.initializers["weight.T"].const_value
    assert weight.dtype.name == "BFLOAT16" and weight.numpy().shape == (4, 3)


def test_adapter_answers_without_importing() -> None:
    (adapter,) = zenith_register_adapters()
    assert isinstance(adapter, TorchAdapter)
    assert adapter.accepts(nn.ReLU()) and not adapter.accepts(object())


def test_no_warnings_from_the_capture() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        import_raw(nn.Linear(2, 2).eval(), (torch.ones(1, 2),))


def test_a_result_that_no_handler_gives_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Both(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return torch.aminmax(x)

    name = "aten.aminmax.default"
    monkeypatch.setitem(HANDLERS, name, lambda b, x, **_: [HANDLERS["aten.amin.default"](b, x)])
    with pytest.raises(UnsupportedOperationError, match="its result 1 is used"):
        import_raw(Both().eval(), torch.randn(2, 3))
