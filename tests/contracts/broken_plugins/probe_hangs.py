"""Waits for its device without end."""

import threading

from zenith.hookspecs import hookimpl
from zenith.runtime.backend import CallableBackend

ZENITH_API_VERSION = 1


class Patient(CallableBackend):
    name = "probe_hangs"

    def probe(self):
        threading.Event().wait()


@hookimpl
def zenith_register_backends():
    return [Patient()]
