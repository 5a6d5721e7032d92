"""The answers of a model, whether its images are of one class each or carry several labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from components.evaluation.metrics.one_class import Answers
from components.evaluation.metrics.set_answers import SetAnswers
from components.model.artifact import ModelSpec
from components.model.calibration import sigmoid

Given = Answers | SetAnswers


def given(probabilities: NDArray[np.floating], labels: NDArray[np.int64], spec: ModelSpec) -> Given:
    """Return the answers that calibrated probabilities (N, K) are by a model's specification.

    labels: class indices (N,), or, where images carry several labels, 0 and 1 of each (N, K).
    """
    if spec.several:
        return SetAnswers.of(probabilities, labels, np.asarray(spec.thresholds))
    return Answers.of(probabilities, labels)


def given_logits(logits: NDArray[np.floating], labels: NDArray[np.int64], spec: ModelSpec) -> Given:
    """Return the same of logits (N, K), calibrated as the specification says."""
    if spec.several:
        return given(sigmoid(logits * np.asarray(spec.scales) + np.asarray(spec.offsets)), labels, spec)
    return Answers.of(logits, labels, spec.temperature)
