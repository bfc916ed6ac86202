"""First half of the adapter stage: a function or module of JAX becomes a jaxpr over its leaves."""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from zenith.errors import CompilationError, ConfigurationError, ValidationError
from zenith_jax.dependence import depends
from zenith_jax.dtypes import described

__all__ = ["Captured", "Leaf", "capture", "is_array"]

Function = Callable[..., Any]


@dataclass(frozen=True)
class Leaf:
    """One leaf of the inputs: an input of the graph, or a constant of the compiled model."""

    name: str
    traced: bool
    value: Any = None


@dataclass
class Captured:
    """A traced model.

    closed: the jaxpr; its inputs are the traced leaves in order.
    parameters: (name, tree, leaves) of each argument; the first `positional` may be given by place.
    outputs: per output leaf, whether it is an array, and its value if not.
    names: `id` of an array the model closes over -> its path in the model.
    """

    closed: Any
    parameters: list[tuple[str, Any, list[Leaf]]]
    positional: int
    out_tree: Any
    outputs: list[tuple[bool, Any]]
    output_names: list[str]
    names: dict[int, str]

    @property
    def input_names(self) -> list[str]:
        return [leaf.name for _, _, leaves in self.parameters for leaf in leaves if leaf.traced]


def is_array(value: Any) -> bool:
    """Whether a leaf is data: an array, its description, or a number (not a truth value)."""
    if isinstance(value, bool | np.bool_):
        return isinstance(value, np.bool_)
    kinds = (jax.Array, jax.ShapeDtypeStruct, np.ndarray, np.generic, int, float, complex)
    return isinstance(value, kinds)


def capture(
    model: Any, sample_input: Any, dynamic: Mapping[str | int, Any] | None = None
) -> Captured:
    """Trace `model` on a call's inputs (arrays, or `jax.ShapeDtypeStruct`)."""
    function, weights, checks = _callable_of(model)
    args, kwargs = _call_of(sample_input)
    given = _parameters(function, args, kwargs)
    parameters, leaves = _leaves(given)
    names = [leaf.name for _, _, found in parameters for leaf in found if leaf.traced]
    arguments = [p[0] for p in parameters]
    out: dict[str, Any] = {}
    count = len(args)

    def flat(*values: Any) -> list[Any]:
        traced = iter(values)
        rebuilt = [
            jax.tree_util.tree_unflatten(
                tree, [next(traced) if leaf.traced else leaf.value for leaf in found]
            )
            for _, tree, found in parameters
        ]
        named = dict(zip(list(given)[count:], rebuilt[count:], strict=True))
        result = function(*rebuilt[:count], **named)
        found, out["tree"] = jax.tree_util.tree_flatten_with_path(result)
        arrays = [is_array(v) or isinstance(v, bool) for _, v in found]
        out["leaves"] = [(a, None if a else v) for a, (_, v) in zip(arrays, found, strict=True)]
        out["names"] = [_path(path) for a, (path, _) in zip(arrays, found, strict=True) if a]
        return [v for a, (_, v) in zip(arrays, found, strict=True) if a]

    limits: frozenset[str] = frozenset()
    while True:
        given_sizes = _with_dimensions(leaves, names, arguments, parameters, dynamic, limits)
        try:
            closed = _traced(flat, given_sizes)
            break
        except (TypeError, ValueError) as error:
            more = _limits(str(error), dynamic or {}) - limits
            if not more:
                raise
            limits |= more
    for check in checks:
        check()
    return Captured(
        closed,
        parameters,
        count,
        out["tree"],
        out["leaves"],
        [n or "output" for n in out["names"]],
        {id(leaf): name for name, leaf in weights},
    )


def _traced(flat: Function, leaves: list[Any]) -> Any:
    """The jaxpr; what JAX says about values it cannot know becomes an error of ours."""
    try:
        return jax.make_jaxpr(flat)(*leaves)
    except (
        jax.errors.ConcretizationTypeError,
        jax.errors.TracerArrayConversionError,
        jax.errors.TracerIntegerConversionError,
        jax.errors.NonConcreteBooleanIndexError,
    ) as error:
        raise CompilationError(
            f"the function needs the value of an input while it is traced: {_first_line(error)}",
            next="use jax.lax.cond, jnp.where or a constant; True, False and strings in "
            "sample_input are constants",
        ) from error
    except jax.errors.InconclusiveDimensionOperation as error:
        raise CompilationError(
            f"the function compares a symbolic size: {_first_line(error)}",
            next="leave this axis out of dynamic=, or give constraints with "
            "jax.export.symbolic_shape",
        ) from error


def _limits(message: str, dynamic: Mapping[str | int, Any]) -> frozenset[str]:
    """What JAX must be told of the sizes in a shape that does not fit.

    `table[:s]` of 64 rows has min(64, s): a program that goes on as if they were s means s <= 64.
    """
    names = {str(name) for axes in dynamic.values() for name in dict(axes).values()}
    found = re.findall(r"min\((\d+), (\w+)\)", message)
    found += [(limit, name) for name, limit in re.findall(r"min\((\w+), (\d+)\)", message)]
    return frozenset(f"{name} <= {limit}" for limit, name in found if name in names)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


# --- what is called -------------------------------------------------------------------------------


def _callable_of(model: Any) -> tuple[Function, list[tuple[str, Any]], list[Function]]:
    """(function of the inputs, named weights, checks to do after the trace)."""
    params: Any = None
    paired = isinstance(model, tuple)
    if paired:
        model, params = model
    linen, nnx = sys.modules.get("flax.linen"), sys.modules.get("flax.nnx")
    if linen is not None and isinstance(model, linen.Module):
        return _linen(model, params, paired)
    if nnx is not None and isinstance(model, nnx.Module):
        if paired:
            raise CompilationError("a flax.nnx module holds its own parameters: compile it alone")
        return _nnx(model, nnx)
    if paired:
        return _with_first(model, params), _named(params), []
    return model, _named(model) if not inspect.isroutine(model) else [], []


def _with_first(function: Function, params: Any) -> Function:
    """`function` with its first argument given; its signature is that of the rest."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return function(_copied(params), *args, **kwargs)

    found = _signature(function)
    if found is not None:
        rest = list(found.parameters.values())
        if rest and rest[0].kind in _BY_PLACE:
            rest = rest[1:]
        call.__signature__ = found.replace(parameters=rest)  # type: ignore[attr-defined]
    return call


def _linen(
    module: Any, variables: Any, paired: bool
) -> tuple[Function, list[tuple[str, Any]], list[Function]]:
    if not paired:
        if module.scope is None:
            raise CompilationError(
                "a flax.linen module alone has no parameters",
                next="zenith.compile((module, variables), sample_input=...)",
            )
        module, variables = module.unbind()

    @functools.wraps(type(module).__call__)
    def call(*args: Any, **kwargs: Any) -> Any:
        return module.apply(variables, *args, **kwargs)

    found = _signature(module)
    if found is not None:
        extra = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None)
            for name in ("rngs", "mutable", "method", "capture_intermediates")
            if name not in found.parameters
        ]
        plain = [p for p in found.parameters.values() if p.kind is not p.VAR_KEYWORD]
        call.__signature__ = found.replace(parameters=[*plain, *extra])  # type: ignore[attr-defined]
    return call, _named(variables), []


def _nnx(module: Any, nnx: Any) -> tuple[Function, list[tuple[str, Any]], list[Function]]:
    """The module is put together anew inside the trace: what it changes there stays there."""
    definition, random, rest = nnx.split(module, nnx.RngState, ...)
    changed: list[str] = []

    def run(random: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        copy = nnx.merge(definition, *(_copied(part) for part in (random, rest)))
        return copy(*args, **kwargs), copy

    @functools.wraps(type(module).__call__)
    def call(*args: Any, **kwargs: Any) -> Any:
        result, copy = run(random, args, kwargs)
        changed.extend(_traced_names(nnx.state(copy, nnx.Not(nnx.RngState))))
        counters = _traced_names(nnx.state(copy, nnx.RngState))
        if counters and depends(lambda *v: run(*v)[0], random, args, kwargs):
            changed.extend(counters)
        return result

    found = _signature(module)
    if found is not None:
        call.__signature__ = found  # type: ignore[attr-defined]

    def check() -> None:
        if changed:
            raise CompilationError(
                f"the module changes its own state in the call: {', '.join(changed)}",
                next="module.eval() for inference, or compile a function that takes and returns "
                "the state (flax.nnx.split, flax.nnx.merge)",
            )

    return call, _named((random, rest)), [check]


def _copied(tree: Any) -> Any:
    """The tree anew: its flax variables belong to the trace that is going on."""
    return jax.tree.map(lambda leaf: leaf, tree)


def _traced_names(state: Any) -> list[str]:
    found = jax.tree_util.tree_leaves_with_path(state)
    return [_path(path) for path, leaf in found if isinstance(leaf, jax.core.Tracer)]


def _named(tree: Any) -> list[tuple[str, Any]]:
    """(path, array) of a tree's weights; a tree that is one array has no path."""
    found = jax.tree_util.tree_leaves_with_path(tree)
    arrays = [(path, leaf) for path, leaf in found if isinstance(leaf, jax.Array | np.ndarray)]
    return [(_path(path) or "weight", leaf) for path, leaf in arrays]


def _path(path: Sequence[Any]) -> str:
    """ "layers.0.kernel" for a path of keys."""
    parts = []
    for key in path:
        part = next((getattr(key, a) for a in ("key", "name", "idx") if hasattr(key, a)), str(key))
        parts.append(str(part))
    while len(parts) > 1 and parts[-1] in ("value", "raw_value"):  # a flax.nnx Variable's own field
        parts.pop()
    text = ".".join(parts)
    return f"output_{text}" if text[:1].isdigit() else text


# --- a call's inputs ------------------------------------------------------------------------------

_BY_PLACE = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _signature(function: Any) -> inspect.Signature | None:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None


def _call_of(sample: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """`sample_input` as positional and keyword arguments."""
    if sample is None:
        raise ValidationError(
            "a JAX model is traced on example inputs, and there are none",
            next="zenith.compile(model, sample_input=(x,)) with arrays or jax.ShapeDtypeStruct",
        )
    if isinstance(sample, dict):
        return (), dict(sample)
    if not isinstance(sample, tuple):
        return (sample,), {}
    if len(sample) == 2 and isinstance(sample[0], tuple) and isinstance(sample[1], dict):
        return sample[0], dict(sample[1])
    return sample, {}


def _parameters(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by name, positional ones first; `*args` are named by their place."""
    signature = _signature(function)
    if signature is None:
        names = [f"arg{i}" for i in range(len(args))]
    else:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise ValidationError(
                f"sample_input does not fit the model's call: {error}",
                next=f"the model is called with {signature}",
            ) from None
        places = [p.name for p in signature.parameters.values() if p.kind in _BY_PLACE]
        rest = next(
            (p.name for p in signature.parameters.values() if p.kind is p.VAR_POSITIONAL), "arg"
        )
        names = places[: len(args)]
        names += [f"{rest}_{i}" for i in range(len(args) - len(names))]
    return {**dict(zip(names, args, strict=True)), **kwargs}


def _leaves(
    given: Mapping[str, Any],
) -> tuple[list[tuple[str, Any, list[Leaf]]], list[Any]]:
    parameters, traced = [], []
    for name, value in given.items():
        paths, tree = jax.tree_util.tree_flatten_with_path(value)
        found = []
        for path, leaf in paths:
            _refuse_foreign(name, leaf)
            inner = _path(path).removeprefix("output_")
            full = f"{name}.{inner}" if inner else name
            if is_array(leaf):
                found.append(Leaf(full, True))
                traced.append(leaf)
            else:
                found.append(Leaf(full, False, leaf))
        parameters.append((name, tree, found))
    return parameters, traced


def _refuse_foreign(name: str, leaf: Any) -> None:
    owner = type(leaf).__module__.split(".")[0]
    if owner in ("torch", "tensorflow", "keras"):
        raise ValidationError(
            f"input '{name}' is a {owner} {type(leaf).__name__}, and the model is taken as a JAX "
            "function",
            next=f"give JAX arrays, or compile a model of {owner}'s own class",
        )


def _with_dimensions(
    leaves: list[Any],
    names: list[str],
    arguments: list[str],
    parameters: Sequence[tuple[str, Any, list[Leaf]]],
    dynamic: Mapping[str | int, Any] | None,
    limits: Iterable[str],
) -> list[Any]:
    """Leaves whose axes in `dynamic` are symbols of the user's names, `limits` known of them."""
    if not dynamic:
        return leaves
    by_argument = {name: [x.name for x in found if x.traced] for name, _, found in parameters}
    wanted: dict[str, Mapping[int, str]] = {}
    for key, axes in dynamic.items():
        name = arguments[key] if isinstance(key, int) and key < len(arguments) else key
        inner = by_argument.get(str(name), [])
        target = str(name) if name in names else inner[0] if len(inner) == 1 else None
        if target is None:
            raise ConfigurationError(
                f"dynamic= names the input {key!r}; inputs are {', '.join(names) or 'none'}"
            )
        wanted[target] = axes
    scope = jax.export.SymbolicScope(sorted(limits))
    result = []
    for leaf, name in zip(leaves, names, strict=True):
        axes = dict(wanted.get(name, {}))
        shape = list(np.shape(leaf) if not hasattr(leaf, "shape") else leaf.shape)
        if not axes:
            result.append(leaf)
            continue
        for axis, dim in axes.items():
            if not -len(shape) <= axis < len(shape):
                raise ConfigurationError(f"dynamic=: input '{name}' has no axis {axis}")
            if not str(dim).isidentifier():
                raise ConfigurationError(f"dynamic=: {dim!r} is not a name")
            shape[axis] = jax.export.symbolic_shape(str(dim), scope=scope)[0]
        dtype = leaf.dtype if hasattr(leaf, "dtype") else jax.typeof(leaf).dtype
        result.append(described(shape, jax.dtypes.canonicalize_dtype(dtype)))
    return result
