"""Guarded memory for numpy arrays: an array ends where the process may no longer touch memory.

Inside `guarded()` every array that numpy allocates, by whoever, lies in pages of its own, its last
byte (rounded up to 16) before a page without access. Code that runs over the end dies there and
then, with its own stack; bytes before the start and in the rounding are checked when the array
is freed or on `damage()`. numpy's allocator is exchanged by its public C interface (NEP 49).
Only the first arrays of each `guarded()` are: a program that makes one per element would crawl.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["damage", "guarded"]

_PAGE, _ALIGN, _FILL = mmap.PAGESIZE, 16, 0xA5
_BUDGET = 4000  # arrays guarded in one `guarded()`
_SET_HANDLER = 304  # of numpy's table of C functions, where indices never change
_PROT_NONE, _PROT_RW, _PRIVATE_ANONYMOUS = 0, 3, 0x22
_FAILED = ctypes.c_void_p(-1).value

_MALLOC = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_CALLOC = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)
_REALLOC = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_FREE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class _Handler(ctypes.Structure):
    """PyDataMem_Handler, version 1."""

    _fields_ = (
        ("name", ctypes.c_char * 127),
        ("version", ctypes.c_uint8),
        ("context", ctypes.c_void_p),
        ("malloc", _MALLOC),
        ("calloc", _CALLOC),
        ("realloc", _REALLOC),
        ("free", _FREE),
    )


@dataclass(frozen=True)
class _Block:
    base: int
    pages: int  # bytes that may be touched
    size: int

    @property
    def start(self) -> int:
        return self.base + self.pages - -(-self.size // _ALIGN) * _ALIGN


_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.malloc.restype, _libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
_libc.realloc.restype = ctypes.c_void_p
_libc.realloc.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.free.restype, _libc.free.argtypes = None, [ctypes.c_void_p]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_blocks: dict[int, _Block] = {}
_damage: list[str] = []
_spare: list[int] = []  # mappings of one page, to use again
_left = 0


def _map(size: int) -> int | None:
    global _left
    size = max(size, 1)
    if _left <= 0:
        plain: int | None = _libc.malloc(size)
        return plain
    _left -= 1
    pages = -(-size // _PAGE) * _PAGE
    if pages == _PAGE and _spare:
        base = _spare.pop()
    else:
        base = _libc.mmap(None, pages + _PAGE, _PROT_RW, _PRIVATE_ANONYMOUS, -1, 0)
        if base == _FAILED:
            return None
        _libc.mprotect(base + pages, _PAGE, _PROT_NONE)
    block = _Block(base, pages, size)
    ctypes.memset(base, _FILL, block.start - base)
    ctypes.memset(block.start + size, _FILL, base + pages - block.start - size)
    _blocks[block.start] = block
    return block.start


def _inspect(block: _Block) -> None:
    end = block.start + block.size
    edges = (
        ("before the start", block.base, block.start - block.base),
        ("after the end", end, block.base + block.pages - end),
    )
    for where, address, length in edges:
        touched = length - ctypes.string_at(address, length).count(_FILL)
        if touched:
            _damage.append(f"{touched} byte(s) written {where} of an array of {block.size} bytes")
            ctypes.memset(address, _FILL, length)  # each is told once


def _unmap(pointer: int) -> None:
    block = _blocks.pop(pointer, None)
    if block is None:
        _libc.free(pointer)
        return
    _inspect(block)
    if block.pages == _PAGE and len(_spare) < 256:
        _spare.append(block.base)
    else:
        _libc.munmap(block.base, block.pages + _PAGE)


def _malloc(_context: object, size: int) -> int | None:
    return _map(size)


def _calloc(_context: object, count: int, size: int) -> int | None:
    pointer = _map(count * size)
    if pointer is not None:
        ctypes.memset(pointer, 0, count * size)
    return pointer


def _realloc(_context: object, pointer: int | None, size: int) -> int | None:
    if pointer and pointer not in _blocks:
        plain: int | None = _libc.realloc(pointer, size)
        return plain
    fresh = _map(size)
    if pointer and fresh is not None:
        ctypes.memmove(fresh, pointer, min(size, _blocks[pointer].size))
        _unmap(pointer)
    return fresh


def _free(_context: object, pointer: int | None, _size: int) -> None:
    if pointer:
        _unmap(pointer)


_handler = _Handler(
    b"zenith_guard", 1, None, _MALLOC(_malloc), _CALLOC(_calloc), _REALLOC(_realloc), _FREE(_free)
)


def _capsule() -> object:
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = (
        ctypes.py_object,
        [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p],
    )
    return new(ctypes.addressof(_handler), b"mem_handler", None)


def _set_handler(handler: object) -> object:
    import numpy._core._multiarray_umath as umath  # type: ignore[import-not-found]

    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    table = ctypes.cast(pointer(umath._ARRAY_API, None), ctypes.POINTER(ctypes.c_void_p))
    kind = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)
    result: object = kind(table[_SET_HANDLER] or 0)(handler)
    return result


_guard: object = None


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Arrays allocated inside, in this thread, end at a page that may not be touched."""
    global _guard, _left
    _left = _BUDGET
    if _guard is None:
        _guard = _capsule()
    before = _set_handler(_guard)
    try:
        yield
    finally:
        _set_handler(before)


def damage() -> list[str]:
    """What was written outside of arrays since the last call, those still alive included."""
    for block in list(_blocks.values()):
        _inspect(block)
    found = list(dict.fromkeys(_damage))
    _damage.clear()
    return found
