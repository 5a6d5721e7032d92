"""Training through `fit` against a bare torch loop: the same network, images, arithmetic, optimizer and schedule.

Run: python tests/benchmarks/bench_training.py [--images 12000] [--epochs 3] [--rounds 3]. Bare is what a short script
does: shuffle, normalise, forward, backward, step. `fit` adds weights, clipping, checks, schedules and Lightning's
loop. "From shards" the images first have to be read, held to their hashes, decoded and resized, as the train stage does
before its epochs. Rounds alternate, so that a machine that slows down slows all. Prints images a second and the medians
of the rounds' ratios; exits 1 where fit is below 0.9 of the bare loop, or from shards below 0.8 of fit.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch.nn import functional

from components.data.decoding.decode import ImageLimits
from components.data.manifest import Manifest
from components.data.png import encode_png
from components.data.shards import ShardReader, write_shard
from components.model.images.dataset import StoredImages
from components.model.images.inputs import ImageSet, Normalise
from components.model.images.preprocess import PreprocessSpec
from components.model.networks.backbones import build
from components.model.training.fit import fit
from components.model.training.hardware import choose_precision
from components.params import Augment, Data, Preprocess, Train

DEMANDED, DEMANDED_OF_SHARDS = 0.9, 0.8
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


def stored(images: np.ndarray, folder: Path) -> tuple[StoredImages, pa.Table]:
    """Return images as an ingest stores them, and their rows."""
    files = [encode_png(image[..., 0]) for image in images]
    ids = [hashlib.sha256(content).hexdigest() for content in files]
    shard = write_shard(folder, zip(ids, files, strict=True))
    rows = pa.table({"shard": [shard] * len(ids), "row": range(len(ids)), "image_id": ids, "name": ids})
    reader = ShardReader(folder)
    return StoredImages(Manifest.empty(), reader, ImageLimits.of(Data())), rows


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
    rounds = []
    with tempfile.TemporaryDirectory() as name:
        dataset, rows = stored(images, Path(name))
        for _ in range(options.rounds):
            alone, own = bare(images, labels, options.epochs), ours(images, labels, options.epochs)
            started = time.perf_counter()
            pixels = dataset.pixels(rows, SPEC)
            rounds.append((alone, own, time.perf_counter() - started + ours(pixels, labels, options.epochs)))
    seen = options.images * options.epochs
    for place, name in enumerate(("bare torch loop", "fit", "fit from shards")):
        print(f"{name:16} {seen / statistics.median(one[place] for one in rounds):8.0f} images/s")
    ratio = statistics.median(alone / own for alone, own, _ in rounds)
    of_shards = statistics.median(own / whole for _, own, whole in rounds)
    print(f"fit of the bare loop {ratio:.2f}, demanded {DEMANDED}")
    print(f"fit from shards of fit {of_shards:.2f}, demanded {DEMANDED_OF_SHARDS}")
    return 0 if ratio >= DEMANDED and of_shards >= DEMANDED_OF_SHARDS else 1


if __name__ == "__main__":
    sys.exit(main())
