"""What the evaluate stage measures: the answers to every set of images, and the training that led to them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import nn

from components.data.manifest import without
from components.evaluation.measure import Part
from components.evaluation.training.curve import Epoch, read_curves
from components.model.answering import predict_logits
from components.model.artifact import ModelSpec
from components.model.images.dataset import StoredImages
from components.stages.files import METRICS_FILE, METRICS_LOG_FILE, read_json

# The first with images is what calibration is judged on.
EVALUATED = ("frozen_test", "validation", "golden", "test")


@dataclass(frozen=True, slots=True, eq=False)
class AnsweredSet:
    """One set: its rows of the manifest, the network's answers, brightness (N,) in 0..1, seconds of computing."""

    rows: pa.Table
    part: Part
    brightness: NDArray[np.float64]
    seconds: float


def answered_sets(
    stored: StoredImages, network: nn.Module, spec: ModelSpec, batch_size: int, outdated: frozenset[str]
) -> dict[str, AnsweredSet]:
    """Return the network's answers to every set that has images. outdated: images whose labels no longer count."""
    found = {}
    for name in EVALUATED:
        rows = without(stored.manifest.select(name), outdated)
        if len(rows):
            images = stored.pixels(rows, spec.preprocess)
            started = time.perf_counter()
            logits = predict_logits(network, images, spec.preprocess, batch_size)
            seconds = time.perf_counter() - started
            brightness = images.mean(axis=(1, 2, 3)) / 255
            found[name] = AnsweredSet(rows, Part(logits, stored.labels(rows)), brightness, seconds)
    return found


def speed(answered: Mapping[str, AnsweredSet]) -> float:
    """Return the images a second that the network answered, without reading them."""
    seconds = sum(one.seconds for one in answered.values())
    return round(sum(len(one.rows) for one in answered.values()) / max(seconds, 1e-9), 1)


def kept_curve(folder: Path) -> tuple[Epoch, ...]:
    """Return the epochs of the training phase whose weights were kept; () of a model that has no record of them."""
    phases = read_curves(folder / METRICS_LOG_FILE)
    if not phases:
        return ()
    kept = read_json(folder / METRICS_FILE, "train").get("phases", {}).get("kept")
    return phases[0 if kept == "head" else -1]
