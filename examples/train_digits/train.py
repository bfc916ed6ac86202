"""Train a small convolutional network on scikit-learn's digits: PyTorch eager, then Zenith.

The same weights at the start, the same batches: both end with the same accuracy. Downloads nothing.
"""

from __future__ import annotations

import argparse
import copy
import time
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import nn

import zenith_torch


class Net(nn.Module):
    """Two convolutions with batch norm, dropout, a linear head: 8 x 8 images, ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(32 * 4 * 4, 10))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(images))


def digits() -> tuple[torch.Tensor, ...]:
    """Images and labels for training (1437) and test (360)."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(data.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, test = order[:1437], order[1437:]
    return images[train], labels[train], images[test], labels[test]


def train(model: nn.Module, run: Any, epochs: int, data: tuple[torch.Tensor, ...]) -> float:
    """Train `model` by calling `run`; gives the share of right answers on the test images."""
    images, labels, test_images, test_labels = data
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    shuffle = torch.Generator().manual_seed(1)
    torch.manual_seed(2)
    for _ in range(epochs):
        model.train()
        for batch in torch.randperm(len(labels), generator=shuffle)[:1408].split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(run(images[batch]), labels[batch]).backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        return (run(test_images).argmax(1) == test_labels).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=12)
    epochs = parser.parse_args().epochs
    data = digits()
    torch.manual_seed(0)
    eager = Net()
    model = copy.deepcopy(eager)
    backend = zenith_torch.create_backend(fallback="error")

    start = time.perf_counter()
    want = train(eager, eager, epochs, data)
    middle = time.perf_counter()
    got = train(model, torch.compile(model, backend=backend), epochs, data)
    end = time.perf_counter()

    print(f"PyTorch eager    accuracy {want:.3f}   {middle - start:5.1f} s")
    print(f"Zenith           accuracy {got:.3f}   {end - middle:5.1f} s, with compiling")
    for program in backend.programs:
        kernels = [
            n.kernel for r in program.regions if r.compiled for n in r.compiled.explain().nodes
        ]
        print(f"  {program.kind:9}  {len(kernels)} kernels")
    if abs(got - want) > 0.02:
        raise SystemExit("the accuracies differ")


if __name__ == "__main__":
    main()
