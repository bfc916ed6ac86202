"""Lets test modules import the oracle beside them; without jax there is nothing to collect."""

import importlib.util
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

collect_ignore_glob = [] if importlib.util.find_spec("jax") else ["test_*.py"]
