"""Small random models of many architectures, each with the inputs one call needs.

Random weights find wrong layouts, masks and epilogues as well as trained ones; real sizes are for
`benchmarks/zoo.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers as hf

__all__ = ["ARCHITECTURES", "Architecture", "build"]


@dataclass(frozen=True)
class Architecture:
    """A model maker, and what its inputs are: token ids or images of `size` pixels.

    odd: batch and length (or image side) of the second input tried.
    """

    make: Callable[[], torch.nn.Module]
    kind: str = "tokens"
    size: int = 32
    odd: tuple[int, int] = (3, 17)
    mask: bool = True
    dynamic: bool = True

    def inputs(self, batch: int, size: int, seed: int = 0) -> dict[str, torch.Tensor]:
        """Keyword inputs of one call. The mask pads the end of every sequence but the first."""
        generator = torch.Generator().manual_seed(seed)
        if self.kind == "images":
            return {"pixel_values": torch.randn(batch, 3, size, size, generator=generator)}
        ids = torch.randint(0, 97, (batch, size), generator=generator)
        if not self.mask:
            return {"input_ids": ids}
        mask = torch.ones(batch, size, dtype=torch.int64)
        for row in range(1, batch):
            mask[row, size - min(row, size - 1) :] = 0
        return {"input_ids": ids, "attention_mask": mask}

    def dynamic_axes(self) -> dict[str, dict[int, str]]:
        """Dynamic batch and length of every input."""
        axes = {0: "batch"} if self.kind == "images" else {0: "batch", 1: "seq"}
        names = ["pixel_values"] if self.kind == "images" else ["input_ids"]
        if self.kind == "tokens" and self.mask:
            names.append("attention_mask")
        return {name: dict(axes) for name in names}


def _text(model: str, config: str, **options: Any) -> Architecture:
    base = {
        "vocab_size": 97,
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 80,
        "max_position_embeddings": 96,
    }
    extra = {k: options.pop(k) for k in ("mask", "dynamic") if k in options}
    return Architecture(
        lambda: getattr(hf, model)(getattr(hf, config)(**{**base, **options})), **extra
    )


def _image(model: str, config: str, *, size: int = 32, **options: Any) -> Architecture:
    return Architecture(
        lambda: getattr(hf, model)(getattr(hf, config)(**options)),
        kind="images",
        size=size,
        odd=(3, size),
    )


_VIT = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "image_size": 32,
    "patch_size": 8,
}

ARCHITECTURES: dict[str, Architecture] = {
    "bert": _text("BertModel", "BertConfig"),
    "bert_medium": _text(
        "BertModel",
        "BertConfig",
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=1024,
    ),
    "bert_classifier": _text("BertForSequenceClassification", "BertConfig", num_labels=5),
    "distilbert": Architecture(
        lambda: hf.DistilBertModel(
            hf.DistilBertConfig(
                vocab_size=97,
                dim=48,
                n_layers=2,
                n_heads=4,
                hidden_dim=80,
                max_position_embeddings=96,
            )
        )
    ),
    "roberta": _text("RobertaModel", "RobertaConfig"),
    "electra": _text("ElectraModel", "ElectraConfig", embedding_size=32),
    "mpnet": _text("MPNetModel", "MPNetConfig"),
    "albert": _text("AlbertModel", "AlbertConfig", embedding_size=32),
    "gpt2": Architecture(
        lambda: hf.GPT2LMHeadModel(
            hf.GPT2Config(
                vocab_size=97, n_embd=48, n_layer=2, n_head=4, n_positions=96, use_cache=False
            )
        ),
        mask=False,
    ),
    "gpt_neox": _text("GPTNeoXForCausalLM", "GPTNeoXConfig", mask=False, use_cache=False),
    "llama": _text(
        "LlamaForCausalLM", "LlamaConfig", num_key_value_heads=2, mask=False, use_cache=False
    ),
    "llama_medium": _text(
        "LlamaForCausalLM",
        "LlamaConfig",
        hidden_size=256,
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=2,
        intermediate_size=688,
        mask=False,
        use_cache=False,
    ),
    "mistral": _text(
        "MistralForCausalLM", "MistralConfig", num_key_value_heads=2, mask=False, use_cache=False
    ),
    "qwen2": _text(
        "Qwen2ForCausalLM", "Qwen2Config", num_key_value_heads=2, mask=False, use_cache=False
    ),
    "vit": _image("ViTForImageClassification", "ViTConfig", **_VIT),
    "deit": _image("DeiTForImageClassification", "DeiTConfig", **_VIT),
    "clip_vision": _image("CLIPVisionModel", "CLIPVisionConfig", **_VIT),
    "resnet": _image(
        "ResNetForImageClassification",
        "ResNetConfig",
        embedding_size=16,
        hidden_sizes=[32, 64],
        depths=[2, 2],
        num_labels=7,
    ),
    "resnet_basic": _image(
        "ResNetForImageClassification",
        "ResNetConfig",
        embedding_size=16,
        hidden_sizes=[16, 40],
        depths=[1, 2],
        layer_type="basic",
        num_labels=7,
        size=45,
    ),
    "mobilenet_v2": _image(
        "MobileNetV2ForImageClassification",
        "MobileNetV2Config",
        depth_multiplier=0.35,
        image_size=64,
        num_labels=7,
        size=64,
    ),
    "convnext": _image(
        "ConvNextForImageClassification",
        "ConvNextConfig",
        hidden_sizes=[16, 24, 32, 48],
        depths=[1, 1, 2, 1],
        num_labels=7,
        size=64,
    ),
    "swin": _image(
        "SwinForImageClassification",
        "SwinConfig",
        image_size=32,
        patch_size=4,
        embed_dim=16,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=4,
        num_labels=7,
    ),
}


def build(name: str) -> torch.nn.Module:
    """The model of that name, in evaluation mode, always with the same weights.

    Statistics and scales that start as 0 or 1 are made random, or their use could not be tested.
    """
    torch.manual_seed(7)
    model = ARCHITECTURES[name].make().eval()
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for key, value in [*model.named_parameters(), *model.named_buffers()]:
            if not value.is_floating_point():
                continue
            if key.endswith("running_var"):
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
            elif value.ndim == 1 and "inv_freq" not in key:
                value.add_(torch.randn(value.shape, generator=generator) * 0.1)
    return model
