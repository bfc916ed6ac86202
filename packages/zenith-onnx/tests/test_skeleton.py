"""Large weights stay in their files until somebody packs them, and are what the file says."""

from __future__ import annotations

import os
import random
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

import zenith
from zenith.errors import ValidationError
from zenith_onnx.adapter import import_model
from zenith_onnx.load import load
from zenith_onnx.skeleton import LARGE, Handle, skeleton

SIDE = 256
BYTES = 4 * SIDE * SIDE
assert BYTES >= LARGE


def products(count: int) -> tuple[onnx.ModelProto, list[np.ndarray]]:
    """x @ w0 @ w1 ..., scaled so that values stay near 1."""
    rng = np.random.default_rng(3)
    weights = [rng.normal(0, SIDE**-0.5, (SIDE, SIDE)).astype(np.float32) for _ in range(count)]
    nodes = [
        helper.make_node("MatMul", [f"h{i}" if i else "x", f"w{i}"], [f"h{i + 1}"])
        for i in range(count)
    ]
    shape = ["n", SIDE]
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(f"h{count}", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model, weights


def saved(folder: Path, model: onnx.ModelProto, data: bytes | None = None) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString() if data is None else data)
    return path


def expected(x: np.ndarray, weights: list[np.ndarray]) -> np.ndarray:
    for w in weights:
        x = x @ w
    return x


@pytest.mark.parametrize("external", [False, True])
def test_weights_are_read_when_looked_at(tmp_path: Path, external: bool) -> None:
    model, weights = products(2)
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=external, location="w.bin")
    loaded = load(path)
    assert sorted(loaded.apart) == [0, 1]
    assert not any(t.raw_data or t.external_data for t in loaded.model.graph.initializer)
    graph = import_model(path).graph
    for i, w in enumerate(weights):
        tensor = graph.initializers[f"w{i}"].const_value
        assert tensor is not None and np.array_equal(tensor.numpy(), w)
    x = np.random.default_rng(0).normal(size=(3, SIDE)).astype(np.float32)
    compiled = zenith.compile(str(path))
    path.unlink()
    np.testing.assert_allclose(compiled(x), expected(x, weights), rtol=1e-4, atol=1e-4)


def test_compiling_holds_one_weight_beside_the_packed_ones(tmp_path: Path) -> None:
    """Memory of arrays while compiling and after: not that of all the weights."""
    count = 12
    model, weights = products(count)
    path = saved(tmp_path, model)
    del model, weights
    zenith.compile(str(path))  # modules and caches
    tracemalloc.start()
    try:
        compiled = zenith.compile(str(path))
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    program = compiled.plan.partitions[0].program
    assert program.constant_bytes >= count * BYTES
    assert peak < 5 * BYTES, f"{peak / BYTES:.1f} weights at once"
    assert held < 3 * BYTES, f"{held / BYTES:.1f} weights held"


def test_not_too_many_files_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old exporters write a file for every weight."""
    model, weights = products(3)
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, all_tensors_to_one_file=False)
    assert len(load(path).apart) == 3
    monkeypatch.setattr("zenith_onnx.load.MAX_OPEN", 2)
    loaded = load(path)
    assert not loaded.apart
    assert np.array_equal(numpy_helper.to_array(loaded.model.graph.initializer[2]), weights[2])


def test_small_weights_and_those_whose_content_is_checked_are_read(tmp_path: Path) -> None:
    model, _ = products(1)
    model.graph.initializer.append(numpy_helper.from_array(np.ones(LARGE, bool), "flags"))
    model.graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), "small"))
    loaded = load(saved(tmp_path, model))
    assert sorted(loaded.apart) == [0]
    assert len(loaded.model.graph.initializer[1].raw_data) == LARGE
    model.graph.initializer[1].raw_data = b"\2" * LARGE
    with pytest.raises(ValidationError, match="other than 0 and 1"):
        load(saved(tmp_path, model))


def test_data_of_another_length(tmp_path: Path) -> None:
    model, _ = products(1)
    model.graph.initializer[0].dims[0] += 1
    with pytest.raises(ValidationError, match=rf"{BYTES + 4 * SIDE} bytes, {BYTES} are there"):
        load(saved(tmp_path, model))


def test_a_file_cut_short_later(tmp_path: Path) -> None:
    model, _ = products(1)
    path = saved(tmp_path, model)
    tensor = import_model(path).graph.initializers["w0"].const_value
    assert tensor is not None
    path.write_bytes(path.read_bytes()[: BYTES // 2])
    with pytest.raises(ValidationError, match="got shorter"):
        tensor.numpy()


def test_parts_that_the_parser_merges(tmp_path: Path) -> None:
    """Two graphs in one file are one, its lists joined: no usual file, so protobuf reads it."""
    model, weights = products(2)
    second = onnx.ModelProto()
    second.graph.initializer.append(model.graph.initializer.pop())
    data = model.SerializeToString() + second.SerializeToString()
    loaded = load(saved(tmp_path, model, data))
    assert not loaded.apart
    assert np.array_equal(numpy_helper.to_array(loaded.model.graph.initializer[1]), weights[1])


def test_fields_in_any_order_and_given_twice(tmp_path: Path) -> None:
    model, weights = products(1)
    tensor = model.graph.initializer.pop()
    raw = onnx.TensorProto(raw_data=tensor.raw_data).SerializeToString()
    tensor.ClearField("raw_data")
    rest = tensor.SerializeToString()
    for content, apart in ((raw + rest, [0]), (raw + rest + raw, []), (rest + raw, [0])):
        slim = onnx.ModelProto()
        slim.CopyFrom(model)
        head = onnx.ModelProto(graph=onnx.GraphProto(initializer=[onnx.TensorProto()]))
        assert head.SerializeToString() == b"\x3a\x02\x2a\x00"
        inner = slim.graph.SerializeToString() + b"\x2a" + _varint(len(content)) + content
        slim.ClearField("graph")
        data = slim.SerializeToString() + b"\x3a" + _varint(len(inner)) + inner
        path = saved(tmp_path, model, data)
        assert sorted(load(path).apart) == apart
        value = import_model(path).graph.initializers["w0"].const_value
        assert value is not None and np.array_equal(value.numpy(), weights[0])


def test_spoiled_files_are_what_protobuf_says_of_them(tmp_path: Path) -> None:
    """Bytes changed at random: the walk finds the same model as the parser, or leaves it alone."""
    rng = random.Random(5)
    model, _ = products(2)
    original = model.SerializeToString()
    places = [i for i in range(len(original)) if not BYTES > i % (BYTES + 40) > 60]
    usual = 0
    for _ in range(300):
        data = bytearray(original)
        for _ in range(rng.randint(1, 3)):
            data[rng.choice(places)] = rng.randrange(256)
        path = saved(tmp_path, model, bytes(data))
        with path.open("rb") as file:
            found = skeleton(Handle(os.dup(file.fileno())))
        if found is None:
            continue
        try:
            whole = onnx.ModelProto.FromString(bytes(data))
        except DecodeError:
            with pytest.raises(DecodeError):
                onnx.ModelProto.FromString(found[0])
            continue
        slim = onnx.ModelProto.FromString(found[0])
        for position, piece in found[1].items():
            content = piece.handle.read(piece.offset, piece.length, "")
            slim.graph.initializer[position].raw_data = content
        assert slim == whole
        usual += 1
    assert usual > 100


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
