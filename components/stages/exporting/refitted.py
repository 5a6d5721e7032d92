"""What a lightened file is told of its own answers: they are no longer those that evaluation measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from components.evaluation.examination.unfamiliar import energy_threshold
from components.evaluation.metrics.one_class import Answers
from components.evaluation.metrics.rejection import choose_threshold, offered
from components.evaluation.metrics.set_answers import SetAnswers, SetPart
from components.evaluation.metrics.several import choose_review
from components.model.artifact import ModelSpec, reject_index
from components.model.calibration import fit_calibration
from components.model.label_calibration import fit_label_rules
from components.model.serving.predictor import energy
from components.params import Params


def refitted(spec: ModelSpec, logits: NDArray[np.float32], labels: NDArray[np.int64], params: Params) -> ModelSpec:
    """Return the specification with calibration and thresholds fitted to the file's own logits (N, K) on validation.

    labels: class indices (N,), or 0 and 1 of each (N, K) where images carry several.
    """
    if spec.several:
        return _refitted_sets(spec, SetPart(logits, labels), params)
    fitted = fit_calibration(logits, labels)
    answers = Answers.of(logits, labels, fitted.temperature)
    wanted = params.score.review_below
    if wanted == "auto":
        sure = offered(answers.confidence, answers.predicted, reject_index(spec.reject_class, spec.classes))
        wanted = choose_threshold(
            sure, answers.right, params.evaluate.accepted_accuracy,
            label_noise=fitted.label_noise, classes=len(spec.classes),
        ).threshold  # fmt: skip
    above = energy_threshold(energy(logits, fitted.temperature), params.evaluate.familiar_share)
    return replace(spec, temperature=fitted.temperature, review_below=wanted, unfamiliar_above=above, lightened=True)


def _refitted_sets(spec: ModelSpec, part: SetPart, params: Params) -> ModelSpec:
    found = fit_label_rules(part.logits, part.labels)

    def own_or_before(fitted: NDArray[np.float64], before: tuple[float, ...]) -> NDArray[np.float64]:
        return np.where(found.own, fitted, before)  # too rare here: evaluation may have seen more images with the label

    rules = replace(
        found,
        scales=own_or_before(found.scales, spec.scales),
        offsets=own_or_before(found.offsets, spec.offsets),
        thresholds=own_or_before(found.thresholds, spec.thresholds),
    )
    wanted = params.score.review_below
    if wanted == "auto":
        wanted = choose_review(SetAnswers.by(part, rules), rules, params.evaluate.accepted_accuracy).threshold
    return replace(
        spec,
        scales=tuple(rules.scales.tolist()),
        offsets=tuple(rules.offsets.tolist()),
        thresholds=tuple(rules.thresholds.tolist()),
        review_below=wanted,
        lightened=True,
    )
