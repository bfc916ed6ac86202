"""Whole models: every node on the CPU kernels, as near to float64 as PyTorch is, at any shape."""

from __future__ import annotations

import copy
import dataclasses
import functools
import gc
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from architectures import ARCHITECTURES, build

import zenith
from zenith.testing import relative_error

# A model whose fp32 error happens to be tiny must not be held to ten times nothing.
FLOOR = 1e-6


def compile_model(name: str, **options: Any) -> Any:
    """The architecture compiled with dynamic batch (and length), nothing on the reference."""
    arch = ARCHITECTURES[name]
    sample = arch.inputs(2, arch.size)
    options = {"fallback": "error", "dynamic": arch.dynamic_axes(), **options}
    return zenith.compile(build(name), sample_input=sample, **options)


compiled = functools.lru_cache(maxsize=None)(compile_model)


@functools.cache
def source(name: str, dtype: torch.dtype) -> torch.nn.Module:
    return copy.deepcopy(build(name)).to(dtype)


def tensors(result: Any) -> list[torch.Tensor]:
    """All tensors of a model's output, in order."""
    if isinstance(result, torch.Tensor):
        return [result]
    if isinstance(result, Mapping):
        return [t for value in result.values() for t in tensors(value)]
    if isinstance(result, Sequence):
        return [t for value in result for t in tensors(value)]
    return []


def run_source(name: str, inputs: Mapping[str, torch.Tensor], dtype: torch.dtype) -> list[Any]:
    cast = {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}
    with torch.no_grad():
        return [t.numpy() for t in tensors(source(name, dtype)(**cast))]


def check_error(name: str, model: Any, inputs: Mapping[str, torch.Tensor], factor: float) -> None:
    """Error against float64 at most `factor` times that of PyTorch in float32, and below 1e-4."""
    exact = run_source(name, inputs, torch.float64)
    eager = run_source(name, inputs, torch.float32)
    ours = [t.numpy() for t in tensors(model(**inputs))]
    assert [t.shape for t in ours] == [t.shape for t in exact]
    for index, (got, theirs, wanted) in enumerate(zip(ours, eager, exact, strict=True)):
        allowed = min(1e-4, max(FLOOR, factor * relative_error(theirs, wanted)))
        assert relative_error(got, wanted) <= allowed, f"output {index} of {name}"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_error_and_no_fallback(name: str) -> None:
    arch = ARCHITECTURES[name]
    model = compiled(name)
    assert model.explain().fallbacks == []
    for batch, size in ((1, arch.size), arch.odd):
        check_error(name, model, arch.inputs(batch, size, seed=batch), 10)


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "vit", "resnet", "convnext"])
@pytest.mark.parametrize("opt_level", [0, 1, 3])
def test_error_at_other_levels(name: str, opt_level: int) -> None:
    arch = ARCHITECTURES[name]
    model = compile_model(name, opt_level=opt_level)
    check_error(name, model, arch.inputs(*arch.odd, seed=5), 3 if opt_level == 1 else 10)


@pytest.mark.parametrize("name", ["bert", "llama", "resnet", "vit"])
def test_static_shapes(name: str) -> None:
    arch = ARCHITECTURES[name]
    sample = arch.inputs(1, arch.size)
    model = zenith.compile(build(name), sample_input=sample, fallback="error")
    check_error(name, model, sample, 10)
    with pytest.raises(zenith.errors.ValidationError, match="dynamic"):
        model(**arch.inputs(2, arch.size))


@pytest.mark.parametrize("name", ["bert", "gpt2", "qwen2", "mobilenet_v2"])
def test_output_has_the_structure_of_the_model(name: str) -> None:
    arch = ARCHITECTURES[name]
    inputs = arch.inputs(2, arch.size)
    with torch.no_grad():
        wanted = build(name)(**inputs)
    got = compiled(name)(**inputs)
    assert type(got) is type(wanted)
    assert list(got.keys()) == list(wanted.keys())
    for key in wanted:
        assert type(got[key]) is type(wanted[key])


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_one_compile_serves_many_shapes(name: str) -> None:
    arch = ARCHITECTURES[name]
    model = compiled(name)
    for batch in (1, 2, 5, 7):
        for length in (1, 2, 3, 8, 31, 64, 65, 96):
            inputs = arch.inputs(batch, length, seed=length)
            wanted = run_source(name, inputs, torch.float64)
            for got, exact in zip(tensors(model(**inputs)), wanted, strict=True):
                assert relative_error(got.numpy(), exact) <= 1e-4, (batch, length)


@pytest.mark.parametrize("name", ["bert", "resnet"])
def test_same_call_same_bits(name: str) -> None:
    arch = ARCHITECTURES[name]
    inputs = arch.inputs(*arch.odd)
    first, again = (tensors(compiled(name)(**inputs)) for _ in range(2))
    anew = tensors(compile_model(name)(**inputs))
    for a, b, c in zip(first, again, anew, strict=True):
        assert a.data_ptr() != b.data_ptr()
        assert torch.equal(a, b)
        assert torch.equal(a, c)


@pytest.mark.parametrize("name", ["bert", "convnext"])
def test_source_may_change_or_go(name: str) -> None:
    arch = ARCHITECTURES[name]
    inputs = arch.inputs(*arch.odd)
    model = build(name)
    frozen = zenith.compile(
        model, sample_input=inputs, dynamic=arch.dynamic_axes(), fallback="error"
    )
    before = tensors(frozen(**inputs))
    with torch.no_grad():
        for value in [*model.parameters(), *model.buffers()]:
            value.fill_(3)
    changed = tensors(frozen(**inputs))
    del model
    gc.collect()
    gone = tensors(frozen(**inputs))
    for a, b, c in zip(before, changed, gone, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


@dataclasses.dataclass(frozen=True)
class Wrong:
    change: Any
    said: str


WRONG = {
    "dtype": Wrong(lambda x: {**x, "input_ids": x["input_ids"].float()}, "float32"),
    "rank": Wrong(lambda x: {**x, "input_ids": x["input_ids"][0]}, "input_ids"),
    "shape": Wrong(lambda x: {**x, "attention_mask": x["attention_mask"][:, :-1]}, "seq"),
    "missing": Wrong(lambda x: {"input_ids": x["input_ids"]}, "attention_mask"),
    "unknown": Wrong(lambda x: {**x, "labels": x["input_ids"]}, "labels"),
    "not a tensor": Wrong(lambda x: {**x, "input_ids": "text"}, "input_ids"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_input_is_a_validation_error(kind: str) -> None:
    inputs = ARCHITECTURES["bert"].inputs(2, 9)
    model = compiled("bert")
    with pytest.raises(zenith.errors.ValidationError) as caught:
        model(**WRONG[kind].change(inputs))
    assert WRONG[kind].said in str(caught.value)
    model(**inputs)  # and the next call is fine


def test_data_error_of_a_kernel_is_a_kernel_error() -> None:
    inputs = ARCHITECTURES["bert"].inputs(2, 9)
    inputs["input_ids"][1, 3] = 1000  # the vocabulary has 97
    with pytest.raises(zenith.errors.KernelError, match="range"):
        compiled("bert")(**inputs)


def test_views_just_work() -> None:
    arch = ARCHITECTURES["resnet"]
    dense = arch.inputs(2, 32)["pixel_values"]
    wanted = compiled("resnet")(pixel_values=dense).logits
    nhwc = dense.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    spread = torch.zeros(4, 3, 32, 64)[::2, :, :, ::2]
    spread.copy_(dense)
    for view in (nhwc, spread, dense.clone().requires_grad_(), torch.nn.Parameter(dense)):
        assert torch.equal(compiled("resnet")(pixel_values=view).logits, wanted)


def test_positional_call() -> None:
    inputs = ARCHITECTURES["bert"].inputs(2, 9)
    model = compiled("bert")
    by_name = model(**inputs).last_hidden_state
    assert torch.equal(model(inputs["input_ids"], inputs["attention_mask"])[0], by_name)


def test_run_takes_numpy_by_name() -> None:
    inputs = ARCHITECTURES["bert"].inputs(2, 9)
    model = compiled("bert")
    arrays = {k: v.numpy() for k, v in inputs.items()}
    results = model.run(arrays)
    wanted = tensors(model(**inputs))
    for got, tensor in zip(results.values(), wanted, strict=True):
        np.testing.assert_array_equal(got, tensor.numpy())
    with pytest.raises(zenith.errors.ValidationError, match="attention_mask"):
        model.run({"input_ids": arrays["input_ids"]})


def test_explain_says_what_runs() -> None:
    explanation = compiled("bert").explain()
    text = str(explanation)
    for node in explanation.nodes:
        assert node.backend == "cpu"
        assert node.kernel
        assert node.why
        assert node.dtype
        assert node.kernel[:20] in text
    assert "fallbacks" in explanation.to_json()


def test_verify_agrees_with_the_reference() -> None:
    inputs = ARCHITECTURES["vit"].inputs(2, 32)
    assert compiled("vit").verify(**inputs).worst <= 1e-4
