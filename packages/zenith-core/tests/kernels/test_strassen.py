"""linear_strassen_f32 and its packer against float64, and where its rows are taken."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import zenith
from zenith import _native
from zenith.backends.cpu.epilogue import epilogue_codes
from zenith.backends.cpu.kernels import gemm
from zenith.ir import GraphIR

ISAS = _native.complete_isas()
Array = np.ndarray[Any, Any]
EPS = float(np.finfo(np.float32).eps)


def normal(shape: tuple[int, ...], *seed: int) -> Array:
    return np.random.default_rng([13, *seed, *shape]).standard_normal(shape).astype(np.float32)


def pack(isa: str, weights: Array, transposed: int = 0) -> Array:
    return np.asarray(_native.pack(isa, "strassen_pack_f32", weights, {"transposed": transposed}))


def linear(
    isa: str,
    x: Array,
    w: Array,
    overload: str = "",
    operands: tuple[Array, ...] = (),
    threads: int = 2,
    out: Array | None = None,
) -> Array:
    y = np.full((x.shape[0], w.shape[1]), np.nan, np.float32) if out is None else out
    params = {"epilogue": epilogue_codes(overload)}
    _native.call(
        isa, "linear_strassen_f32", [x, pack(isa, w), *operands], [y], params, threads=threads
    )
    return y


def product(a: Array, b: Array) -> Array:
    return np.asarray(a.astype(np.float64) @ b.astype(np.float64))


def tolerance(k: int) -> float:
    """Several times the rounding of a plain sum of k products, which grows with every step."""
    return 4 * EPS * (k + 32)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (7, 96), (16, 97), (33, 300), (0, 96), (5, 0)])
def test_pack_round_trip(isa: str, shape: tuple[int, int]) -> None:
    for source in (normal(shape), normal(shape[::-1]).T):
        for transposed in (0, 1):
            packed = pack(isa, source, transposed)
            back = np.full(source.shape, np.nan, np.float32)
            _native.unpack(isa, "strassen_pack_f32", packed, back, {"transposed": transposed})
            assert np.array_equal(back, source)
            assert np.array_equal(packed, pack(isa, source.T, 1 - transposed))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("m", [0, 1, 3, 31, 32, 33, 65, 130, 131, 401])
def test_rows(isa: str, threads: int, m: int) -> None:
    """Even and odd rows, depths and panels, also where nothing is paired."""
    for n, k in ((5, 7), (96, 64), (97, 33), (200, 130), (40, 9), (144, 1), (96, 0)):
        x, w = normal((m, k)), normal((k, n))
        y = linear(isa, x, w, threads=threads)
        np.testing.assert_allclose(y, product(x, w), rtol=0, atol=tolerance(k))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("k", [767, 1537, 2049, 4096])
def test_depth(isa: str, k: int) -> None:
    """Halves of a deep product take several passes, and a block its least number of rows."""
    for m in (64, 150):
        x, w = normal((m, k)), normal((k, 150))
        y = linear(isa, x, w)
        np.testing.assert_allclose(y, product(x, w), rtol=0, atol=tolerance(k))


@pytest.mark.parametrize("isa", ISAS)
def test_it_is_strassen(isa: str) -> None:
    """The results differ from the plain kernel's in the last bits, and only there."""
    x, w = normal((64, 256)), normal((256, 192))
    plain = np.empty((64, 192), np.float32)
    packed = _native.pack(isa, "linear_pack_f32", w, {"transposed": 0})
    _native.call(isa, "linear_f32", [x, packed], [plain], {"epilogue": []}, threads=1)
    y = linear(isa, x, w)
    assert np.mean(y != plain) > 0.3
    np.testing.assert_allclose(y, plain, rtol=0, atol=tolerance(256))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("m", [3, 64, 97])
def test_epilogue_and_strides(isa: str, m: int) -> None:
    """The fused steps, with rows that lie apart; nothing between them is touched."""
    k, n = 70, 155
    x, w = normal((2 * m, k + 9))[::2, 3 : 3 + k], normal((n, k)).T
    bias, add, mul = normal((n,), 1), normal((m, n + 4))[:, :n], normal((m, 1), 2)
    frame = np.full((m, n + 20), 9, np.float32)
    linear(isa, x, w, "bias.relu.add.mul", (bias, add, mul), out=frame[:, 7 : 7 + n])
    want = (np.maximum(product(x, w) + bias, 0) + add) * mul
    np.testing.assert_allclose(frame[:, 7 : 7 + n], want, rtol=1e-5, atol=4 * tolerance(k))
    assert (frame[:, :7] == 9).all() and (frame[:, 7 + n :] == 9).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("factor", [1e-30, 1e-3, 1e3, 1e30])
def test_rows_of_different_sizes_keep_their_precision(isa: str, factor: float) -> None:
    x, w = normal((64, 256)), normal((256, 192))
    x[::3] *= np.float32(factor)
    x[5] = 0  # beside row 37, of size 1
    y, want = linear(isa, x, w), product(x, w)
    size = np.abs(x).max(axis=1, keepdims=True)
    assert (np.abs(y - want) <= tolerance(256) * size + 1e-36).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_its_row(isa: str, value: float) -> None:
    x, w = normal((64, 96)), normal((96, 150))
    x[7, 11] = value
    y = linear(isa, x, w)
    assert not np.isfinite(y[7]).any()
    others = np.arange(64) != 7
    np.testing.assert_allclose(y[others], product(x[others], w), rtol=0, atol=tolerance(96))


@pytest.fixture
def no_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are integer tiles, products on those come first (test_ozaki.py)."""
    monkeypatch.setattr(gemm, "_has_tiles", lambda: False)


@pytest.mark.usefixtures("no_tiles")
@pytest.mark.parametrize("rows", [256, "n"])
def test_only_opt_level_3_ties_rows_together_and_says_so(
    two_products: Any, rows: int | str
) -> None:
    proto = two_products(rows, 768, 1030)
    x = normal((256, 768))
    want = onnx.reference.ReferenceEvaluator(proto).run(None, {"x": x})[0]
    given = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    for level in (1, 2, 3):
        model = zenith.compile(GraphIR.from_onnx(proto), opt_level=level, fallback="error")
        found = [n for n in model.explain().nodes if "strassen" in n.kernel]
        notes = [note for note in model.explain().notes if "Strassen" in note]
        assert (len(found), len(notes)) == ((2, 1) if level == 3 else (0, 0))
        np.testing.assert_allclose(model.run({"x": x})["y"], want, rtol=0, atol=2e-5)
        for name, value in model.graph.model.graph.initializers.items():
            if name in ("w", "v"):
                assert np.array_equal(value.const_value.numpy(), given[name])
    assert notes[0].endswith("(nodes: 2)")


@pytest.mark.usefixtures("no_tiles")
def test_small_products_are_plain_at_opt_level_3(two_products: Any) -> None:
    for rows, k, n in ((255, 768, 768), (256, 767, 768), (256, 768, 767)):
        model = zenith.compile(
            GraphIR.from_onnx(two_products(rows, k, n)), opt_level=3, fallback="error"
        )
        first = next(n for n in model.explain().nodes if n.op.startswith("zenith:Linear"))
        assert "strassen" not in first.kernel
        reason = dict(first.candidates)["linear_strassen_f32"]
        assert "fewer than 256" in reason or "less than 768" in reason
