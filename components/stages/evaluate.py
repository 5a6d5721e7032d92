"""The stage that measures."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import nn

from components.data.manifest import without
from components.errors import DataError
from components.evaluation.confusion import Confusion
from components.evaluation.examine import examine
from components.evaluation.judged import Judged
from components.evaluation.measure import Part, measure
from components.evaluation.metrics import Answers
from components.evaluation.page.page import PAGE_FILE, Pictures, png_uri, write_report_page
from components.evaluation.page.pictures import confused_pairs, explained_errors, training_charts
from components.evaluation.report import draw_confusion, draw_reliability, markdown
from components.evaluation.several import SetPart, measure_several
from components.evaluation.several_report import several_markdown
from components.evaluation.training.curve import Epoch, read_curves
from components.evaluation.training.diagnosis import Guess
from components.labels.stale import read_stale
from components.model.answering import predict_logits
from components.model.artifact import ModelSpec
from components.model.images.dataset import StoredImages
from components.model.networks.backbones import restore
from components.model.serving.predictor import energy
from components.params import Params
from components.stages.files import METRICS_FILE, METRICS_LOG_FILE, fresh, read_json, write_json

logger = logging.getLogger(__name__)

# The first with images is what calibration is judged on.
EVALUATED = ("frozen_test", "validation", "golden", "test")


def run(params: Params) -> None:
    """Write what the model gets right on images it did not learn: metrics.json, report.md and .html, two pictures."""
    network, spec = restore(Path(params.paths.model))
    stored = StoredImages.of(params)
    _same_classes(stored, spec)
    outdated = read_stale(Path(params.paths.audit))
    answered = _answered(stored, network, spec, params.evaluate.batch_size, outdated)
    parts = {name: one.part for name, one in answered.items()}
    if spec.several:
        _write_several(parts, spec, params, len(outdated))
        return
    metrics = measure(parts, spec.classes, params.evaluate)
    metrics = {"backbone": spec.backbone, "class_names": list(spec.classes), "out_of_date": len(outdated), **metrics}

    folder = fresh(params.paths.evaluation)
    name, temperature = metrics["calibration"]["measured_on"], metrics["calibration"]["temperature"]
    part = parts[name]
    before, after = (Answers.of(part.logits, part.labels, degrees) for degrees in (1.0, temperature))
    judged = Judged(
        network, spec, stored, answered[name].rows, after, answered[name].brightness, energy(part.logits, temperature),
        temperature,
    )  # fmt: skip
    epochs = _kept_curve(Path(params.paths.model))
    further = examine(judged, parts["validation"], epochs, outdated, rules=params.evaluate, train=params.train)
    metrics |= {"images_per_second": _speed(answered), **further}
    write_json(folder / METRICS_FILE, metrics)
    (folder / "report.md").write_text(markdown(metrics), encoding="utf-8")
    draw_confusion(
        Confusion.of(part.labels, after.predicted, len(spec.classes)), spec.classes, folder / "confusion.png"
    )
    curves = {"before": before, "after temperature scaling": after}
    draw_reliability(curves, params.evaluate.ece_bins, folder / "reliability.png")
    pictures = Pictures(
        png_uri(folder / "confusion.png"),
        png_uri(folder / "reliability.png"),
        confused_pairs(judged),
        explained_errors(judged, params.evaluate.report.saliency_images),
        training_charts(epochs, Guess.of(parts["validation"].labels)),
    )
    write_report_page(metrics, pictures, folder / PAGE_FILE)
    logger.info("evaluate: accuracy %.4f on %s", metrics["parts"][name]["accuracy"]["value"], name)


def _write_several(parts: Mapping[str, Part], spec: ModelSpec, params: Params, outdated: int) -> None:
    """Write the same of images that carry several labels, without pictures."""
    of_sets = {name: SetPart(part.logits, part.labels) for name, part in parts.items()}
    metrics, _ = measure_several(of_sets, spec.classes, params.evaluate)
    metrics = {"backbone": spec.backbone, "class_names": list(spec.classes), "out_of_date": outdated, **metrics}
    folder = fresh(params.paths.evaluation)
    write_json(folder / METRICS_FILE, metrics)
    (folder / "report.md").write_text(several_markdown(metrics), encoding="utf-8")
    judged = metrics["calibration"]["measured_on"]
    ranked = metrics["parts"][judged]["map"]
    logger.info("evaluate: mAP %s on %s", "n/a" if ranked is None else f"{ranked['value']:.4f}", judged)


def _kept_curve(folder: Path) -> tuple[Epoch, ...]:
    """Return the epochs of the training phase whose weights were kept; () of a model that has no record of them."""
    phases = read_curves(folder / METRICS_LOG_FILE)
    if not phases:
        return ()
    kept = read_json(folder / METRICS_FILE, "train").get("phases", {}).get("kept")
    return phases[0 if kept == "head" else -1]


@dataclass(frozen=True, slots=True, eq=False)
class _Answered:
    """One set: its rows of the manifest, the network's answers, brightness (N,) in 0..1, seconds of computing."""

    rows: pa.Table
    part: Part
    brightness: NDArray[np.float64]
    seconds: float


def _answered(
    stored: StoredImages, network: nn.Module, spec: ModelSpec, batch_size: int, outdated: frozenset[str]
) -> dict[str, _Answered]:

    found = {}
    for name in EVALUATED:
        rows = without(stored.manifest.select(name), outdated)
        if len(rows):
            images = stored.pixels(rows, spec.preprocess)
            started = time.perf_counter()
            logits = predict_logits(network, images, spec.preprocess, batch_size)
            seconds = time.perf_counter() - started
            brightness = images.mean(axis=(1, 2, 3)) / 255
            found[name] = _Answered(rows, Part(logits, stored.labels(rows)), brightness, seconds)
    return found


def _speed(answered: dict[str, _Answered]) -> float:
    """Return the images a second that the network answered, without reading them."""
    seconds = sum(one.seconds for one in answered.values())
    return round(sum(len(one.rows) for one in answered.values()) / max(seconds, 1e-9), 1)


def _same_classes(stored: StoredImages, spec: ModelSpec) -> None:
    if stored.manifest.classes != spec.classes or stored.manifest.several != spec.several:
        raise DataError("the model answers another class list than the manifest's; run the train stage again")
