"""Attention over a cache and rotary positions, as exported language models have them, against ONNX
Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

import zenith
from zenith.errors import UnsupportedOperationError

HEADS, GROUPS, SIZE = 4, 2, 16
Arrays = dict[str, np.ndarray]


def model(op_type: str, feeds: Arrays, names: list[str], outputs: int, **attributes: Any) -> Any:
    """One node; `names` are its inputs in order, "" for those it has not."""
    node = helper.make_node(
        op_type, names, [f"y{i}" for i in range(outputs)], domain="com.microsoft", **attributes
    )
    inputs = [
        helper.make_tensor_value_info(
            k, helper.np_dtype_to_tensor_dtype(v.dtype), [f"{k}{i}" for i in range(v.ndim)]
        )
        for k, v in feeds.items()
    ]
    for value in inputs:  # sizes that do not change
        for dim, size in zip(
            value.type.tensor_type.shape.dim, feeds[value.name].shape, strict=True
        ):
            if size % 8 == 0 and size:
                dim.dim_value = size
    results = [helper.make_tensor_value_info(f"y{i}", 1, None) for i in range(outputs)]
    graph = helper.make_graph([node], "g", inputs, results)
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def compare(proto: onnx.ModelProto, *calls: Arrays) -> None:
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    compiled = zenith.compile(proto, fallback="error")
    for feeds in calls:
        wanted = session.run(None, feeds)
        for want, got in zip(wanted, compiled.run(feeds).values(), strict=True):
            assert got.shape == want.shape
            if want.ndim == 4 and "last" in feeds:  # a cache: nobody reads what is not valid
                unread = np.arange(want.shape[2]) > feeds["last"][:, np.newaxis]
                got, want = (np.where(unread[:, None, :, None], 0, x) for x in (got, want))
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def decoder(seed: int, batch: int, new: int, past: int, lengths: list[int], **more: Any) -> Arrays:
    """Inputs of GroupQueryAttention. lengths: tokens of each sequence, the new ones included."""
    rng = np.random.default_rng(seed)

    def real(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    return {
        "q": real(batch, new, HEADS * SIZE),
        "k": real(batch, new, GROUPS * SIZE),
        "v": real(batch, new, GROUPS * SIZE),
        "past_k": real(batch, GROUPS, past, SIZE),
        "past_v": real(batch, GROUPS, past, SIZE),
        "last": np.array(lengths, np.int32) - 1,
        "total": np.array([max(lengths)], np.int32),
        **more,
    }


@pytest.mark.parametrize(("turn", "window"), [(None, 3), (0, -1), (1, -1)])
def test_prompt_and_next_tokens(turn: int | None, window: int) -> None:
    rng = np.random.default_rng(9)
    more = {}
    attributes = {"num_heads": HEADS, "kv_num_heads": GROUPS, "local_window_size": window}
    if turn is not None:
        more = {k: rng.standard_normal((32, SIZE // 2)).astype(np.float32) for k in ("cos", "sin")}
        attributes |= {"do_rotary": 1, "rotary_interleaved": turn}
    prompt = decoder(1, 2, 5, 0, [5, 5], **more)
    calls = [
        prompt,
        decoder(2, 2, 1, 6, [7, 7], **more),
        decoder(3, 2, 1, 6, [7, 5], **more),  # one sequence is shorter
        decoder(4, 1, 1, 9, [6], **more),  # the cache has room
    ]
    compare(model("GroupQueryAttention", prompt, list(prompt), 3, **attributes), *calls)


def test_scale_softcap_and_bias() -> None:
    feeds = decoder(5, 1, 3, 0, [3])
    feeds["bias"] = np.random.default_rng(0).standard_normal((1, HEADS, 3, 3)).astype(np.float32)
    names = [*list(feeds)[:7], "", "", "", "bias"]
    attributes = {"num_heads": HEADS, "kv_num_heads": GROUPS, "scale": 0.3, "softcap": 2.0}
    compare(model("GroupQueryAttention", feeds, names, 3, **attributes), feeds)


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_rotary(interleaved: int, folded: bool, first: bool) -> None:
    rng = np.random.default_rng(3)
    shape = (2, 3, HEADS * SIZE) if folded else (2, HEADS, 3, SIZE)
    feeds = {
        "x": rng.standard_normal(shape).astype(np.float32),
        "at": np.array([4]) if first else rng.integers(0, 32, (2, 3)),
        "cos": rng.standard_normal((32, SIZE // 2)).astype(np.float32),
        "sin": rng.standard_normal((32, SIZE // 2)).astype(np.float32),
    }
    attributes = {"interleaved": interleaved, "num_heads": HEADS if folded else 0}
    compare(model("RotaryEmbedding", feeds, list(feeds), 1, **attributes), feeds)


def test_what_cannot_be_said_is_refused() -> None:
    feeds = decoder(6, 1, 3, 0, [3])
    attributes = {"num_heads": HEADS, "kv_num_heads": GROUPS, "smooth_softmax": 1}
    with pytest.raises(UnsupportedOperationError, match="smooth softmax"):
        zenith.compile(model("GroupQueryAttention", feeds, list(feeds), 3, **attributes))
