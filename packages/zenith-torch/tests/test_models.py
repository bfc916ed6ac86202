"""Tiny models of the families people run, imported from a sample of batch 1 with dynamic axes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf
from torch_oracle import check

ENCODER = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 100,
}
DECODER = ENCODER | {
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION = {k: v for k, v in ENCODER.items() if k != "vocab_size"} | {
    "image_size": 32,
    "patch_size": 8,
}
STAGES = {"hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1]}
GPT2 = {"n_layer": 2, "n_embd": 32, "n_head": 4, "vocab_size": 100, "eos_token_id": 2}
GPT2 |= {"bos_token_id": 1}

TEXT = {
    "bert": lambda: hf.BertModel(hf.BertConfig(**ENCODER)),
    "distilbert": lambda: hf.DistilBertModel(
        hf.DistilBertConfig(n_layers=2, dim=32, n_heads=4, hidden_dim=64, vocab_size=100)
    ),
    "mpnet": lambda: hf.MPNetModel(hf.MPNetConfig(**ENCODER)),
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**GPT2)),
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**DECODER)),
    "qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**DECODER, head_dim=8)),
    "gemma2": lambda: hf.Gemma2ForCausalLM(
        hf.Gemma2Config(**DECODER, head_dim=8, sliding_window=4)
    ),
}
IMAGE = {
    "vit": lambda: hf.ViTModel(hf.ViTConfig(**VISION)),
    "resnet": lambda: hf.ResNetModel(hf.ResNetConfig(embedding_size=8, **STAGES)),
    "convnext": lambda: hf.ConvNextModel(hf.ConvNextConfig(**STAGES)),
    "mobilenetv2": lambda: hf.MobileNetV2Model(hf.MobileNetV2Config(depth_multiplier=0.25)),
    "swin": lambda: hf.SwinModel(
        hf.SwinConfig(image_size=32, embed_dim=8, depths=[2, 2], num_heads=[2, 2], window_size=4)
    ),
    "poolformer": lambda: hf.PoolFormerModel(hf.PoolFormerConfig(**STAGES)),
}


def text(batch: int, length: int) -> dict[str, torch.Tensor]:
    """Token ids, and a mask that hides the end of the first row."""
    mask = torch.ones(batch, length, dtype=torch.long)
    if batch > 1:
        mask[0, -2:] = 0
    return {"input_ids": torch.randint(3, 99, (batch, length)), "attention_mask": mask}


@pytest.mark.parametrize("name", TEXT)
def test_text(name: str) -> None:
    axes = {0: "batch", 1: "sequence"}
    dynamic: dict[Any, Any] = {"input_ids": axes, "attention_mask": axes}
    model = TEXT[name]().eval()
    program = check(model, text(1, 7), dynamic, [text(3, 5), text(1, 9)], 2e-5, strict=False)
    eager = ("mpnet", "gemma2")  # transformers gives these no fused attention
    assert program.ops().count("Attention") == (0 if name in eager else 2)
    symbols = {str(d) for v in program.model.graph.inputs for d in v.shape}
    assert symbols == {"batch", "sequence"}


@pytest.mark.parametrize("name", IMAGE)
def test_image(name: str) -> None:
    images = [{"pixel_values": torch.randn(n, 3, 32, 32)} for n in (1, 3)]
    model = IMAGE[name]().eval()
    check(model, images[0], {"pixel_values": {0: "batch"}}, images[1:], 2e-5, strict=False)
