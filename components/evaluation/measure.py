"""From logits of several sets of images to one evaluation: temperature, calibrated metrics, warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.errors import DataError
from components.evaluation.examination.unfamiliar import energy_threshold
from components.evaluation.metrics.one_class import Answers, classification_report
from components.evaluation.metrics.ranking import macro_auroc
from components.evaluation.metrics.rejection import choose_threshold, offered
from components.evaluation.metrics.scores import score_intervals
from components.model.artifact import reject_index
from components.model.calibration import fit_calibration
from components.model.serving.predictor import energy
from components.params import Evaluate


@dataclass(frozen=True, slots=True)
class Part:
    """One set of images: logits (N, K) and labels (N,)."""

    logits: NDArray[np.float32]
    labels: NDArray[np.int64]


def measure(parts: Mapping[str, Part], classes: Sequence[str], rules: Evaluate) -> dict[str, Any]:
    """Return temperature, calibration error before and after it, and the calibrated metrics of every part.

    "answering" has what the scorer is told: below which confidence a person should see an answer, and above which
    energy an image is none of the classes, both chosen on validation; and which class says that it is none of them.

    The judged part has "roc_auc" and "intervals" of its further scores beside what every part has.
    parts: the first is the one to judge calibration on; "validation", which the temperature is fitted on, must be
    among them. Raises DataError if it is not.
    """
    if "validation" not in parts:
        raise DataError("no validation images to fit the temperature on; ingest more images")
    fitted = fit_calibration(parts["validation"].logits, parts["validation"].labels)
    temperature = fitted.temperature
    judged = next(iter(parts))
    before = Answers.of(parts[judged].logits, parts[judged].labels, temperature=1.0)
    answers = {name: Answers.of(part.logits, part.labels, temperature) for name, part in parts.items()}
    reports = {
        name: classification_report(of_part, classes, bootstrap=rules.bootstrap, ece_bins=rules.ece_bins)
        for name, of_part in answers.items()
    }
    reports[judged] |= {
        "roc_auc": macro_auroc(parts[judged].logits, parts[judged].labels, temperature),
        "intervals": score_intervals(answers[judged], bins=rules.ece_bins, bootstrap=rules.bootstrap),
    }
    reject = reject_index(rules.reject_class, classes)
    sure = {name: offered(answers[name].confidence, answers[name].predicted, reject) for name in ("validation", judged)}
    review = choose_threshold(
        sure["validation"], answers["validation"].right, rules.accepted_accuracy,
        label_noise=fitted.label_noise, classes=len(classes),
    )  # fmt: skip
    energies = energy(parts["validation"].logits, temperature)
    return {
        "calibration": {
            "temperature": temperature,
            "label_noise": round(fitted.label_noise, 5),
            "fitted_on": len(parts["validation"].labels),
            "measured_on": judged,
            "ece_before": round(before.calibration_error(rules.ece_bins), 5),
            "ece_after": round(answers[judged].calibration_error(rules.ece_bins), 5),
        },
        "answering": {
            "review": review.report(sure[judged], answers[judged].right),
            "unfamiliar_above": round(energy_threshold(energies, rules.familiar_share), 5),
            "familiar_share": rules.familiar_share,
            "reject_class": rules.reject_class,
        },
        "parts": reports,
    }
