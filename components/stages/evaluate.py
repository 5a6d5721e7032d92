"""The stage that measures."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from components.errors import DataError
from components.evaluation.examination.judged import Judged
from components.evaluation.examination.questions import examine
from components.evaluation.measure import measure
from components.evaluation.metrics.confusion import Confusion
from components.evaluation.metrics.one_class import Answers
from components.evaluation.page.markdown import draw_confusion, draw_reliability, markdown
from components.evaluation.page.page import PAGE_FILE, Pictures, png_uri, write_report_page
from components.evaluation.page.pictures import confused_pairs, explained_errors, training_charts
from components.evaluation.training.diagnosis import Guess
from components.labels.stale import read_stale
from components.model.artifact import ModelSpec
from components.model.images.dataset import StoredImages
from components.model.networks.backbones import restore
from components.model.serving.predictor import energy
from components.params import Params
from components.stages.answered import answered_sets, kept_curve, speed
from components.stages.evaluate_several import write_several
from components.stages.files import METRICS_FILE, REPORT_FILE, fresh, write_json

logger = logging.getLogger(__name__)


def run(params: Params) -> None:
    """Write what the model gets right on images it did not learn: metrics.json, report.md and .html, two pictures."""
    network, spec = restore(Path(params.paths.model))
    stored = StoredImages.of(params)
    _same_classes(stored, spec)
    outdated = read_stale(Path(params.paths.audit))
    answered = answered_sets(stored, network, spec, params.evaluate.batch_size, outdated)
    epochs = kept_curve(Path(params.paths.model))
    about: dict[str, Any] = {
        "backbone": spec.backbone, "class_names": list(spec.classes), "out_of_date": len(outdated),
        "images_per_second": speed(answered),
    }  # fmt: skip
    if spec.several:
        write_several(about, network, spec, stored, answered, epochs, outdated, params)
        return
    parts = {name: one.part for name, one in answered.items()}
    metrics = about | measure(parts, spec.classes, params.evaluate)

    folder = fresh(params.paths.evaluation)
    name, temperature = metrics["calibration"]["measured_on"], metrics["calibration"]["temperature"]
    part = parts[name]
    before, after = (Answers.of(part.logits, part.labels, degrees) for degrees in (1.0, temperature))
    judged = Judged(
        network, spec, stored, answered[name].rows, answered[name].brightness, after, energy(part.logits, temperature),
        temperature,
    )  # fmt: skip
    metrics |= examine(
        judged, parts["validation"], epochs, outdated, rules=params.evaluate, train=params.train, data=params.data
    )
    write_json(folder / METRICS_FILE, metrics)
    (folder / REPORT_FILE).write_text(markdown(metrics), encoding="utf-8")
    draw_confusion(
        Confusion.of(part.labels, after.predicted, len(spec.classes)), spec.classes, folder / "confusion.png"
    )
    named = {"before": before, "after temperature scaling": after}
    curves = {which: (some.confidence, some.right) for which, some in named.items()}
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


def _same_classes(stored: StoredImages, spec: ModelSpec) -> None:
    if stored.manifest.classes != spec.classes or stored.manifest.several != spec.several:
        raise DataError("the model answers another class list than the manifest's; run the train stage again")
