"""Scoring end to end against bare ONNX Runtime plus decoding, on the same images and the same model.

Run: python tests/benchmarks/bench_scoring.py [--rounds 5]. Bare is what a short script does: open each file with
Pillow, resize, stack 256, run the session, one after the other. End to end adds the checks, statistics, hashes, OOD
scores, the image store and the rows in PostgreSQL. Two cases: the small CNN on Fashion-MNIST as it is, and
EfficientNet-Lite0 at 96 px on the same pictures as colour JPEGs. Rounds alternate; another process only slows a round
down, so each side's best round counts. Prints images a second and the ratio; exits 1 below what is demanded.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count, islice
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from PIL import Image

from components.data.decoding.decode import ImageLimits
from components.data.decoding.isolation import IsolationLimits
from components.data.sources.item import SourceItem
from components.data.sources.opening import open_source
from components.model.artifact import ModelSpec, file_sha256, write_spec
from components.model.images.preparing import IsolatedPreparer
from components.model.images.preprocess import PreprocessSpec
from components.model.networks.backbones import build
from components.model.serving.export import to_onnx
from components.model.serving.predictor import Predictor
from components.params import Data, Score
from components.records import ModelVersion, ScoredChunk
from components.scoring.batch import score
from components.scoring.images import ImageStore
from components.store import predictions
from components.store.champions import register_model
from components.store.database import Database
from components.store.postgres.embedded import EmbeddedPostgres

CLASSES = tuple("abcdefghij")
NOW = datetime(2026, 10, 20, tzinfo=UTC)
LIMITS = ImageLimits.of(Data())
_batches = count(1)


@dataclass(frozen=True)
class Case:
    """One network and input size; `demanded` is the least ratio."""

    backbone: str
    side: int
    channels: int
    images: int
    demanded: float


CASES = (Case("small_cnn", 28, 1, 10_000, 0.7), Case("tf_efficientnet_lite0", 96, 3, 2_000, 0.8))


def main() -> int:
    """Print the figures and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/tmp") as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)
        server = EmbeddedPostgres(folder / "state", system_folder=folder / "system")
        server.start()
        database = Database(server.ensure_database("bench"))
        database.migrate()
        try:
            ratios = [run(case, number, folder, database, arguments.rounds) for number, case in enumerate(CASES, 1)]
        finally:
            database.dispose()
            server.stop()
    return 0 if all(ratio >= case.demanded for ratio, case in zip(ratios, CASES, strict=True)) else 1


def run(case: Case, version: int, folder: Path, database: Database, rounds: int) -> float:
    """Print one case's figures and return its ratio."""
    source = open_source("fashion-mnist", limits=LIMITS, cache=folder / "cache")
    items = [as_colour(item, case.side) if case.channels == 3 else item for item in islice(source, case.images)]
    model = untrained_model(folder / case.backbone, case)
    predictor = Predictor(model, threads=1)
    register_model(database, record(version, model))
    pairs = [
        (
            speed(lambda: bare(items, model, case), len(items)),
            speed(lambda: whole(items, predictor, folder, database, version), len(items)),
        )
        for _ in range(rounds)
    ]
    alone, ours = (max(column) for column in zip(*pairs, strict=True))
    ratio = ours / alone
    middle = statistics.median(own / other for other, own in pairs)
    print(f"{case.backbone}, {len(items)} images of {case.side} px on {predictor.device}, best of {rounds} rounds")
    print(f"  bare ONNX Runtime + decoding {alone:8.0f} images/s")
    print(f"  end to end                   {ours:8.0f} images/s")
    met = "met" if ratio >= case.demanded else "MISSED"
    print(f"  ratio {ratio:.2f} (median of rounds {middle:.2f}), demanded {case.demanded}: {met}", flush=True)
    return ratio


def as_colour(item: SourceItem, side: int) -> SourceItem:
    """Return a picture as a colour JPEG of `side` pixels."""
    file = io.BytesIO()
    Image.open(io.BytesIO(item.content)).convert("RGB").resize((side, side)).save(file, "JPEG", quality=90)
    return SourceItem(item.name, file.getvalue())


def untrained_model(folder: Path, case: Case) -> Path:
    """Write a network, untrained, as an export folder: its speed does not depend on its weights."""
    folder.mkdir()
    torch.manual_seed(0)
    network = build(
        case.backbone, classes=len(CLASSES), channels=case.channels, size=case.side, dropout=0.0, pretrained="none"
    ).eval()
    mean, std = (0.5,) * case.channels, (0.5,) * case.channels
    preprocess = PreprocessSpec(case.side, case.channels, "stretch", 1.0, "bilinear", mean, std)
    spec = ModelSpec(CLASSES, preprocess, case.backbone)
    to_onnx(network, spec, folder / "model.onnx")
    write_spec(folder, spec.exported(1.0, 0.7, file_sha256(folder / "model.onnx")))
    return folder


def record(version: int, model: Path) -> ModelVersion:
    """Return the registered model that the predictions name."""
    return ModelVersion(
        version=version,
        run_id=f"bench-{version}",
        dataset_version="data/2026-10-01-1",
        git_commit="0" * 40,
        classes=CLASSES,
        artifact_sha256=file_sha256(model / "model.onnx"),
        preprocess_sha256="0" * 64,
        state="candidate",
        created_at=NOW,
    )


def bare(items: list[SourceItem], model: Path, case: Case) -> int:
    """Decode and infer one after the other, as a short script would."""
    session = onnxruntime.InferenceSession(str(model / "model.onnx"), providers=["CPUExecutionProvider"])
    mode, size, done = "L" if case.channels == 1 else "RGB", (case.side, case.side), 0
    for start in range(0, len(items), 256):
        pixels = [
            np.asarray(Image.open(io.BytesIO(item.content)).convert(mode).resize(size)).reshape(*size, case.channels)
            for item in items[start : start + 256]
        ]
        logits, _ = session.run(["logits", "probabilities"], {"images": np.stack(pixels)})
        done += len(logits)
    return done


def whole(items: list[SourceItem], predictor: Predictor, folder: Path, database: Database, version: int) -> int:
    """Score the same images as the product does, rows and pixels stored."""
    key = f"bench-{next(_batches)}"
    batch = predictions.open_batch(
        database,
        batch_id=key,
        content_sha256=hashlib.sha256(key.encode()).hexdigest(),
        source="bench",
        model_version=version,
        class_list=CLASSES,
        items=len(items),
        scored_at=NOW,
        now=NOW,
    )
    written = 0
    preparer = IsolatedPreparer(predictor.spec.preprocess, LIMITS, IsolationLimits.of(Data()))
    with preparer, tempfile.TemporaryDirectory(dir=folder) as store:
        results = score(
            items, predictor, preparer.prepare, params=Score(), store=ImageStore(store), batch_id=key,
            month=batch.month,
        )  # fmt: skip
        with closing(results):
            for result in results:
                if isinstance(result, ScoredChunk):
                    written += predictions.write_chunk(database, batch, result)
    predictions.close_batch(database, batch, NOW)
    return written


def speed(work: Callable[[], int], expected: int) -> float:
    """Return how many images a second `work` gets through."""
    started = time.perf_counter()
    done = work()
    if done != expected:
        raise SystemExit(f"{done} of {expected} images were scored")
    return expected / (time.perf_counter() - started)


if __name__ == "__main__":
    sys.exit(main())
