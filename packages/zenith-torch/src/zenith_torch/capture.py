"""First half of the adapter stage: a module becomes a functional ATen program."""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from zenith.errors import CompilationError, ValidationError
from zenith.runtime.adapter import split_sample
from zenith_torch.dtypes import tensor_view
from zenith_torch.functions import FUNCTIONS
from zenith_torch.fused import FUSED
from zenith_torch.lower import HANDLERS
from zenith_torch.recurrent import LAYERS, whole_layers
from zenith_torch.source import error_line

__all__ = ["Captured", "capture"]

_DYNAMIC = torch.export.Dim.DYNAMIC


@dataclass
class Captured:
    """A functional program, and what the caller's arguments are called.

    in_spec, out_spec: trees of the caller's (args, kwargs) and of the result.
    parameters: top-level argument names in the order of the program's (args, kwargs).
    positional: how many of them the sample gave by position.
    defaults: defaults of forward's parameters, by name.
    order: all names that can be given by position, in order.
    axis_names: for each leaf of the sample, {axis: dimension name}.
    leaf_names: for each leaf of the sample, the name its graph input gets.
    """

    program: torch.export.ExportedProgram
    in_spec: pytree.TreeSpec
    out_spec: pytree.TreeSpec
    parameters: list[str]
    positional: int
    defaults: dict[str, Any]
    order: list[str]
    axis_names: list[dict[int, str]]
    leaf_names: list[str]


def capture(model: Any, sample: Any, dynamic: Mapping[str | int, Any] | None) -> Captured:
    """Export `model` on `sample` and decompose what has no handler of ours."""
    if isinstance(model, torch.export.ExportedProgram):
        return _captured_program(model, dynamic)
    call = split_sample(sample)
    if call is None:
        raise ValidationError(
            "a PyTorch module needs sample_input to be captured",
            next="zenith.compile(model, sample_input=(x,)); a dict gives keyword arguments",
        )
    _register_caches()
    args, kwargs = call
    signature = _forward_signature(model)
    names = _argument_names(signature, len(args), kwargs)
    leaves, spec = pytree.tree_flatten((args, kwargs))
    paths = _leaf_paths((args, kwargs), names)
    axis_names = _match_dynamic(paths, leaves, names, len(args), dynamic)
    leaves = _prepare_leaves(leaves, axis_names)
    args, kwargs = pytree.tree_unflatten(leaves, spec)
    shapes: Any = torch.export.ShapesCollection()  # type: ignore[no-untyped-call]
    for leaf, axes in zip(leaves, axis_names, strict=True):
        if axes:
            shapes[leaf] = {axis: _DYNAMIC for axis in axes}
    has_dynamic = any(axis_names)
    with _evaluation(model), torch.no_grad(), _quiet(), whole_layers():
        try:
            program = torch.export.export(
                model, args, kwargs, dynamic_shapes=shapes if has_dynamic else None, strict=False
            )
        except Exception as error:
            raise _capture_error(error, leaves, paths, axis_names) from error
    return Captured(
        program=_decompose(program),
        in_spec=program.call_spec.in_spec,
        out_spec=program.call_spec.out_spec,
        parameters=names,
        positional=len(args),
        defaults=_defaults(signature),
        order=_positional_order(signature, names, len(args)),
        axis_names=axis_names,
        leaf_names=_input_names(program),
    )


def _captured_program(
    program: torch.export.ExportedProgram, dynamic: Mapping[str | int, Any] | None
) -> Captured:
    in_spec = program.call_spec.in_spec
    args_spec, kwargs_spec = in_spec.children()
    keywords = list(kwargs_spec.context)
    given = getattr(program.module_call_graph[0].signature, "forward_arg_names", None)
    count = args_spec.num_children
    names = list(given or [f"args_{i}" for i in range(count)])[:count] + keywords
    example = program.example_inputs
    axis_names: list[dict[int, str]] = [{} for _ in range(in_spec.num_leaves)]
    if dynamic and example is not None:
        leaves, _ = pytree.tree_flatten(example)
        paths = _leaf_paths(example, names)
        axis_names = _match_dynamic(paths, leaves, names, count, dynamic)
    return Captured(
        program=_decompose(program),
        in_spec=in_spec,
        out_spec=program.call_spec.out_spec,
        parameters=names,
        positional=count,
        defaults={},
        order=names[:count],
        axis_names=axis_names,
        leaf_names=_input_names(program),
    )


def _input_names(program: torch.export.ExportedProgram) -> list[str]:
    """torch's names of the user's inputs: forward's parameters, with keys where nested."""
    specs = program.graph_signature.input_specs
    return [spec.arg.name for spec in specs if spec.kind is InputKind.USER_INPUT]


def _decompose(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Functional ATen, with every operator kept that has a handler."""
    table: Any = torch.export.default_decompositions()
    for operator in list(table):
        if str(operator) in HANDLERS:
            table.pop(operator)
    table.update(FUNCTIONS)
    table.update(FUSED)
    table.update(LAYERS)
    with torch.no_grad(), _quiet():
        try:
            functional: torch.export.ExportedProgram = _flat(program).run_decompositions(table)
            return functional
        except Exception as error:
            raise _capture_error(error, [], [], []) from error


def _flat(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The same program with flat tuples at its edges.

    run_decompositions builds the model's own containers while it traces; what they compute then
    (a cache concatenates to an empty tensor) would become part of the program.
    """
    flat = program._update(program.graph_module, program.graph_signature)
    edges = flat.module_call_graph[0].signature
    assert edges is not None
    edges.in_spec = pytree.tree_structure(((0,) * edges.in_spec.num_leaves, {}))
    edges.out_spec = pytree.tree_structure((0,) * edges.out_spec.num_leaves)
    edges.forward_arg_names = None
    flat._example_inputs = None
    return flat


# --- the module's state ---------------------------------------------------------------------------


@contextmanager
def _evaluation(model: torch.nn.Module) -> Iterator[None]:
    """The module in evaluation mode; its own mode is put back."""
    training = [module for module in model.modules() if module.training]
    if model.training:
        warnings.warn(
            "the model is in training mode; it is compiled in evaluation mode. "
            "Call model.eval() before zenith.compile to say so yourself.",
            stacklevel=2,
        )
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the capture's own warnings: none of them tells the user something to do."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _register_caches() -> None:
    """Let transformers' cache classes cross the boundary as trees of tensors."""
    if "transformers.cache_utils" not in sys.modules:
        return
    try:
        from transformers.cache_utils import DynamicCache, EncoderDecoderCache
        from transformers.integrations.executorch import register_dynamic_cache_export_support
    except ImportError:
        return
    if DynamicCache not in pytree.SUPPORTED_NODES:
        register: Callable[[], None] = register_dynamic_cache_export_support
        register()
    if EncoderDecoderCache not in pytree.SUPPORTED_NODES:
        pytree.register_pytree_node(
            EncoderDecoderCache,
            lambda cache: ([cache.self_attention_cache, cache.cross_attention_cache], None),
            lambda parts, _: EncoderDecoderCache(*parts),
            serialized_type_name="transformers.cache_utils.EncoderDecoderCache",
            flatten_with_keys_fn=lambda cache: (
                [
                    (pytree.GetAttrKey("self_attention_cache"), cache.self_attention_cache),
                    (pytree.GetAttrKey("cross_attention_cache"), cache.cross_attention_cache),
                ],
                None,
            ),
        )


# --- names ----------------------------------------------------------------------------------------


def _forward_signature(model: Any) -> inspect.Signature | None:
    try:
        return inspect.signature(model.forward)
    except (TypeError, ValueError):
        return None


def _argument_names(
    signature: inspect.Signature | None, count: int, kwargs: Mapping[str, Any]
) -> list[str]:
    """Names of `count` positional arguments, then the keywords."""
    names: list[str] = []
    rest = "args"
    for parameter in signature.parameters.values() if signature else ():
        if parameter.kind is parameter.VAR_POSITIONAL:
            rest = parameter.name
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(parameter.name)
    names = names[:count]
    names += [f"{rest}_{i}" for i in range(count - len(names))]
    return names + list(kwargs)


def _positional_order(
    signature: inspect.Signature | None, names: Sequence[str], count: int
) -> list[str]:
    order = list(names[:count])
    for parameter in signature.parameters.values() if signature else ():
        by_position = parameter.kind in (
            parameter.POSITIONAL_ONLY,
            parameter.POSITIONAL_OR_KEYWORD,
        )
        if by_position and parameter.name not in order:
            order.append(parameter.name)
    return order


def _defaults(signature: inspect.Signature | None) -> dict[str, Any]:
    if signature is None:
        return {}
    return {
        p.name: p.default
        for p in signature.parameters.values()
        if p.default is not inspect.Parameter.empty
    }


def _leaf_paths(tree: Any, names: Sequence[str]) -> list[list[str | int]]:
    """For each leaf: the argument's name, then keys and positions inside it."""
    paths: list[list[str | int]] = []
    for path, _ in pytree.tree_flatten_with_path(tree)[0]:
        side, top, *inner = (_key(entry) for entry in path)
        paths.append([names[top] if side == 0 else top, *inner])
    return paths


def _key(entry: Any) -> Any:
    """The key, position or field name of one step into a tree."""
    for attribute in ("key", "idx", "name"):
        if hasattr(entry, attribute):
            return getattr(entry, attribute)
    return str(entry)


def _match_dynamic(
    paths: Sequence[Sequence[str | int]],
    leaves: Sequence[Any],
    names: Sequence[str],
    positional: int,
    dynamic: Mapping[str | int, Any] | None,
) -> list[dict[int, str]]:
    """{axis: name} for each leaf. Nested arguments are reached by nested dicts or dotted names."""
    result: list[dict[int, str]] = [{} for _ in paths]
    for key, rule in (dynamic or {}).items():
        if isinstance(key, int):
            if not 0 <= key < positional:
                raise ValidationError(
                    f"dynamic names positional input {key}, but the sample has {positional}",
                    next=f"inputs: {', '.join(names)}",
                )
            prefix: list[str] = [names[key]]
        else:
            prefix = key.split(".")
        found = _apply_dynamic(prefix, rule, paths, leaves, result)
        if not found:
            known = dict.fromkeys(".".join(map(str, p)) for p in paths)
            raise ValidationError(
                f"dynamic names an input '{key}' that the sample does not have",
                next=f"inputs: {', '.join(known)}",
            )
    return result


def _apply_dynamic(
    prefix: list[str],
    rule: Any,
    paths: Sequence[Sequence[str | int]],
    leaves: Sequence[Any],
    result: list[dict[int, str]],
) -> bool:
    leaf_rule = isinstance(rule, Mapping) and all(isinstance(v, str) for v in rule.values())
    if not leaf_rule:
        parts = rule.items() if isinstance(rule, Mapping) else enumerate(rule or ())
        inner = [(k, r) for k, r in parts if r]
        return all([_apply_dynamic([*prefix, str(k)], r, paths, leaves, result) for k, r in inner])
    found = False
    for i, path in enumerate(paths):
        if [str(p) for p in path[: len(prefix)]] != prefix:
            continue
        rank = np.ndim(leaves[i]) if not isinstance(leaves[i], torch.Tensor) else leaves[i].dim()
        for axis, name in rule.items():
            if not isinstance(axis, int) or not -rank <= axis < rank:
                raise ValidationError(
                    f"dynamic: input '{'.'.join(prefix)}' has {rank} axes, so no axis {axis!r}"
                )
            result[i][axis % rank] = name
        found = True
    return found


# --- the sample -----------------------------------------------------------------------------------


def _prepare_leaves(leaves: Sequence[Any], axis_names: Sequence[dict[int, str]]) -> list[Any]:
    """Tensors for the capture: one object per leaf, no dynamic axis of size 0 or 1.

    torch.export takes a size of 1 for a constant, so a dynamic axis of that size is repeated.
    """
    tensors = [_as_tensor(leaf) for leaf in leaves]
    sizes: dict[str, int] = {}
    for tensor, axes in zip(tensors, axis_names, strict=True):
        for axis, name in axes.items():
            if isinstance(tensor, torch.Tensor):
                sizes.setdefault(name, tensor.shape[axis])
    taken = set(sizes.values())
    for name, size in sizes.items():
        if size < 2:
            sizes[name] = next(n for n in range(2, len(taken) + 4) if n not in taken)
            taken.add(sizes[name])
    prepared = []
    for tensor, axes in zip(tensors, axis_names, strict=True):
        if isinstance(tensor, torch.Tensor):
            tensor = tensor.detach()
            for axis, name in axes.items():
                size, want = tensor.shape[axis], sizes[name]
                if size == want:
                    continue
                if size > 1:
                    raise ValidationError(
                        f"dynamic: dimension '{name}' has size {want} in one input of the sample "
                        f"and {size} in another",
                        next="give dimensions that differ different names",
                    )
                if size == 1:
                    tensor = tensor.repeat_interleave(want, dim=axis)
                else:
                    shape = list(tensor.shape)
                    shape[axis] = want
                    tensor = tensor.new_zeros(shape)
            tensor = tensor.clone() if axes else tensor
        prepared.append(tensor)
    return prepared


def _as_tensor(leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray):
        return tensor_view(leaf)
    return leaf


# --- errors ---------------------------------------------------------------------------------------


def _capture_error(
    error: Exception,
    leaves: Sequence[Any],
    paths: Sequence[Sequence[str | int]],
    axis_names: Sequence[dict[int, str]],
) -> CompilationError:
    kind = type(error).__name__
    text = str(error).strip()
    line = error_line(error)
    lines = [f"torch.export cannot capture this model: {kind}: {_first_line(text)}"]
    if line is not None:
        lines.append(f"  {line[2]}    # {line[0]}:{line[1]}")
    data_dependent = "data-dependent" in text or "GuardOnDataDependent" in kind
    if data_dependent or "control flow" in text:
        step = (
            "the marked line decides on values of a tensor; use torch.where, torch.cond, or make "
            "the decision from shapes or configuration"
        )
    elif "onstraint" in text and any(axis_names):
        step = (
            "a dimension named in dynamic= is fixed by the model, or bound to another one; "
            "leave that axis out of dynamic=. torch says: " + _suggestion(text)
        )
    elif "must be a tuple" in text or "pytree" in text:
        step = "return tensors, tuples, dicts or registered dataclasses (use_cache=False may help)"
    else:
        step = "run model(*sample_input) and torch.export.export(model, sample_input) by themselves"
    return CompilationError("\n".join(lines), next=step)


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "no message")


def _suggestion(text: str) -> str:
    useful = [s.strip(" -") for s in text.splitlines() if "L[" in s or "=" in s or "onstraint" in s]
    return "; ".join(useful[:4])
