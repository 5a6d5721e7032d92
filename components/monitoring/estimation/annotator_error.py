"""How often annotators are wrong, from images that two of them answered blind, and estimates corrected for it.

Estimates take answers for the truth, so wrong answers make every class look worse than it is: at 3 % errors a perfect
model reads 97 %. Some images of the accuracy sample are therefore asked twice, of different people. With error rate e,
and errors spread evenly over the K - 1 other classes, two answers differ with probability 2e - e² K/(K - 1); an answer
agrees with a right prediction in the share 1 - e of cases, and with a wrong one in c = e/(K - 1). Both are inverted
here: precision (P - c)/(1 - e - c), and likewise the counts that recall is made of. What two people get wrong in the
same way stays unseen.

Rogan and Gladen 1978 (the correction); Zou and Donner 2008 (combining two intervals, MOVER).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.errors import DataError
from components.monitoring.estimation.accuracy import Estimates
from components.monitoring.estimation.rates import CONFIDENCE_LEVEL, Rates, lower_bound, upper_bound
from components.records import Interval

LEAST_PAIRS = 30
MOST_ERROR = 0.25
"""Where answers are wrong more often than this, no correction makes them a measurement."""

LEAST_VARIANCE = 1e-30
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class AnnotatorError:
    """The share of answers that are wrong, with its 95 % interval, from `pairs` images answered by two people each."""

    rate: float
    low: float
    high: float
    pairs: int
    differing: int

    def as_json(self) -> dict[str, float]:
        """Return the numbers as a JSON object."""
        return {
            "rate": self.rate, "low": self.low, "high": self.high, "pairs": self.pairs, "differing": self.differing
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Corrected:
    """Precision and recall per class, and overall accuracy, as they would read if no answer were wrong."""

    precision: tuple[Interval | None, ...]
    recall: tuple[Interval | None, ...]
    accuracy: Interval | None


def annotator_error(pairs: int, differing: int, classes: int) -> AnnotatorError | None:
    """Return the error rate behind `differing` of `pairs` images, or None where it cannot be told.

    None: fewer than LEAST_PAIRS pairs, a single class, or an interval that reaches beyond MOST_ERROR. Raises DataError
    where more images differ than there are.
    """
    if not 0 <= differing <= pairs:
        raise DataError(f"{differing} of {pairs} images answered twice differ; count the answers again")
    if pairs < LEAST_PAIRS or classes < 2:
        return None
    share, effective = np.array([differing / pairs]), np.array([float(pairs)])
    tail = (1 - CONFIDENCE_LEVEL) / 2
    bounds = (share, lower_bound(share, effective, tail), upper_bound(share, effective, tail))
    rate, low, high = (_error_behind(float(bound[0]), classes) for bound in bounds)
    return AnnotatorError(rate, low, high, pairs, differing) if high <= MOST_ERROR else None


def describe(pairs: int, error: AnnotatorError | None) -> str:
    """Return in words what is known of the annotators' errors, and whether estimates are corrected for them."""
    if error is not None:
        return (
            f"{100 * error.rate:.1f} % of answers are taken to be wrong ({100 * error.low:.1f}-{100 * error.high:.1f}, "
            f"from {pairs} images that two people answered); estimates are corrected for that"
        )
    if pairs < LEAST_PAIRS:
        return (
            f"estimates take answers for the truth: two people answered {pairs} images, and it takes {LEAST_PAIRS} to "
            "know how often answers are wrong"
        )
    return (
        f"two people disagree so often, on {pairs} images that both answered, that estimates cannot be corrected: "
        "look at what the classes mean to them"
    )


def corrected(estimates: Estimates, error: AnnotatorError) -> Corrected:
    """Return `estimates` freed from the annotators' errors; the intervals hold what is not known of the error, too."""
    precision, recall = _precision(estimates, error), _recall(estimates, error)
    accuracy = None
    if estimates.accuracy is not None:
        classes = len(estimates.classes)
        whole = estimates.accuracy
        value, scale = freed(np.array([whole.value]), error.rate, classes), freed_scale(error.rate, classes)
        at_bounds = [freed(np.array([whole.value]), e, classes) for e in (error.low, error.high)]
        reach = (np.array([whole.value - whole.low]) * scale, np.array([whole.high - whole.value]) * scale)
        (accuracy,) = _intervals(value, reach, at_bounds)
    return Corrected(precision, recall, accuracy)


def freed_scale(error: float, classes: int) -> float:
    """Return by how much `freed` stretches shares, and with them their standard errors."""
    return 1 / (1 - error - error / (classes - 1))


def freed(share: FloatArray, error: float, classes: int) -> FloatArray:
    """Return the shares that are right, of which the shares `share` were answered as right; not yet within [0, 1]."""
    return np.asarray((share - error / (classes - 1)) * freed_scale(error, classes))


def _error_behind(differing: float, classes: int) -> float:
    """Return e with 2e - e² K/(K - 1) = `differing`, the smaller solution; at most (K - 1)/K."""
    most = (classes - 1) / classes
    return most * (1 - float(np.sqrt(max(0.0, 1 - differing / most))))


def _precision(estimates: Estimates, error: AnnotatorError) -> tuple[Interval | None, ...]:
    rates, classes = estimates.precision, len(estimates.classes)
    scale = freed_scale(error.rate, classes)
    at_bounds = [freed(rates.value, e, classes) for e in (error.low, error.high)]
    reach = ((rates.value - rates.low) * scale, (rates.high - rates.value) * scale)
    return _intervals(freed(rates.value, error.rate, classes), reach, at_bounds)


def _recall(estimates: Estimates, error: AnnotatorError) -> tuple[Interval | None, ...]:
    """Correct the images found, T, and those missed, F; the interval grows as the standard error of T/(T + F) does."""
    classes, rates = len(estimates.classes), estimates.recall
    predicted = estimates.predicted.astype(np.float64)
    elsewhere = predicted.sum() - predicted
    found = predicted * np.nan_to_num(estimates.precision.value)
    missed = _missed(found, rates.value)

    def at(rate: float) -> FloatArray:
        true_found = np.maximum(predicted * freed(found / np.maximum(predicted, 1), rate, classes), 0)
        true_missed = np.maximum(elsewhere * freed(missed / np.maximum(elsewhere, 1), rate, classes), 0)
        whole = true_found + true_missed
        share = np.where(whole > 0, true_found / np.where(whole > 0, whole, 1), rates.value)
        return np.where(np.isnan(rates.value), np.nan, share)

    growth = _growth(estimates, error.rate)
    reach = ((rates.value - rates.low) * growth, (rates.high - rates.value) * growth)
    return _intervals(at(error.rate), reach, [at(e) for e in (error.low, error.high)])


def _growth(estimates: Estimates, error: float) -> FloatArray:
    """Return (K,), the standard error of corrected recall over that of recall, from smoothed counts."""
    classes = len(estimates.classes)
    predicted = estimates.predicted.astype(np.float64)
    elsewhere = predicted.sum() - predicted
    found = predicted * np.nan_to_num(estimates.precision.smoothed)
    missed = _missed(found, estimates.recall.smoothed)
    of_found = predicted**2 * _window_variance(estimates.precision)
    of_recall = _window_variance(estimates.recall) * (found + missed) ** 4
    of_missed = np.maximum(of_recall - missed**2 * of_found, 0) / np.maximum(found, 1e-9) ** 2
    scale = freed_scale(error, classes)
    true_found = np.maximum((found - error / (classes - 1) * predicted) * scale, 0)
    true_missed = np.maximum((missed - error / (classes - 1) * elsewhere) * scale, 0)
    whole = np.maximum(true_found + true_missed, 1e-9)
    variance = scale**2 * (true_missed**2 * of_found + true_found**2 * of_missed) / whole**4
    before = of_recall / np.maximum(found + missed, 1e-9) ** 4
    # A class that every image is predicted as misses none: its recall is exactly 1, and stays so.
    spread = before > LEAST_VARIANCE
    return np.asarray(np.sqrt(np.where(spread, variance / np.where(spread, before, 1), 1)))


def _missed(found: FloatArray, recall: FloatArray) -> FloatArray:
    """Return F from T and T/(T + F); 0 where nothing was found, whose recall says nothing about F."""
    known = np.nan_to_num(recall)
    return np.where(known > 0, found * (1 - known) / np.where(known > 0, known, 1), 0)


def _window_variance(rates: Rates) -> FloatArray:
    smoothed = np.nan_to_num(rates.smoothed)
    return np.asarray(smoothed * (1 - smoothed) / np.maximum(np.nan_to_num(rates.effective, nan=1.0), 1))


def _intervals(
    value: FloatArray, reach: tuple[FloatArray, FloatArray], at_bounds: list[FloatArray]
) -> tuple[Interval | None, ...]:
    """Return intervals around `value`: `reach` down and up for the labels, `at_bounds` for the error's own interval."""
    lowest, highest = np.minimum(*at_bounds), np.maximum(*at_bounds)
    low = value - np.hypot(reach[0], np.maximum(value - lowest, 0))
    high = value + np.hypot(reach[1], np.maximum(highest - value, 0))
    centre = np.clip(value, 0, 1)
    return tuple(
        None if np.isnan(v) else Interval(float(v), float(min(max(lo, 0), v)), float(max(min(hi, 1), v)))
        for v, lo, hi in zip(centre, low, high, strict=True)
    )
