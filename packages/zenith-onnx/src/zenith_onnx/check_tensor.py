"""Names, types and tensors of a ModelProto: what each may be. Allocates nothing of their size."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto

from zenith.errors import ValidationError

__all__ = [
    "MAX_BYTES",
    "check_element_type",
    "check_name",
    "check_sparse_tensor",
    "check_tensor",
    "check_type",
    "holds_map",
    "is_external",
    "quoted",
    "tensor_bytes",
]

MAX_BYTES = (1 << 63) - 1  # of one tensor: sizes are 64-bit integers everywhere below
MAX_RANK = 32
MAX_SPARSE_BYTES = 1 << 31  # of a sparse tensor made dense: what a dense one could hold in a file
MAX_TYPE_DEPTH = 16
MAX_NAME = 1 << 16

_BITS: dict[int, int] = {
    TensorProto.FLOAT: 32,
    TensorProto.UINT8: 8,
    TensorProto.INT8: 8,
    TensorProto.UINT16: 16,
    TensorProto.INT16: 16,
    TensorProto.INT32: 32,
    TensorProto.INT64: 64,
    TensorProto.BOOL: 8,
    TensorProto.FLOAT16: 16,
    TensorProto.DOUBLE: 64,
    TensorProto.UINT32: 32,
    TensorProto.UINT64: 64,
    TensorProto.COMPLEX64: 64,
    TensorProto.COMPLEX128: 128,
    TensorProto.BFLOAT16: 16,
    TensorProto.FLOAT8E4M3FN: 8,
    TensorProto.FLOAT8E4M3FNUZ: 8,
    TensorProto.FLOAT8E5M2: 8,
    TensorProto.FLOAT8E5M2FNUZ: 8,
    TensorProto.UINT4: 4,
    TensorProto.INT4: 4,
    TensorProto.FLOAT4E2M1: 4,
    TensorProto.FLOAT8E8M0: 8,
    TensorProto.UINT2: 2,
    TensorProto.INT2: 2,
}
_TYPES = frozenset({*_BITS, TensorProto.STRING})
_LISTS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")
# Where values lie that are not raw: the list, and how many of its items hold one value.
_LIST_OF: dict[int, tuple[str, int]] = {
    TensorProto.FLOAT: ("float_data", 1),
    TensorProto.COMPLEX64: ("float_data", 2),
    TensorProto.DOUBLE: ("double_data", 1),
    TensorProto.COMPLEX128: ("double_data", 2),
    TensorProto.INT64: ("int64_data", 1),
    TensorProto.UINT64: ("uint64_data", 1),
    TensorProto.UINT32: ("uint64_data", 1),
    TensorProto.STRING: ("string_data", 1),
}
_TYPE_KINDS = frozenset(
    {"tensor_type", "sequence_type", "map_type", "optional_type", "sparse_tensor_type"}
)


def quoted(name: object) -> str:
    """A name for a message, whatever it holds."""
    text = repr(name)
    return text if len(text) <= 80 else f"{text[:70]}... ({len(text)} characters)"


def check_name(name: object, what: str, where: str, *, empty: bool = True) -> None:
    """Names are UTF-8 without control characters, and of a sane length."""
    if not isinstance(name, str):  # protobuf gives bytes where it cannot decode
        raise ValidationError(f"{what} is not UTF-8: {quoted(name)}\n  {where}")
    if not name and not empty:
        raise ValidationError(f"{what} is empty\n  {where}")
    if len(name) > MAX_NAME:
        raise ValidationError(f"{what} has {len(name)} characters, {MAX_NAME} at most\n  {where}")
    if not name.isprintable() and any(ord(c) < 32 or ord(c) == 127 for c in name):
        raise ValidationError(
            f"{what} holds a control character: {quoted(name)}\n  {where}", next="rename it"
        )


def check_element_type(kind: int, where: str) -> None:
    """A number that stands for an element type."""
    if kind not in _TYPES:
        raise ValidationError(f"{where} is element type number {kind}, which does not exist")


def is_external(tensor: TensorProto) -> bool:
    """Whether the data lies in another file."""
    return tensor.data_location == TensorProto.EXTERNAL


def tensor_bytes(tensor: TensorProto) -> int:
    """Bytes of the data of a tensor whose type has a fixed size; rounded up to whole bytes."""
    return (int(math.prod(tensor.dims)) * _BITS[tensor.data_type] + 7) // 8


def check_tensor(tensor: TensorProto, where: str) -> None:
    """The data is there, and as much of it as the dims say."""
    kind = tensor.data_type
    if kind not in _TYPES:
        raise ValidationError(f"{where} has element type number {kind}, which does not exist")
    count = _check_dims(tensor.dims, where)
    label = TensorProto.DataType.Name(kind)
    shape = f"{label}{_shape(tensor.dims)}"
    if math.prod(max(size, 1) for size in tensor.dims) * _BITS.get(kind, 64) // 8 > MAX_BYTES:
        raise ValidationError(f"{where} is {shape}: more bytes than 64 bits can count")
    if tensor.HasField("segment"):
        raise ValidationError(f"{where} is one segment of a tensor; segments are not supported")
    if tensor.data_location not in (TensorProto.DEFAULT, TensorProto.EXTERNAL):
        raise ValidationError(f"{where}: data_location {tensor.data_location} does not exist")
    lists = [name for name in _LISTS if len(getattr(tensor, name))]
    raw = tensor.HasField("raw_data")
    if is_external(tensor):
        if lists or len(tensor.raw_data):
            raise ValidationError(f"{where} has data both in the model and in another file")
        if kind == TensorProto.STRING:
            raise ValidationError(f"{where}: strings cannot lie in another file")
        return
    if tensor.external_data:
        raise ValidationError(f"{where} names another file but says its data is in the model")
    if len(lists) + (raw and len(tensor.raw_data) > 0) > 1:
        raise ValidationError(f"{where} has data of several kinds: {', '.join(lists)} and raw_data")
    if raw and not lists:
        if kind == TensorProto.STRING:
            raise ValidationError(f"{where}: strings cannot be raw data")
        wanted, found, unit = tensor_bytes(tensor), len(tensor.raw_data), "bytes"
    else:
        field, factor = _LIST_OF.get(kind, ("int32_data", 1))
        if lists and lists != [field]:
            raise ValidationError(
                f"{where} is {label}, its data must be in {field}, not {lists[0]}"
            )
        per_item = 8 // _BITS[kind] if kind in _BITS and _BITS[kind] < 8 else 1
        wanted = (count + per_item - 1) // per_item * factor
        found, unit = len(getattr(tensor, field)), f"items of {field}"
    if wanted != found:
        raise ValidationError(
            f"{where} is {shape}: {wanted} {unit} are needed, {found} are there",
            next="the file is cut short or was changed: fetch or export it again",
        )
    _check_values(tensor, raw, where)


def _check_values(tensor: TensorProto, raw: bool, where: str) -> None:
    if tensor.data_type == TensorProto.STRING:
        for item in tensor.string_data:
            try:
                item.decode()
            except UnicodeDecodeError as error:
                raise ValidationError(f"{where} holds a string that is not UTF-8") from error
    if tensor.data_type == TensorProto.BOOL:
        values: Sequence[int] | np.ndarray = (
            np.frombuffer(tensor.raw_data, np.uint8) if raw else np.asarray(tensor.int32_data)
        )
        if len(values) and not 0 <= np.min(values) <= np.max(values) <= 1:
            raise ValidationError(f"{where} is BOOL and holds values other than 0 and 1")


def check_sparse_tensor(sparse: onnx.SparseTensorProto, where: str) -> None:
    """Values, and where they are: inside, in order, none twice, and not too much when dense."""
    check_tensor(sparse.values, f"{where}: values")
    check_tensor(sparse.indices, f"{where}: indices")
    if is_external(sparse.values) or is_external(sparse.indices):
        raise ValidationError(f"{where}: sparse data cannot lie in another file")
    if sparse.values.data_type not in _BITS:
        raise ValidationError(f"{where}: a sparse tensor cannot hold strings")
    count = _check_dims(sparse.dims, where)
    if count * _BITS[sparse.values.data_type] // 8 > MAX_SPARSE_BYTES:
        raise ValidationError(
            f"{where} is {_shape(sparse.dims)}: too large to be made dense "
            f"(the limit is {MAX_SPARSE_BYTES} bytes)"
        )
    rank, shape = len(sparse.dims), list(sparse.indices.dims)
    if len(sparse.values.dims) != 1 or sparse.indices.data_type != TensorProto.INT64:
        raise ValidationError(f"{where}: values must have one axis, and indices be INT64")
    n = sparse.values.dims[0]
    if shape not in ([n], [n, rank]):
        raise ValidationError(f"{where}: {n} values need indices [{n}] or [{n}, {rank}]")
    indices = onnx.numpy_helper.to_array(sparse.indices)
    sizes = np.array(sparse.dims if indices.ndim == 2 else [count], np.int64)
    indices = indices.reshape(n, len(sizes))
    if n and ((indices < 0) | (indices >= sizes)).any():
        raise ValidationError(f"{where}: an index is outside of {_shape(sparse.dims)}")


def check_type(info: onnx.TypeProto, where: str, *, required: bool) -> None:
    """required: it must say what it is, down to the element type."""
    for _ in range(MAX_TYPE_DEPTH):
        kind = info.WhichOneof("value")
        if kind is None:
            if required:
                raise ValidationError(f"{where} has no type", next="declare its element type")
            return
        if kind not in _TYPE_KINDS:
            raise ValidationError(f"{where} has a type of unknown kind '{kind}'")
        if kind in ("tensor_type", "sparse_tensor_type"):
            tensor = getattr(info, kind)
            element = tensor.elem_type
            if element not in _TYPES and (required or element != TensorProto.UNDEFINED):
                raise ValidationError(
                    f"{where} has element type number {element}, which does not exist"
                )
            _check_shape(tensor.shape, element, where)
            return
        info = info.map_type.value_type if kind == "map_type" else getattr(info, kind).elem_type
    raise ValidationError(f"{where} has a type nested more than {MAX_TYPE_DEPTH} deep")


def holds_map(info: onnx.TypeProto) -> bool:
    """Whether a type is a map, or a sequence or optional of maps."""
    kind = info.WhichOneof("value")
    while kind in ("sequence_type", "optional_type"):
        info = getattr(info, kind).elem_type
        kind = info.WhichOneof("value")
    return bool(kind == "map_type")


def _check_shape(shape: onnx.TensorShapeProto, element: int, where: str) -> None:
    sizes = []
    if len(shape.dim) > MAX_RANK:
        raise ValidationError(f"{where} has {len(shape.dim)} axes, {MAX_RANK} at most")
    for axis, dim in enumerate(shape.dim):
        if dim.HasField("dim_value"):
            if dim.dim_value == -1:  # not in the standard, but in files: a size that is not known
                continue
            if dim.dim_value < 0:
                raise ValidationError(
                    f"{where} has size {dim.dim_value} at axis {axis}",
                    next="a size that is not known is a name (dim_param), not a negative number",
                )
            sizes.append(dim.dim_value)
        elif dim.HasField("dim_param"):
            check_name(dim.dim_param, f"the size of axis {axis}", where)
    if math.prod(max(size, 1) for size in sizes) * _BITS.get(element, 8) // 8 > MAX_BYTES:
        raise ValidationError(f"{where} is {sizes}: more bytes than 64 bits can count")


def _check_dims(dims: Sequence[int], where: str) -> int:
    if len(dims) > MAX_RANK:
        raise ValidationError(f"{where} has {len(dims)} axes, {MAX_RANK} at most")
    for axis, size in enumerate(dims):
        if size < 0:
            raise ValidationError(f"{where} has size {size} at axis {axis}")
    return math.prod(dims)


def _shape(dims: Sequence[int]) -> str:
    return f"[{','.join(str(size) for size in dims)}]"
