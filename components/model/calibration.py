"""Confidence that means what it says: temperature scaling and its measure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from components.errors import DataError

COLDEST, HOTTEST = 0.05, 20.0


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Return the temperature in 0.05..20 that minimises the negative log likelihood. Guo et al. 2017.

    logits: (N, K), finite. labels: (N,) class indices. Raises DataError for no rows, other lengths or numbers that
    are not finite. Where every row is right by far, or wrong by far, the answer is at a bound.
    """
    from scipy.optimize import minimize_scalar

    _check(logits, labels)
    scores = logits.astype(np.float64)
    rows = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        scaled = scores / np.exp(log_temperature)
        peak = scaled.max(axis=1)
        total = peak + np.log(np.exp(scaled - peak[:, None]).sum(axis=1))
        return float((total - scaled[rows, labels]).mean())

    found = minimize_scalar(loss, bounds=(np.log(COLDEST), np.log(HOTTEST)), method="bounded")
    return float(np.exp(found.x))


def softmax(logits: NDArray[np.floating], temperature: float = 1.0) -> NDArray[np.float64]:
    """Return probabilities (N, K) of logits (N, K) divided by the temperature; rows sum to 1."""
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def expected_calibration_error(
    probabilities: NDArray[np.floating], labels: NDArray[np.integer], bins: int = 15
) -> float:
    """Return the mean gap, in 0..1, between confidence and accuracy over equal-width confidence bins.

    probabilities: (N, K). labels: (N,) class indices. Naeini et al. 2015. Raises DataError as `fit_temperature`.
    """
    _check(probabilities, labels)
    _, share, confidence, accuracy = reliability(probabilities, labels, bins)
    return float(np.sum(share * np.abs(np.where(share > 0, confidence - accuracy, 0.0))))


def reliability(
    probabilities: NDArray[np.floating], labels: NDArray[np.integer], bins: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return edges (bins + 1,), and of each bin its share of rows, mean confidence and accuracy, NaN if it is empty."""
    top = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    place = np.minimum((top * bins).astype(np.int64), bins - 1)
    count = np.bincount(place, minlength=bins)
    filled = np.where(count > 0, count, np.nan)
    confidence = np.bincount(place, weights=top, minlength=bins) / filled
    accuracy = np.bincount(place, weights=right, minlength=bins) / filled
    return np.linspace(0, 1, bins + 1), count / len(labels), confidence, accuracy


def _check(scores: NDArray[np.floating], labels: NDArray[np.integer]) -> None:
    if len(labels) == 0 or scores.shape[:1] != labels.shape:
        raise DataError(
            f"calibration needs as many rows as labels and at least one, got {scores.shape}, {labels.shape}"
        )
    if not np.isfinite(scores).all():
        raise DataError("calibration got scores that are not finite; the training diverged, lower train.learning_rate")
