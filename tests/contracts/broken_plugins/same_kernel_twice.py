"""Two rows of one name."""

from zenith.hookspecs import hookimpl
from zenith.runtime.backend import CallableBackend
from zenith.runtime.kernel_registry import KernelSpec

ZENITH_API_VERSION = 1


class Double(CallableBackend):
    name = "same_kernel_twice"


@hookimpl
def zenith_register_backends():
    return [Double()]


@hookimpl
def zenith_register_kernels(registry):
    row = KernelSpec("add", "ai.onnx:Add", lambda op, inputs: [inputs[0] + inputs[1]])
    registry.add("same_kernel_twice", row, row)
