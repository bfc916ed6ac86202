"""The node tests of the onnx package that mean the same at GraphIR's opset."""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from zenith.ir import OPSET
from zenith.testing.cases import Case

RANDOM_RESULTS = ("RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial")


def cases(ops: Collection[str] | None = None) -> Iterator[Case]:
    """The tests of the operators `ops` at least: some take seconds to make."""
    for test in _node_tests(ops):
        if not _means_the_same(test.model):
            continue
        model = onnx.ModelProto()
        model.CopyFrom(test.model)
        node = model.graph.node[0]
        for entry in model.opset_import:
            if entry.domain in ("", "ai.onnx"):
                entry.version = OPSET
        node.name = node.name or "node"
        for index, (inputs, outputs) in enumerate(test.data_sets):
            given = tuple(_value(x) for x in inputs)
            dtype = next((x.dtype.name for x in given if isinstance(x, np.ndarray)), "none")
            what = test.name.removeprefix("test_") + (f"_{index}" if index else "")
            yield Case(
                f"{node.op_type}/{dtype}/onnx:{what}",
                f"{node.domain or 'ai.onnx'}:{node.op_type}",
                dtype,
                model.SerializeToString(),
                given,
                tuple(_value(x) for x in outputs),
                repeatable=node.op_type not in RANDOM_RESULTS,
                tolerance=test.rtol,
            )


def _node_tests(ops: Collection[str] | None) -> list[Any]:
    import onnx.backend.test.case.node as node

    state = np.random.get_state()
    np.random.seed(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # overflow on purpose
            for module in pkgutil.iter_modules(node.__path__):
                if not module.ispkg and _names_any(Path(node.__path__[0], module.name), ops):
                    importlib.import_module(f"{node.__name__}.{module.name}")
    finally:
        np.random.set_state(state)
    return list(node._NodeTestCases)


def _names_any(module: Path, ops: Collection[str] | None) -> bool:
    """Whether the source of a test module names one of the operators."""
    if ops is None:
        return True
    text = module.with_suffix(".py").read_text(encoding="utf-8")
    return any(f'"{op.rpartition(":")[2]}"' in text for op in ops)


def _means_the_same(model: onnx.ModelProto) -> bool:
    """One standard node, whose schema has not changed between the model's opset and GraphIR's."""
    if len(model.graph.node) != 1:
        return False
    node = model.graph.node[0]
    if node.domain not in ("", "ai.onnx"):
        return False
    versions = {entry.domain: entry.version for entry in model.opset_import}
    version = versions.get("", versions.get("ai.onnx", OPSET))
    if version > OPSET:
        return False
    then, now = (onnx.defs.get_schema(node.op_type, v) for v in (version, OPSET))
    return then.since_version == now.since_version


def _value(value: Any) -> Any:
    """An array, a list of arrays for a sequence, or None for an empty optional."""
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    if isinstance(value, list | tuple):
        return [_value(x) for x in value]
    return None if value is None else np.asarray(value)
