"""Did the class mix change, or did the model get worse? What the predictions say before anyone has labelled one.

Counts per predicted class cannot tell: K shares fit K counts almost whatever happened. Predicted class times confidence
bin has several times as many cells, and if only the mix changed they all follow from the same K shares. Where no shares
fit them, a class looks different, or is new. Where some do, more has to hold before `mix` is claimed:

- The reference has few labels, beside whose error much would fit. That error is part of each cell's variance, and the
  largest misfit it may hide has to stay below half of the change.
- A class may be taken for another one just as surely as that one is itself. This fits as a fall of the one and a rise
  of the other, so a change of which one class lost a large part is left to labels,
- unless it came less often, or another more often, against all the rest in proportion, as no such mistake looks.

Two cases stay, which only labels tell. New images that the model takes for a known class, as sure of them as of its
own, are a rise of that class. And where many shares move at once, a class that is taken for another is but one of
several that fell. Lipton, Wang and Smola 2018; Rabanser et al. 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from components.errors import DataError
from components.monitoring.comparison.confusion import Cells, MixEstimate, comparable_cells, mix_of, over, shift_factors
from components.monitoring.comparison.mix import NAMED_AT_MOST, MixChange
from components.monitoring.drift.findings import DriftTest, minimum_effect_p_value, minimum_effect_test
from components.monitoring.drift.label_shift import em_mix
from components.monitoring.estimation.accuracy import check_counts
from components.params import Monitor
from components.records import StratumCounts

MISFIT_SHOWN = 0.5  # of drift_v: a misfit shown to be above it is `not-mix`
MISFIT_IGNORED = 0.25  # of drift_v: a misfit shown to be above it is no `mix` either
MOST_OF_CHANGE = 0.5  # of the change's V that the misfit's upper bound may reach under `mix`
BOUND_ALPHA = 0.05  # of that bound, and of the test of a misfit that is ignored
MOST_LOST_BY_ONE = 0.4  # of all that moved; above, what one class lost may be what others seem to have gained
MOST_OUT_OF_PROPORTION = 0.4  # of all that moved, where one class moved against the rest in proportion
FEWEST_OTHERS = 4.0  # classes, if they were of equal size, for their moving in proportion to be no coincidence
LARGEST_STATISTIC = 1e9  # far beyond any doubt, and before the noncentral chi-square stops converging

FloatArray = NDArray[np.float64]


class DriftCause(StrEnum):
    """What a change of the predictions is shown to come from."""

    NONE = "none"
    MIX = "mix"
    NOT_MIX = "not-mix"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True, eq=False)
class Misfit:
    """What the best mix leaves of the cells. by_cell: (I,) terms of a chi-square statistic. freedom: its degrees.

    p_value: of "V is at most half of `drift_v`". v: the misfit; bound: its one-sided 95 % upper bound.
    """

    by_cell: FloatArray
    freedom: int
    p_value: float
    v: float
    bound: float


@dataclass(frozen=True, slots=True, eq=False)
class DriftExplanation:
    """Why the predictions of a window differ from the reference's: a state, and the reason in words.

    change: the test of all cells, whatever the cause. mix: the mix that fits best, misfit: what it leaves, explained:
    the share of the change, 0..1 as V squared, that goes with it; None where nothing was fitted.
    """

    state: DriftCause
    reason: str
    change: DriftTest
    mix: MixEstimate | None = None
    misfit: Misfit | None = None

    @property
    def explained(self) -> float | None:
        """Return 1 - (V of the misfit / V of the change)², not below 0."""
        if self.misfit is None or not self.change.v:
            return None
        return max(0.0, 1 - (self.misfit.v / self.change.v) ** 2)

    def describe(self) -> str:
        """Return the reason as a sentence, with how far it is shown."""
        if self.state is DriftCause.UNDECIDED:
            return f"Whether only the class mix changed is not decided: {self.reason}."
        return f"{self.reason[0].upper()}{self.reason[1:]}."

    def as_json(self) -> dict[str, Any]:
        """Return state, reason and the numbers they were made from."""
        return {
            "state": str(self.state),
            "reason": self.reason,
            "v": self.change.v,
            "p_value": self.change.p_value,
            "mix": self.mix.mix.tolist() if self.mix else None,
            "misfit_v": self.misfit.v if self.misfit else None,
            "misfit_bound": self.misfit.bound if self.misfit else None,
            "misfit_p_value": self.misfit.p_value if self.misfit else None,
            "explained": self.explained,
        }


def explain_prediction_drift(reference: StratumCounts, window: ArrayLike, rules: Monitor) -> DriftExplanation:
    """Return whether a change of the class mix explains how the predictions of `window` differ from the reference's.

    reference: the reference window of the same model, with its answers. window: (K, B) predictions per predicted class
    and confidence bin, as the daily counts sum up. That there is a change is the minimum-effect test of all cells at
    `drift_v` and `drift_alpha`, as for any column. The best mix is that of generalised least squares over the cells; it
    costs a degree of freedom for each class of the reference.
    Raises DataError if the arrays contradict each other.
    """
    check_counts(reference)
    now = np.asarray(window, dtype=np.float64)
    if now.shape != reference.population.shape:
        raise DataError(
            f"the window's counts have shape {now.shape}, the reference's {reference.population.shape}; count both "
            "under one class list and the same confidence bins"
        )
    change = minimum_effect_test(reference.population.ravel(), now.ravel(), rules.drift_v)
    if change.p_value is None:
        return DriftExplanation(DriftCause.UNDECIDED, change.state.removeprefix("undecided: "), change)
    if not change.p_value < rules.drift_alpha:
        reason = f"no change of the predictions above V {rules.drift_v:g} is shown"
        return DriftExplanation(DriftCause.NONE, reason, change)
    labels = int(reference.labelled.sum())
    if labels == 0:
        return DriftExplanation(DriftCause.UNDECIDED, "the reference has no labels to tell what causes it", change)
    cells = comparable_cells(reference, now)
    freedom = len(cells.counts) - int((cells.confusion.mix > 0).sum())
    if freedom < 1:
        reason = f"{len(cells.counts)} cells occur often enough, too few for {len(reference.classes)} classes"
        return DriftExplanation(DriftCause.UNDECIDED, reason, change)
    return _explain(reference.classes, cells, change, freedom, rules)


def explain_without_labels(
    classes: tuple[str, ...],
    reference: ArrayLike,
    window: ArrayLike,
    probabilities: NDArray[np.floating[Any]],
    rules: Monitor,
) -> DriftExplanation:
    """Return which class mix the confidences of a window speak for, where no labelled window of the model is known.

    reference, window: (K,) predictions per class; probabilities: (N, K) calibrated, of a sample of the window. By
    expectation maximisation from the reference's mix (Saerens, Latinne and Decaestecker 2002). It cannot tell a change
    of the mix from a class gone wrong, so the state is `undecided`.
    """
    before = np.asarray(reference, np.float64)
    change = minimum_effect_test(before, np.asarray(window, np.float64), rules.drift_v)
    if before.sum() <= 0 or not len(probabilities):
        return DriftExplanation(DriftCause.UNDECIDED, "there are too few predictions to tell what causes it", change)
    prior = before / before.sum()
    mixed = em_mix(probabilities, prior)
    most = np.argsort(-np.abs(mixed.mix - prior), kind="stable")[:NAMED_AT_MOST]
    moved = MixChange(tuple((classes[k], float(prior[k]), float(mixed.mix[k])) for k in most), float("nan"))
    told = moved.describe().removeprefix("class mix changed: ")
    reason = f"no labelled window of this model is known; if only the class mix changed, then {told}"
    return DriftExplanation(DriftCause.UNDECIDED, reason, change, mixed)


def _explain(
    classes: tuple[str, ...], cells: Cells, change: DriftTest, freedom: int, rules: Monitor
) -> DriftExplanation:
    factors, iterations, converged = shift_factors(cells.confusion, cells.counts)
    estimate = mix_of(cells.confusion, factors, cells.counts, iterations, converged)
    misfit, ignored = _misfit(cells, factors, freedom, rules.drift_v)
    before = cells.confusion.mix / cells.confusion.mix.sum()
    doubt = ""
    if not converged:
        doubt = f"no mix was found within {iterations} iterations"
    elif misfit.p_value < rules.drift_alpha:
        return DriftExplanation(DriftCause.NOT_MIX, _not_mix(classes, cells, misfit), change, estimate, misfit)
    elif ignored < BOUND_ALPHA:
        doubt = "the best mix leaves a misfit that is neither small nor large"
    elif misfit.bound > MOST_OF_CHANGE * (change.v or 0.0):
        doubt = f"a misfit up to V {misfit.bound:.3f} in a change of V {change.v:.3f} cannot be excluded"
    doubt = doubt or _taken_for_another(classes, before, estimate.mix, rules.drift_v)
    if doubt:
        return DriftExplanation(DriftCause.UNDECIDED, doubt, change, estimate, misfit)
    reason = _mix_changed(classes, before, estimate.mix, float(change.p_value or 0.0))
    return DriftExplanation(DriftCause.MIX, reason, change, estimate, misfit)


def _misfit(cells: Cells, factors: FloatArray, freedom: int, v0: float) -> tuple[Misfit, float]:
    """Return the misfit of the mix that `factors` make, and the p-value of "it is small enough to be ignored"."""
    rows, reference_rows = float(cells.counts.sum()), cells.confusion.rows
    seen = cells.counts / rows
    variance = cells.confusion.variance(factors, rows, seen)
    by_cell = (seen - cells.confusion.expected(factors)) ** 2 / variance
    # The n̄ of two samples that would tell as much if the labels were without error.
    statistic, resolved = float(by_cell.sum()), 1 / float(variance.sum())
    # The labels' errors only lower what a given V adds to the statistic: without them the null hypothesis is widest.
    harmonic = rows * reference_rows / (rows + reference_rows)
    misfit = Misfit(
        by_cell=by_cell,
        freedom=freedom,
        p_value=minimum_effect_p_value(statistic, freedom, harmonic, MISFIT_SHOWN * v0),
        v=float(np.sqrt(max(0.0, statistic - freedom) / resolved) / 2),
        bound=_upper_bound(statistic, freedom, resolved),
    )
    return misfit, minimum_effect_p_value(statistic, freedom, harmonic, MISFIT_IGNORED * v0)


def _upper_bound(statistic: float, freedom: int, rows: float) -> float:
    """Return the V under which so small a statistic is rarer than `BOUND_ALPHA`."""
    from scipy import optimize

    # A fit that is better than chance speaks for too wide a variance, not against a misfit.
    reached = min(max(statistic, float(freedom)), LARGEST_STATISTIC)

    def excess(noncentrality: float) -> float:
        return float(special.chndtr(reached, freedom, noncentrality)) - BOUND_ALPHA

    return float(np.sqrt(optimize.brentq(excess, 0.0, 10 * (reached + 10)) / rows) / 2)


def _taken_for_another(classes: tuple[str, ...], before: FloatArray, now: FloatArray, v0: float) -> str:
    """Return in words which class may be taken for another, "" where that cannot be a large part of the change.

    Where one class came more or less often against all others in proportion, this is taken out first, and what is left
    is asked the same, unless it matters less than V = `v0`.
    """
    one_alone = [_only(before, now, k) for k in (int(np.argmin(now - before)), int(np.argmax(now - before)))]
    base = min([mix for mix in one_alone if mix is not None], key=lambda mix: _moved(mix, now), default=before)
    if _moved(base, now) > MOST_OUT_OF_PROPORTION * _moved(before, now):
        base = before
    elif np.sqrt(over((now - base) ** 2, now + base).sum() / 2) <= v0:
        return ""
    gain = now - base
    loser, winner = int(np.argmin(gain)), int(np.argmax(gain))
    if -gain[loser] < MOST_LOST_BY_ONE * _moved(base, now):
        return ""
    fell, rose = (f"{classes[k]} {100 * before[k]:.1f} % to {100 * now[k]:.1f} %" for k in (loser, winner))
    return (
        f"{fell} and {rose}: fewer {classes[loser]}, or {classes[loser]} taken for {classes[winner]}, look alike here; "
        f"labels of what is predicted {classes[winner]} tell"
    )


def _moved(before: FloatArray, now: FloatArray) -> float:
    """Return the share that one mix has to move to become the other (total variation)."""
    return float(np.abs(now - before).sum() / 2)


def _only(before: FloatArray, now: FloatArray, k: int) -> FloatArray | None:
    """Return the mix had only class `k` come more or less often, None where the others are too few to tell."""
    rest = before.copy()
    rest[k] = 0
    if rest.sum() <= 0 or rest.sum() ** 2 < FEWEST_OTHERS * (rest**2).sum():
        return None
    mix = rest * (1 - now[k]) / rest.sum()
    mix[k] = now[k]
    return np.asarray(mix)


def _mix_changed(classes: tuple[str, ...], before: FloatArray, now: FloatArray, p_value: float) -> str:
    most = np.argsort(-np.abs(now - before), kind="stable")[:NAMED_AT_MOST]
    moved = tuple((classes[k], float(before[k]), float(now[k])) for k in most)
    return f"the {MixChange(moved, p_value).describe()}; the predictions are what the same model shows under that mix"


def _not_mix(classes: tuple[str, ...], cells: Cells, misfit: Misfit) -> str:
    reason = "no mix of the known classes gives these predictions: a class looks different or is new"
    named = cells.predicted >= 0
    if not named.any():
        return reason
    worst = np.bincount(cells.predicted[named], misfit.by_cell[named]).argmax()
    return f"{reason}; furthest off is what is predicted {classes[worst]}"
