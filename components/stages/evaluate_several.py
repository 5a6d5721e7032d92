"""The stage that measures, where images carry several labels."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from torch import nn

from components.evaluation.examination.judged import JudgedImages
from components.evaluation.examination.several_questions import examine_several
from components.evaluation.metrics.set_answers import SetAnswers, SetPart
from components.evaluation.metrics.several import measure_several
from components.evaluation.page.markdown import draw_reliability
from components.evaluation.page.page import PAGE_FILE, png_uri
from components.evaluation.page.pictures import training_charts
from components.evaluation.page.several_markdown import several_markdown
from components.evaluation.page.several_page import LabelPictures, label_slips, write_labels_page
from components.evaluation.page.several_sections import worst_labels
from components.evaluation.training.curve import Epoch
from components.evaluation.training.diagnosis import Guess
from components.model.artifact import ModelSpec
from components.model.calibration import sigmoid
from components.model.images.dataset import StoredImages
from components.params import Params
from components.stages.answered import AnsweredSet
from components.stages.files import METRICS_FILE, REPORT_FILE, fresh, write_json

logger = logging.getLogger(__name__)

SHOWN_LABELS = 8  # the worst, with pictures


def write_several(
    about: Mapping[str, Any],
    network: nn.Module,
    spec: ModelSpec,
    stored: StoredImages,
    answered: Mapping[str, AnsweredSet],
    epochs: tuple[Epoch, ...],
    outdated: frozenset[str],
    params: Params,
) -> None:
    """Write what the model gets right: metrics.json, report.md and .html, a picture of its calibration.

    about: what metrics.json says beside. epochs: of the training. outdated: images whose labels no longer count.
    """
    parts = {name: SetPart(one.part.logits, one.part.labels) for name, one in answered.items()}
    found, fitted = measure_several(parts, spec.classes, params.evaluate)
    name = found["calibration"]["measured_on"]
    part, rows = parts[name], answered[name]
    judged = JudgedImages(network, spec, stored, rows.rows, rows.brightness)
    answers = SetAnswers.by(part, fitted)
    validation = parts["validation"].labels
    metrics = {
        **about,
        **found,
        **examine_several(
            judged, answers, fitted, validation, epochs, outdated, rules=params.evaluate, train=params.train
        ),
    }
    folder = fresh(params.paths.evaluation)
    write_json(folder / METRICS_FILE, metrics)
    (folder / REPORT_FILE).write_text(several_markdown(metrics), encoding="utf-8")
    curves = {
        name: (probabilities.ravel(), answers.truth.ravel())
        for name, probabilities in {"before": sigmoid(part.logits), "after scaling": answers.probabilities}.items()
    }
    named = ("probability of a label", "share of images that carry it")
    draw_reliability(curves, params.evaluate.ece_bins, folder / "reliability.png", axes_named=named)
    pictures = LabelPictures(
        png_uri(folder / "reliability.png"),
        label_slips(judged, answers, worst_labels(metrics, SHOWN_LABELS)),
        training_charts(epochs, Guess.of(validation)),
    )
    write_labels_page(metrics, pictures, folder / PAGE_FILE)
    ranked = metrics["parts"][name]["map"]
    logger.info("evaluate: mAP %s on %s", "n/a" if ranked is None else f"{ranked['value']:.4f}", name)
