"""The CPU backend: native kernels, one native plan per model."""
