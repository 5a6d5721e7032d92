"""A change of the class mix, told apart from a change of accuracy.

Precision moves with the mix although the model has not changed: if one class comes three times as often, more of its
confusions end up in the others. The reference is therefore re-weighted to the new mix before it is compared. The mix is
estimated from the labels, not from the predictions: a class that is suddenly predicted as another one has not gone.
It is re-weighted only where a change is shown, since a noisy mix would make the reference noisy. `other` keeps its
weight: a new kind of image is a loss of precision, not of mix. Lipton et al. 2018.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.monitoring.drift.findings import chi_square, minimum_effect_p_value
from components.monitoring.estimation.accuracy import Estimates
from components.monitoring.estimation.rates import MOST_EFFECTIVE
from components.monitoring.judgement.reference import Level, ReferenceLevel
from components.params import Monitor

NAMED_AT_MOST = 3
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class MixChange:
    """A shown change of the class mix: the classes that moved most, their shares before and now, and the p-value."""

    moved: tuple[tuple[str, float, float], ...]
    p_value: float

    def describe(self) -> str:
        """Return the change in words, as in `class mix changed: Trouser 10.0 % to 25.0 %`."""
        return "class mix changed: " + ", ".join(
            f"{name} {100 * before:.1f} % to {100 * now:.1f} %" for name, before, now in self.moved
        )


def find_mix_change(estimates: Estimates, reference: ReferenceLevel, rules: Monitor) -> MixChange | None:
    """Return how the class mix differs from the reference's, None where no change above `drift_v` is shown.

    reference: in the class order of `estimates`.
    """
    before, now = reference.mix, estimates.mix
    sizes = reference.mix_effective, estimates.mix_effective
    if np.isnan(before).any() or np.isnan(now).any() or min(sizes) <= 0:
        return None
    harmonic = sizes[0] * sizes[1] / (sizes[0] + sizes[1])
    occupied = (before + now) > 0
    statistic = chi_square(before[occupied], now[occupied], *sizes)
    p_value = minimum_effect_p_value(statistic, int(occupied.sum()) - 1, harmonic, rules.drift_v)
    if not p_value < rules.drift_alpha:
        return None
    most = np.argsort(-np.abs(now - before), kind="stable")[:NAMED_AT_MOST]
    moved = tuple((estimates.classes[k], float(before[k]), float(now[k])) for k in most)
    return MixChange(moved, p_value)


def expected_levels(estimates: Estimates, reference: ReferenceLevel) -> tuple[Level, Level]:
    """Return the precision and recall that the reference's model would show under the mix of `estimates`.

    Precision: errors that were class j come as often as class j now does, among as many predictions as there now are.
    Recall: misses that were predicted j come as often as j, as wrong answers about class j do, among as many images as
    there now are. A new mix explains a fall and never makes one, so neither level rises. What is not known of the mix
    makes the level less well known.
    """
    before, now = reference.joint.sum(axis=0), estimates.joint.sum(axis=0)
    factor = np.where(before > 0, now / np.where(before > 0, before, 1), 1.0)
    spread = np.append(_finite(reference.mix_spread + estimates.mix_spread), 0.0)
    factor[-1] = 1.0  # of `other`, which is no class whose share could explain anything
    wrong = _without_own(reference.joint)
    missed = _without_own(reference.joint[:, :-1].T)
    predicted = estimates.predicted / max(int(estimates.predicted.sum()), 1)
    return (
        _explained(reference.precision, wrong, reference.joint.sum(axis=1), predicted, factor, spread),
        _explained(
            reference.recall, missed, before[:-1], now[:-1], factor[:-1], spread[:-1], _finite(estimates.mix_spread)
        ),
    )


def _explained(
    known: Level,
    errors: FloatArray,
    size_before: FloatArray,
    size_now: FloatArray,
    factor: FloatArray,
    spread: FloatArray,
    size_spread: FloatArray | float = 0.0,
) -> Level:
    """Return `known` lowered by the errors that the mix explains.

    errors: (K, J) shares of all predictions, of kind j in class k. size_before, size_now: (K,) the shares they are
    errors among. factor, spread: (J,) how much more often kind j comes, and the relative variance of that.
    size_spread: (K,) relative variance of size_now.
    """
    scaled = errors * factor
    total = scaled.sum(axis=1)
    rate_before = errors.sum(axis=1) / np.where(size_before > 0, size_before, 1)
    rate_now = np.where(size_now > 0, np.minimum(total / np.where(size_now > 0, size_now, 1), 1), rate_before)
    lowered = rate_now > rate_before
    shift = np.where(lowered, rate_before - rate_now, 0.0)
    value = np.clip(known.value + shift, 0, 1)
    smoothed = np.clip(known.smoothed + shift, 1e-9, 1 - 1e-9)
    of_mix = (scaled**2 * spread).sum(axis=1) / np.where(total > 0, total, 1) ** 2 + size_spread
    growth = np.where(lowered, rate_now / np.where(rate_before > 0, rate_before, 1), 1)
    variance = growth**2 * known.variance() + np.where(lowered, rate_now**2 * of_mix, 0)
    effective = np.clip(smoothed * (1 - smoothed) / np.maximum(variance, 1e-300), 1, MOST_EFFECTIVE)
    return Level(value, smoothed, np.where(lowered, effective, known.effective))


def _without_own(table: FloatArray) -> FloatArray:
    copy = np.array(table)
    np.fill_diagonal(copy, 0)
    return copy


def _finite(values: FloatArray) -> FloatArray:
    return np.where(np.isfinite(values), values, 0.0)
