"""How often a class is called where it is not, and missed where it is: false positive and false negative rates.

FNR_k = 1 - R_k. FPR_k = (N_k - T)/(N - T - F): of the window's predictions whose truth is not k (`other` among them),
the share that was predicted k. T of the N_k predictions of class k are right, F images of it were predicted as another;
both are estimated, from different strata, so that V(FPR) = (TN² V(T) + FP² V(F))/D⁴ by the delta method, with
FP = N_k - T, D = N - T - F and TN = D - FP.

The interval is Wilson's around 1 - precision, with as many effective labels as V(FPR) stands for, times N_k/D: a rate
that can be no more than N_k/D has the shape of the share that it is a fixed multiple of.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.monitoring.estimation.accuracy import Estimates, truth_shares
from components.monitoring.estimation.annotator_error import AnnotatorError, Corrected, freed, freed_scale
from components.monitoring.estimation.rates import MOST_EFFECTIVE, effective_labels, wilson_interval
from components.records import Interval, StratumCounts

FloatArray = NDArray[np.float64]
Intervals = tuple[Interval | None, ...]


@dataclass(frozen=True, slots=True)
class ErrorRates:
    """Both rates per class with 95 % intervals; None where nothing can be said."""

    false_positive: Intervals
    false_negative: Intervals


@dataclass(frozen=True, slots=True, eq=False)
class _Truths:
    """Images of each class among predictions of it (found) and of others (missed): plain, smoothed, variances, (K,)."""

    found: FloatArray
    missed: FloatArray
    smoothed_found: FloatArray
    smoothed_missed: FloatArray
    found_variance: FloatArray
    missed_variance: FloatArray


def error_rates(counts: StratumCounts, estimates: Estimates) -> ErrorRates:
    """Return both rates from `counts` and the `estimates` made of them.

    A class that is never predicted has a false positive rate of exactly 0; one without labels among its predictions, or
    where every label is of that class, has none.
    """
    false_negative = tuple(_opposite(estimates.recall.interval(k)) for k in range(len(counts.classes)))
    return ErrorRates(_false_positive(counts, _truths(counts), 1.0), false_negative)


def corrected_error_rates(counts: StratumCounts, error: AnnotatorError, shown: Corrected) -> ErrorRates:
    """Return both rates as they would read if no answer were wrong; `shown` holds the recall so corrected.

    The intervals hold what is not known of the error, too.
    """
    truths = _truths(counts)
    at_rate, *at_bounds = (
        _false_positive(counts, _freed(counts, truths, rate), freed_scale(rate, len(counts.classes)))
        for rate in (error.rate, error.low, error.high)
    )
    widened = tuple(_widened(*of_class) for of_class in zip(at_rate, *at_bounds, strict=True))
    return ErrorRates(widened, tuple(_opposite(one) for one in shown.recall))


def _false_positive(counts: StratumCounts, truths: _Truths, scale: float) -> Intervals:
    """Return the rates behind `truths`, whose variances are to be multiplied by `scale` squared."""
    labels = counts.labelled.sum(axis=1)
    predicted, total = counts.population.sum(axis=1).astype(np.float64), float(counts.population.sum())
    negatives = total - truths.found - truths.missed
    smoothed_negatives = np.maximum(total - truths.smoothed_found - truths.smoothed_missed, 1e-9)
    wrong = np.clip(predicted - truths.smoothed_found, 0, smoothed_negatives)
    right = smoothed_negatives - wrong
    variance = scale**2 * (right**2 * truths.found_variance + wrong**2 * truths.missed_variance)
    share_variance = variance / np.maximum(smoothed_negatives * predicted, 1e-9) ** 2
    smoothed_share = np.clip(1 - truths.smoothed_found / np.maximum(predicted, 1), 0, 1)
    effective = effective_labels(smoothed_share, share_variance, np.full(len(labels), MOST_EFFECTIVE))
    share = np.clip(1 - truths.found / np.maximum(predicted, 1), 0, 1)
    low, high = wilson_interval(share, effective, labels)
    results: list[Interval | None] = []
    for k in range(len(labels)):
        if labels.sum() == 0 or negatives[k] <= 0 or (predicted[k] > 0 and labels[k] == 0):
            results.append(None)
        elif predicted[k] == 0:
            results.append(Interval(0.0, 0.0, 0.0))
        else:
            times = predicted[k] / negatives[k]
            results.append(Interval(*(float(min(times * end[k], 1)) for end in (share, low, high))))
    return tuple(results)


def _truths(counts: StratumCounts) -> _Truths:
    classes, bins = counts.population.shape
    every = np.arange(classes)
    shares = truth_shares(counts)
    sums = {name: np.zeros((2, classes)) for name in ("plain", "smoothed", "variance")}
    for b in range(bins):  # one bin at a time, as there may be many classes
        N, n = (of_bin.astype(np.float64)[:, None] for of_bin in (counts.population[:, b], counts.labelled[:, b]))
        smoothed = shares[:, b]
        plain = np.where(n > 0, counts.answers[:, b, :classes] / np.maximum(n, 1), smoothed)
        spread = (1 - n / np.maximum(N, 1)) * N**2 * smoothed * (1 - smoothed) / np.maximum(n - 0.5, 0.5)
        for name, table in (("plain", N * plain), ("smoothed", N * smoothed), ("variance", spread)):
            own = table[every, every]
            sums[name] += np.stack([own, table.sum(axis=0) - own])
    return _Truths(*sums["plain"], *sums["smoothed"], *sums["variance"])


def _freed(counts: StratumCounts, truths: _Truths, rate: float) -> _Truths:
    """Return `truths` as they would be if no answer were wrong; variances as they were."""
    predicted = counts.population.sum(axis=1).astype(np.float64)
    elsewhere = predicted.sum() - predicted
    classes = len(predicted)

    def of(images: FloatArray, among: FloatArray) -> FloatArray:
        return np.clip(among * freed(images / np.maximum(among, 1), rate, classes), 0, among)

    return _Truths(
        of(truths.found, predicted),
        of(truths.missed, elsewhere),
        of(truths.smoothed_found, predicted),
        of(truths.smoothed_missed, elsewhere),
        truths.found_variance,
        truths.missed_variance,
    )


def _widened(one: Interval | None, at_low: Interval | None, at_high: Interval | None) -> Interval | None:
    """Return `one`, with what the rate would be at either end of the error's interval taken into its reach."""
    if one is None:
        return None
    ends = [other.value for other in (at_low, at_high) if other is not None] or [one.value]
    down = float(np.hypot(one.value - one.low, max(one.value - min(ends), 0)))
    up = float(np.hypot(one.high - one.value, max(max(ends) - one.value, 0)))
    return Interval(one.value, max(one.value - down, 0.0), min(one.value + up, 1.0))


def _opposite(share: Interval | None) -> Interval | None:
    return None if share is None else Interval(1 - share.value, 1 - share.high, 1 - share.low)
