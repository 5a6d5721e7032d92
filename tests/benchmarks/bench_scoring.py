"""Scoring end to end against bare ONNX Runtime plus decoding, on the same real images and the same model.

Run: python tests/benchmarks/bench_scoring.py [--images 10000] [--rounds 5]. Bare is what a short script does: open each
file with Pillow, stack 256, run the session, one after the other. End to end adds the checks, statistics, hashes,
OOD scores and the image store. Prints images a second and the ratio, each side's best round (another process only
ever makes a round slower); exits 1 below 0.7.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from itertools import islice
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from PIL import Image

from components.data.decode import ImageLimits
from components.data.source_item import SourceItem
from components.data.sources import open_source
from components.model.artifact import ModelSpec, file_sha256, write_spec
from components.model.backbones import build
from components.model.export import to_onnx
from components.model.predictor import Predictor
from components.model.preprocess import PreprocessSpec
from components.params import Data, Score
from components.records import ScoredChunk
from components.scoring.batch import score
from components.scoring.images import ImageStore

DEMANDED = 0.7
SIDE = 28


def main() -> int:
    """Return 0 if the ratio is what is demanded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    limits = ImageLimits.of(Data())
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        items = list(islice(open_source("fashion-mnist", limits=limits, cache=folder / "cache"), arguments.images))
        model = untrained_model(folder / "model")
        predictor = Predictor(model)
        pairs = [
            (speed(lambda: bare(items, model), len(items)), speed(lambda: whole(items, predictor, folder), len(items)))
            for _ in range(arguments.rounds)
        ]
    alone, ours = (max(column) for column in zip(*pairs, strict=True))
    ratio = ours / alone
    print(f"{len(items)} images of {SIDE} px on {predictor.device}, best of {arguments.rounds} rounds")
    print(f"bare ONNX Runtime + decoding {alone:8.0f} images/s")
    print(f"end to end                   {ours:8.0f} images/s")
    print(f"ratio {ratio:.2f}, demanded {DEMANDED}: {'met' if ratio >= DEMANDED else 'MISSED'}")
    return 0 if ratio >= DEMANDED else 1


def untrained_model(folder: Path) -> Path:
    """Write the default network, untrained, as an export folder: its speed does not depend on its weights."""
    folder.mkdir()
    torch.manual_seed(0)
    network = build("small_cnn", classes=10, channels=1, size=SIDE, dropout=0.0, pretrained="none").eval()
    spec = ModelSpec(
        tuple("abcdefghij"), PreprocessSpec(SIDE, 1, "stretch", 1.0, "bilinear", (0.3,), (0.35,)), "small_cnn"
    )
    to_onnx(network, spec, folder / "model.onnx")
    write_spec(folder, spec.exported(1.0, 0.7, file_sha256(folder / "model.onnx")))
    return folder


def bare(items: list[SourceItem], model: Path) -> int:
    """Decode and infer one after the other, as a short script would."""
    session = onnxruntime.InferenceSession(str(model / "model.onnx"), providers=["CPUExecutionProvider"])
    done = 0
    for start in range(0, len(items), 256):
        pixels = [np.asarray(Image.open(io.BytesIO(item.content)).convert("L")) for item in items[start : start + 256]]
        logits, _ = session.run(["logits", "probabilities"], {"images": np.stack(pixels)[..., None]})
        done += len(logits)
    return done


def whole(items: list[SourceItem], predictor: Predictor, folder: Path) -> int:
    """Score the same images as the product does."""
    with tempfile.TemporaryDirectory(dir=folder) as store:
        results = score(
            items,
            predictor,
            ImageLimits.of(Data()),
            params=Score(),
            store=ImageStore(store),
            batch_id="bench",
            month=date(2026, 10, 1),
        )
        return sum(len(chunk.item_no) for chunk in results if isinstance(chunk, ScoredChunk))


def speed(work: Callable[[], int], expected: int) -> float:
    """Return how many images a second `work` gets through."""
    started = time.perf_counter()
    done = work()
    if done != expected:
        raise SystemExit(f"{done} of {expected} images were scored")
    return expected / (time.perf_counter() - started)


if __name__ == "__main__":
    sys.exit(main())
