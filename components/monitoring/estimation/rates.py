"""Rates of K classes with what they are worth in independent labels, their intervals and their one-sided bounds.

Reported intervals are Wilson's with a t quantile. The trigger's bounds are Clopper and Pearson's: Wilson's would raise
its false alarms several times. Both take an effective number of labels (Korn and Graubard 1998).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from components.records import Interval

MOST_EFFECTIVE = 1e7
CONFIDENCE_LEVEL = 0.95

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Rates:
    """One rate, precision or recall, of K classes. All arrays are (K,); NaN where nothing can be said.

    value: the estimate. smoothed: the same from smoothed shares. effective: the number of independent labels that would
    tell as much about this window; process_effective: about the process behind it (f = 0). low, high: 95 % interval.
    labels: settled answers that bear on the class (predicted as it for precision, labelled as it for recall).
    """

    value: FloatArray
    smoothed: FloatArray
    effective: FloatArray
    process_effective: FloatArray
    low: FloatArray
    high: FloatArray
    labels: IntArray

    def lower(self, alpha: float) -> FloatArray:
        """Return the one-sided lower bounds (K,) at level `alpha` of the process's rate."""
        return lower_bound(self.value, self.process_effective, alpha)

    def upper(self, alpha: float) -> FloatArray:
        """Return the one-sided upper bounds (K,) at level `alpha` of the process's rate."""
        return upper_bound(self.value, self.process_effective, alpha)

    def variance(self) -> FloatArray:
        """Return the smoothed variance (K,) of the process's rate."""
        return np.asarray(self.smoothed * (1 - self.smoothed) / self.process_effective)

    def interval(self, k: int) -> Interval | None:
        """Return class `k`'s estimate with its 95 % interval, None where nothing can be said."""
        if np.isnan(self.value[k]):
            return None
        return Interval(float(self.value[k]), float(self.low[k]), float(self.high[k]))


def lower_bound(value: FloatArray, effective: FloatArray, alpha: float) -> FloatArray:
    """Return the one-sided Clopper-Pearson lower bound of a rate `value` seen in `effective` labels; NaN stays NaN."""
    right = value * effective
    bound = special.betaincinv(np.maximum(right, 1e-12), effective - right + 1, alpha)
    return np.where(np.isnan(value), np.nan, np.where(right <= 0, 0.0, bound))


def upper_bound(value: FloatArray, effective: FloatArray, alpha: float) -> FloatArray:
    """Return the one-sided Clopper-Pearson upper bound of a rate `value` seen in `effective` labels; NaN stays NaN."""
    wrong = (1 - value) * effective
    bound = special.betaincinv(effective - wrong + 1, np.maximum(wrong, 1e-12), 1 - alpha)
    return np.where(np.isnan(value), np.nan, np.where(wrong <= 0, 1.0, bound))


def wilson_interval(value: FloatArray, effective: FloatArray, labels: IntArray) -> tuple[FloatArray, FloatArray]:
    """Return the two-sided 95 % Wilson bounds with the t quantile at max(labels - 4, 3) degrees of freedom."""
    t = special.stdtrit(np.maximum(labels - 4, 3), (1 + CONFIDENCE_LEVEL) / 2)
    scale = 1 + t**2 / effective
    middle = (value + t**2 / (2 * effective)) / scale
    half = t * np.sqrt(np.maximum(value * (1 - value), 0) / effective + t**2 / (4 * effective**2)) / scale
    return np.clip(middle - half, 0, 1), np.clip(middle + half, 0, 1)


def rates_from(
    *,
    value: FloatArray,
    smoothed: FloatArray,
    variance: FloatArray,
    process_variance: FloatArray,
    labels: IntArray,
    measured: NDArray[np.bool_],
) -> Rates:
    """Return the rates of K classes from their values and variances, NaN where not `measured`. All arrays are (K,)."""
    effective = effective_labels(smoothed, variance, np.full(len(labels), MOST_EFFECTIVE))
    # A rate of exactly 0 or 1 by construction, such as the recall of a class that is never predicted, has no spread to
    # divide by: the process is known no better than from the labels that showed it.
    process = effective_labels(smoothed, process_variance, labels.astype(np.float64))
    effective, process = (np.where(measured, e, np.nan) for e in (effective, process))
    value = np.where(measured, np.clip(value, 0, 1), np.nan)
    low, high = wilson_interval(value, effective, labels)
    return Rates(value, np.where(measured, smoothed, np.nan), effective, process, low, high, labels)


def effective_labels(smoothed: FloatArray, variance: FloatArray, otherwise: FloatArray) -> FloatArray:
    """Return n_eff (K,) = P(1 - P)/V within [1, 10^7], and `otherwise` where V is 0."""
    spread = smoothed * (1 - smoothed)
    usable = (variance > 0) & (spread > 0)
    ratio = np.where(usable, spread / np.where(usable, variance, 1), otherwise)
    return np.clip(ratio, 1, MOST_EFFECTIVE)
