"""External data stays in the model's directory, and is as long as it says."""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from zenith.errors import DeviceOutOfMemoryError, ValidationError
from zenith_onnx.load import load

DATA = np.arange(12, dtype=np.float32).reshape(4, 3)


def write(folder: Path, *, dims: tuple[int, ...] = (4, 3), **entries: Any) -> Path:
    """A model whose one weight lies where `entries` say; its data is in folder/w.bin."""
    folder.mkdir(exist_ok=True)
    (folder / "w.bin").write_bytes(DATA.tobytes())
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims)
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "w.bin", **entries}.items():
        if value is not None:
            weight.external_data.add(key=key, value=str(value))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [weight],
    )
    path = folder / "model.onnx"
    opsets = [helper.make_opsetid("", 17)]
    path.write_bytes(helper.make_model(graph, opset_imports=opsets).SerializeToString())
    return path


def loaded(path: Path) -> np.ndarray:
    tensor = load(path).model.graph.initializer[0]
    assert not tensor.external_data and tensor.data_location == TensorProto.DEFAULT
    return onnx.numpy_helper.to_array(tensor)


@pytest.mark.parametrize(
    "entries",
    [{}, {"length": 48}, {"offset": 0, "length": 0}, {"location": "./w.bin"}, {"checksum": "00"}],
)
def test_data_is_read(tmp_path: Path, entries: dict[str, Any]) -> None:
    assert np.array_equal(loaded(write(tmp_path, **entries)), DATA)


def test_part_of_a_file_in_a_directory_below(tmp_path: Path) -> None:
    path = write(tmp_path, dims=(4, 2), location="deep/er/w.bin", offset=16, length=32)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    os.replace(tmp_path / "w.bin", tmp_path / "deep" / "er" / "w.bin")
    assert np.array_equal(loaded(path), DATA.ravel()[4:].reshape(4, 2))


def test_relative_path_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert load("model.onnx").model.graph.initializer[0].raw_data == DATA.tobytes()


def test_model_by_a_link_of_the_user(tmp_path: Path) -> None:
    """The user may name the model by a link; data is looked for beside the link."""
    path = write(tmp_path)
    link = tmp_path / "link.onnx"
    link.symlink_to(path)
    assert np.array_equal(loaded(link), DATA)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"location": "../secret.bin"}, "not below"),
        ({"location": "deep/../../secret.bin"}, "not below"),
        ({"location": "..\\secret.bin"}, "not below"),
        ({"location": "/etc/passwd"}, "not below"),
        ({"location": "C:\\secret.bin"}, "not below"),
        ({"location": None}, "no name of a file"),
        ({"location": ""}, "no name of a file"),
        ({"location": "w.bin\0x"}, "no name of a file"),
        ({"location": "."}, "a directory"),
        ({"location": "w.bin/"}, "link|directory"),
        ({"location": "nobody.bin"}, "cannot be opened"),
        ({"location": "n" * 5000}, "cannot be opened"),
        ({"offset": -4}, "not a number"),
        ({"offset": "1e3"}, "not a number"),
        ({"offset": "9" * 5000}, "not a number"),
        ({"offset": 4}, "which has 48"),
        ({"offset": 1 << 62}, "which has 48"),
        ({"length": 47}, "needs 48 bytes"),
        ({"length": 1 << 62}, "needs 48 bytes"),
        ({"dims": (4, 1 << 40)}, "which has 48"),
    ],
)
def test_refused(tmp_path: Path, entries: dict[str, Any], words: str) -> None:
    (tmp_path / "secret.bin").write_bytes(DATA.tobytes())
    with pytest.raises(ValidationError, match=words):
        load(write(tmp_path / "model", **entries))


def _link(folder: Path) -> None:
    (folder / "w.bin").unlink()
    (folder / "w.bin").symlink_to(folder.parent / "secret.bin")


def _link_inside(folder: Path) -> None:
    os.replace(folder / "w.bin", folder / "other.bin")
    (folder / "w.bin").symlink_to("other.bin")


def _hard_link(folder: Path) -> None:
    (folder / "w.bin").unlink()
    os.link(folder.parent / "secret.bin", folder / "w.bin")


def _pipe(folder: Path) -> None:
    (folder / "w.bin").unlink()
    os.mkfifo(folder / "w.bin")


def _socket_or_directory(folder: Path) -> None:
    (folder / "w.bin").unlink()
    (folder / "w.bin").mkdir()


@pytest.mark.parametrize(
    ("put", "words"),
    [
        (_link, "symbolic link"),
        (_link_inside, "symbolic link"),
        (_hard_link, "hard links"),
        (_pipe, "pipe"),
        (_socket_or_directory, "directory"),
    ],
)
def test_no_plain_file(tmp_path: Path, put: Callable[[Path], None], words: str) -> None:
    (tmp_path / "secret.bin").write_bytes(DATA.tobytes())
    path = write(tmp_path / "model")
    put(tmp_path / "model")
    started = time.monotonic()
    with pytest.raises(ValidationError, match=words):
        load(path)
    assert time.monotonic() - started < 5


def test_linked_directory(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "w.bin").write_bytes(DATA.tobytes())
    path = write(tmp_path / "model", location="sub/w.bin")
    (tmp_path / "model" / "sub").symlink_to(secret)
    with pytest.raises(ValidationError, match="symbolic link"):
        load(path)


def test_exchanged_while_it_is_read(tmp_path: Path) -> None:
    """A file that turns into a link again and again: its own data or an error, never the other."""
    path = write(tmp_path / "model")
    (tmp_path / "secret.bin").write_bytes(np.full(12, 7, np.float32).tobytes())
    target, real = tmp_path / "model" / "w.bin", tmp_path / "model" / "real.bin"
    real.write_bytes(DATA.tobytes())
    stop = threading.Event()

    def exchange() -> None:
        spare = tmp_path / "spare"
        while not stop.is_set():
            spare.symlink_to(tmp_path / "secret.bin")
            os.replace(spare, target)
            spare.write_bytes(DATA.tobytes())
            os.replace(spare, target)

    other = threading.Thread(target=exchange)
    other.start()
    try:
        for _ in range(300):
            try:
                assert np.array_equal(loaded(path), DATA)
            except ValidationError:
                continue
    finally:
        stop.set()
        other.join()


def test_no_directory_no_external_data(tmp_path: Path) -> None:
    path = write(tmp_path)
    for source in (path.read_bytes(), onnx.load(path, load_external_data=False)):
        with pytest.raises(ValidationError, match="path of the .onnx file"):
            load(source)


def test_sparse_file_larger_than_memory(tmp_path: Path) -> None:
    """A file of 8 TiB that takes no room on the disk: its size is no licence to allocate."""
    path = write(tmp_path, dims=(4, 1 << 38))
    try:
        os.truncate(tmp_path / "w.bin", 1 << 43)
    except OSError:
        pytest.skip("the file system has no files of this size")
    with pytest.raises(DeviceOutOfMemoryError, match="this machine has"):
        load(path)


def test_tensors_that_all_claim_one_file(tmp_path: Path) -> None:
    path = write(tmp_path)
    model = onnx.load(path, load_external_data=False)
    for index in range(100):
        again = model.graph.initializer.add()
        again.CopyFrom(model.graph.initializer[0])
        again.name = f"w{index}"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ValidationError, match="overlap"):
        load(path)


def test_no_handle_is_left_open(tmp_path: Path) -> None:
    good = write(tmp_path / "good")
    bad = write(tmp_path / "bad", offset=4)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(50):
        loaded(good)
        with pytest.raises(ValidationError):
            load(bad)
    assert before == (len(os.listdir("/proc/self/fd")) if before else 0)


def test_more_files_than_may_be_open(tmp_path: Path) -> None:
    """One file per tensor, as some exporters write it."""
    path = write(tmp_path)
    model = onnx.load(path, load_external_data=False)
    count = min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 2000) + 100
    for index in range(count):
        again = model.graph.initializer.add()
        again.CopyFrom(model.graph.initializer[0])
        again.name = again.external_data[0].value = f"w{index}"
        (tmp_path / again.name).write_bytes(DATA.tobytes())
    path.write_bytes(model.SerializeToString())
    assert len(load(path).model.graph.initializer) == count + 1


@pytest.mark.parametrize("kind", ["missing", "directory", "pipe", "empty", "text", "device"])
def test_the_model_itself(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model.onnx"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind != "missing":
        path.write_text("" if kind == "empty" else "no model at all\n")
    with pytest.raises(ValidationError):
        load(path)


def test_the_source_is_left_as_it_was(tmp_path: Path) -> None:
    model = load(write(tmp_path)).model
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch size"
    before = model.SerializeToString()
    changed = load(model).model
    assert model.SerializeToString() == before
    assert changed.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch_size"
