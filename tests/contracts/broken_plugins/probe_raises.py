"""A missing device should be an answer, not an exception."""

from zenith.hookspecs import hookimpl
from zenith.runtime.backend import CallableBackend

ZENITH_API_VERSION = 1


class Fragile(CallableBackend):
    name = "probe_raises"

    def probe(self):
        raise OSError("/dev/fragile is gone")


@hookimpl
def zenith_register_backends():
    return [Fragile()]
