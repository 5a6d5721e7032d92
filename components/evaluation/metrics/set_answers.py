"""What a classifier of several labels an image answers. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.model.calibration import calibration_error
from components.model.label_calibration import LabelRules
from components.model.serving.predictor import decided

LEAST_LIKELY = 1e-6  # of which single precision, near 1, can still tell a share

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class SetPart:
    """One set of images: logits (N, K) and labels (N, K) of 0 and 1."""

    logits: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class SetAnswers:
    """What a model says of N images. truth, said: (N, K) bool. probabilities: (N, K), each label's own.

    confidence: (N,), how sure the least sure decision about an image is, in 0.5..1, as of `predictor.decided`.
    """

    truth: BoolArray
    probabilities: FloatArray
    said: BoolArray
    confidence: FloatArray

    @classmethod
    def of(
        cls, probabilities: NDArray[np.floating], labels: NDArray[np.integer], thresholds: NDArray[np.floating]
    ) -> SetAnswers:
        """Return the answers of calibrated probabilities (N, K) and thresholds (K,). labels: (N, K) of 0 and 1."""
        said, sure = decided(probabilities, thresholds)
        return cls(labels > 0, probabilities.astype(np.float64), said, sure.min(axis=1))

    @classmethod
    def by(cls, part: SetPart, rules: LabelRules) -> SetAnswers:
        """Return the answers that a network's logits are by these rules."""
        return cls.of(rules.probabilities(part.logits), part.labels, rules.thresholds)

    @property
    def right(self) -> BoolArray:
        """Return which images (N,) have all labels right."""
        return np.asarray((self.truth == self.said).all(axis=1))

    @property
    def log_loss(self) -> float:
        """Return the mean negative log-probability of what is so of a label of an image."""
        likely = np.where(self.truth, self.probabilities, 1 - self.probabilities)
        return float(-np.log(np.maximum(likely, LEAST_LIKELY)).mean())

    def calibration_error(self, bins: int) -> float:
        """Return the calibration error of a label, in 0..1."""
        return label_calibration_error(self.truth, self.probabilities, bins)


def label_calibration_error(truth: BoolArray, probabilities: NDArray[np.floating], bins: int) -> float:
    """Return the expected calibration error of "the label is there", the mean over the labels that some image carries.

    NaN where no image carries any.
    """
    there = np.flatnonzero(truth.any(axis=0))
    errors = [calibration_error(probabilities[:, k], truth[:, k], bins) for k in there]
    return float(np.mean(errors)) if errors else float("nan")
