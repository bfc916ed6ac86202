"""Adapter stage, second step: a file, bytes or ModelProto becomes a ModelProto that can be trusted.

What comes out is checked (`check`), has all its data (large weights of files apart, to be read when
they are needed; sparse tensors made dense), and names its dynamic sizes by plain identifiers or
simple expressions.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir
import sympy
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import AttributeProto, TensorProto

from zenith.errors import DeviceOutOfMemoryError, ValidationError
from zenith.ir.dims import parse_dim
from zenith.runtime.memory_manager import memory_bytes
from zenith_onnx.check import check, guarded
from zenith_onnx.check_tensor import is_external, quoted, tensor_bytes
from zenith_onnx.skeleton import LARGE, Handle, Piece, skeleton

__all__ = ["Loaded", "forget_metadata", "load"]

MAX_FILE = (1 << 31) - 1  # protobuf's own limit
MAX_OPEN = 64  # data files kept open for weights that stay in them; of more, data is read at once
_SHARED_DATA = 2  # tensors may overlap in their files: tied weights; not more than this on average
_EXTERNAL_KEYS = frozenset({"location", "offset", "length", "checksum", "basepath"})
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*", re.ASCII)
# Possessive: what follows a token decides nothing about it, so no name takes long to refuse.
_SIMPLE_SIZE = re.compile(r"(?:[A-Za-z_]\w*+|\d{1,9}+|//|[-+*/(), ]){1,40}+", re.ASCII)


@dataclass(frozen=True)
class Loaded:
    """A model, and those of its initializers whose data stays in files until somebody looks at it:
    by position among the initializers of the graph."""

    model: onnx.ModelProto
    apart: dict[int, Piece] = field(default_factory=dict)


def load(source: str | os.PathLike[str] | bytes | onnx.ModelProto) -> Loaded:
    """Read and check a model.

    source: a path, the bytes of a file, or a ModelProto, which is left as it is. Only with a path
        can the weights lie in other files: in its directory or below, nowhere else.

    Raises `ValidationError`, `UnsupportedOperationError`, or `DeviceOutOfMemoryError` when the
    weights are more than this machine's memory.
    """
    with guarded("reading the model"):
        directory: str | None = None
        owned = True
        apart: dict[int, Piece] = {}
        if isinstance(source, onnx.ModelProto):
            model, owned = source, False
        elif isinstance(source, bytes | bytearray | memoryview):
            model = _parse(bytes(source), "these bytes")
        else:
            path = os.fspath(source)
            directory = os.path.dirname(os.path.abspath(path))
            handle = _open_model(path)
            data, apart = skeleton(handle) or (_whole(handle), {})
            model = _parse(data, quoted(path))
            _put_back(model, apart)
        check(model)
        for position, piece in apart.items():
            _check_length(model.graph.initializer[position], piece)
        if not owned and _needs_rewrite(model):
            copy = onnx.ModelProto()
            copy.CopyFrom(model)
            model = copy
        _fetch(model, directory, apart)
        _make_dense(model)
        _rename_sizes(model)
        return Loaded(model, apart)


def forget_metadata(model: ir.Model) -> None:
    """Remove the model's notes on nodes and values, in place.

    Shape inference and the passes keep what they found in such notes (the content of shape tensors,
    for one) and believe it: it must not come from a file.
    """
    graphs: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    graphs += [inner for graph in list(graphs) for inner in graph.subgraphs()]
    for graph in graphs:
        graph.metadata_props.clear()
        values = [*graph.inputs, *graph.outputs]
        if isinstance(graph, ir.Graph):
            values += graph.initializers.values()
        for node in graph:
            node.metadata_props.clear()
            values += node.outputs
        for value in values:
            value.metadata_props.clear()


def _parse(data: bytes, what: str) -> onnx.ModelProto:
    if not data:
        raise ValidationError(f"{what} is empty", next="check that the file arrived whole")
    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(data)
    except DecodeError as error:
        raise ValidationError(
            f"{what} is no ONNX model: {error}",
            next="check that the file arrived whole, and that it is ONNX in protobuf form",
        ) from error
    return model


def _open_model(path: str) -> Handle:
    """The file. A link is followed: the user named it."""
    try:
        # Without O_NONBLOCK, opening a pipe would wait for somebody to write to it.
        handle = Handle(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except (OSError, ValueError) as error:
        raise ValidationError(
            f"cannot open {quoted(path)}: {error}", next="check the path"
        ) from error
    status = os.fstat(handle.descriptor)
    _must_be_regular(status, quoted(path))
    if status.st_size > MAX_FILE:
        raise ValidationError(
            f"{quoted(path)} has {status.st_size} bytes; an ONNX file has {MAX_FILE} at most",
            next="save the model with external data",
        )
    return handle


def _whole(handle: Handle) -> bytes:
    return handle.read(0, os.fstat(handle.descriptor).st_size, "the model")


def _put_back(model: onnx.ModelProto, apart: dict[int, Piece]) -> None:
    """Data of types whose content is checked, or packed in parts of bytes; the others are marked as
    lying in another file."""
    for position, piece in list(apart.items()):
        tensor = model.graph.initializer[position]
        if _stays_apart(tensor):
            tensor.data_location = TensorProto.EXTERNAL
        else:
            tensor.raw_data = piece.handle.read(piece.offset, piece.length, piece.where)
            del apart[position]


def _stays_apart(tensor: TensorProto) -> bool:
    if tensor.data_type in (TensorProto.UNDEFINED, TensorProto.STRING, TensorProto.BOOL):
        return False
    try:
        return ir.DataType(tensor.data_type).bitwidth >= 8
    except (ValueError, TypeError):  # no such type, or none with a size
        return False


def _check_length(tensor: TensorProto, piece: Piece) -> None:
    wanted = tensor_bytes(tensor)
    if wanted != piece.length:
        raise ValidationError(
            f"initializer '{tensor.name}' needs {wanted} bytes, {piece.length} are there",
            next="the file is cut short or was changed: fetch or export it again",
        )
    tensor.ClearField("data_location")


def _must_be_regular(status: os.stat_result, what: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
        raise ValidationError(f"{what} is {kind}, not a file", next="give the path of a file")


# --- walking -----------------------------------------------------------------------------------


def _graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto | onnx.FunctionProto]:
    """Every graph and function of the model, inner ones too."""
    stack: list[onnx.GraphProto | onnx.FunctionProto] = [model.graph, *model.functions]
    while stack:
        graph = stack.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.type == AttributeProto.GRAPH:
                    stack.append(attribute.g)
                elif attribute.type == AttributeProto.GRAPHS:
                    stack.extend(attribute.graphs)


def _attributes(model: onnx.ModelProto) -> Iterator[tuple[AttributeProto, str]]:
    """Every attribute with the node it belongs to, as text."""
    for graph in _graphs(model):
        for node in graph.node:
            for attribute in node.attribute:
                yield attribute, f"node '{node.name}' ({node.op_type})"
        if isinstance(graph, onnx.FunctionProto):
            for attribute in graph.attribute_proto:
                yield attribute, f"function '{graph.name}'"


def _tensors(model: onnx.ModelProto) -> Iterator[tuple[TensorProto, str]]:
    for graph in _graphs(model):
        if isinstance(graph, onnx.GraphProto):
            for tensor in graph.initializer:
                yield tensor, f"initializer '{tensor.name}'"
    for attribute, where in _attributes(model):
        if attribute.type == AttributeProto.TENSOR and not attribute.ref_attr_name:
            yield attribute.t, f"{where}: attribute '{attribute.name}'"
        elif attribute.type == AttributeProto.TENSORS:
            for tensor in attribute.tensors:
                yield tensor, f"{where}: attribute '{attribute.name}'"


def _needs_rewrite(model: onnx.ModelProto) -> bool:
    return (
        any(is_external(tensor) for tensor, _ in _tensors(model))
        or any(isinstance(g, onnx.GraphProto) and g.sparse_initializer for g in _graphs(model))
        or any(a.type == AttributeProto.SPARSE_TENSOR for a, _ in _attributes(model))
        or any(True for _ in _renamed_sizes(model))
    )


# --- external data -----------------------------------------------------------------------------


def _fetch(model: onnx.ModelProto, directory: str | None, apart: dict[int, Piece]) -> None:
    """Read external data into the tensors; large weights of the graph are put apart.

    All of it is checked against the files' sizes and this machine's memory before any is read.
    Data is read, not mapped: a mapped file that somebody cuts short kills the process.
    """
    initializers = list(model.graph.initializer)  # kept: protobuf makes such objects anew
    positions = {id(tensor): i for i, tensor in enumerate(initializers)}
    external = [(t, where) for t, where in _tensors(model) if is_external(t)]
    if not external:
        return
    if directory is None:
        raise ValidationError(
            f"{external[0][1]} and {len(external) - 1} more have their data in other files, and "
            "where these are is not known",
            next="compile the path of the .onnx file instead of its bytes or a ModelProto",
        )
    with _Files(directory) as files:
        ranges: list[tuple[TensorProto, str, str, int, int]] = []
        for tensor, where in external:
            ranges.append((tensor, where, *_range(tensor, where, files)))
        total = sum(length for *_, length in ranges)
        if total > _SHARED_DATA * files.total_bytes:
            raise ValidationError(
                f"the tensors in other files claim {total} bytes, the files have "
                f"{files.total_bytes}: they overlap",
                next="save the model again with its external data",
            )
        memory = memory_bytes()
        if total > memory:
            raise DeviceOutOfMemoryError(
                f"the model's weights are {total} bytes, this machine has {memory}",
                next="use a machine with more memory",
            )
        few = len({location for _, _, location, _, _ in ranges}) <= MAX_OPEN
        for tensor, where, location, offset, length in ranges:
            handle = files.handle(location, where)
            if few and length >= LARGE and id(tensor) in positions and _stays_apart(tensor):
                apart[positions[id(tensor)]] = Piece(handle, offset, length, where)
            else:
                tensor.raw_data = handle.read(offset, length, where)
            tensor.ClearField("data_location")
            tensor.ClearField("external_data")


def _range(tensor: TensorProto, where: str, files: _Files) -> tuple[str, int, int]:
    """File, offset and length of a tensor's data, checked against the file."""
    entries: dict[str, str] = {}
    for entry in tensor.external_data:
        if not isinstance(entry.key, str) or not isinstance(entry.value, str):
            raise ValidationError(f"{where}: external_data is not UTF-8")
        if entry.key in entries:
            raise ValidationError(f"{where}: external_data gives '{entry.key}' twice")
        if entry.key in _EXTERNAL_KEYS:
            entries[entry.key] = entry.value
    location = entries.get("location", "")
    size = files.size(location, where)
    wanted = tensor_bytes(tensor)
    offset = _number(entries.get("offset", "0"), f"{where}: offset")
    length = _number(entries.get("length", "0"), f"{where}: length") or wanted  # 0: not given
    if length != wanted:
        raise ValidationError(
            f"{where} needs {wanted} bytes, external_data says {length}",
            next="save the model again with its external data",
        )
    if offset + length > size:
        raise ValidationError(
            f"{where} is bytes {offset} to {offset + length} of {quoted(location)}, which has "
            f"{size}",
            next="the file is cut short or belongs to another model: fetch it again",
        )
    return location, offset, length


def _number(text: str, what: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise ValidationError(f"{what} {quoted(text)} is not a number of bytes")
    return int(text)


class _Files:
    """Reads files below one directory and nowhere else.

    Every part of a path is opened relative to the one before it, following no links, and what was
    opened is what is looked at: nothing can be exchanged between a check and its use.
    """

    def __init__(self, directory: str) -> None:
        self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._sizes: dict[str, int] = {}
        self._last: tuple[str, Handle] | None = None  # of a location: data comes file by file

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._directory)

    @property
    def total_bytes(self) -> int:
        """Size of all files asked for."""
        return sum(self._sizes.values())

    def size(self, location: str, where: str) -> int:
        """Size of the file; `ValidationError` when it may not be read."""
        if location not in self._sizes:
            self._sizes[location] = os.fstat(self.handle(location, where).descriptor).st_size
        return self._sizes[location]

    def handle(self, location: str, where: str) -> Handle:
        """The open file."""
        if self._last is None or self._last[0] != location:
            opened = self._open(location, f"{where}: its data file {quoted(location)}")
            self._last = (location, Handle(opened))
        return self._last[1]

    def _open(self, location: str, what: str) -> int:
        parts = location.replace("\\", "/").split("/")
        if not location or "\0" in location:
            raise ValidationError(f"{what}: that is no name of a file")
        if not parts[0] or ".." in parts or re.match("[A-Za-z]:", location):
            raise ValidationError(
                f"{what} is not below the model's directory",
                next="put the data beside the model and save it with a relative location",
            )
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        current = self._directory
        try:
            for part in parts[:-1]:
                deeper = os.open(part or ".", flags | os.O_DIRECTORY, dir_fd=current)
                if current != self._directory:
                    os.close(current)
                current = deeper
            handle = os.open(parts[-1] or ".", flags, dir_fd=current)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise ValidationError(
                    f"{what} is a symbolic link, or lies behind one",
                    next="copy the file itself beside the model: links could lead anywhere",
                ) from error
            raise ValidationError(
                f"{what} cannot be opened: {error.strerror}",
                next="fetch the model with all of its files into one directory",
            ) from error
        finally:
            if current != self._directory:
                os.close(current)
        try:
            status = os.fstat(handle)
            _must_be_regular(status, what)
            if status.st_nlink > 1:  # onnx refuses these too
                raise ValidationError(
                    f"{what} has {status.st_nlink} hard links: it may be somebody else's file",
                    next="copy the file beside the model",
                )
        except ValidationError:
            os.close(handle)
            raise
        return handle


# --- sparse tensors ----------------------------------------------------------------------------


def _make_dense(model: onnx.ModelProto) -> None:
    for graph in _graphs(model):
        if isinstance(graph, onnx.GraphProto) and graph.sparse_initializer:
            for sparse in graph.sparse_initializer:
                graph.initializer.append(_dense(sparse))
            graph.ClearField("sparse_initializer")
    for attribute, _ in _attributes(model):
        if attribute.name == "sparse_value" and attribute.HasField("sparse_tensor"):
            tensor = _dense(attribute.sparse_tensor)
            attribute.ClearField("sparse_tensor")
            attribute.name, attribute.type = "value", AttributeProto.TENSOR
            attribute.t.CopyFrom(tensor)


def _dense(sparse: onnx.SparseTensorProto) -> TensorProto:
    values = onnx.numpy_helper.to_array(sparse.values)
    indices = onnx.numpy_helper.to_array(sparse.indices)
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    if indices.ndim == 1:
        dense.reshape(-1)[indices] = values
    else:
        dense[tuple(indices.T)] = values
    return onnx.numpy_helper.from_array(dense, sparse.values.name)


# --- names of sizes ----------------------------------------------------------------------------


def _rename_sizes(model: onnx.ModelProto) -> None:
    for dim, name in list(_renamed_sizes(model)):
        dim.dim_param = name


def _renamed_sizes(
    model: onnx.ModelProto,
) -> Iterator[tuple[onnx.TensorShapeProto.Dimension, str]]:
    """Dims whose names are neither identifiers nor simple expressions, and what to call them.

    Names of sizes are read as arithmetic further on, so a name such as ``9**9**9`` would be work
    without end. Equal names stay equal, and different ones different.
    """
    taken: set[str] = set()
    odd: dict[str, list[onnx.TensorShapeProto.Dimension]] = {}
    for dim in _dims(model):
        name = dim.dim_param
        if name and not _simple(name):
            odd.setdefault(name, []).append(dim)
        else:
            taken.add(name)
    for number, (name, dims) in enumerate(odd.items()):
        plain = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_")[:64]
        new = plain if _IDENTIFIER.fullmatch(plain) else f"size_{plain}"
        while new in taken:
            new += f"_{number}"
        taken.add(new)
        for dim in dims:
            yield dim, new


@functools.lru_cache(maxsize=1024)
def _simple(name: str) -> bool:
    if _IDENTIFIER.fullmatch(name):
        return len(name) <= 256
    if "**" in name or not _SIMPLE_SIZE.fullmatch(name) or name.count("(") > 8:
        return False
    try:
        size = sympy.sympify(parse_dim(name))
    except Exception:  # noqa: BLE001  whatever the parser says, then it is only a name
        return False
    return not size.has(sympy.zoo, sympy.nan, sympy.oo, sympy.I)


def _dims(model: onnx.ModelProto) -> Iterator[onnx.TensorShapeProto.Dimension]:
    for graph in _graphs(model):
        infos = list(graph.value_info)
        if isinstance(graph, onnx.GraphProto):
            infos += [*graph.input, *graph.output]
        types = [info.type for info in infos]
        while types:
            kind = types[-1].WhichOneof("value")
            current = types.pop()
            if kind == "tensor_type":
                yield from current.tensor_type.shape.dim
            elif kind == "map_type":
                types.append(current.map_type.value_type)
            elif kind in ("sequence_type", "optional_type"):
                types.append(getattr(current, kind).elem_type)
