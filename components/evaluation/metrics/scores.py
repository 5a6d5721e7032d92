"""Intervals of the scores that are no plain proportion of images: Brier, log loss, calibration error. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.evaluation.metrics.one_class import Z95, Answers, wilson
from components.model.calibration import calibration_error

FloatArray = NDArray[np.float64]


def score_intervals(answers: Answers, *, bins: int, bootstrap: int, seed: int = 0) -> dict[str, Any]:
    """Return top5 (None below six classes), brier, log_loss and ece with 95 % intervals, for a set with images.

    Top-5 has Wilson's, the means over images a normal one, the calibration error a bootstrap one.
    """
    images = len(answers.labels)
    top5 = int(answers.in_top5.sum())
    return {
        "top5": _rounded(top5 / images, *wilson(top5, images)) if answers.classes > 5 else None,
        "brier": _mean(1 - 2 * answers.truth + answers.squares),
        "log_loss": _mean(-np.log(np.maximum(answers.truth, 1e-12))),
        "ece": ece_interval(answers.confidence, answers.right, bins=bins, draws=bootstrap, seed=seed),
    }


def ece_interval(
    confidence: FloatArray, right: NDArray[np.bool_], *, bins: int, draws: int, seed: int
) -> dict[str, float]:
    """Return the calibration error of confidences (N,) and its 95 % bootstrap interval.

    Images are redrawn as counts of right and wrong ones in every bin, their confidences as a normal sum around each
    cell's own mean: time and memory do not grow with N. The error of a redrawn set lies above that of the set itself,
    for an absolute value only adds up; so the interval is made to reach down to the value.
    """
    value = calibration_error(confidence, right, bins)
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1) * 2 + right
    counts = np.bincount(place, minlength=2 * bins)
    filled = np.maximum(counts, 1)
    means = np.bincount(place, confidence, 2 * bins) / filled
    spread = np.sqrt(np.maximum(np.bincount(place, confidence**2, 2 * bins) / filled - means**2, 0.0))
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(len(right), counts / len(right), size=draws)  # (draws, 2 * bins)
    believed = drawn * means + np.sqrt(drawn) * spread * generator.standard_normal(drawn.shape)
    gaps = np.abs(believed[:, ::2] + believed[:, 1::2] - drawn[:, 1::2]).sum(axis=1) / len(right)
    low, high = np.percentile(gaps, (2.5, 97.5))
    return _rounded(value, min(value, float(low)), max(value, float(high)))


def _mean(values: FloatArray) -> dict[str, float]:
    value, images = float(values.mean()), len(values)
    error = float(values.std(ddof=1)) / np.sqrt(images) if images > 1 else 0.0
    return _rounded(value, max(0.0, value - Z95 * error), value + Z95 * error)


def _rounded(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": round(float(value), 5), "low": round(float(low), 5), "high": round(float(high), 5)}
