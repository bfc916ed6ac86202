"""The options of the kit; an entry point of pytest, so it must be light.

``pytest --pyargs zenith.testing --zenith-backend=mydev``
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zenith.testing.session import Session

KEY: pytest.StashKey[Session] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("zenith", "Zenith: the conformance kit for backends")
    add = group.addoption
    add("--zenith-backend", metavar="NAME", help="the backend to test, as target= calls it")
    add("--zenith-cases", metavar="GLOB", default="*", help="only cases of such names: 'Add/*'")
    add("--zenith-report", metavar="FILE", help="write all outcomes here, as JSON")
    add("--zenith-timeout", metavar="SECONDS", type=float, default=60.0, help="for one case")
    add("--zenith-jobs", metavar="N", type=int, default=0, help="worker processes; 0: one a core")
    add(
        "--zenith-isolate",
        action="store_true",
        default=True,
        help="cases run in processes of their own (the default)",
    )
    add(
        "--no-zenith-isolate",
        dest="zenith_isolate",
        action="store_false",
        help="cases run in this process: for a debugger",
    )


def session_of(config: pytest.Config) -> Session:
    """The kit's state of this run of pytest, made on first use."""
    found = config.stash.get(KEY, None)
    if found is None:
        from zenith.testing.session import Session

        found = config.stash[KEY] = Session(config)
    return found


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    kit = session.config.stash.get(KEY, None)
    if kit is not None and not session.config.option.collectonly:
        kit.start(session.items)


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    kit = session.config.stash.get(KEY, None)
    if kit is not None:
        kit.close()
    return (yield)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    kit = config.stash.get(KEY, None)
    if kit is not None and kit.report.entries:
        terminalreporter.section("zenith conformance")
        for line in kit.report.lines():
            terminalreporter.write_line(line)
