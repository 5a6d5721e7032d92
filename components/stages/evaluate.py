"""The stage that measures."""

from __future__ import annotations

import logging
from pathlib import Path

from torch import nn

from components.data.manifest import without
from components.errors import DataError
from components.evaluation.confusion import Confusion
from components.evaluation.measure import Part, measure
from components.evaluation.metrics import Answers
from components.evaluation.report import draw_confusion, draw_reliability, markdown
from components.labels.stale import read_stale
from components.model.answering import predict_logits
from components.model.artifact import ModelSpec
from components.model.images.dataset import StoredImages
from components.model.networks.backbones import restore
from components.params import Params
from components.stages.files import METRICS_FILE, fresh, write_json

logger = logging.getLogger(__name__)

# The first with images is what calibration is judged on.
EVALUATED = ("frozen_test", "validation", "golden", "test")


def run(params: Params) -> None:
    """Write what the model gets right on images it did not learn: metrics.json, report.md and two pictures."""
    network, spec = restore(Path(params.paths.model))
    stored = StoredImages.of(params)
    _same_classes(stored, spec)
    outdated = read_stale(Path(params.paths.audit))
    parts = _logits_of_parts(stored, network, spec, params.evaluate.batch_size, outdated)
    metrics = measure(parts, spec.classes, params.evaluate)
    metrics = {"backbone": spec.backbone, "class_names": list(spec.classes), "out_of_date": len(outdated), **metrics}

    folder = fresh(params.paths.evaluation)
    write_json(folder / METRICS_FILE, metrics)
    (folder / "report.md").write_text(markdown(metrics), encoding="utf-8")
    judged = metrics["calibration"]["measured_on"]
    part, temperature = parts[judged], metrics["calibration"]["temperature"]
    before, after = (Answers.of(part.logits, part.labels, degrees) for degrees in (1.0, temperature))
    draw_confusion(
        Confusion.of(part.labels, after.predicted, len(spec.classes)), spec.classes, folder / "confusion.png"
    )
    curves = {"before": before, "after temperature scaling": after}
    draw_reliability(curves, params.evaluate.ece_bins, folder / "reliability.png")
    logger.info("evaluate: accuracy %.4f on %s", metrics["parts"][judged]["accuracy"]["value"], judged)


def _logits_of_parts(
    stored: StoredImages, network: nn.Module, spec: ModelSpec, batch_size: int, outdated: frozenset[str]
) -> dict[str, Part]:

    parts = {}
    for name in EVALUATED:
        rows = without(stored.manifest.select(name), outdated)
        if len(rows):
            images = stored.pixels(rows, spec.preprocess)
            parts[name] = Part(predict_logits(network, images, spec.preprocess, batch_size), stored.labels(rows))
    return parts


def _same_classes(stored: StoredImages, spec: ModelSpec) -> None:
    if stored.manifest.classes != spec.classes:
        raise DataError("the model answers another class list than the manifest's; run the train stage again")
