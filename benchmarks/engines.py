"""How each engine gets a model ready and runs it: `prepare` gives a call without arguments.

A call takes the engine's own kind of tensors and gives them. What an engine cannot do in principle
raises `Refused`; everything else that goes wrong is an error of its own. Both end in the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import artefacts, zoo
from benchmarks.suite import Cell

Options = Mapping[str, Any]


class Refused(Exception):
    """The engine says that it does not do this."""


@dataclass(frozen=True)
class Prepared:
    """A model ready to run: the call, how its results become arrays, versions, and the operations
    of one call, where the engine counts them."""

    call: Callable[[], Any]
    arrays: Callable[[Any], list[NDArray[Any]]]
    version: str
    flops: float = 0.0


Prepare = Callable[[Cell, int, Options], Prepared]


def _torch_arrays(results: Sequence[Any]) -> list[NDArray[Any]]:
    return [r.detach().float().numpy() for r in results]


def _torch_model(cell: Cell, threads: int) -> tuple[Any, tuple[Any, ...]]:
    """The module and its inputs in the type of the cell."""
    import torch

    torch.set_num_threads(threads)
    example = zoo.make(cell.model, cell.batch)
    module, inputs = example.module, example.inputs
    if cell.precision == "bf16":
        module = module.bfloat16()
        inputs = tuple(t.bfloat16() if t.is_floating_point() else t for t in inputs)
    elif cell.precision == "int8-dynamic":
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.ao is deprecated, and still what torch has
            module = torch.ao.quantization.quantize_dynamic(module, {torch.nn.Linear})
    elif cell.precision == "int8-static":
        raise Refused("static quantisation of a module is not part of torch")
    return module, inputs


def torch_eager(cell: Cell, threads: int, options: Options) -> Prepared:
    import torch

    module, inputs = _torch_model(cell, threads)

    def call() -> Any:
        with torch.inference_mode():
            return module(*inputs)

    return Prepared(call, _torch_arrays, torch.__version__)


def torch_compile(cell: Cell, threads: int, options: Options) -> Prepared:
    import torch
    import torch._inductor.config as inductor

    for name, value in options.get("config", {}).items():
        setattr(inductor, name, value)
    torch._dynamo.reset()
    module, inputs = _torch_model(cell, threads)
    compiled = torch.compile(module, mode=options["mode"], dynamic=False, fullgraph=True)

    def call() -> Any:
        with torch.inference_mode():
            return compiled(*inputs)

    return Prepared(call, _torch_arrays, torch.__version__)


def zentorch(cell: Cell, threads: int, options: Options) -> Prepared:
    import torch
    import torch._inductor.config as inductor
    import zentorch as plugin

    for name, value in options.get("config", {}).items():
        setattr(inductor, name, value)
    torch._dynamo.reset()
    module, inputs = _torch_model(cell, threads)
    compiled = torch.compile(module, backend="zentorch", dynamic=False)

    def call() -> Any:
        with torch.no_grad():
            return compiled(*inputs)

    return Prepared(call, _torch_arrays, plugin.__version__)


def _onnx_model(cell: Cell) -> Any:
    """The file for a cell's precision."""
    if cell.precision == "int8-static":
        return artefacts.static_file(cell.model, cell.batch)
    if cell.precision == "int8-dynamic":
        return artefacts.dynamic_file(cell.model, cell.batch)
    return artefacts.onnx_file(cell.model, cell.batch)


def onnxruntime(cell: Cell, threads: int, options: Options) -> Prepared:
    import onnxruntime as ort

    if cell.precision == "bf16":
        raise Refused("the CPU provider has no bfloat16 kernels on x86")
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    for name, value in options.items():
        settings.add_session_config_entry(name, value)
    path = _onnx_model(cell)
    session = ort.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    inputs = artefacts.feeds(path, zoo.make(cell.model, cell.batch).inputs)
    return Prepared(lambda: session.run(None, inputs), list, ort.__version__)


def openvino(cell: Cell, threads: int, options: Options) -> Prepared:
    import openvino as ov

    if cell.precision == "int8-dynamic":
        raise Refused("ONNX's dynamic quantisation is no kind that OpenVINO has")
    core = ov.Core()
    hint = "bf16" if cell.precision == "bf16" else "f32"
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": hint, **options}
    path = _onnx_model(cell)
    request = core.compile_model(core.read_model(path), "CPU", settings).create_infer_request()
    inputs = list(artefacts.feeds(path, zoo.make(cell.model, cell.batch).inputs).values())

    def call() -> Any:
        return request.infer(inputs, share_inputs=True, share_outputs=True)

    return Prepared(
        call, lambda results: [np.array(r) for r in results.values()], ov.__version__.split("-")[0]
    )


def zenith(cell: Cell, threads: int, options: Options) -> Prepared:
    import torch

    import zenith as compiler
    from zenith.errors import ConfigurationError

    torch.set_num_threads(threads)
    if cell.precision == "int8-dynamic":
        raise Refused("precision='int8' is static")
    example = zoo.make(cell.model, cell.batch)
    inputs = example.inputs
    settings: dict[str, Any] = {"precision": cell.precision.partition("-")[0], **options}
    if cell.precision == "int8-static":
        settings["calibration_data"] = [example.sample(seed) for seed in artefacts.CALIBRATION]
    try:
        compiled = compiler.compile(
            example.module, sample_input=inputs, threads=threads, **settings
        )
    except ConfigurationError as refusal:
        raise Refused(str(refusal).splitlines()[0]) from refusal
    dims: dict[Any, int] = {}
    flops = sum(
        float(n.flops.subs(dims) if hasattr(n.flops, "subs") else n.flops)
        for n in compiled.explain().nodes
    )
    return Prepared(lambda: compiled(*inputs), _torch_arrays, compiler.__version__, flops)


ENGINES: dict[str, Prepare] = {
    "zenith": zenith,
    "zenith-opt3": zenith,
    "torch-eager": torch_eager,
    "torch-compile": torch_compile,
    "torch-compile-max": torch_compile,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "zentorch": zentorch,
}
