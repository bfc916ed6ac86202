"""Backends: packages that offer a device and kernels for it."""
