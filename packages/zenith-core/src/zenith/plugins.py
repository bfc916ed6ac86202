"""The plugin manager: what backends, adapters, passes and operators there are, and from whom.

Plugins are entry points of group "zenith". Each is imported, checked and asked on its own, so that
a broken one is a row with a reason and never an exception somewhere else. The built-in backends
register through the same hooks. Nothing here runs before the first compile or query.

Environment, read when the manager is made:
    ZENITH_PLUGINS=a,b          only these entry points (the built-ins stay)
    ZENITH_DISABLE_PLUGINS=a    not these, built-ins included
    ZENITH_TRACE_PLUGINS=1      every hook call on stderr
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import sys
import threading
import traceback
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import metadata
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from zenith.errors import ConfigurationError, PluginError, ZenithError
from zenith.events import events

if TYPE_CHECKING:
    import pluggy

    from zenith.config import CompileConfig

__all__ = [
    "Adapter",
    "Backend",
    "BackendInfo",
    "BackendStatus",
    "Plugin",
    "PluginManager",
    "State",
    "plugin_manager",
]

GROUP = "zenith"
PROBE_SECONDS = 30.0  # a device that does not answer by then is broken
DEFAULT_PLUGINS = ("zenith.backends.cpu.plugin", "zenith.backends.reference.plugin")


class State(StrEnum):
    """What can be had from a plugin or backend."""

    READY = "ready"
    UNAVAILABLE = "unavailable"  # nothing wrong with it: its device or library is not here
    INCOMPATIBLE = "incompatible"  # written for another API version
    BROKEN = "broken"  # it raised, or breaks a rule of the hooks
    BLOCKED = "blocked"  # by the environment variables above


@dataclass(frozen=True)
class BackendStatus:
    """Answer of `Backend.probe`: "ready", or "unavailable" and what is missing."""

    state: State = State.READY
    why: str = ""


@runtime_checkable
class Backend(Protocol):
    """What the plugin manager needs of a backend; the engine asks for more (`zenith.runtime`)."""

    @property
    def name(self) -> str:
        """What `target=` calls it."""

    def probe(self) -> BackendStatus:
        """Whether its device is here. A missing device is an answer, not an exception."""


@runtime_checkable
class Adapter(Protocol):
    """Turns the models of one framework into GraphIR."""

    @property
    def name(self) -> str:
        """The framework, as messages call it."""

    def accepts(self, model: object) -> bool:
        """Whether `model` is of this framework; looks at types only, imports nothing heavy."""

    def import_model(
        self,
        model: Any,
        sample_input: Any,
        dynamic: Mapping[Any, Mapping[int, str]] | None,
    ) -> Any:
        """A `zenith.runtime.adapter.ImportedModel`; `sample_input` as `zenith.compile` took it."""


@dataclass
class Plugin:
    """One row of `zenith.plugins()`."""

    name: str
    module: str
    distribution: str
    version: str
    builtin: bool = False
    state: State = State.READY
    why: str = ""
    traceback: str = field(default="", repr=False)
    backends: list[str] = field(default_factory=list)
    adapters: list[str] = field(default_factory=list)

    @property
    def owner(self) -> str:
        """The distribution as messages name it: 'acme-npu 1.2'."""
        return f"{self.distribution} {self.version}".strip()


@dataclass(frozen=True)
class BackendInfo:
    """One row of `zenith.backends()`."""

    name: str
    state: State
    why: str
    plugin: str
    distribution: str
    version: str


class _RejectedError(Exception):
    """A plugin breaks a rule of the hooks; the text is the reason shown."""


@dataclass
class _Offer:
    """What one plugin registered."""

    backends: dict[str, Any] = field(default_factory=dict)
    adapters: dict[str, Any] = field(default_factory=dict)
    passes: dict[str, Any] = field(default_factory=dict)
    operators: dict[str, Any] = field(default_factory=dict)


class _Rows:
    """Stands in for the kernel registry while a plugin registers, so a failing one leaves none."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def add(self, backend: str, *specs: Any) -> None:
        self.calls.append((backend, specs))


class PluginManager:
    """Finds, checks and asks plugins. One per process in use; tests make their own.

    entry_points: stand-in for what is installed. builtins: modules registered without one.
    """

    def __init__(
        self,
        entry_points: Iterable[metadata.EntryPoint] | None = None,
        builtins: Iterable[str] = DEFAULT_PLUGINS,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        import pluggy

        from zenith import hookspecs

        self._hooks = pluggy.PluginManager(GROUP)
        self._hooks.add_hookspecs(hookspecs)
        self._tracing = environ.get("ZENITH_TRACE_PLUGINS", "0") not in ("", "0")
        self._allowed = _names(environ.get("ZENITH_PLUGINS"))
        self._disabled = _names(environ.get("ZENITH_DISABLE_PLUGINS")) or frozenset()
        self._lock = threading.RLock()
        self._status: dict[str, BackendStatus] = {}
        self.plugins: list[Plugin] = []
        self._offers: dict[str, _Offer] = {}

        for module in builtins:
            self._add_builtin(module)
        points = metadata.entry_points(group=GROUP) if entry_points is None else entry_points
        self._add_entry_points(
            sorted(points, key=lambda p: (p.name, p.value, p.dist.name if p.dist else ""))
        )
        self._name_missing()

    # What there is.

    @property
    def backends(self) -> dict[str, Any]:
        """Backends of ready plugins by name, built-ins first; a device may still be missing."""
        return self._merged("backends")

    @property
    def adapters(self) -> dict[str, Any]:
        return self._merged("adapters")

    @property
    def passes(self) -> dict[str, Any]:
        return self._merged("passes")

    @property
    def operators(self) -> dict[str, Any]:
        return self._merged("operators")

    def status(self, name: str) -> BackendStatus:
        """Probe the backend `name`, once per process; a probe that raises is `broken`."""
        with self._lock:
            if name not in self._status:
                plugin = self._owner("backends", name)
                with self._isolated(plugin):
                    if plugin.state is State.BROKEN:  # through another backend of its own
                        raise _RejectedError(plugin.why)
                    status = _within(PROBE_SECONDS, self.backends[name].probe)
                    if getattr(status, "state", None) not in (State.READY, State.UNAVAILABLE):
                        raise _RejectedError(f"probe() of backend '{name}' gave {status!r}")
                    self._status[name] = BackendStatus(State(status.state), status.why)
                if name not in self.backends:  # withdrawn: it broke
                    self._status[name] = BackendStatus(State.BROKEN, plugin.why)
                elif all(self._probed_unavailable(backend) for backend in plugin.backends):
                    plugin.state, plugin.why = State.UNAVAILABLE, self._status[name].why
            return self._status[name]

    def backend(self, name: str) -> Any:
        """The backend a user asked for by name, ready to use; else an error that says why not."""
        if name not in self._known_backends():
            raise self._no_backend(name)
        status = self.status(name)
        if status.state is State.READY:
            return self.backends[name]
        plugin = self._owner("backends", name)
        raise PluginError(
            f"backend '{name}' of {plugin.owner} is {status.state}: {status.why}",
            next="`zenith doctor` shows every plugin and its state",
            traceback=plugin.traceback,
        )

    def adapter_for(self, model: object) -> Any:
        """The adapter that accepts `model`; none is a `PluginError` that says what to install."""
        for name, adapter in self.adapters.items():
            plugin = self._owner("adapters", name)
            accepted = False
            with self._isolated(plugin):
                accepted = bool(adapter.accepts(model))
            if accepted:
                return adapter
        raise self._no_adapter(model)

    def register_kernels(self, registry: Any) -> None:
        """Ask every ready plugin for its kernel rows and add them to `registry`."""
        for plugin in self.plugins:
            if plugin.state in (State.READY, State.UNAVAILABLE):
                rows = _Rows()
                with self._isolated(plugin):
                    self._call(plugin, "zenith_register_kernels", registry=rows)
                    for backend, specs in rows.calls:
                        registry.add(backend, *specs)
        self._require_builtins()

    def check(self, config: CompileConfig) -> None:
        """Refuse targets that do not exist and options their backend does not know."""
        self._require_builtins()
        for name in config.target:
            if name != "auto":
                self.backend(name)
        for name, options in (config.backend_options or {}).items():
            known = getattr(self.backend(name), "options", {})
            for option in options:
                if option not in known:
                    allowed = ", ".join(sorted(known)) or "it has none"
                    raise ConfigurationError(
                        f"backend_options: backend '{name}' has no option {option!r}; "
                        f"allowed: {allowed}"
                    )

    def rows(self) -> list[Plugin]:
        """Every plugin with its state, devices probed, for `zenith.plugins()`."""
        for name in self._known_backends():
            self.status(name)
        return list(self.plugins)

    def backend_infos(self) -> list[BackendInfo]:
        """Every backend with its state, for `zenith.backends()`."""
        infos = []
        for name in self._known_backends():
            status, plugin = self.status(name), self._owner("backends", name)
            infos.append(
                BackendInfo(
                    name,
                    status.state,
                    status.why,
                    plugin.name,
                    plugin.distribution,
                    plugin.version,
                )
            )
        return infos

    def _require_builtins(self) -> None:
        """Without a built-in backend models would quietly run slower or not at all: say it."""
        for plugin in self.plugins:
            if plugin.builtin and plugin.state is State.BROKEN:
                raise PluginError(
                    f"the built-in plugin '{plugin.name}' is broken: {plugin.why}",
                    next="reinstall zenith-core; `zenith doctor` shows the traceback",
                    traceback=plugin.traceback,
                )

    # Loading.

    def _add_builtin(self, module: str) -> None:
        name = module.removesuffix(".plugin").rpartition(".")[2]
        plugin = Plugin(name, module, "zenith-core", _version("zenith-core"), builtin=True)
        self._add(plugin, functools.partial(importlib.import_module, module))

    def _add_entry_points(self, points: list[metadata.EntryPoint]) -> None:
        rows: dict[str, list[tuple[metadata.EntryPoint, Plugin]]] = {}
        for point in points:
            dist = point.dist
            owner, version = (dist.name, dist.version) if dist else ("an unknown distribution", "")
            plugin = Plugin(point.name, point.value, owner or "?", version or "")
            rows.setdefault(point.name, []).append((point, plugin))
        builtins = {plugin.name: plugin for plugin in self.plugins}
        for name, same in rows.items():
            owners = [plugin.owner for _, plugin in same]
            if name in builtins:
                owners.insert(0, f"{builtins[name].owner} (built in)")
            for point, plugin in same:
                if len(owners) > 1:
                    plugin.state = State.BROKEN
                    plugin.why = f"the name '{name}' is taken twice: by {' and by '.join(owners)}"
                    self.plugins.append(plugin)
                else:
                    self._add(plugin, point.load)

    def _name_missing(self) -> None:
        """A name the user allows but that is not installed is a row too: nothing is silent."""
        have = {plugin.name for plugin in self.plugins}
        for name in sorted((self._allowed or frozenset()) - have):
            why = "named in ZENITH_PLUGINS, but no such plugin is installed"
            self.plugins.append(Plugin(name, "", "", "", state=State.UNAVAILABLE, why=why))

    def _add(self, plugin: Plugin, load: Callable[[], Any]) -> None:
        self.plugins.append(plugin)
        if plugin.name in self._disabled:
            plugin.state, plugin.why = State.BLOCKED, "by ZENITH_DISABLE_PLUGINS"
            return
        if self._allowed is not None and not plugin.builtin and plugin.name not in self._allowed:
            plugin.state, plugin.why = State.BLOCKED, "not in ZENITH_PLUGINS"
            return
        with self._isolated(plugin):
            loaded = load()
            if not self._speaks_our_version(plugin, loaded):
                return
            self._hooks.register(loaded, name=plugin.name)
            self._reject_unknown_hooks(loaded)
            self._offers[plugin.name] = offer = _Offer()
            self._collect(plugin, offer)
            self._call(plugin, "zenith_subscribe", events=events)
            plugin.backends, plugin.adapters = list(offer.backends), list(offer.adapters)

    def _speaks_our_version(self, plugin: Plugin, loaded: object) -> bool:
        from zenith.hookspecs import API_VERSION

        version = getattr(loaded, "ZENITH_API_VERSION", None)
        if type(version) is int and version == API_VERSION:
            return True
        plugin.state = State.INCOMPATIBLE
        said = "no ZENITH_API_VERSION" if version is None else f"ZENITH_API_VERSION = {version!r}"
        plugin.why = f"{plugin.module} has {said}; this zenith speaks version {API_VERSION}"
        return False

    def _reject_unknown_hooks(self, loaded: object) -> None:
        callers = self._hooks.get_hookcallers(loaded) or []
        if not callers:
            raise _RejectedError("it implements no hook; mark them with zenith.hookspecs.hookimpl")
        for caller in callers:
            optional = all(
                impl.optionalhook for impl in caller.get_hookimpls() if impl.plugin is loaded
            )
            if not caller.has_spec() and not optional:
                raise _RejectedError(f"it implements hook '{caller.name}', which does not exist")

    def _collect(self, plugin: Plugin, offer: _Offer) -> None:
        for kind, protocol in (
            ("backends", Backend),
            ("adapters", Adapter),
            ("passes", None),
            ("operators", None),
        ):
            for item in self._call(plugin, f"zenith_register_{kind}") or ():
                name = getattr(item, "name", None)
                if not isinstance(name, str) or not name:
                    raise _RejectedError(f"zenith_register_{kind} gave {item!r}, which has no name")
                if protocol is not None and not isinstance(item, protocol):
                    raise _RejectedError(
                        f"zenith_register_{kind} gave {item!r}, which is no {protocol.__name__}"
                    )
                if kind == "passes" and name in self._builtin_passes():
                    raise _RejectedError(f"passes: the name '{name}' is one of zenith-core's own")
                if name in self._merged(kind):
                    owner = self._owner(kind, name)
                    raise _RejectedError(
                        f"{kind}: the name '{name}' is taken twice: by {owner.owner} and by "
                        f"{plugin.owner}"
                    )
                getattr(offer, kind)[name] = item
                if kind == "backends":
                    with contextlib.suppress(AttributeError):  # for messages; slots are fine too
                        item.owner = plugin.owner

    def _builtin_passes(self) -> Collection[str]:
        from zenith.passes.registry import PASSES  # only when a plugin has passes

        return PASSES

    # Isolation.

    def _call(self, plugin: Plugin, hook: str, **arguments: Any) -> Any:
        """Call one plugin's implementation of `hook`; None if it has none."""
        implementations = getattr(self._hooks.hook, hook).get_hookimpls()
        for implementation in implementations:
            if implementation.plugin_name == plugin.name:
                others = [i.plugin for i in implementations if i is not implementation]
                caller: pluggy.HookCaller = self._hooks.subset_hook_caller(hook, others)
                results = caller(**arguments)
                result = results[0] if results else None
                self._trace(f"{plugin.name}: {hook} -> {result!r}")
                return result
        return None

    @contextlib.contextmanager
    def _isolated(self, plugin: Plugin) -> Iterator[None]:
        """Whatever the plugin raises inside becomes its state, and its offers are withdrawn."""
        try:
            yield
            return
        except _RejectedError as error:
            plugin.why = str(error)
        except ZenithError as error:
            plugin.why, plugin.traceback = error.message, traceback.format_exc()
        except (Exception, SystemExit) as error:
            plugin.why = f"{type(error).__name__}: {error}"
            plugin.traceback = traceback.format_exc()
        plugin.state = State.BROKEN
        self._trace(f"{plugin.name}: broken: {plugin.why}")
        self._offers.pop(plugin.name, None)
        for name in plugin.backends:  # probed before it broke, perhaps
            self._status[name] = BackendStatus(State.BROKEN, plugin.why)
        if self._hooks.has_plugin(plugin.name):
            self._hooks.unregister(name=plugin.name)

    def _trace(self, text: str) -> None:
        if self._tracing:
            print(f"zenith plugins: {text}", file=sys.stderr)

    # Look-ups.

    def _merged(self, kind: str) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for offer in self._offers.values():
            merged.update(getattr(offer, kind))
        return merged

    def _owner(self, kind: str, name: str) -> Plugin:
        for plugin in self.plugins:
            offer = self._offers.get(plugin.name)
            offered = getattr(offer, kind) if offer else getattr(plugin, kind)
            if name in offered:
                return plugin
        raise KeyError(name)

    def _known_backends(self) -> list[str]:
        """Names of all backends, also of plugins that broke after registering them."""
        return list(dict.fromkeys(n for plugin in self.plugins for n in plugin.backends))

    def _probed_unavailable(self, backend: str) -> bool:
        status = self._status.get(backend)
        return status is not None and status.state is not State.READY

    def _no_backend(self, name: str) -> ZenithError:
        for plugin in self.plugins:
            if plugin.name == name:
                return PluginError(
                    f"target '{name}': plugin '{name}' of {plugin.owner or 'nobody'} is "
                    f"{plugin.state}: {plugin.why or 'it offers no backend of this name'}",
                    next="`zenith doctor` shows every plugin and its state",
                    traceback=plugin.traceback,
                )
        names = ", ".join(["auto", *self._known_backends()])
        return ConfigurationError(f"there is no backend '{name}'; installed: {names}")

    def _no_adapter(self, model: object) -> PluginError:
        kind = type(model)
        message = f"no installed adapter takes a {kind.__module__}.{kind.__qualname__}"
        bad = [p for p in self.plugins if p.state is not State.READY and not p.builtin]
        message += "".join(f"\n  plugin '{p.name}' is {p.state}: {p.why}" for p in bad)
        framework = kind.__module__.partition(".")[0]
        bases = {base.__module__.partition(".")[0] for base in kind.__mro__}
        if "torch" in bases:
            framework = "torch"
        return PluginError(
            message,
            next=f"install the adapter of its framework (pip install zenith-torch, zenith-onnx, "
            f"zenith-jax or zenith-tf); this model comes from '{framework}'",
        )


def _within(seconds: float, function: Callable[[], Any]) -> Any:
    """What `function` returns or raises; one that does not come back is a `_RejectedError`."""
    answer: list[Any] = []
    failure: list[BaseException] = []

    def call() -> None:
        try:
            answer.append(function())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=call, daemon=True, name="zenith-probe")
    thread.start()
    thread.join(seconds)
    if failure:
        raise failure[0]
    if not answer:
        raise _RejectedError(f"probe() did not answer within {seconds:g} s")
    return answer[0]


def _names(text: str | None) -> frozenset[str] | None:
    """A comma-separated variable as names; None when it is not set."""
    if text is None:
        return None
    return frozenset(name.strip() for name in text.split(",") if name.strip())


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


_lock = threading.RLock()
_manager: PluginManager | None = None
_making = False


def plugin_manager() -> PluginManager:
    """The manager of this process, made on first use."""
    global _manager, _making
    with _lock:
        if _manager is None:
            if _making:
                raise PluginError("a plugin asked for the plugin manager while it was loading")
            _making = True
            try:
                _manager = PluginManager()
            finally:
                _making = False
        return _manager


class _CallableModule(types.ModuleType):
    """`zenith.plugins()` is public API, and `zenith.plugins` is this module: both are true."""

    def __call__(self) -> list[Plugin]:
        """Every plugin with its state (ready, unavailable, ...) and why."""
        return plugin_manager().rows()


sys.modules[__name__].__class__ = _CallableModule
