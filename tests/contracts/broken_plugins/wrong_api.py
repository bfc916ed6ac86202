"""Written for an API that this zenith does not speak; its hook must not even be called."""

from zenith.hookspecs import hookimpl

ZENITH_API_VERSION = 99


@hookimpl
def zenith_register_backends():
    raise AssertionError("called in spite of its version")
