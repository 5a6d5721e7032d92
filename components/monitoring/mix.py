"""A change of the class mix, told apart from a change of accuracy.

Precision moves with the mix although the model has not changed: if one class comes three times as often, more of its
confusions end up in the others. The reference is therefore re-weighted to the new mix before it is compared. The mix is
estimated from the labels, not from the predictions: a class that is suddenly predicted as another one has not gone.
It is re-weighted only where a change is shown, since a noisy mix would make the reference noisy. Recall does not depend
on the mix (Lipton et al. 2018). `other` keeps its weight: a new kind of image is a loss of precision, not of mix.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.monitoring.accuracy import Estimates
from components.monitoring.drift import chi_square, minimum_effect_p_value
from components.monitoring.reference import Level, ReferenceLevel
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


def reweighted_precision(reference: ReferenceLevel, mix: FloatArray) -> Level:
    """Return the precision the reference's model would show under the class `mix` (K,), as well known as before."""
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.where(reference.mix > 0, mix / reference.mix, 1.0)
        columns = np.append(factor, 1.0)
        # P'_k / P_k by the joint table; applied to the estimates themselves, so that no change of mix changes nothing.
        plain, scaled = reference.joint, reference.joint * columns
        rows = np.arange(len(mix))
        expected = plain[rows, rows] / plain.sum(axis=1)
        moved = scaled[rows, rows] / scaled.sum(axis=1)
    shift = np.where(np.isfinite(moved - expected), moved - expected, 0.0)
    known = reference.precision
    return Level(
        np.clip(known.value + shift, 0, 1),
        np.clip(known.smoothed + shift, 1e-9, 1 - 1e-9),
        known.effective,
    )
