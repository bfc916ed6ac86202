"""The standard interface `onnx.backend.base.Backend`, so that ONNX's own test runner can use it.

>>> import onnx.backend.test, zenith_onnx.backend                         # doctest: +SKIP
>>> tests = onnx.backend.test.BackendTest(zenith_onnx.backend, __name__).test_cases
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
from onnx.backend.base import Backend, BackendRep, namedtupledict

import zenith
from zenith.errors import UnsupportedOperationError

__all__ = [
    "ZenithBackend",
    "ZenithRep",
    "is_compatible",
    "prepare",
    "run_model",
    "run_node",
    "supports_device",
]


class ZenithRep(BackendRep):
    """A compiled model; `compiled` is what `zenith.compile` gave."""

    def __init__(self, compiled: Any) -> None:
        self.compiled = compiled

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Outputs in the model's order; `inputs` in the model's order, or by name."""
        names = self.compiled.input_names
        if not isinstance(inputs, dict):
            if not isinstance(inputs, list | tuple):
                inputs = [inputs]
            inputs = dict(zip(names, inputs, strict=True))
        results = self.compiled.run(inputs)
        outputs = list(results)
        return namedtupledict("Outputs", outputs)(*(results[name] for name in outputs))


class ZenithBackend(Backend):
    """Models on the CPU, compiled. Options by keyword: those of `zenith.compile`."""

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether all operators of the model are known."""
        from zenith_onnx.adapter import import_model

        if not cls.supports_device(device):
            return False
        try:
            import_model(model)
        except UnsupportedOperationError:
            return False
        return True

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> ZenithRep:
        """Compile `model`. kwargs: options of `zenith.compile`, such as opt_level and target."""
        if not cls.supports_device(device):
            raise ValueError(f"no device {device!r}: this backend runs on the CPU")
        options = {"fallback": "allow", **{k: v for k, v in kwargs.items() if k in _OPTIONS}}
        return ZenithRep(zenith.compile(model, **options))

    @classmethod
    def run_model(
        cls, model: onnx.ModelProto, inputs: Any, device: str = "CPU", **kwargs: Any
    ) -> tuple[Any, ...]:
        """Compile and run once."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls,
        node: onnx.NodeProto,
        inputs: Sequence[Any],
        device: str = "CPU",
        outputs_info: Sequence[Any] | None = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """Run one node on arrays; its version is that of `opset_version`, or the newest."""
        opset = kwargs.pop("opset_version", onnx.defs.onnx_opset_version())
        names = [name for name in node.input if name]
        arrays = dict(zip(names, inputs, strict=True))
        graph = onnx.helper.make_graph(
            [node],
            node.op_type,
            [_info(name, array) for name, array in arrays.items()],
            [onnx.ValueInfoProto(name=name) for name in node.output if name],
        )
        opsets = [onnx.helper.make_opsetid(node.domain, opset)]
        model = onnx.helper.make_model(graph, opset_imports=opsets)
        return cls.run_model(onnx.shape_inference.infer_shapes(model), arrays, device, **kwargs)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Only "CPU", with or without a number."""
        return device.partition(":")[0] == "CPU"


_OPTIONS = ("opt_level", "target", "fallback", "threads", "precision", "mode", "backend_options")


def _info(name: str, array: Any) -> onnx.ValueInfoProto:
    dtype = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    return onnx.helper.make_tensor_value_info(name, dtype, array.shape)


is_compatible = ZenithBackend.is_compatible
prepare = ZenithBackend.prepare
run_model = ZenithBackend.run_model
run_node = ZenithBackend.run_node
supports_device = ZenithBackend.supports_device
