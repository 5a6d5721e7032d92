"""What changed from one window of a model to the next: information that triggers nothing.

The trigger compares with the service's reference. Here a window is compared with the one before it, which tells whether
a level was lost at once or bit by bit, and sees a fall within the tolerance. Differences are those of what people are
shown (freed from annotators' errors, with 95 % intervals, MOVER: Zou and Donner 2008). That a class fell is said by the
trigger's own one-sided bounds, of the process and not of two windows alone, at its alarm levels shared over the
classes, and only for what a change of the class mix does not explain.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.monitoring.comparison.mix import MixChange, expected_levels, find_mix_change
from components.monitoring.estimation.accuracy import Estimates
from components.monitoring.estimation.annotator_error import AnnotatorError, corrected
from components.monitoring.estimation.rates import Rates
from components.monitoring.judgement.reference import Level, reference_from
from components.monitoring.judgement.trigger import Rule
from components.params import Monitor
from components.records import Interval

Intervals = tuple[Interval | None, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """One rate of one class, before and now: the difference with its 95 % interval, and whether a fall is shown."""

    before: float
    now: float
    low: float
    high: float
    fell: bool

    @property
    def value(self) -> float:
        """Return the rate's difference, in -1..1."""
        return self.now - self.before

    def describe(self) -> str:
        """Return the change in words, as in `95.1 % to 86.0 % (-9.1 points, 95 % interval -13.0 to -4.9)`."""
        return (
            f"{100 * self.before:.1f} % to {100 * self.now:.1f} % ({100 * self.value:+.1f} points, "
            f"95 % interval {100 * self.low:+.1f} to {100 * self.high:+.1f})"
        )

    def as_json(self) -> dict[str, Any]:
        """Return the shape `monitor --json` prints, in shares."""
        numbers = {"difference": self.value, "low": self.low, "high": self.high}
        return {**{name: round(number, 5) for name, number in numbers.items()}, "fell": self.fell}


@dataclass(frozen=True, slots=True)
class Change:
    """The differences of every class from the window called `since`; None where a rate is not known in both."""

    since: str
    classes: tuple[str, ...]
    precision: tuple[Difference | None, ...]
    recall: tuple[Difference | None, ...]
    mix_change: MixChange | None

    @property
    def fallen(self) -> dict[str, tuple[str, ...]]:
        """Return, by class, what fell, in words; classes of which nothing is shown to have fallen are not in it."""
        found: dict[str, tuple[str, ...]] = {}
        for rule, differences in (("precision", self.precision), ("recall", self.recall)):
            for name, one in zip(self.classes, differences, strict=True):
                if one is not None and one.fell:
                    found[name] = (*found.get(name, ()), f"{rule} {one.describe()}")
        return found

    def as_json(self) -> dict[str, Any]:
        """Return the shape `monitor --json` prints."""
        rows = zip(self.classes, self.precision, self.recall, strict=True)
        return {
            "window": self.since,
            "classes": [
                {"name": name, "precision": p.as_json() if p else None, "recall": r.as_json() if r else None}
                for name, p, r in rows
            ],
            "fell": [f"{name}: {', '.join(words)}" for name, words in self.fallen.items()],
            "mix": self.mix_change.describe() if self.mix_change else None,
            "note": "information: no alarm and no retraining follows from it",
        }


def change_since(
    before: Estimates, since: str, now: Estimates, rules: Monitor, error: AnnotatorError | None = None
) -> Change:
    """Return how `now` differs from `before`, the estimates of an earlier window, `since`, of the same model.

    error: of the annotators, the same in both windows, so that what is not known of it moves no difference.
    """
    level = reference_from(before, since).for_classes(now.classes)
    mix_change = find_mix_change(now, level, rules)
    expected = expected_levels(now, level) if mix_change else (level.precision, level.recall)
    shown_before, shown_now = _shown(before, error), _shown(now, error)
    alphas = rules.alpha_precision / len(now.classes), rules.alpha_recall / len(now.classes)
    rates: tuple[tuple[Rule, Rates], ...] = (("precision", now.precision), ("recall", now.recall))
    found = [
        _differences(shown_before[rule], shown_now[rule], fell(rate, known, alpha))
        for (rule, rate), known, alpha in zip(rates, expected, alphas, strict=True)
    ]
    return Change(since, now.classes, found[0], found[1], mix_change)


def fell(now: Rates, before: Level, alpha: float) -> NDArray[np.bool_]:
    """Return (K,), which classes fell at one-sided level `alpha`: U = (P1 - P0) + sqrt((u1 - P1)² + (P0 - l0)²) < 0.

    Without a tolerance, unlike the trigger's breach. False where either side was not measured.
    """
    reach = np.hypot(now.upper(alpha) - now.value, before.value - before.lower(alpha))
    return np.asarray(now.value - before.value + reach < 0)


def _shown(estimates: Estimates, error: AnnotatorError | None) -> dict[Rule, Intervals]:
    if error is not None:
        freed = corrected(estimates, replace(error, low=error.rate, high=error.rate))
        return {"precision": freed.precision, "recall": freed.recall}
    every = range(len(estimates.classes))
    return {
        "precision": tuple(estimates.precision.interval(k) for k in every),
        "recall": tuple(estimates.recall.interval(k) for k in every),
    }


def _differences(before: Intervals, now: Intervals, shown: NDArray[np.bool_]) -> tuple[Difference | None, ...]:
    return tuple(
        None if one is None or other is None else _difference(one, other, fell=bool(shown[k]))
        for k, (one, other) in enumerate(zip(before, now, strict=True))
    )


def _difference(before: Interval, now: Interval, *, fell: bool) -> Difference:
    value = now.value - before.value
    low = value - float(np.hypot(now.value - now.low, before.high - before.value))
    high = value + float(np.hypot(now.high - now.value, before.value - before.low))
    return Difference(before.value, now.value, max(low, -1.0), min(high, 1.0), fell)
