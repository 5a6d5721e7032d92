"""What a lightened file is told of its own answers: they are no longer those that evaluation measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from components.evaluation.metrics import Answers
from components.evaluation.rejection import choose_threshold
from components.evaluation.unfamiliar import energy_threshold
from components.model.artifact import ModelSpec
from components.model.calibration import fit_calibration
from components.model.serving.predictor import energy
from components.params import Params


def refitted(spec: ModelSpec, logits: NDArray[np.float32], labels: NDArray[np.int64], params: Params) -> ModelSpec:
    """Return the specification with temperature and thresholds fitted to the file's own logits (N, K) on validation."""
    fitted = fit_calibration(logits, labels)
    answers = Answers.of(logits, labels, fitted.temperature)
    wanted = params.score.review_below
    if wanted == "auto":
        wanted = choose_threshold(
            answers.confidence, answers.right, params.evaluate.accepted_accuracy,
            label_noise=fitted.label_noise, classes=len(spec.classes),
        ).threshold  # fmt: skip
    above = energy_threshold(energy(logits, fitted.temperature), params.evaluate.familiar_share)
    return replace(spec, temperature=fitted.temperature, review_below=wanted, unfamiliar_above=above, lightened=True)
