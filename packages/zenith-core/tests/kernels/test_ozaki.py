"""linear_ozaki_f32 and its packer against float64, and where its rows are taken."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import zenith
from zenith import _native
from zenith.backends.cpu.epilogue import epilogue_codes
from zenith.backends.cpu.kernels import gemm
from zenith.ir import OPSET, GraphIR

ISA = "amx"
needs_tiles = pytest.mark.skipif(ISA not in _native.isas(), reason="no integer tiles here (AMX)")
Array = np.ndarray[Any, Any]


def normal(shape: tuple[int, ...], *seed: int) -> Array:
    return np.random.default_rng([17, *seed, *shape]).standard_normal(shape).astype(np.float32)


def pack(weights: Array, transposed: int = 0) -> Array:
    return np.asarray(_native.pack(ISA, "ozaki_pack_f32", weights, {"transposed": transposed}))


def linear(
    x: Array,
    w: Array,
    overload: str = "",
    operands: tuple[Array, ...] = (),
    threads: int = 2,
    out: Array | None = None,
) -> Array:
    y = np.full((x.shape[0], w.shape[1]), np.nan, np.float32) if out is None else out
    params = {"epilogue": epilogue_codes(overload)}
    _native.call(ISA, "linear_ozaki_f32", [x, pack(w), *operands], [y], params, threads=threads)
    return y


def product(a: Array, b: Array) -> Array:
    return np.asarray(a.astype(np.float64) @ b.astype(np.float64))


def assert_rounded(y: Array, want: Array, rms: float = 2.6e-7) -> None:
    """Errors as those of a float32 product: small beside the root mean square of the results."""
    size = np.sqrt(np.mean(want**2)) if want.size else 0.0
    assert np.sqrt(np.mean((y - want) ** 2) if want.size else 0.0) <= rms * size
    np.testing.assert_allclose(y, want, rtol=1e-6, atol=8 * rms * size)


@needs_tiles
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (7, 96), (64, 16), (400, 33), (0, 96), (5, 0)])
def test_pack_round_trip(shape: tuple[int, int]) -> None:
    for source in (normal(shape), normal(shape[::-1]).T):
        for transposed in (0, 1):
            packed = pack(source, transposed)
            back = np.full(source.shape, np.nan, np.float32)
            _native.unpack(ISA, "ozaki_pack_f32", packed, back, {"transposed": transposed})
            assert np.array_equal(back, source)
            assert np.array_equal(packed, pack(source.T, 1 - transposed))


@needs_tiles
def test_every_weight_comes_back() -> None:
    """Also those that no digit holds: every size of float32, zeros of both signs."""
    bits = np.random.default_rng(3).integers(0, 1 << 32, (500, 40), np.uint64).astype(np.uint32)
    source = bits.view(np.float32).copy()
    source[~np.isfinite(source)] = -0.0
    source[:, 7] = 0
    back = np.empty_like(source)
    _native.unpack(ISA, "ozaki_pack_f32", pack(source), back, {"transposed": 0})
    assert np.array_equal(back.view(np.uint32), source.view(np.uint32))


@needs_tiles
def test_packed_weights_are_hardly_larger() -> None:
    w = normal((768, 768))
    assert pack(w).nbytes <= 1.05 * w.nbytes


@needs_tiles
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("m", [0, 1, 3, 15, 16, 17, 65, 401])
def test_rows(threads: int, m: int) -> None:
    """Whole and partial tiles in every direction."""
    for n, k in ((5, 7), (96, 64), (97, 65), (200, 130), (16, 1), (144, 385), (7, 1000), (20, 0)):
        x, w = normal((m, k)), normal((k, n))
        assert_rounded(linear(x, w, threads=threads), product(x, w))


@needs_tiles
@pytest.mark.parametrize("k", [383, 384, 768, 2049, 4096])
def test_depth(k: int) -> None:
    """Several passes, and blocks of rows that a deep product is cut into."""
    x, w = normal((150, k)), normal((k, 50))
    assert_rounded(linear(x, w), product(x, w))


@needs_tiles
def test_it_is_closer_than_the_plain_product() -> None:
    x, w = normal((64, 768)), normal((768, 192))
    plain = np.empty((64, 192), np.float32)
    packed = _native.pack(ISA, "linear_pack_f32", w, {"transposed": 0})
    _native.call(ISA, "linear_f32", [x, packed], [plain], {"epilogue": []}, threads=1)
    want = product(x, w)
    assert np.mean((linear(x, w) - want) ** 2) < np.mean((plain - want) ** 2)


@needs_tiles
@pytest.mark.parametrize("largest", [10, 1e3, 1e6])
def test_the_largest_number_costs_the_others_a_few_bits_only(largest: float) -> None:
    """Note [Passes]: the bound of the worst row and the worst column."""
    x, w = normal((64, 1536)), normal((1536, 192))
    x[np.arange(64), np.arange(64) * 24] = largest
    w[np.arange(192) * 8, np.arange(192)] = -largest
    y, want = linear(x, w), product(x, w)
    size = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(w, axis=0) / np.sqrt(1536)
    assert np.sqrt(np.mean(((y - want) / size) ** 2)) <= 1.1e-6


@needs_tiles
@pytest.mark.parametrize("factor", [1e-25, 1e-3, 1e3, 1e25])
def test_rows_and_columns_of_different_sizes(factor: float) -> None:
    x, w = normal((64, 256)), normal((256, 192))
    x[::3] *= np.float32(factor)
    w[:, ::5] *= np.float32(1e-3 if factor > 1 else 1e3)
    x[5], w[:, 9] = 0, 0
    y, want = linear(x, w), product(x, w)
    size = np.linalg.norm(x.astype(np.float64), axis=1)[:, None] * np.linalg.norm(w, axis=0) / 16
    assert (np.abs(y - want) <= 2e-6 * size).all()


@needs_tiles
@pytest.mark.parametrize("m", [3, 64, 97])
def test_epilogue_and_strides(m: int) -> None:
    """The fused steps, with rows that lie apart; nothing between them is touched."""
    k, n = 70, 155
    x, w = normal((2 * m, k + 9))[::2, 3 : 3 + k], normal((n, k)).T
    bias, add, mul = normal((n,), 1), normal((m, n + 4))[:, :n], normal((m, 1), 2)
    frame = np.full((m, n + 20), 9, np.float32)
    linear(x, w, "bias.relu.add.mul", (bias, add, mul), out=frame[:, 7 : 7 + n])
    want = (np.maximum(product(x, w) + bias, 0) + add) * mul
    np.testing.assert_allclose(frame[:, 7 : 7 + n], want, rtol=1e-5, atol=2e-5)
    assert (frame[:, :7] == 9).all() and (frame[:, 7 + n :] == 9).all()
    columns = np.asfortranarray(x)  # numbers of a row lie apart
    assert np.array_equal(linear(columns, w), linear(x, w))


@needs_tiles
def test_a_row_depends_on_nothing_but_itself() -> None:
    x, w = normal((300, 1000)), normal((1000, 90))
    x[17, 3], x[40, 999] = np.nan, 1e30
    whole = linear(x, w)
    assert np.array_equal(whole, linear(x, w, threads=1), equal_nan=True)
    for rows in (slice(0, 1), slice(15, 18), slice(33, 300)):
        assert np.array_equal(whole[rows], linear(x[rows], w), equal_nan=True)


@needs_tiles
def test_what_is_not_finite_is_as_in_float32() -> None:
    x, w = normal((64, 500)), normal((500, 150))
    w[11, 5] = 0
    x[7, 11], x[8, 11], x[9, 11] = np.nan, np.inf, -np.inf
    x[10, [11, 499]] = np.inf, -np.inf
    with np.errstate(invalid="ignore"):
        y, want = linear(x, w), x @ w
    assert np.array_equal(np.isnan(y), np.isnan(want))
    odd = ~np.isfinite(want)
    assert odd[7:11].all() and not odd[:7].any()
    assert np.array_equal(y[odd], want[odd], equal_nan=True)
    fine = np.r_[0:7, 11:64]
    assert_rounded(y[fine], product(x[fine], w))


@needs_tiles
@pytest.mark.parametrize("rows", [40, "n"])
def test_taken_from_opt_level_2_on_and_told(two_products: Any, rows: int | str) -> None:
    proto = two_products(rows, 130, 200)
    x = normal((40, 130))
    want = onnx.reference.ReferenceEvaluator(proto).run(None, {"x": x})[0]
    given = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    for level in (1, 2, 3):
        model = zenith.compile(GraphIR.from_onnx(proto), opt_level=level, fallback="error")
        explained = model.explain()
        found = [node for node in explained.nodes if "ozaki" in node.kernel]
        notes = [note for note in explained.notes if "digits" in note]
        assert (len(found), len(notes)) == ((2, 1) if level > 1 else (0, 0))
        np.testing.assert_allclose(model.run({"x": x})["y"], want, rtol=0, atol=2e-5)
        for name, value in model.graph.model.graph.initializers.items():
            if name in ("w", "v"):
                assert np.array_equal(value.const_value.numpy(), given[name])


def _reason(proto: Any) -> str:
    model = zenith.compile(GraphIR.from_onnx(proto), fallback="error")
    first = next(node for node in model.explain().nodes if node.op.startswith("zenith:Linear"))
    assert "ozaki" not in first.kernel
    return dict(first.candidates)["linear_ozaki_f32"]


@needs_tiles
def test_small_products_and_odd_weights_are_plain(two_products: Any) -> None:
    assert "fewer than 4" in _reason(two_products(3, 130, 200))
    assert "less than 128" in _reason(two_products(40, 127, 200))
    proto = two_products(40, 130, 200)
    weights = onnx.numpy_helper.to_array(proto.graph.initializer[0]).copy()
    weights[3, 4] = np.inf
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weights, "w"))
    assert "not finite" in _reason(proto)


def _pixels(batch: int | str, stride: int) -> Any:
    """Relu of a convolution of single pixels, plus r."""
    node, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    float32, side = onnx.TensorProto.FLOAT, -(-9 // stride)
    graph = onnx.helper.make_graph(
        [
            node("Conv", ["x", "w", "b"], ["a"], kernel_shape=[1, 1], strides=[stride, stride]),
            node("Add", ["a", "r"], ["c"]),
            node("Relu", ["c"], ["y"]),
        ],
        "pixels",
        [info("x", float32, [batch, 140, 9, 9]), info("r", float32, [batch, 130, side, side])],
        [info("y", float32, [batch, 130, side, side])],
        [
            onnx.numpy_helper.from_array(normal((130, 140, 1, 1)), "w"),
            onnx.numpy_helper.from_array(normal((130,)), "b"),
        ],
    )
    opset = onnx.helper.make_opsetid("", OPSET)
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=12)


@needs_tiles
@pytest.mark.parametrize("batch", [1, "n"])
@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_of_single_pixels(batch: int | str, stride: int) -> None:
    proto = _pixels(batch, stride)
    model = zenith.compile(GraphIR.from_onnx(proto), fallback="error")
    assert any("ozaki" in node.kernel for node in model.explain().nodes)
    w = onnx.numpy_helper.to_array(proto.graph.initializer[0])
    for n in (1, 3) if batch == "n" else (1,):
        x = normal((n, 140, 9, 9))
        r = normal((n, 130, -(-9 // stride), -(-9 // stride)))
        a = np.einsum("nchw,mc->nmhw", x[:, :, ::stride, ::stride].astype(np.float64), w[..., 0, 0])
        want = np.maximum(a + normal((130,))[:, None, None] + r, 0)
        np.testing.assert_allclose(model.run({"x": x, "r": r})["y"], want, rtol=1e-6, atol=2e-5)
    held = model.graph.model.graph.initializers["w"].const_value
    assert np.array_equal(held.numpy(), w)


def test_without_tiles_the_plain_product_is_taken(
    two_products: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gemm, "_has_tiles", lambda: False)
    assert "no integer tiles" in _reason(two_products(40, 130, 200))
