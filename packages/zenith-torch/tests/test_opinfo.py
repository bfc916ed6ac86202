"""Every core ATen operator that has an OpInfo: PyTorch's samples agree with eager.

One sample for each operator and type; all of them with ``ZENITH_OPINFO=all``, several with a
number (``nox -s opinfo``). What does not agree is in `GAPS`, which is held to: an operator that
passes must leave the table.
"""

from __future__ import annotations

import os

import pytest

pytest.importorskip("expecttest")  # PyTorch's test modules want it

from opinfo import accepted, bad_samples, core_operators, infos, run, samples

CHOSEN = os.environ.get("ZENITH_OPINFO", "")

# Operator -> why. In the second table some samples agree; which ones a short run takes, is chance.
GAPS: dict[str, str] = {"resize_": "changes the size of its own memory"}
SOME = {
    "reflection_pad1d": "writing into slices of a result, as circular padding does",
}
# Operator -> which errors of eager's are none of ours.
ACCEPTED: dict[str, str] = {}
WITHOUT_SAMPLES = {
    "_adaptive_avg_pool2d_backward", "_local_scalar_dense", "avg_pool2d_backward",
    "convolution_backward", "copy", "embedding_dense_backward", "native_dropout",
    "native_group_norm_backward", "native_layer_norm_backward", "rand", "randperm",
    "reflection_pad2d", "reflection_pad3d", "replication_pad2d", "replication_pad3d", "sym_numel",
    "sym_is_contiguous", "sym_size", "sym_storage_offset", "sym_stride",
}  # fmt: skip

# Beside the core: one handler each, with nothing but OpInfo to say what it gives.
OTHERS = (
    *("angle", "copysign", "digamma", "erfc", "erfinv", "fmax", "fmin", "hypot", "ldexp"),
    *("i0", "lgamma", "nextafter", "polygamma", "signbit", "special_erfcx", "special_i0e"),
    *("special_i1", "special_i1e", "special_ndtri"),
)


def differences(operator: str) -> list[str]:
    limit = None if CHOSEN == "all" else int(CHOSEN or 1)
    found = []
    for what, info, sample in samples(operator, limit, one_each=not CHOSEN):
        problem = run(info, sample)
        if problem is not None:
            found.append(f"{what}: {problem}")
    return found


@pytest.mark.parametrize("operator", core_operators())
@pytest.mark.filterwarnings("ignore")
def test_core_operator(operator: str) -> None:
    if operator in WITHOUT_SAMPLES:
        assert not infos(operator)
        pytest.skip("no OpInfo has samples of it")
    found = differences(operator)
    if operator in GAPS:
        assert found, f"{operator} agrees now: it can leave GAPS"
        pytest.xfail(GAPS[operator])
    if found and operator in SOME:
        pytest.xfail(SOME[operator])
    assert not found


@pytest.mark.parametrize("operator", OTHERS)
@pytest.mark.filterwarnings("ignore")
def test_other_operator(operator: str) -> None:
    assert infos(operator)
    assert not differences(operator)


@pytest.mark.parametrize("operator", core_operators())
@pytest.mark.filterwarnings("ignore")
def test_what_eager_rejects_is_rejected(operator: str) -> None:
    found = [what for what, info, sample in bad_samples(operator) if accepted(info, sample)]
    if operator in ACCEPTED:
        assert found, f"{operator} rejects them now: it can leave ACCEPTED"
        pytest.xfail(ACCEPTED[operator])
    assert not found
