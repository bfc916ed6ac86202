"""Needs a library that is not here."""

import there_is_no_such_library  # noqa: F401

ZENITH_API_VERSION = 1
