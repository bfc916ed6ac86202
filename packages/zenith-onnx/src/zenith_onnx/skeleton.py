"""Adapter stage, first step: an ONNX file without the bytes of its large weights.

A file is walked field by field of its protobuf form, and the raw data of large initializers is
skipped: what is left is parsed as usual, and the weights are read when somebody packs them. So a
process never holds a model's weights beside their packed form.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from zenith.errors import ValidationError

__all__ = ["LARGE", "Handle", "Piece", "skeleton"]

LARGE = 1 << 16  # bytes of a weight that is left in its file

# Numbers of the fields on the way to a weight's data, from onnx.proto.
_GRAPH, _INITIALIZER, _RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 7, 5, 9, 13, 14
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5  # wire types
_BUFFER = 1 << 16


class Handle:
    """An open file, closed with the last piece of it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)

    def read_into(self, target: memoryview, offset: int, where: str) -> None:
        """Fill `target` from `offset` on."""
        while target:
            count = os.preadv(self.descriptor, [target[: 1 << 30]], offset)
            if count == 0:
                raise ValidationError(f"{where}: its file got shorter while it was read")
            target, offset = target[count:], offset + count

    def read(self, offset: int, length: int, where: str) -> bytes:
        """Exactly `length` bytes."""
        data = bytearray(length)
        self.read_into(memoryview(data), offset, where)
        return bytes(data)


@dataclass(frozen=True)
class Piece:
    """A weight's data in an open file, little-endian and row-major as ONNX has it."""

    handle: Handle
    offset: int
    length: int
    where: str

    def tensor(self, dtype: ir.DataType, shape: list[int], name: str) -> ir.LazyTensor:
        """A tensor that is read anew whenever somebody looks at it, and held by nobody else."""

        def read() -> ir.TensorProtocol:
            array = np.empty(shape, dtype.numpy().newbyteorder("<"))
            flat = array.reshape(-1).view(np.uint8)
            self.handle.read_into(flat.data, self.offset, self.where)
            return ir.Tensor(array, dtype=dtype, name=name)

        return ir.LazyTensor(read, dtype=dtype, shape=ir.Shape(shape), name=name)


class _Odd(Exception):
    """Not the usual form; the parser of protobuf has the last word on such a file."""


class _Cursor:
    """Reads a part of a file from front to back."""

    def __init__(self, handle: Handle, position: int, end: int) -> None:
        self.handle, self.position, self.end = handle, position, end
        self._buffer, self._start = b"", position

    def _byte(self) -> int:
        if self.position >= self.end:
            raise _Odd
        index = self.position - self._start
        if not 0 <= index < len(self._buffer):
            self._start = self.position
            size = min(_BUFFER, self.end - self.position)
            self._buffer = os.pread(self.handle.descriptor, size, self.position)
            if not self._buffer:
                raise _Odd
            index = 0
        self.position += 1
        return self._buffer[index]

    def varint(self) -> int:
        value = shift = 0
        while shift < 64:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
        raise _Odd

    def field(self) -> tuple[int, int, int]:
        """Number and wire type of the next field, and how long its content is."""
        key = self.varint()
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            start = self.position
            self.varint()
            length, self.position = self.position - start, start
        elif kind == _LENGTH:
            length = self.varint()
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise _Odd
        if self.position + length > self.end:
            raise _Odd
        return number, kind, length

    def take(self, start: int) -> bytes:
        """The bytes from `start` to here."""
        return self.handle.read(start, self.position - start, "the model")


def skeleton(handle: Handle) -> tuple[bytes, dict[int, Piece]] | None:
    """The file's bytes without large weights, and those weights by their position among the
    initializers of the graph. None for a file in another form than the usual."""
    apart: dict[int, Piece] = {}
    try:
        size = os.fstat(handle.descriptor).st_size
        content = _without(_Cursor(handle, 0, size), _GRAPH, apart)
    except _Odd:
        return None
    return content, apart


def _without(cursor: _Cursor, inner: int, apart: dict[int, Piece]) -> bytes:
    """A message with its fields `inner` (the graph of a model, initializers of a graph) made
    slim."""
    parts: list[bytes] = []
    found = 0
    start = cursor.position  # of what is copied as it is
    while cursor.position < cursor.end:
        begin = cursor.position
        number, kind, length = cursor.field()
        end = cursor.position + length
        if number == inner and kind == _LENGTH:
            part = _Cursor(cursor.handle, cursor.position, end)
            cursor.position = begin
            if inner == _INITIALIZER:
                slim = _weight(part, found, apart)
            elif found == 0:
                slim = _without(part, _INITIALIZER, apart)
            else:
                raise _Odd  # graphs that the parser merges
            found += 1
            if slim is not None:
                parts += [cursor.take(start), _key(inner), _varint(len(slim)), slim]
                start = end
        cursor.position = end
    parts.append(cursor.take(start))
    return b"".join(parts)


def _weight(cursor: _Cursor, position: int, apart: dict[int, Piece]) -> bytes | None:
    """A tensor without its raw data, when that is large; None when it stays as it is."""
    if cursor.end - cursor.position < LARGE:
        return None
    begin, piece = cursor.position, None
    before = after = begin
    while cursor.position < cursor.end:
        start = cursor.position
        number, kind, length = cursor.field()
        if number in (_EXTERNAL_DATA, _DATA_LOCATION) or (number == _RAW_DATA and piece):
            return None
        if number == _RAW_DATA and kind == _LENGTH and length >= LARGE:
            where = f"initializer {position}"
            piece = Piece(cursor.handle, cursor.position, length, where)
            before, after = start, cursor.position + length
        cursor.position += length
    if piece is None:
        return None
    apart[position] = piece
    head = cursor.handle.read(begin, before - begin, "the model")
    return head + cursor.handle.read(after, cursor.end - after, "the model")


def _key(number: int) -> bytes:
    return _varint(number << 3 | _LENGTH)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
