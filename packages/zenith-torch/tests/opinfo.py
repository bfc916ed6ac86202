"""PyTorch's own sample inputs (OpInfo) through our lowering, for every core ATen operator."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

import zenith
from zenith_torch import coverage
from zenith_torch.dynamo.backend import decompositions
from zenith_torch.dynamo.edges import import_graph, unsupported
from zenith_torch.dynamo.signature import assemble

__all__ = ["DTYPES", "accepted", "bad_samples", "core_operators", "infos", "run", "samples"]

DTYPES = (torch.float32, torch.int64, torch.bool)

# Core operators that an OpInfo of another name is decomposed to.
ALIASES = {
    "_adaptive_avg_pool2d": ["nn.functional.adaptive_avg_pool2d"],
    "_adaptive_avg_pool3d": ["nn.functional.adaptive_avg_pool3d"],
    "_cdist_forward": ["cdist"],
    "_embedding_bag": ["nn.functional.embedding_bag"],
    "_fft_c2r": ["fft.irfft"],
    "_fft_r2c": ["fft.rfft"],
    "_log_softmax": ["log_softmax"],
    "_native_batch_norm_legit_no_training": ["_native_batch_norm_legit"],
    "_pdist_forward": ["nn.functional.pdist"],
    "_softmax": ["softmax"],
    "_to_copy": ["to", "float", "long", "bool"],
    "adaptive_avg_pool1d": ["nn.functional.adaptive_avg_pool1d"],
    "alias": ["contiguous"],
    "col2im": ["nn.functional.fold"],
    "convolution": [
        *(f"nn.functional.conv{n}d" for n in (1, 2, 3)),
        *(f"nn.functional.conv_transpose{n}d" for n in (1, 2, 3)),
    ],
    "elu": ["nn.functional.elu", "nn.functional.selu"],
    "embedding": ["nn.functional.embedding"],
    "index": ["__getitem__"],
    "max_pool2d_with_indices": ["nn.functional.max_pool2d"],
    "max_pool3d_with_indices": ["nn.functional.max_pool3d"],
    "reflection_pad1d": ["nn.functional.pad"],
    "upsample_bilinear2d": ["nn.functional.interpolate"],
    "upsample_nearest2d": ["nn.functional.upsample_nearest"],
}


def core_operators() -> list[str]:
    """The names of what PyTorch tags as core ATen, without overloads."""
    return sorted({name.split(".")[1] for name in coverage.core_operators()})


@functools.cache
def _by_name() -> dict[str, list[Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_methods_invocations import op_db

    table: dict[str, list[Any]] = {}
    for info in op_db:
        for name in {f"aten {info.aten_name or info.name}", f"name {info.name}"}:
            table.setdefault(name, []).append(info)
    return table


def infos(operator: str) -> list[Any]:
    """The OpInfos that exercise a core operator."""
    table = _by_name()
    by_alias = [i for name in ALIASES.get(operator, ()) for i in table.get(f"name {name}", ())]
    return table.get(f"aten {operator}", []) + by_alias


def samples(
    operator: str, limit: int | None, *, one_each: bool = False
) -> Iterator[tuple[str, Any, Any]]:
    """(what, OpInfo, sample): `limit` of each OpInfo and dtype, spread over all of them.

    one_each: of each dtype only from the first OpInfo that has it.
    """
    seen: set[torch.dtype] = set()
    for info in infos(operator):
        for dtype in DTYPES:
            if dtype not in info.dtypes or (one_each and dtype in seen):
                continue
            seen.add(dtype)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.manual_seed(0)
                every = list(info.sample_inputs("cpu", dtype, requires_grad=False))
            chosen = list(range(len(every)))
            if limit is not None and len(every) > limit:
                chosen = sorted(
                    {round(i * (len(every) - 1) / max(limit - 1, 1)) for i in range(limit)}
                )
            for number in chosen:
                what = f"{info.name} {str(dtype).removeprefix('torch.')} #{number}"
                yield what, info, every[number]


def bad_samples(operator: str) -> Iterator[tuple[str, Any, Any]]:
    """(what, OpInfo, sample) of calls that PyTorch says are errors, on dense tensors of the CPU.

    Without those that are about ``out=``: captured programs are functional and have none.
    """
    for info in infos(operator):
        if info.error_inputs_func is None:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            every = list(info.error_inputs("cpu"))
        for number, error in enumerate(every):
            if "out" in error.sample_input.kwargs:
                continue
            yield f"{info.name} error #{number}", info, error.sample_input


def _runs(function: Any, tensors: list[torch.Tensor]) -> bool:
    try:
        function(*tensors)
    except Exception:  # noqa: BLE001  of whatever kind: it is no valid call
        return False
    return True


def accepted(info: Any, sample: Any) -> bool:
    """Whether a call that eager rejects gets through capture, import, compilation and run."""
    function, tensors = _as_function(info, sample)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if _runs(function, tensors):
            return False  # an error only of gradients
        try:
            graph = _traced(function, tensors)
            if unsupported(graph, {}):
                return False
            edges = import_graph(graph, {}, "sample")
            compiled = zenith.compile(edges.model, fallback="allow")
            assemble(edges.results, tensors, compiled(*tensors))
        except Exception:  # noqa: BLE001  any refusal will do; none is what must not be
            return False
    return True


def _kind(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.dtype


def _as_function(info: Any, sample: Any) -> tuple[Any, list[torch.Tensor]]:
    """The call as a function of its tensors, and these."""
    leaves, spec = pytree.tree_flatten(((sample.input, *sample.args), dict(sample.kwargs)))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]

    def function(*given: torch.Tensor) -> list[torch.Tensor]:
        filled = list(leaves)
        for place, tensor in zip(places, given, strict=True):
            filled[place] = tensor.clone()  # some operators write to what they are given
        args, kwargs = pytree.tree_unflatten(filled, spec)
        results = pytree.tree_leaves(info.op(*args, **kwargs))
        return [r for r in results if isinstance(r, torch.Tensor)]

    return function, [leaves[i] for i in places]


def _traced(function: Any, tensors: list[torch.Tensor]) -> torch.fx.GraphModule:
    trace = make_fx(
        torch.func.functionalize(function),
        decomposition_table=decompositions(),
        tracing_mode="fake",
    )
    graph: torch.fx.GraphModule = trace(*(t.clone() for t in tensors))
    return graph


def run(info: Any, sample: Any) -> str | None:
    """None when the sample's results agree with eager, else what is different."""
    function, tensors = _as_function(info, sample)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            want = function(*tensors)
        except RuntimeError:  # a sample about memory that a copy does not have
            return None
        try:
            graph = _traced(function, tensors)
        except Exception as error:  # noqa: BLE001  the trace may fail in any way
            return f"not traced: {type(error).__name__}"
        try:
            problems = unsupported(graph, {})
            if problems:
                return "unsupported: " + ", ".join(sorted({name for _, name, _ in problems}))
            edges = import_graph(graph, {}, "sample")
            compiled = zenith.compile(edges.model, fallback="allow")
            got = assemble(edges.results, tensors, compiled(*tensors))
        except Exception as error:  # noqa: BLE001  whatever it is, it is a gap
            return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    if info.name in ("sort", "topk"):  # of equal elements, PyTorch may name any first
        got, want = got[:1], want[:1]
    if any(word in info.name for word in ("empty", "rand", "bernoulli", "dropout")):
        return None if list(map(_kind, got)) == list(map(_kind, want)) else "another shape or type"
    try:
        for result, wanted in zip(got, want, strict=True):
            near = 1e-5 * max(1.0, _typical(wanted))
            torch.testing.assert_close(result, wanted, rtol=1e-4, atol=near, equal_nan=True)
    except (AssertionError, ValueError) as error:
        return "differs: " + str(error).strip().splitlines()[0]
    return None


def _typical(tensor: torch.Tensor) -> float:
    """The size of a tensor's finite elements: what cancels among them is no better than that."""
    finite = tensor[torch.isfinite(tensor)] if tensor.is_floating_point() else tensor.new_empty(0)
    return float(finite.square().mean().sqrt()) if finite.numel() else 0.0
