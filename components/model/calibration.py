"""Confidence that means what it says: temperature scaling and its measure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.errors import DataError

COLDEST, HOTTEST = 0.05, 20.0
MOST_NOISE = 0.5
TINY = 1e-300
SCORES_AT_ONCE = 4_000_000  # in double precision: 32 MB


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
    others = max(1, logits.shape[1] - 1)

    def loss(point: NDArray[np.float64]) -> float:
        noise = float(point[1])
        own = _own(logits, labels, float(np.exp(point[0])))
        return float(-np.log(np.maximum((1 - noise) * own + noise * (1 - own) / others, TINY)).mean())

    bounds = [(np.log(COLDEST), np.log(HOTTEST)), (0.0, MOST_NOISE)]
    simplex = np.array([[0.0, 0.02], [0.5, 0.02], [0.0, 0.1]])  # its own would take no step from a noise of zero
    found = minimize(loss, simplex[0], method="Nelder-Mead", bounds=bounds, options={"initial_simplex": simplex})
    return Calibration(float(np.exp(found.x[0])), float(found.x[1]))


def rows_at_once(scores: NDArray[np.floating]) -> Iterator[slice]:
    """Yield spans of rows of scores (N, K) that are small enough to be computed with in double precision."""
    step = max(1, SCORES_AT_ONCE // max(1, scores.shape[1]))
    return (slice(start, start + step) for start in range(0, len(scores), step))


def _own(logits: NDArray[np.floating], labels: NDArray[np.integer], temperature: float) -> NDArray[np.float64]:
    """Return the probability (N,) of every row's label."""
    parts = [
        softmax(logits[some], temperature)[np.arange(len(labels[some])), labels[some]] for some in rows_at_once(logits)
    ]
    return np.concatenate(parts)


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
    return calibration_error(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels, bins)


def calibration_error(confidence: NDArray[np.floating], right: NDArray[np.bool_], bins: int) -> float:
    """Return the same of each row's confidence (N,) in its answer, and whether that was right (N,)."""
    _, share, mean, accuracy = reliability(confidence, right, bins)
    return float(np.sum(share * np.abs(np.where(share > 0, mean - accuracy, 0.0))))


def reliability(
    confidence: NDArray[np.floating], right: NDArray[np.bool_], bins: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return edges (bins + 1,), and of each bin its share of rows, mean confidence and accuracy, NaN if it is empty.

    confidence: (N,) of each row's answer. right: (N,), whether that is its label.
    """
    top = confidence.astype(np.float64)
    place = np.minimum((top * bins).astype(np.int64), bins - 1)
    count = np.bincount(place, minlength=bins)
    filled = np.where(count > 0, count, np.nan)
    mean = np.bincount(place, weights=top, minlength=bins) / filled
    accuracy = np.bincount(place, weights=right, minlength=bins) / filled
    return np.linspace(0, 1, bins + 1), count / len(right), mean, accuracy


def sigmoid(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return every label's own probability (N, K) of its logit."""
    return np.asarray(1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -700, 700))))


def _check(scores: NDArray[np.floating], labels: NDArray[np.integer]) -> None:
    if len(labels) == 0 or scores.shape[:1] != labels.shape:
        raise DataError(
            f"calibration needs as many rows as labels and at least one, got {scores.shape}, {labels.shape}"
        )
    if not all(np.isfinite(scores[some]).all() for some in rows_at_once(scores)):
        raise DataError("calibration got scores that are not finite; the training diverged, lower train.learning_rate")
