"""Probabilities of labels that mean what they say, and from which on a label is answered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.errors import DataError
from components.model.calibration import MOST_NOISE, TINY, sigmoid

FEWEST = 10
"""Images with a label, and without it, below which it has no scale, offset and threshold of its own."""
UNTUNED = 0.5
LEAST_SCALE, LARGEST_SCALE = 0.05, 20.0

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class LabelRules:
    """How K logits become answers. probability: sigmoid(scales * logit + offsets); a label is there from its threshold.

    own: (K,) bool, which labels have numbers of their own; the others share one scale, and have offset 0 and threshold
    0.5. label_noise: the share of single labels, in 0..0.5, that are taken to be wrong at random.
    """

    scales: FloatArray
    offsets: FloatArray
    thresholds: FloatArray
    own: NDArray[np.bool_]
    shared_scale: float
    label_noise: float

    @property
    def set_noise(self) -> float:
        """Return the share of images with a wrong label among their K."""
        return float(1 - (1 - self.label_noise) ** len(self.scales))

    def probabilities(self, logits: NDArray[np.floating]) -> FloatArray:
        """Return each label's probability (N, K)."""
        return sigmoid(logits.astype(np.float64) * self.scales + self.offsets)


def fit_label_rules(logits: NDArray[np.floating], truth: NDArray[np.integer]) -> LabelRules:
    """Return what makes each label's probability true, and the threshold that is best for its F1, on held-out images.

    logits, truth: (N, K), the latter 0 and 1. Calibration is Platt's, label by label, with his smoothed targets (Platt
    1999), which keep it finite where a label is told apart without an error. Raises DataError for no rows, other
    shapes or numbers that are not finite.
    """
    if logits.ndim != 2 or logits.shape != truth.shape or not len(logits):
        raise DataError(f"calibration got logits {logits.shape} and labels {truth.shape}; they must match")
    if not np.isfinite(logits).all():
        raise DataError("calibration got scores that are not finite; the training diverged, lower train.learning_rate")
    classes = logits.shape[1]
    positives = truth.sum(axis=0)
    own = (positives >= FEWEST) & (len(truth) - positives >= FEWEST)
    shared = _shared_scale(logits, truth)
    scales, offsets = np.full(classes, shared), np.zeros(classes)
    for k in np.flatnonzero(own):
        scale, offset = _platt(logits[:, k].astype(np.float64), truth[:, k] > 0, shared)
        if LEAST_SCALE <= scale <= LARGEST_SCALE:  # else the ranking would be turned round, or was of no use
            scales[k], offsets[k] = scale, offset
        else:
            own[k] = False
    scores = logits.astype(np.float64) * scales + offsets
    found = sigmoid(scores)
    thresholds = np.full(classes, UNTUNED)
    for k in np.flatnonzero(own):
        thresholds[k] = best_threshold(truth[:, k] > 0, found[:, k])
    # Scores that are not calibrated would be taken for a certainty that the labels contradict.
    noise = _noise(np.where(truth > 0, scores, -scores)[:, own]) if own.any() else 0.0
    return LabelRules(scales, offsets, thresholds, own, shared, noise)


def best_threshold(truth: NDArray[np.bool_], probability: FloatArray) -> float:
    """Return the probability from which on to say "there" for the highest F1 on these images (N,); of equals the one
    nearest to a half.

    It lies half-way between two images, so that images like these fall on the same side.
    """
    order = np.argsort(-probability, kind="stable")
    ranked = probability[order]
    ends = np.flatnonzero(ranked[1:] < ranked[:-1])  # after these, another image is less likely
    hits = np.cumsum(truth[order])[ends]
    f1 = 2 * hits / (ends + 1 + truth.sum())
    if not len(ends) or f1.max() == 0:
        return UNTUNED
    between = (ranked[ends] + ranked[ends + 1]) / 2
    best = between[f1 >= f1.max() - 1e-12]
    return float(np.round(best[np.abs(best - UNTUNED).argmin()], 6))


def _shared_scale(logits: NDArray[np.floating], truth: NDArray[np.integer]) -> float:
    from scipy.optimize import minimize_scalar

    signed = logits.astype(np.float64) * np.where(truth > 0, 1, -1)
    bounds = (np.log(LEAST_SCALE), np.log(LARGEST_SCALE))
    found = minimize_scalar(lambda log: np.logaddexp(0, -np.exp(log) * signed).mean(), bounds=bounds, method="bounded")
    return float(np.exp(found.x))


def _noise(scores: FloatArray) -> float:
    """Return the share of labels that are wrong at random, of calibrated scores (N, K) that speak for the given label.

    By maximum likelihood together with one sharpening of all scores, which wrong labels had flattened; as
    `calibration.fit_calibration`, and like it taking a model's surest errors for wrong labels.
    """
    from scipy.optimize import minimize

    def loss(point: FloatArray) -> float:
        own, noise = sigmoid(np.exp(point[0]) * scores), float(point[1])
        return float(-np.log(np.maximum((1 - noise) * own + noise * (1 - own), TINY)).mean())

    simplex = np.array([[0.0, 0.005], [0.4, 0.005], [0.0, 0.03]])  # its own would take no step from a noise of zero
    bounds = [(0.0, np.log(LARGEST_SCALE)), (0.0, MOST_NOISE)]
    found = minimize(loss, simplex[0], method="Nelder-Mead", bounds=bounds, options={"initial_simplex": simplex})
    return float(found.x[1])


def _platt(logit: FloatArray, truth: NDArray[np.bool_], start: float) -> tuple[float, float]:
    from scipy.optimize import minimize

    there, absent = int(truth.sum()), int((~truth).sum())
    target = np.where(truth, (there + 1) / (there + 2), 1 / (absent + 2))

    def loss(point: FloatArray) -> tuple[float, FloatArray]:
        score = point[0] * logit + point[1]
        error = sigmoid(score) - target
        gradient = np.array([(error * logit).mean(), error.mean()])
        return float((np.logaddexp(0, score) - target * score).mean()), gradient

    found = minimize(loss, np.array([start, 0.0]), jac=True, method="BFGS")
    return float(found.x[0]), float(found.x[1])
