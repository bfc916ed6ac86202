"""Cases of the official suite that are wrong upstream, each with the evidence.

A name here is expected to fail in every mode; one that passes is an error (`xfail_strict`).
"""

from __future__ import annotations

_UNSEEDED = (
    "the expected output is one draw of numpy's global generator at the time the suite was made; "
    "ONNX: 'If not specified, we will auto generate' a seed, so no output can be demanded "
    "(onnx/backend/test/case/node/bernoulli.py: np.random.binomial without a seed)"
)

WRONG_UPSTREAM: dict[str, str] = {
    "OnnxBackendNodeTest.test_bernoulli_cpu": _UNSEEDED,
}
