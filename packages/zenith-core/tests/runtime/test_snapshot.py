"""`_native.Snapshot`: whether objects are still what they were."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from zenith import _native


class Thing:
    def __init__(self, value: Any) -> None:
        self.value = value


def value_of(thing: Thing) -> Any:
    return thing.value


def test_objects_and_readings() -> None:
    things = [Thing(0), Thing("a"), Thing(2.5)]
    snapshot = _native.Snapshot()
    for position, thing in enumerate(things, start=1):
        snapshot.add(position, thing, [value_of])
    assert snapshot.matches((None, *things))
    assert snapshot.changed((None, *things)) == []
    things[1].value = "b"
    assert not snapshot.matches((None, *things))
    assert snapshot.changed((None, *things)) == [2]
    assert snapshot.changed((None, Thing(0), *things[1:])) == [1, 2]
    with pytest.raises(IndexError):
        snapshot.matches((None,))


def test_descriptors_are_asked_directly() -> None:
    def function() -> int:
        return 1

    def other() -> int:
        return 2

    snapshot = _native.Snapshot()
    snapshot.add(0, function, [type(function).__dict__["__code__"]])  # a getset descriptor
    assert snapshot.matches((function,))
    function.__code__ = other.__code__
    assert not snapshot.matches((function,))


def test_an_error_of_a_reader_is_the_callers() -> None:
    thing = Thing(1)
    snapshot = _native.Snapshot()
    snapshot.add(0, thing, [value_of])
    del thing.value
    with pytest.raises(AttributeError):
        snapshot.matches((thing,))


def test_native_readers() -> None:
    """What they say counts, and an error of theirs is a change."""
    kind = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)
    out = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p))
    state = {"value": 7, "address": 64, "error": 0}

    @kind
    def number(_: Any) -> int:
        return state["value"]

    @out
    def address(_: Any, place: Any) -> int:
        place[0] = state["address"]
        return state["error"]

    def reader(function: Any, gives_address: bool) -> _native.NativeReader:
        where = ctypes.cast(function, ctypes.c_void_p).value
        assert where is not None
        return _native.NativeReader(where, object.__basicsize__, gives_address)

    thing = Thing(0)
    snapshot = _native.Snapshot()
    snapshot.add(0, thing, [reader(number, False), reader(address, True)])
    assert snapshot.matches((thing,))
    state["value"] = 8
    assert not snapshot.matches((thing,))
    state["value"], state["address"] = 7, 128
    assert not snapshot.matches((thing,))
    state["address"], state["error"] = 64, 1
    assert not snapshot.matches((thing,))
    with pytest.raises(ValueError):
        snapshot.add(1, thing, [reader(address, True)])
    with pytest.raises(ValueError):
        _native.NativeReader(0, 16, False)
