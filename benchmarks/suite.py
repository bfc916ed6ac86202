"""What is measured: a suite is a file of models, batches and precisions; a cell is one of each."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

# Relative rms error against float64 above which a result is wrong, and its time counts for nothing.
LIMITS = {"fp32": 1e-4, "bf16": 0.1, "int8-static": 0.5, "int8-dynamic": 0.5}


@dataclass(frozen=True)
class Cell:
    """One model at one batch size in one precision."""

    model: str
    batch: int
    precision: str

    def __str__(self) -> str:
        return f"{self.model} b{self.batch} {self.precision}"


@dataclass(frozen=True)
class Engine:
    """Settings of one engine, from engines.toml."""

    name: str
    source: str
    environment: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


def load_suite(name: str, folder: Path = HERE / "suites") -> list[Cell]:
    """Cells of `name`.toml, precision by precision."""
    path = folder / f"{name}.toml"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.toml")))
        raise ValueError(f"no suite '{name}'; there are: {known}")
    content = tomllib.loads(path.read_text())
    wanted = {"models": str, "batches": int, "precisions": str}
    for key, kind in wanted.items():
        items = content.get(key)
        if not isinstance(items, list) or not items or not all(type(i) is kind for i in items):
            raise ValueError(f"{path.name}: '{key}' must be a list of {kind.__name__}")
    if unknown := set(content) - set(wanted):
        raise ValueError(f"{path.name}: unknown {', '.join(sorted(unknown))}")
    if unknown := set(content["precisions"]) - set(LIMITS):
        raise ValueError(f"{path.name}: unknown precision {', '.join(sorted(unknown))}")
    return [
        Cell(model, batch, precision)
        for precision in content["precisions"]
        for batch in content["batches"]
        for model in content["models"]
    ]


def choose(cells: Sequence[Cell], **wanted: Sequence[Any]) -> list[Cell]:
    """The cells whose attribute is among those wanted; an empty list of wishes takes all."""
    for attribute, values in wanted.items():
        known = {getattr(cell, attribute) for cell in cells}
        if missing := set(values) - known:
            raise ValueError(f"the suite has no {attribute} {sorted(missing)}; it has: {known}")
        cells = [c for c in cells if not values or getattr(c, attribute) in values]
    return list(cells)


def load_engines(path: Path = HERE / "engines.toml") -> dict[str, Engine]:
    """All engines by name."""
    content = tomllib.loads(path.read_text())
    return {name: Engine(name, **settings) for name, settings in content.items()}
