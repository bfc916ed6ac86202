"""Tests of all frameworks in one process: without all of them nothing here is collected."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
FRAMEWORKS = ("torch", "jax", "tensorflow", "tf2onnx", "onnx")
MISSING = [name for name in FRAMEWORKS if importlib.util.find_spec(name) is None]
collect_ignore_glob = ["test_*.py"] if MISSING else []


def pytest_configure(config: pytest.Config) -> None:
    """What TensorFlow, Keras and tf2onnx warn of is theirs."""
    for module in ("tensorflow", "keras", "tf2onnx", "google"):
        config.addinivalue_line("filterwarnings", rf"ignore::Warning:{module}\..*")
