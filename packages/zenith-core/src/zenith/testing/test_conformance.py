"""The tests that `pytest --pyargs zenith.testing --zenith-backend=NAME` runs."""

from __future__ import annotations

import pytest

from zenith.testing.plugin import session_of
from zenith.testing.session import Job


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if not metafunc.config.option.zenith_backend:
        metafunc.parametrize("job", [])  # skipped: nothing was asked for
        return
    jobs = session_of(metafunc.config).jobs
    metafunc.parametrize("job", jobs, ids=[job.name for job in jobs])


def test_conformance(job: Job, request: pytest.FixtureRequest) -> None:
    """One case of one operator, or one property of the backend."""
    result = session_of(request.config).result(job)
    if result.outcome == "skipped-as-declared":
        pytest.skip(result.reason)
    if result.outcome != "pass":
        kit = session_of(request.config).report
        kernels = ", ".join(result.kernels) or "unknown"
        pytest.fail(
            f"{result.outcome}: {result.reason}\n"
            f"backend '{kit.backend}' of {kit.owner}, kernel {kernels}",
            pytrace=False,
        )
