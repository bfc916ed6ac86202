"""Plugins as installed distributions, without installing anything: metadata beside the module."""

from __future__ import annotations

import os
import shutil
from importlib import metadata
from pathlib import Path

import pytest

BROKEN = Path(__file__).parent / "broken_plugins"
DEMO = Path(__file__).parents[1] / "demo_plugin" / "src" / "zenith_demo.py"


def install_into(folder: Path, module: Path, *, name: str = "", dist: str = "") -> None:
    """Make `module` an entry point of a distribution in `folder`."""
    name = name or module.stem
    dist = dist or f"acme-{name.replace('_', '-')}"
    shutil.copy(module, folder)
    info = folder / f"{dist.replace('-', '_')}-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text(f"[zenith]\n{name} = {module.stem}\n")


@pytest.fixture(scope="session")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH in which every broken plugin is installed."""
    folder = tmp_path_factory.mktemp("broken")
    for module in sorted(BROKEN.glob("*.py")):
        if module.stem != "twins":
            install_into(folder, module)
    for dist in ("acme-twins", "other-twins"):
        install_into(folder, BROKEN / "twins.py", name="twins", dist=dist)
    return folder


@pytest.fixture(scope="session")
def with_demo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which the demo backend is installed, and allowed."""
    environ = {**os.environ, "ZENITH_PLUGINS": "demo"}
    environ.pop("ZENITH_DISABLE_PLUGINS", None)
    if "demo" not in metadata.entry_points(group="zenith").names:
        folder = tmp_path_factory.mktemp("demo")
        install_into(folder, DEMO, name="demo", dist="zenith-demo-plugin")
        environ["PYTHONPATH"] = os.pathsep.join(
            [str(folder), *environ.get("PYTHONPATH", "").split()]
        )
    return environ
