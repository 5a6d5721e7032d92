"""Confidence that means what it says: temperature scaling and its measure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.errors import DataError

COLDEST, HOTTEST = 0.05, 20.0
MOST_NOISE = 0.5
TINY = 1e-300


@dataclass(frozen=True, slots=True)
class Calibration:
    """temperature divides the logits; label_noise is the share of labels, in 0..0.5, that are wrong at random."""

    temperature: float
    label_noise: float


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Return the temperature of `fit_calibration`."""
    return fit_calibration(logits, labels).temperature


def fit_calibration(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> Calibration:
    """Return the temperature in 0.05..20 that makes the model's confidence true, though some labels are wrong.

    Fitted by maximum likelihood (temperature scaling, Guo et al. 2017) with a share of labels replaced by any other
    class. Plain scaling would take wrong labels for doubt; leaving the audit's suspects out would take the hard images
    out with them and make the model overconfident.
    logits: (N, K), finite. labels: (N,) class indices. Raises DataError for no rows, other lengths or numbers that
    are not finite. Where every row is right by far, or wrong by far, the temperature is at a bound.
    """
    from scipy.optimize import minimize

    _check(logits, labels)
    rows, others = np.arange(len(labels)), max(1, logits.shape[1] - 1)

    def loss(point: NDArray[np.float64]) -> float:
        noise = float(point[1])
        own = softmax(logits, float(np.exp(point[0])))[rows, labels]
        return float(-np.log(np.maximum((1 - noise) * own + noise * (1 - own) / others, TINY)).mean())

    bounds = [(np.log(COLDEST), np.log(HOTTEST)), (0.0, MOST_NOISE)]
    simplex = np.array([[0.0, 0.02], [0.5, 0.02], [0.0, 0.1]])  # its own would take no step from a noise of zero
    found = minimize(loss, simplex[0], method="Nelder-Mead", bounds=bounds, options={"initial_simplex": simplex})
    return Calibration(float(np.exp(found.x[0])), float(found.x[1]))


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
