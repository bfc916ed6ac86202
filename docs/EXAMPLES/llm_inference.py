"""Greedy text generation with one compiled model for prefill and decode, and its cache in place.

The decoder keeps keys and values in buffers of a fixed length and writes the new rows into them.
`zenith.compile` sees that forward changes these buffers, so the compiled model has state: a cache
belongs to whoever calls, `compiled.new_state()` makes one, and a step writes its rows where the
buffers lie. The prompt and every token after it go through the same plan, bound to another length.

Random weights of real shapes: the words mean nothing, the work is the same. The tokens are compared
with those of PyTorch eager, and so is the speed: calls in turns, medians.

usage: python docs/EXAMPLES/llm_inference.py [--model gpt2|llama|tiny] [--tokens 64] [--prompt 128]
                                             [--precision fp32|bf16] [--peers eager,compile,ort]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import transformers as hf
from transformers.cache_utils import StaticCache

import zenith

SHAPES: dict[str, Callable[[], Any]] = {
    "tiny": lambda: hf.LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=128,
    ),
    "gpt2": lambda: hf.GPT2Config(),
    "llama": lambda: hf.LlamaConfig(  # 1.1 billion parameters
        hidden_size=2048,
        num_hidden_layers=22,
        num_attention_heads=32,
        num_key_value_heads=4,
        intermediate_size=5632,
    ),
}


class Decoder(torch.nn.Module):
    """A language model with its cache in buffers: token ids in, logits of the last one out."""

    def __init__(self, model: Any, length: int) -> None:
        super().__init__()
        self.model = model
        config = model.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        self.cache = StaticCache(config=config, max_cache_len=length)
        width = config.hidden_size // config.num_attention_heads
        self.cache.early_initialization(1, heads, width, model.dtype, model.device)
        for i, layer in enumerate(self.cache.layers):
            self.register_buffer(f"keys_{i}", layer.keys, persistent=False)
            self.register_buffer(f"values_{i}", layer.values, persistent=False)
            self.register_buffer(f"length_{i}", layer.cumulative_length, persistent=False)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        for i, layer in enumerate(self.cache.layers):
            layer.keys = getattr(self, f"keys_{i}")
            layer.values = getattr(self, f"values_{i}")
            layer.cumulative_length = getattr(self, f"length_{i}")
        call = {"past_key_values": self.cache, "use_cache": True, "logits_to_keep": 1}
        logits: torch.Tensor = self.model(input_ids=input_ids, **call).logits
        return logits


def build(shape: str) -> Any:
    """A causal language model with random weights, always the same."""
    torch.manual_seed(0)
    return hf.AutoModelForCausalLM.from_config(SHAPES[shape]()).eval()


def generate(
    step: Callable[[torch.Tensor], torch.Tensor], prompt: torch.Tensor
) -> Iterator[torch.Tensor]:
    """The most likely token after the prompt, then the one after that, without end."""
    token = prompt
    while True:
        token = step(token)[:, -1:].argmax(-1)
        yield token


def eager_step(model: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """PyTorch with the cache of transformers that grows."""
    cache = hf.DynamicCache(config=model.config)

    def step(ids: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            call = {"past_key_values": cache, "use_cache": True, "logits_to_keep": 1}
            logits: torch.Tensor = model(input_ids=ids, **call).logits
        return logits

    return step


def compiled_step(model: Any, length: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """torch.compile (inductor) of the decoder with fixed buffers."""
    decoder = torch.compile(Decoder(model, length).eval(), dynamic=False)

    def step(ids: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            logits: torch.Tensor = decoder(ids)
        return logits

    return step


def ort_step(compiled: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """ONNX Runtime on the same graph; its buffers come back as new tensors from every call."""
    import numpy as np
    import onnxruntime as ort

    proto = compiled.graph.to_onnx(inline=True, opset=24)
    proto.ir_version = 11
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = ort.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])
    state = {
        name: ort.OrtValue.ortvalue_from_numpy(a)
        for name, a in compiled.new_state().arrays().items()
    }
    pairs = compiled.graph.state
    (ids_name,) = [v.name for v in session.get_inputs() if v.name not in pairs]
    (logits_name,) = [v.name for v in session.get_outputs() if v.name not in pairs.values()]

    def step(ids: torch.Tensor) -> torch.Tensor:
        feeds = {ids_name: ort.OrtValue.ortvalue_from_numpy(ids.numpy()), **state}
        logits, *after = session.run_with_ort_values([logits_name, *pairs.values()], feeds)
        state.update(zip(pairs, after, strict=True))
        return torch.from_numpy(np.asarray(logits.numpy()))

    return step


def main(arguments: list[str] | None = None) -> dict[str, list[int]]:
    """Generate with Zenith and its peers; the tokens of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=SHAPES, default="gpt2")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=128, help="length of the prompt")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--peers", default="eager", help="of eager, compile, ort; comma separated")
    options = parser.parse_args(arguments)

    model = build(options.model)
    prompt = torch.randint(0, model.config.vocab_size, (1, options.prompt))
    length = options.prompt + options.tokens
    started = time.perf_counter()
    compiled = zenith.compile(
        Decoder(model, length).eval(),
        sample_input=(prompt,),
        dynamic={"input_ids": {1: "length"}},
        precision=options.precision,
    )
    print(f"compiled in {time.perf_counter() - started:.1f} s")
    print("\n".join(note for note in compiled.explain().notes if note.startswith("state")))

    steps: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"zenith": compiled.new_state()}
    peers = [name for name in options.peers.split(",") if name]
    if "eager" in peers:
        steps["eager"] = eager_step(model)
    if "compile" in peers:
        steps["compile"] = compiled_step(model, length)
    if "ort" in peers:
        steps["ort"] = ort_step(compiled)
    tokens, prefill, decode = in_turns(steps, prompt, options.tokens)
    print(f"{'':8} {'prefill ms':>10} {'ms/token':>9} {'tokens/s':>9}  same tokens as zenith")
    for name in steps:
        rate = statistics.median(decode[name])
        same = sum(a == b for a, b in zip(tokens[name], tokens["zenith"], strict=True))
        print(
            f"{name:8} {prefill[name] * 1e3:10.1f} {rate * 1e3:9.2f} {1 / rate:9.1f}  "
            f"{same} of {len(tokens[name])}"
        )
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    print(f"weights: {weights / 1e9:.2f} GB in the source's precision")
    return tokens


def in_turns(
    steps: dict[str, Callable[[torch.Tensor], torch.Tensor]], prompt: torch.Tensor, count: int
) -> tuple[dict[str, list[int]], dict[str, float], dict[str, list[float]]]:
    """Tokens, seconds of the first (the prompt) and of the other calls, one token each in turn."""
    streams = {name: generate(step, prompt) for name, step in steps.items()}
    tokens: dict[str, list[int]] = {name: [] for name in steps}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(count):
        for name, stream in streams.items():
            start = time.perf_counter()
            tokens[name].append(int(next(stream)))
            seconds[name].append(time.perf_counter() - start)
    return tokens, {n: s[0] for n, s in seconds.items()}, {n: s[1:] for n, s in seconds.items()}


if __name__ == "__main__":
    main()
