"""Training through `fit` against a bare torch loop: the same network, images, arithmetic, optimizer and schedule.

Run: python tests/benchmarks/bench_training.py [--images 12000] [--epochs 3] [--rounds 3]. Bare is what a short script
does: shuffle, normalise, forward, backward, step. `fit` adds weights, clipping, checks, schedules and Lightning's
loop. Rounds alternate, so that a machine that slows down slows both. Prints images a second and the ratio of the
medians; exits 1 below 0.85.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import numpy as np
import torch
from torch.nn import functional

from components.model.images.inputs import ImageSet, Normalise
from components.model.images.preprocess import PreprocessSpec
from components.model.networks.backbones import build
from components.model.training.fit import fit
from components.model.training.hardware import choose_precision
from components.params import Augment, Preprocess, Train

DEMANDED = 0.85
CLASSES = 10
SPEC = PreprocessSpec.of(Preprocess(), (0.29,), (0.35,))
PARAMS = Train(augment=Augment(shift=0.0))


def network() -> torch.nn.Module:
    """Return the small CNN of the shipped parameters, the same at every call."""
    return build(
        "small_cnn", classes=CLASSES, channels=1, size=SPEC.size, dropout=PARAMS.dropout, pretrained="none", seed=1
    )


def bare(images: np.ndarray, labels: np.ndarray, epochs: int) -> float:
    """Return the seconds that a bare loop takes."""
    model = network().to(memory_format=torch.channels_last)
    normalise = Normalise(SPEC)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=PARAMS.learning_rate, weight_decay=PARAMS.weight_decay, fused=True
    )
    data, truth = torch.from_numpy(images), torch.from_numpy(labels)
    half = choose_precision("auto") == "bf16"
    model.train()
    started = time.perf_counter()
    for _ in range(epochs):
        order = torch.randperm(len(data))
        for start in range(0, len(data), PARAMS.batch_size):
            chosen = order[start : start + PARAMS.batch_size]
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
                logits = model(normalise(data[chosen]))
            loss = functional.cross_entropy(logits.float(), truth[chosen], label_smoothing=PARAMS.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return time.perf_counter() - started


def ours(images: np.ndarray, labels: np.ndarray, epochs: int) -> float:
    """Return the seconds that `fit` takes, without validation."""
    data = ImageSet(images, labels, np.ones(len(labels), np.float32))
    model = network()
    started = time.perf_counter()
    fit(model, data, None, spec=SPEC, params=PARAMS, epochs=epochs)
    return time.perf_counter() - started


def main() -> int:
    """Print the figures and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=12_000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (options.images, SPEC.size, SPEC.size, SPEC.channels), dtype=np.uint8)
    labels = rng.integers(0, CLASSES, options.images)
    bare(images[:2_000], labels[:2_000], 1), ours(images[:2_000], labels[:2_000], 1)  # warm up both
    pairs = [
        (bare(images, labels, options.epochs), ours(images, labels, options.epochs)) for _ in range(options.rounds)
    ]
    seen = options.images * options.epochs
    for name, column in (("bare torch loop", 0), ("fit", 1)):
        print(f"{name:16} {seen / statistics.median(pair[column] for pair in pairs):8.0f} images/s")
    ratio = statistics.median(theirs / own for theirs, own in pairs)
    print(f"ratio {ratio:.2f}, demanded {DEMANDED}")
    return 0 if ratio >= DEMANDED else 1


if __name__ == "__main__":
    sys.exit(main())
