"""The command line: what is installed here, and what it can do."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from zenith.errors import PluginError
from zenith.plugins import Plugin, PluginManager, plugin_manager

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Zenith on this machine.")
_console = Console()

_PACKAGES = (
    *("zenith-core", "zenith-torch", "zenith-onnx"),
    *("numpy", "onnx", "onnx-ir", "onnxscript", "torch"),
)
_INLINE_WEIGHTS = 1 << 30  # bytes; above it they go to a file of their own, for protobuf's limit
_COLOURS = {"ready": "green", "unavailable": "yellow", "blocked": "yellow"}


def _say(text: str, style: str | None = None) -> None:
    """One line as it is: no wrapping, no markup inside names or causes."""
    _console.print(text, style=style, soft_wrap=True, markup=False, highlight=False)


@app.command()
def plugins() -> None:
    """List plugins and backends with their state, and why."""
    _print_plugins(plugin_manager(), with_traceback=False)


@app.command()
def doctor() -> None:
    """Show versions, instruction sets, threads and plugins; exit 1 when something is broken."""
    _print_versions()
    _print_cpu()
    _print_kernels(plugin_manager())
    rows = _print_plugins(plugin_manager(), with_traceback=True)
    if any(row.state in ("broken", "incompatible") for row in rows):
        raise typer.Exit(1)


@app.command()
def passes() -> None:
    """List the graph passes of each opt_level, in order."""
    from zenith.passes import CANONICALIZE

    for level, names in enumerate(CANONICALIZE):
        _say(f"opt_level={level} canonicalize: {', '.join(names)}")
    for name, backend in plugin_manager().backends.items():
        for level in range(len(CANONICALIZE)):
            names = backend.pipeline(level)
            if names:
                _say(f"opt_level={level} lower {name}: {', '.join(names)}")


@app.command()
def export(
    model: Annotated[Path, typer.Argument(help="A model file, such as model.onnx.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The ONNX file to write.")],
    opset: Annotated[int, typer.Option(help="The ai.onnx opset to write, 21 to 28.")] = 26,
    opt_level: Annotated[int, typer.Option(help="Which graph passes run first, 0 to 3.")] = 2,
) -> None:
    """Write the optimised graph of a model as ONNX, in standard operators only."""
    import onnx_ir

    from zenith._api import compile
    from zenith.errors import ZenithError
    from zenith.ir.export import exported

    try:
        compiled = compile(os.fspath(model), opt_level=opt_level, fallback="allow")
        result = exported(compiled.graph.model, inline=True, opset=opset)
    except ZenithError as error:
        _say(str(error), "red")
        raise typer.Exit(1) from None
    weights = sum(t.nbytes for v in result.graph.initializers.values() if (t := v.const_value))
    external = f"{output.name}.data" if weights > _INLINE_WEIGHTS else None
    onnx_ir.save(result, output, external_data=external)
    _say(f"{output}: {result.graph.num_nodes()} nodes, opset {opset}")


@app.command()
def operators(
    markdown: bool = typer.Option(False, "--markdown", help="The whole table, as Markdown."),
) -> None:
    """Say where every ONNX operator runs, by dtype: native CPU kernel or reference."""
    from zenith.backends.coverage import COLUMNS, coverage
    from zenith.backends.coverage import markdown as page

    rows = coverage()
    if markdown:
        typer.echo(page(rows), nl=False)
        return
    for row in rows:
        cells = ", ".join(f"{c}={row.cells[c]}" for c in COLUMNS if c in row.cells)
        _say(f"{row.op_type}: {cells}")
    _say("N native, W natively in float32, X executor, r reference")


def _print_versions() -> None:
    _say(f"python {platform.python_version()} on {platform.platform()}")
    for package in _PACKAGES:
        _say(f"{package} {_version(package) or 'not installed'}")
    if _version("pyzenith"):
        _say(
            "pyzenith is installed: another project that also imports as 'zenith'. "
            "Uninstall one of the two.",
            "yellow",
        )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _print_cpu() -> None:
    if importlib.util.find_spec("zenith._native") is None:
        _say("zenith._native is missing: this installation is incomplete", "red")
        return
    from zenith import _native

    usable, built = _native.isas(), _native.built_isas()
    _say(f"instruction sets: {', '.join(usable)} usable of {', '.join(built)} built")
    _say(f"threads: {_native.available_threads()}")
    if not {"avx2", "avx512"} & set(usable) and platform.machine() in ("x86_64", "AMD64"):
        _say(
            "This machine has no AVX2: the baseline kernels run, several times slower than "
            "the figures of the documentation.",
            "yellow",
        )


def _print_kernels(manager: PluginManager) -> None:
    from zenith.runtime.kernel_registry import KernelRegistry

    registry = KernelRegistry()
    with contextlib.suppress(PluginError):  # a built-in that fails here shows as broken below
        manager.register_kernels(registry)
    counts = Counter(backend for backend, _ in registry)
    _say("kernel rows: " + ", ".join(f"{name} {count}" for name, count in counts.items()))


def _print_plugins(manager: PluginManager, *, with_traceback: bool) -> list[Plugin]:
    rows = manager.rows()
    table = Table("plugin", "distribution", "state", "backends", "adapters", "why")
    for row in rows:
        colour = _COLOURS.get(row.state, "red")
        state = f"[{colour}]{row.state}[/{colour}]"
        owner = row.owner + (" (built in)" if row.builtin else "")
        names = (", ".join(row.backends), ", ".join(row.adapters))
        table.add_row(row.name, owner, state, *names, escape(row.why))
    _console.print(table)
    for info in manager.backend_infos():
        why = f": {info.why}" if info.why else ""
        _say(f"backend {info.name} is {info.state}{why}")
    if with_traceback:
        for row in rows:
            if row.traceback:
                _say(f"\n{row.name} failed with:\n{row.traceback}")
    return rows


if __name__ == "__main__":
    app()
