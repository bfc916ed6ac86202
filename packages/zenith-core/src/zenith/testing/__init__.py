"""The conformance kit: whether a backend computes what it claims to, and survives being used.

One line for whoever writes a backend, with ``pip install zenith-core[testing]``::

    pytest --pyargs zenith.testing --zenith-backend=mydev

It runs every case of every operator the backend has kernel rows for. `cases` holds the cases, one
module per family, beside the official ones of the onnx package; `compare` the tolerances; `checks`
what is checked of one case; `pool` the worker processes that a case may crash or hang;
`guard` the memory that ends where arrays end; `report` the outcomes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zenith.runtime.reference import relative_error
    from zenith.testing.cases import Case

__all__ = ["Case", "relative_error"]


def __getattr__(name: str) -> Any:
    """Lazily: pytest imports this package in every run, for the options."""
    if name == "Case":
        from zenith.testing.cases import Case

        return Case
    if name == "relative_error":
        from zenith.runtime.reference import relative_error

        return relative_error
    raise AttributeError(f"module 'zenith.testing' has no attribute {name!r}")
