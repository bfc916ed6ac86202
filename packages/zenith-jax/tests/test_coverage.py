"""docs/JAX_PRIMITIVES.md is what `python -m zenith_jax.coverage` prints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import jax
import pytest

from zenith_jax.lower import HANDLERS, REFUSED, WRITES

PAGE = Path(__file__).parents[3] / "docs/JAX_PRIMITIVES.md"

# What traced programs were seen to use, forward and backward.
SEEN = (
    "broadcast_in_dim mul reshape reduce_sum dot_general add div transpose sub add_any select_n "
    "max neg conv_general_dilated integer_pow rsqrt convert_element_type lt square stop_gradient "
    "eq gt reduce_max exp gather reduce_window_sum tanh scatter-add iota pad reduce_window_max log "
    "slice scan ge squeeze stack min rev select_and_scatter_add logistic unstack while cond cos "
    "sin random_fold_in random_bits shift_right_logical or bitcast_convert_type concatenate sort "
    "argmax cumsum clamp erf erf_inv log1p expm1 dynamic_slice dynamic_update_slice split pow"
)


@pytest.fixture(scope="module")
def page() -> str:
    line = [
        sys.executable,
        "-m",
        "zenith_jax.coverage",
    ]  # a process of its own: no other primitives
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout


def test_the_page_is_up_to_date(page: str) -> None:
    if f"JAX {jax.__version__}." not in PAGE.read_text():
        pytest.skip("the page is about another version of JAX")
    stale = "run: python -m zenith_jax.coverage > docs/JAX_PRIMITIVES.md"
    assert PAGE.read_text() == page, stale


def test_what_programs_use_is_there() -> None:
    assert [name for name in SEEN.split() if name not in HANDLERS] == []


def test_the_tables_agree() -> None:
    assert HANDLERS.keys() == WRITES.keys()
    assert not HANDLERS.keys() & REFUSED.keys()
