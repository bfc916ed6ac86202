"""Hostile models: tensors that lie, and sizes that constants and inputs ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from hostile_kit import CASES, Source, case, model_of, node, small, vector, weight
from onnx import NodeProto, TensorProto, helper

# --- tensors -----------------------------------------------------------------------------------


def _weight(spoil: Callable[[TensorProto], Any]) -> Callable[[], Source]:
    def make() -> Source:
        model = small()
        spoil(model.graph.initializer[0])
        return model

    return make


def _set(**fields: Any) -> Callable[[TensorProto], None]:
    def spoil(tensor: TensorProto) -> None:
        for name, value in fields.items():
            tensor.ClearField(name)
            field = getattr(tensor, name)
            if isinstance(field, int | bytes):
                setattr(tensor, name, value)
            else:
                field.extend(value)

    return spoil


_TENSORS: dict[str, tuple[dict[str, Any], str]] = {
    "raw_data_too_short": ({"raw_data": b"1234"}, "48 bytes are needed, 4 are there"),
    "raw_data_too_long": ({"raw_data": b"1" * 52}, "48 bytes are needed, 52 are there"),
    "no_data": ({"raw_data": b""}, "are needed, 0 are there"),
    "exabytes": ({"dims": [1 << 20, 1 << 20, 1 << 18]}, "bytes are needed"),
    "dims_overflow": ({"dims": [1 << 32, 1 << 32, 0]}, "64 bits"),
    "dims_wrap_to_12": ({"dims": [(1 << 62) + 3, 4]}, "64 bits"),
    "negative_dim": ({"dims": [-4, -3]}, "size -4 at axis 0"),
    "hundred_axes": ({"dims": [1] * 100}, "100 axes"),
    "undefined_type": ({"data_type": 0}, "element type number 0"),
    "unknown_type": ({"data_type": 77}, "element type number 77"),
    "two_kinds_of_data": ({"float_data": [1.0] * 12}, "several kinds"),
    "raw_strings": ({"data_type": TensorProto.STRING}, "strings"),
    "wrong_list": ({"raw_data": b"", "int64_data": [1] * 12}, "must be in|instead of"),
    "list_too_short": ({"raw_data": b"", "float_data": [1.0] * 11}, "11 are there"),
    "half_a_complex": (
        {"raw_data": b"", "data_type": TensorProto.COMPLEX64, "float_data": [1.0] * 12},
        "24 items",
    ),
    "bools_of_7": (
        {"raw_data": b"\7" * 12, "data_type": TensorProto.BOOL},
        "other than 0 and 1",
    ),
    "text_not_utf8": (
        {"raw_data": b"", "data_type": TensorProto.STRING, "string_data": [b"\xff"] * 12},
        "UTF-8",
    ),
    "external_without_a_place": ({"raw_data": b"", "data_location": 1}, "in other files"),
}
for _name, (_fields, _words) in _TENSORS.items():
    CASES[f"tensor_{_name}"] = (_weight(_set(**_fields)), "ValidationError", _words)


@case("ValidationError", "several kinds|segment")
def tensor_segment() -> Source:
    model = small()
    model.graph.initializer[0].segment.begin = 3
    return model


def _sparse(dims: list[int], indices: list[int], values: int = 1) -> Source:
    model = small()
    del model.graph.initializer[0]
    sparse = model.graph.sparse_initializer.add()
    sparse.dims.extend(dims)
    sparse.values.CopyFrom(weight("w", values))
    sparse.indices.CopyFrom(vector("", *indices))
    return model


@case("ok")
def sparse_weight() -> Source:
    return _sparse([4, 3], [11])


@case("ValidationError", "too large to be made dense")
def sparse_exabytes() -> Source:
    return _sparse([1 << 30, 1 << 30], [5])


@case("ValidationError", "outside")
def sparse_index_outside() -> Source:
    return _sparse([4, 3], [12])


@case("ValidationError", "need indices")
def sparse_counts_differ() -> Source:
    return _sparse([4, 3], [1, 2], values=3)


# --- sizes that constants ask for --------------------------------------------------------------

HUGE = 1 << 40
_ANY = "ok ValidationError CompilationError DeviceOutOfMemoryError NoKernelFoundError KernelError"


def _constants(nodes: list[NodeProto], *weights: TensorProto) -> Callable[[], Source]:
    """`big` is what the constants make; only its sizes are read, so that no test sums it up."""
    tail = [
        node("Slice", "big,start,end", "s"),
        node("ReduceMax", "s", "r"),
        node("Add", "x,r", "y"),
    ]
    ends = (vector("start", 0), vector("end", 2))
    return lambda: model_of([*nodes, *tail], weights=(*weights, *ends))


def _range(start: float, limit: float, step: float, dtype: Any) -> list[TensorProto]:
    parts = {"a": start, "b": limit, "c": step}
    return [onnx.numpy_helper.from_array(np.array(v, dtype), n) for n, v in parts.items()]


_ONE = weight("one", 1)
_BOMBS: dict[str, Callable[[], Source]] = {
    "expand": _constants([node("Expand", "one,n", "big")], _ONE, vector("n", HUGE)),
    "expand_and_add": _constants(
        [node("Expand", "one,n", "e"), node("Add", "e,one", "big")], _ONE, vector("n", HUGE)
    ),
    "expand_and_reshape": _constants(
        [node("Expand", "one,n", "e"), node("Reshape", "e,m", "big")],
        _ONE,
        vector("n", 1 << 20, 1 << 20),
        vector("m", HUGE),
    ),
    "constant_of_shape": _constants([node("ConstantOfShape", "n", "big")], vector("n", HUGE)),
    "constant_of_negative_shape": _constants(
        [node("ConstantOfShape", "n", "big")], vector("n", -5)
    ),
    "constant_of_shape_overflow": _constants(
        [node("ConstantOfShape", "n", "big")], vector("n", 1 << 32, 1 << 32, 1 << 32)
    ),
    "tile": _constants([node("Tile", "one,n", "big")], _ONE, vector("n", HUGE)),
    "tile_chain": _constants(
        [
            node("Tile", "one,n", "t0"),
            *(node("Tile", f"t{i},n", f"t{i + 1}") for i in range(8)),
            node("Identity", "t8", "big"),
        ],
        _ONE,
        vector("n", 1 << 5),
    ),
    "range": _constants(
        [node("Range", "a,b,c", "r"), node("Cast", "r", "big", to=1)],
        *_range(0, HUGE, 1, np.int64),
    ),
    "range_of_float": _constants(
        [node("Range", "a,b,c", "big")],
        *_range(0, 1e30, 1e-30, np.float32),
    ),
    "range_of_step_0": _constants(
        [node("Range", "a,b,c", "r"), node("Cast", "r", "big", to=1)],
        *_range(0, 9, 0, np.int64),
    ),
    "pad": _constants([node("Pad", "one,n", "big")], _ONE, vector("n", HUGE, HUGE)),
    "negative_pad": _constants([node("Pad", "one,n", "big")], _ONE, vector("n", -5, -5)),
    "resize": _constants(
        [node("Resize", "w,,,n", "big")],
        weight("w", 1, 1, 2, 2),
        vector("n", 1, 1, 1 << 20, 1 << 20),
    ),
    "resize_by_scales": _constants(
        [node("Resize", "w,,s1", "big")],
        weight("w", 1, 1, 2, 2),
        onnx.numpy_helper.from_array(np.array([1, 1, 1e6, 1e6], np.float32), "s1"),
    ),
    "eye": _constants(
        [node("ConstantOfShape", "n", "z"), node("EyeLike", "z", "big", dtype=1)],
        vector("n", 1 << 20, 1 << 20),
    ),
    "one_hot": _constants(
        [node("OneHot", "i,d,v", "big")],
        vector("i", 3),
        vector("d", HUGE),
        onnx.numpy_helper.from_array(np.array([0, 1], np.float32), "v"),
    ),
    "many_constants": _constants(
        [
            *(node("ConstantOfShape", "n", f"c{i}") for i in range(300)),
            node("Sum", ",".join(f"c{i}" for i in range(300)), "big"),
        ],
        vector("n", 1 << 22),
    ),
    "window": _constants(
        [node("HannWindow", "n", "big")], onnx.numpy_helper.from_array(np.array(HUGE), "n")
    ),
    "einsum": _constants(
        [node("Einsum", "w,w,w,w,w,w", "big", equation="ab,cd,ef,gh,ij,kl->")],
        weight("w", 100, 100),
    ),
    "outer_product": _constants(
        [node("MatMul", "p,q", "big")], weight("p", 1 << 20, 1), weight("q", 1, 1 << 20)
    ),
    "gather": _constants(
        [node("Gather", "w,i", "big")], weight("w", 4, 1 << 16), vector("i", *[0] * (1 << 16))
    ),
    "conv_of_constants": _constants(
        [node("Conv", "i,k", "big")], weight("i", 1, 16, 256, 256), weight("k", 64, 16, 3, 3)
    ),
    "reshape_to_overflow": _constants(
        [node("Reshape", "one,n", "big")], _ONE, vector("n", 1 << 32, 1 << 32)
    ),
    "split_into_many": lambda: model_of(
        [node("Split", "x,n", "y z")], outputs=("y", "z"), weights=(vector("n", -3, 1 << 62),)
    ),
}
for _name, _make in _BOMBS.items():
    CASES[f"bomb_{_name}"] = (_make, _ANY, "")


@case("DeviceOutOfMemoryError ValidationError", "")
def run_time_expand() -> Source:
    """As large as an input says, at run time: the call below gives 2^45."""
    model = model_of(
        [node("ConstantOfShape", "n", "c"), node("ReduceSum", "c", "s"), node("Add", "x,s", "y")],
        {"x": [4], "n": [1]},
    )
    model.graph.input[1].type.tensor_type.elem_type = TensorProto.INT64
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, [4]))
    return model


@case("ValidationError", "Expand gives 4[0-9]{18} bytes")
def view_of_a_bomb() -> Source:
    """An expanded view needs no memory; to add it up would take years."""
    return model_of(
        [node("Expand", "x,sizes", "e"), node("ReduceSum", "e", "s"), node("Add", "x,s", "y")],
        {"x": [1]},
        weights=(vector("sizes", 1 << 20, 1 << 20, 1 << 20),),
    )


@case("DeviceOutOfMemoryError ValidationError", "")
def run_time_product() -> Source:
    """An outer product of the call's input with itself, cubed: more than 64 bits of bytes."""
    return model_of(
        [
            node("Reshape", "x,column", "c"),
            node("Reshape", "x,row", "r"),
            node("Mul", "c,r", "m"),
            node("Reshape", "m,column", "mc"),
            node("Reshape", "m,row", "mr"),
            node("Mul", "mc,mr", "big"),
            node("Relu", "big", "y"),
        ],
        {"x": ["N"]},
        weights=(vector("column", -1, 1), vector("row", 1, -1)),
    )


@case("ok ValidationError", "")
def size_named_by_a_bomb() -> Source:
    return model_of([node("Relu", "x", "y")], {"x": ["9999999999**9999999", "((" * 200]})


@case("ok ValidationError", "")
def size_that_divides_by_zero() -> Source:
    return model_of([node("Relu", "x", "y")], {"x": ["a/0", "a"]})


@case("ok", "")
def sizes_of_any_name() -> Source:
    return model_of([node("Relu", "x", "y")], {"x": ["batch size", "?", "import", "a.b", "size_"]})


@case("ok ValidationError", "")
def lies_about_inner_shapes() -> Source:
    """Declared types of values are not believed: they are smaller than the truth."""
    model = model_of(
        [node("NonZero", "x", "n"), node("Cast", "n", "f", to=1), node("Relu", "f", "y")],
        {"x": [4, 4]},
    )
    model.graph.value_info.append(helper.make_tensor_value_info("n", TensorProto.INT64, [2, 1]))
    model.graph.value_info.append(helper.make_tensor_value_info("f", TensorProto.FLOAT, [2, 1]))
    return model


@case("ok ValidationError", "")
def notes_that_lie() -> Source:
    model = model_of(
        [node("Shape", "x", "n"), node("Reshape", "x,n", "r"), node("Relu", "r", "y")],
        {"x": ["A", "B"]},
    )
    info = helper.make_tensor_value_info("n", TensorProto.INT64, [2])
    for key in ("onnx_shape_inference.sym_data", "pkg.onnx_shape_inference.sym_data"):
        info.metadata_props.add(key=key, value="[1000000, 1000000]")
    model.graph.value_info.append(info)
    return model
