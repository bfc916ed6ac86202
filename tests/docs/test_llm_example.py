"""The example of text generation: the same tokens from every engine."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "docs" / "EXAMPLES" / "llm_inference.py"


def test_it_generates_what_its_peers_do(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("onnxruntime")
    spec = importlib.util.spec_from_file_location("llm_inference", EXAMPLE)
    assert spec is not None and spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    arguments = ["--model", "tiny", "--prompt", "5", "--tokens", "6", "--peers", "eager,ort"]
    tokens = example.main(arguments)
    assert tokens["zenith"] == tokens["eager"] == tokens["ort"]
    assert len(tokens["zenith"]) == 6
    assert "4 updated in place" in capsys.readouterr().out
