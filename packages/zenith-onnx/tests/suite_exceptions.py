"""Cases of the official suite that are wrong upstream, each with the evidence."""

from __future__ import annotations

_RANDOM = (
    "the expected output is one draw of numpy's global generator while the suite was made, 'even "
    "if a seed is specified' (onnx/backend/test/case/node/bernoulli.py, line 17); an "
    "implementation passes by luck, and onnx's own evaluator fails too"
)
_ZERO_RANK_IN_A_LIST = (
    "the expected sequence starts with an array of rank 0, and the runner takes len() of each "
    "element (onnx/backend/test/runner: assert_similar_outputs): it cannot even compare the "
    "expected output with itself"
)

RANDOM: dict[str, str] = {
    f"OnnxBackendNodeTest.test_bernoulli{kind}_cpu": _RANDOM
    for kind in ("", "_expanded", "_double", "_double_expanded", "_seed", "_seed_expanded")
}
WRONG_UPSTREAM: dict[str, str] = {
    **RANDOM,
    "OnnxBackendNodeTest.test_loop16_seq_none_cpu": _ZERO_RANK_IN_A_LIST,
}
