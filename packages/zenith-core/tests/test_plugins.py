"""A plugin that is broken in any way is a row with a reason, and hurts nobody else."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from zenith.config import CompileConfig
from zenith.errors import ConfigurationError, PluginError
from zenith.events import events
from zenith.plugins import BackendStatus, PluginManager, State

HEADER = """
from zenith.hookspecs import hookimpl
from zenith.plugins import BackendStatus, State
ZENITH_API_VERSION = 1
class Backend:
    options = {"streams": "how many"}
    def __init__(self, name, status=BackendStatus()):
        self.name, self._status = name, status
    def probe(self):
        if isinstance(self._status, Exception):
            raise self._status
        return self._status
class Adapter:
    def __init__(self, name, kind):
        self.name, self.kind = name, kind
    def accepts(self, model):
        return isinstance(model, self.kind)
    def import_model(self, model, sample_input, dynamic):
        raise NotImplementedError
"""
GOOD = """
@hookimpl
def zenith_register_backends():
    return [Backend("{0}")]
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Write plugins as installed distributions into a folder on sys.path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    modules: list[str] = []

    def write(name: str, code: str, *, dist: str = "", header: str = HEADER) -> None:
        dist = dist or f"dist-{name}"
        module = f"plugin_{dist.replace('-', '_')}"
        modules.append(module)
        (tmp_path / f"{module}.py").write_text(header + code)
        info = tmp_path / f"{dist.replace('-', '_')}-1.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.5\n")
        (info / "entry_points.txt").write_text(f"[zenith]\n{name} = {module}\n")
        importlib.invalidate_caches()

    yield write
    for module in modules:
        sys.modules.pop(module, None)


def manager(path: Path, **environ: str) -> PluginManager:
    """A manager that sees only what lies in `path`."""
    points = [
        point
        for dist in metadata.distributions(path=[str(path)])
        for point in dist.entry_points
        if point.group == "zenith"
    ]
    return PluginManager(points, builtins=(), environ=environ)


def row(plugins: PluginManager, name: str) -> Any:
    (found,) = [plugin for plugin in plugins.plugins if plugin.name == name]
    return found


BAD = {
    "import_error": ("import there_is_no_such_module\n", "ModuleNotFoundError"),
    "raises_at_import": ("raise RuntimeError('half a wheel')\n", "RuntimeError: half a wheel"),
    "exits_at_import": ("raise SystemExit(3)\n", "SystemExit: 3"),
    "wrong_signature": (
        "@hookimpl\ndef zenith_register_backends(registry):\n    return []\n",
        "zenith_register_backends",
    ),
    "unknown_hook": (
        "@hookimpl\ndef zenith_register_gadgets():\n    return []\n",
        "zenith_register_gadgets",
    ),
    "hook_raises": (
        "@hookimpl\ndef zenith_register_backends():\n    raise ValueError('no luck')\n",
        "ValueError: no luck",
    ),
    "subscribe_raises": (
        GOOD.format("x") + "@hookimpl\ndef zenith_subscribe(events):\n    1 / 0\n",
        "ZeroDivisionError",
    ),
    "no_hooks": ("", "implements no hook"),
    "not_a_backend": (
        "class Thing:\n    name = 'thing'\n"
        "@hookimpl\ndef zenith_register_backends():\n    return [Thing()]\n",
        "no Backend",
    ),
    "nameless": ("@hookimpl\ndef zenith_register_passes():\n    return [object()]\n", "no name"),
    "not_a_list": ("@hookimpl\ndef zenith_register_passes():\n    return 3\n", "TypeError"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_plugin_is_broken_and_its_neighbours_live(
    kind: str, install: Install, tmp_path: Path
) -> None:
    code, reason = BAD[kind]
    install("alpha", GOOD.format("alpha"))
    install("bad", code)
    install("omega", GOOD.format("omega"))
    plugins = manager(tmp_path)
    assert list(plugins.backends) == ["alpha", "omega"]
    bad = row(plugins, "bad")
    assert bad.state is State.BROKEN
    assert reason in bad.why
    assert not bad.backends
    assert row(plugins, "alpha").state is row(plugins, "omega").state is State.READY
    with pytest.raises(PluginError, match="dist-bad 1.5 is broken") as caught:
        plugins.backend("bad")
    assert reason in str(caught.value)


def test_cause_is_kept_with_its_traceback(install: Install, tmp_path: Path) -> None:
    install("bad", "def deep():\n    raise RuntimeError('deep inside')\ndeep()\n")
    text = row(manager(tmp_path), "bad").traceback
    assert "in deep" in text and "deep inside" in text


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("del ZENITH_API_VERSION", "no ZENITH_API_VERSION"),
        ("ZENITH_API_VERSION = 2", "ZENITH_API_VERSION = 2"),
        ("ZENITH_API_VERSION = '1'", "ZENITH_API_VERSION = '1'"),
        ("ZENITH_API_VERSION = True", "ZENITH_API_VERSION = True"),
    ],
)
def test_version_is_checked_before_any_hook(
    line: str, said: str, install: Install, tmp_path: Path
) -> None:
    hook = "@hookimpl\ndef zenith_register_backends():\n    raise AssertionError('called')\n"
    install("foreign", f"{line}\n{hook}")
    found = row(manager(tmp_path), "foreign")
    assert found.state is State.INCOMPATIBLE
    assert said in found.why and "version 1" in found.why


def test_two_plugins_of_one_name_name_both_distributions(install: Install, tmp_path: Path) -> None:
    install("npu", GOOD.format("npu"), dist="acme-npu")
    install("npu", GOOD.format("npu"), dist="other-npu")
    install("fine", GOOD.format("fine"))
    plugins = manager(tmp_path)
    assert list(plugins.backends) == ["fine"]
    with pytest.raises(PluginError, match=r"acme-npu 1\.5 and by other-npu 1\.5"):
        plugins.backend("npu")


def test_two_backends_of_one_name(install: Install, tmp_path: Path) -> None:
    install("one", GOOD.format("npu"))
    install("two", GOOD.format("npu"))
    plugins = manager(tmp_path)
    assert plugins.backends["npu"].name == "npu"
    second = row(plugins, "two")
    assert second.state is State.BROKEN
    assert "dist-one 1.5" in second.why and "dist-two 1.5" in second.why


def test_name_of_a_builtin_is_taken(install: Install, tmp_path: Path) -> None:
    install("builtin", GOOD.format("builtin"), dist="acme-builtin")
    install("cpu", GOOD.format("cpu"))
    points = list(metadata.distributions(path=[str(tmp_path)]))
    found = [p for d in points for p in d.entry_points if p.name == "cpu"]
    plugins = PluginManager(found, builtins=("plugin_acme_builtin",), environ={})
    assert row(plugins, "plugin_acme_builtin").builtin
    clash = PluginManager(found, builtins=("acme.cpu.plugin",), environ={})
    states = [plugin.state for plugin in clash.plugins]
    assert states == [State.BROKEN, State.BROKEN]  # the built-in because it does not exist
    assert "(built in) and by dist-cpu 1.5" in clash.plugins[1].why


def test_missing_device_is_unavailable_not_broken(install: Install, tmp_path: Path) -> None:
    install(
        "npu",
        "@hookimpl\ndef zenith_register_backends():\n"
        "    return [Backend('npu', BackendStatus(State.UNAVAILABLE, 'no device file'))]\n",
    )
    plugins = manager(tmp_path)
    assert plugins.status("npu") == BackendStatus(State.UNAVAILABLE, "no device file")
    assert row(plugins, "npu").state is State.UNAVAILABLE
    with pytest.raises(PluginError, match="unavailable: no device file"):
        plugins.backend("npu")


def test_probe_that_raises_breaks_its_plugin_only(install: Install, tmp_path: Path) -> None:
    install(
        "npu",
        "@hookimpl\ndef zenith_register_backends():\n"
        "    return [Backend('npu', OSError('driver')), Backend('npu2')]\n",
    )
    install("fine", GOOD.format("fine"))
    plugins = manager(tmp_path)
    assert plugins.status("npu").state is State.BROKEN
    assert plugins.status("npu2").state is State.BROKEN
    assert plugins.backend("fine").name == "fine"
    infos = {info.name: info.state for info in plugins.backend_infos()}
    assert infos == {"fine": State.READY, "npu": State.BROKEN, "npu2": State.BROKEN}


def test_allow_and_deny_lists(install: Install, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        install(name, GOOD.format(name))
    allowed = manager(tmp_path, ZENITH_PLUGINS="a, b", ZENITH_DISABLE_PLUGINS="b")
    assert list(allowed.backends) == ["a"]
    assert row(allowed, "b").why == "by ZENITH_DISABLE_PLUGINS"
    assert row(allowed, "c").why == "not in ZENITH_PLUGINS"
    assert "plugin_dist_c" not in sys.modules  # a blocked plugin is not even imported
    with pytest.raises(PluginError, match="blocked: not in ZENITH_PLUGINS"):
        allowed.backend("c")
    assert not manager(tmp_path, ZENITH_PLUGINS="").backends
    missing = row(manager(tmp_path, ZENITH_PLUGINS="zz"), "zz")
    assert missing.state is State.UNAVAILABLE and "installed" in missing.why


def test_trace_shows_hook_calls(
    install: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install("a", GOOD.format("a"))
    manager(tmp_path)
    assert capsys.readouterr().err == ""
    manager(tmp_path, ZENITH_TRACE_PLUGINS="1")
    assert "zenith plugins: a: zenith_register_backends -> [" in capsys.readouterr().err


class Rows:
    def __init__(self) -> None:
        self.added: list[tuple[str, tuple[Any, ...]]] = []

    def add(self, backend: str, *specs: Any) -> None:
        self.added.append((backend, specs))


def test_kernels_of_a_failing_plugin_leave_no_rows(install: Install, tmp_path: Path) -> None:
    hook = "@hookimpl\ndef zenith_register_kernels(registry):\n    registry.add('{0}', 1, 2)\n"
    install("bad", hook.format("bad") + "    1 / 0\n")
    install("good", hook.format("good"))
    plugins, rows = manager(tmp_path), Rows()
    plugins.register_kernels(rows)
    assert rows.added == [("good", (1, 2))]
    assert row(plugins, "bad").state is State.BROKEN


def test_adapter_is_chosen_by_type_and_a_raising_one_is_passed_over(
    install: Install, tmp_path: Path
) -> None:
    hook = "@hookimpl\ndef zenith_register_adapters():\n    return [Adapter('{0}', {1})]\n"
    install("aaa", hook.format("aaa", "'not a type'"))  # isinstance raises TypeError
    install("ints", hook.format("ints", "int"))
    plugins = manager(tmp_path)
    assert plugins.adapter_for(3).name == "ints"
    assert row(plugins, "aaa").state is State.BROKEN
    with pytest.raises(PluginError, match=r"no installed adapter takes a builtins\.str") as caught:
        plugins.adapter_for("text")
    assert "plugin 'aaa' is broken" in str(caught.value)


def test_subscribe_hook_gets_the_bus(install: Install, tmp_path: Path) -> None:
    code = (
        "seen = []\n@hookimpl\ndef zenith_subscribe(events):\n    events.subscribe(seen.append)\n"
    )
    install("listener", code)
    manager(tmp_path)
    module = sys.modules["plugin_dist_listener"]
    try:
        events.emit("evicted", dims={"N": 3})
        assert [event.dims for event in module.seen] == [{"N": 3}]
    finally:
        events._drop(module.seen.append)


def test_unknown_target_and_unknown_option(install: Install, tmp_path: Path) -> None:
    install("npu", GOOD.format("npu"))
    plugins = manager(tmp_path)
    plugins.check(CompileConfig(target="npu", backend_options={"npu": {"streams": 2}}))
    with pytest.raises(ConfigurationError, match="no backend 'tpu'; installed: auto, npu"):
        plugins.check(CompileConfig(target=["tpu"]))
    with pytest.raises(ConfigurationError, match="no option 'stream'; allowed: streams"):
        plugins.check(CompileConfig(backend_options={"npu": {"stream": 2}}))
    with pytest.raises(ConfigurationError, match="no backend 'gpu'"):
        plugins.check(CompileConfig(backend_options={"gpu": {}}))


def test_a_broken_builtin_is_never_passed_over(install: Install) -> None:
    install("core", "raise ImportError('half installed')\n", dist="core")
    plugins = PluginManager([], builtins=("plugin_core",), environ={})
    with pytest.raises(PluginError, match="built-in plugin 'plugin_core' is broken: ImportError"):
        plugins.check(CompileConfig())
    with pytest.raises(PluginError, match="half installed"):
        plugins.register_kernels(Rows())
    blocked = PluginManager(
        [], builtins=("plugin_core",), environ={"ZENITH_DISABLE_PLUGINS": "plugin_core"}
    )
    blocked.check(CompileConfig())  # the user's own choice
