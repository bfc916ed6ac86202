"""The public calls. `compile` shows every stage of Zenith in the order they run."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from zenith.config import CompileConfig
from zenith.errors import (
    CompilationError,
    ConfigurationError,
    DeviceOutOfMemoryError,
    ZenithError,
)
from zenith.plugins import plugin_manager

if TYPE_CHECKING:
    from zenith.runtime.compiled_model import CompiledModel

__all__ = ["compile", "optimize"]


def compile(
    model: Any,
    *,
    sample_input: Any = None,
    target: str | Sequence[str] = "auto",
    precision: str = "fp32",
    opt_level: int = 2,
    mode: str = "default",
    tolerance: float | None = None,
    dynamic: Mapping[Any, Mapping[int, str]] | None = None,
    fallback: str = "warn",
    threads: int | None = None,
    calibration_data: Iterable[Any] | None = None,
    cache: bool = True,
    backend_options: Mapping[str, Mapping[str, Any]] | None = None,
) -> CompiledModel:
    """Compile a trained model for the hardware at hand.

    The result is called like the model, and answers with the model's own types. It owns copies of
    all weights: the source may be changed or deleted afterwards.

    model: a model of any framework with an installed adapter (``torch.nn.Module``,
        ``torch.export.ExportedProgram``, ``torch.fx.GraphModule`` with zenith-torch), a
        ``zenith.ir.GraphIR``, or what an adapter made itself: a
        ``zenith.runtime.adapter.ImportedModel``.
    sample_input: one call's inputs. A tuple is positional, a dict is keyword, a pair
        ``(tuple, dict)`` is both; anything else is the one positional input. (One positional
        dict is written ``(d,)``.)
    target: ``"auto"``, a backend's name, or a list of names in priority order. The CPU is always
        the last resort.
    precision: ``"fp32"`` keeps every type as the model declares it. ``"bf16"``: products, attention
        and what lies between them in bfloat16, with float32 sums; `explain()` says which nodes.
        ``"int8"`` multiplies 8-bit integers where a kernel does (static quantization; `explain()`
        names what stays float32, and has the accuracy). A precision that no kernel of the target
        can honour is an error.
    opt_level: 0 to 3: which graph passes run; ``zenith passes`` lists them.
    mode: ``"default"``, ``"reduce-overhead"`` (device graphs, where a target has them), or
        ``"max-autotune"``: every kernel that could run a node is timed, for up to a minute.
    tolerance: bound on max |T - F| / (|F| + rms F) per output, checked on ``sample_input`` against
        the source in float64; broken, it raises `PrecisionError`.
    dynamic: ``{input name or position: {axis: name}}``, e.g. ``{"input_ids": {0: "batch"}}``;
        equal names are one size. Without it a model serves exactly the sample's shapes.
    fallback: what happens when a node does not run on the first backend of the target: ``"warn"``
        names all such nodes, ``"error"`` raises naming them, ``"allow"`` is quiet.
    threads: how many threads this model may use; None means all cores the process may use.
    calibration_data: an iterable of typical inputs, each in the form of ``sample_input``; for
        ``precision="int8"``, which takes the ranges of its integers from them.
    cache: whether results of compiling (the times of max-autotune) may be kept on disk.
    backend_options: ``{backend name: {option: value}}``.

    Raises only subclasses of `zenith.errors.ZenithError`: `ConfigurationError` for a wrong option,
    `UnsupportedOperationError` naming every unknown operator at once, `NoKernelFoundError`,
    `PluginError` (no adapter, or a target whose plugin is broken), `ValidationError`,
    `CompilationError`.

    >>> import zenith, torch                                              # doctest: +SKIP
    >>> fast = zenith.compile(torch.nn.Linear(4, 2), sample_input=torch.ones(1, 4))
    >>> fast(torch.ones(1, 4)).shape
    torch.Size([1, 2])
    """
    config = CompileConfig(
        target=target,
        precision=precision,
        opt_level=opt_level,
        mode=mode,
        tolerance=tolerance,
        dynamic=dynamic,
        fallback=fallback,
        threads=threads,
        calibration_data=calibration_data,
        cache=cache,
        backend_options=backend_options,
    )
    plugins = plugin_manager()
    plugins.check(config)

    from zenith.ir import GraphIR
    from zenith.runtime.adapter import ImportedModel, split_sample
    from zenith.runtime.engine import ZenithEngine
    from zenith.runtime.numpy_signature import NumpySignature

    with _only_our_errors():
        if isinstance(model, GraphIR):
            graph = model.clone().verify(types=False).forget_results()
            imported = ImportedModel(graph, NumpySignature(graph))
        elif isinstance(model, ImportedModel):
            imported = model
        else:
            imported = plugins.adapter_for(model).import_model(model, sample_input, config.dynamic)

        signature = imported.signature

        def arrays(call: Any) -> list[Any]:
            given = map(signature.to_numpy, signature.flatten(*call))
            return [*given, *imported.state.values()]

        samples = []
        if config.tolerance is not None:
            call = split_sample(sample_input)
            if call is None:
                raise ConfigurationError(
                    "tolerance is checked on sample_input, and there is none",
                    next="zenith.compile(model, sample_input=(x,), tolerance=...)",
                )
            samples = [arrays(call)]
        calibration = (arrays(split_sample(x)) for x in config.calibration_data or ())
        engine = ZenithEngine(plugins=plugins)
        return engine.compile(
            imported.graph,
            config,
            signature,
            samples=samples,
            calibration=calibration,
            state=imported.state,
        )


@contextmanager
def _only_our_errors() -> Iterator[None]:
    """What a library raises on a graph it did not expect becomes an error of ours, with the cause.

    Warnings that the caller made errors stay what they are.
    """
    try:
        yield
    except (ZenithError, Warning):
        raise
    except MemoryError as cause:
        raise DeviceOutOfMemoryError(
            "no memory left to compile this model", next="use a machine with more memory"
        ) from cause
    except ModuleNotFoundError as cause:
        raise CompilationError(
            f"this model needs the module '{cause.name}', which is not installed",
            next=f"install it: pip install {str(cause.name).partition('.')[0]}",
        ) from cause
    except Exception as cause:
        raise CompilationError(
            f"this model cannot be compiled: {type(cause).__name__}: {cause}",
            next="check the model; if it is sound, please report it with the cause above",
        ) from cause


def optimize(model: Any, **options: Any) -> CompiledModel:
    """Deprecated name of `compile`."""
    warnings.warn(
        "zenith.optimize is the old name of zenith.compile", DeprecationWarning, stacklevel=2
    )
    return compile(model, **options)
