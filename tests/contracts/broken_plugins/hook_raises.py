"""A hook that fails."""

from zenith.hookspecs import hookimpl

ZENITH_API_VERSION = 1


@hookimpl
def zenith_register_backends():
    raise RuntimeError("half of the driver is missing")
