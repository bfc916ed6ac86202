"""The listener bus: typed events, nothing when nobody listens, no listener breaks a run."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest

from zenith.events import Event, Events, Evicted, KernelSelected


def test_listener_gets_the_dataclass_of_the_event() -> None:
    bus, seen = Events(), []  # type: ignore[var-annotated]
    bus.subscribe(seen.append)
    bus.emit("kernel_selected", node="n", op="MatMul", backend="cpu", kernel="gemm_f32")
    assert seen == [KernelSelected("n", "MatMul", "cpu", "gemm_f32")]


def test_every_event_has_a_name_of_its_own() -> None:
    names = [kind.name for kind in Event.__subclasses__()]
    assert all(names) and len(set(names)) == len(names)


def test_without_listener_nothing_is_built() -> None:
    bus = Events()
    was_active = bus.active
    bus.emit("no such event", whatever=1)  # not even looked up
    bus.subscribe(lambda event: None)
    assert (was_active, bus.active) == (False, True)
    with pytest.raises(KeyError):
        bus.emit("no such event")


def test_unsubscribe_and_the_same_listener_twice() -> None:
    bus, seen = Events(), []  # type: ignore[var-annotated]
    stop = bus.subscribe(seen.append)
    bus.subscribe(seen.append)
    bus.emit("evicted", dims={})
    assert len(seen) == 2
    stop()
    stop()  # the other subscription is not this one's to end, but equal listeners are one listener
    bus.emit("evicted", dims={})
    assert len(seen) == 2


def test_raising_listener_is_reported_once_and_dropped(caplog: pytest.LogCaptureFixture) -> None:
    bus, seen = Events(), []  # type: ignore[var-annotated]

    def bad(event: Any) -> None:
        raise RuntimeError("broken listener")

    bus.subscribe(bad)
    bus.subscribe(seen.append)
    with caplog.at_level(logging.ERROR, logger="zenith"):
        bus.emit("evicted", dims={"N": 1})
        bus.emit("evicted", dims={"N": 2})
    assert seen == [Evicted({"N": 1}), Evicted({"N": 2})]
    assert len(caplog.records) == 1
    assert "broken listener" in caplog.text


def test_listener_must_be_callable() -> None:
    with pytest.raises(TypeError):
        Events().subscribe(3)  # type: ignore[arg-type]


def test_subscribing_while_others_emit() -> None:
    bus, seen = Events(), []  # type: ignore[var-annotated]
    bus.subscribe(seen.append)

    def emit() -> None:
        for _ in range(200):
            bus.emit("evicted", dims={})

    def churn() -> None:
        for _ in range(200):
            bus.subscribe(lambda event: None)()

    threads = [threading.Thread(target=f) for f in (emit, churn, emit, churn)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 400
