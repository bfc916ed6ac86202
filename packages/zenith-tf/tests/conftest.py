"""Nothing here is collected where there is no TensorFlow: the other tests do without."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
MISSING = [n for n in ("tensorflow", "tf2onnx") if importlib.util.find_spec(n) is None]
collect_ignore_glob = ["test_*.py"] if MISSING else []


def pytest_configure(config: pytest.Config) -> None:
    """What TensorFlow, Keras and tf2onnx warn of is theirs."""
    for module in ("tensorflow", "keras", "tf2onnx", "google"):
        config.addinivalue_line("filterwarnings", rf"ignore::Warning:{module}\..*")


@pytest.fixture(autouse=True)
def _seed() -> None:
    import keras

    keras.utils.set_random_seed(5)
