"""Files made once per model and batch, and kept in build/bench: the ONNX export that ONNX Runtime
and OpenVINO read, its quantised forms, and the results in float64."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import zoo

CACHE = Path(__file__).parent.parent / "build" / "bench"
CALIBRATION = range(1, 9)  # seeds of the inputs that static quantisation sees


def _made(name: str, write: Callable[[Path], None]) -> Path:
    """The file of this name, written now unless it is there; never half of it."""
    path = CACHE / name
    if not path.exists():
        draft = CACHE / f"draft-{os.getpid()}-{name}" / name  # one may be made while another is
        draft.parent.mkdir(parents=True, exist_ok=True)
        write(draft)
        draft.replace(path)
        draft.parent.rmdir()
    return path


def exact_results(model: str, batch: int) -> list[NDArray[Any]]:
    """Results of the model in float64."""

    def write(path: Path) -> None:
        import torch

        example = zoo.make(model, batch)
        wide = tuple(t.double() if t.is_floating_point() else t for t in example.inputs)
        with torch.inference_mode():
            results = example.module.double()(*wide)
        np.savez(path, *[r.numpy() for r in results])

    with np.load(_made(f"{model}-b{batch}.npz", write)) as file:
        return [file[name] for name in file.files]


def onnx_file(model: str, batch: int) -> Path:
    """The model as PyTorch's own exporter writes it, shapes fixed."""

    def write(path: Path) -> None:
        import torch

        example = zoo.make(model, batch)
        torch.onnx.export(
            example.module, example.inputs, path, dynamo=True, external_data=False, verbose=False
        )

    return _made(f"{model}-b{batch}.onnx", write)


def dynamic_file(model: str, batch: int) -> Path:
    """Weights in 8 bits per channel, activations quantised in every call."""

    def write(path: Path) -> None:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(
            _prepared(model, batch), path, per_channel=True, weight_type=QuantType.QInt8
        )

    return _made(f"{model}-b{batch}-dynamic.onnx", write)


def static_file(model: str, batch: int) -> Path:
    """QDQ: weights in 8 bits per channel, activations in unsigned 8 bits by minimum and maximum."""

    def write(path: Path) -> None:
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

        quantize_static(
            _prepared(model, batch),
            path,
            _reader(model, batch),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )

    return _made(f"{model}-b{batch}-static.onnx", write)


def _prepared(model: str, batch: int) -> Path:
    """The export after the graph optimisations that quantisation wants to have had first."""

    def write(path: Path) -> None:
        from onnxruntime.quantization.shape_inference import quant_pre_process

        quant_pre_process(onnx_file(model, batch), path, skip_symbolic_shape=True)

    return _made(f"{model}-b{batch}-prepared.onnx", write)


def _reader(model: str, batch: int) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    example = zoo.make(model, batch)

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._left: Iterator[int] = iter(CALIBRATION)

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            seed = next(self._left, None)
            return None if seed is None else feeds(onnx_file(model, batch), example.sample(seed))

    return Reader()


def feeds(path: Path, inputs: tuple[Any, ...]) -> dict[str, NDArray[Any]]:
    """Inputs by the names that the file gives them."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    names = [value.name for value in graph.input]
    return {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
