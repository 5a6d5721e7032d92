"""The level of accuracy a service is held to: its first complete production window, measured by the same people.

It belongs to the service, not to one model: a promotion keeps it. A test set would misfire as reference, being labels
of another process on another mix.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from components.errors import DataError
from components.monitoring.estimation.accuracy import MOST_UNANSWERED, Estimates
from components.monitoring.estimation.rates import Rates, lower_bound, upper_bound
from components.params import Monitor

if TYPE_CHECKING:
    from components.monitoring.judgement.measured import Held, Measured

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """One rate of K classes and how well it is known. value, smoothed, effective: (K,), NaN where never measured."""

    value: FloatArray
    smoothed: FloatArray
    effective: FloatArray

    def lower(self, alpha: float) -> FloatArray:
        """Return the one-sided Clopper-Pearson lower bounds (K,) at level `alpha`."""
        return lower_bound(self.value, self.effective, alpha)

    def upper(self, alpha: float) -> FloatArray:
        """Return the one-sided Clopper-Pearson upper bounds (K,) at level `alpha`."""
        return upper_bound(self.value, self.effective, alpha)

    def variance(self) -> FloatArray:
        """Return the smoothed variance (K,)."""
        return np.asarray(self.smoothed * (1 - self.smoothed) / self.effective)

    def without(self, unknown: NDArray[np.bool_]) -> Level:
        """Return the levels with those of the classes that are `unknown` (K,) taken out."""
        return Level(*(np.where(unknown, np.nan, v) for v in (self.value, self.smoothed, self.effective)))

    def filled(self, other: Level) -> Level:
        """Return the levels, those of `other` where there is none."""
        missing = np.isnan(self.value)
        pairs = ((self.value, other.value), (self.smoothed, other.smoothed), (self.effective, other.effective))
        return Level(*(np.where(missing, theirs, own) for own, theirs in pairs))

    def take(self, rows: NDArray[np.int64]) -> Level:
        """Return the levels of the classes at `rows`; NaN where a row is -1."""

        def pick(values: FloatArray) -> FloatArray:
            return np.where(rows >= 0, values[rows], np.nan) if len(values) else np.full(len(rows), np.nan)

        return Level(pick(self.value), pick(self.smoothed), pick(self.effective))


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceLevel:
    """P0: precision and recall per class in the reference window, and what is needed to re-weight them for a new mix.

    joint: (K, K + 1) share of predictions per predicted class and answer, sums to 1; mix: (K,) class shares,
    mix_spread: (K,) their relative variances, mix_effective: the labels they are worth. labels: settled answers.
    """

    classes: tuple[str, ...]
    window: str
    precision: Level
    recall: Level
    joint: FloatArray
    mix: FloatArray
    mix_spread: FloatArray
    mix_effective: float
    labels: int

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object; `from_json` reads it back. Unmeasured rates are null, the joint table is sparse."""
        rows, columns = np.nonzero(self.joint)
        return {
            "classes": list(self.classes),
            "window": self.window,
            "precision": _level_as_json(self.precision),
            "recall": _level_as_json(self.recall),
            "joint": [[int(i), int(j), float(self.joint[i, j])] for i, j in zip(rows, columns, strict=True)],
            "mix": _numbers(self.mix),
            "mix_spread": _numbers(np.where(np.isfinite(self.mix_spread), self.mix_spread, np.nan)),
            "mix_effective": self.mix_effective,
            "labels": self.labels,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ReferenceLevel:
        """Return the level that `as_json` wrote. Raises DataError if it is not one."""
        try:
            classes = tuple(str(name) for name in content["classes"])
            joint = np.zeros((len(classes), len(classes) + 1))
            for i, j, share in content["joint"]:
                joint[i, j] = share
            return cls(
                classes=classes,
                window=str(content["window"]),
                precision=_level_from_json(content["precision"], len(classes)),
                recall=_level_from_json(content["recall"], len(classes)),
                joint=joint,
                mix=_array(content["mix"], len(classes)),
                mix_spread=_unseen_as_inf(_array(content["mix_spread"], len(classes))),
                mix_effective=float(content["mix_effective"]),
                labels=int(content["labels"]),
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise DataError(
                f"stored reference level is malformed ({error}); write it anew with `perennial reference reset`"
            ) from error

    def for_classes(self, classes: tuple[str, ...]) -> ReferenceLevel:
        """Return the level in the order of `classes`, by name; a class it does not know has none.

        The joint table and the mix belong to the whole list: under another list they are dropped (NaN).
        """
        if classes == self.classes:
            return self
        position = {name: k for k, name in enumerate(self.classes)}
        rows = np.array([position.get(name, -1) for name in classes], dtype=np.int64)
        size = len(classes)
        if set(classes) == set(self.classes):
            joint = self.joint[np.ix_(rows, np.append(rows, len(self.classes)))]
            mix, mix_spread, mix_effective = self.mix[rows], self.mix_spread[rows], self.mix_effective
        else:
            joint, mix_effective = np.full((size, size + 1), np.nan), 0.0
            mix, mix_spread = np.full(size, np.nan), np.full(size, np.inf)
        return replace(
            self,
            classes=classes,
            precision=self.precision.take(rows),
            recall=self.recall.take(rows),
            joint=joint,
            mix=mix,
            mix_spread=mix_spread,
            mix_effective=mix_effective,
        )


def _completed(level: ReferenceLevel, other: ReferenceLevel) -> ReferenceLevel:
    """Return `level` with what only `other` (of the same class list) knows; a mix of another list is none."""
    precision, recall = level.precision.filled(other.precision), level.recall.filled(other.recall)
    if np.isnan(level.mix).any():
        level = replace(
            level, joint=other.joint, mix=other.mix, mix_spread=other.mix_spread, mix_effective=other.mix_effective
        )
    return replace(level, precision=precision, recall=recall)


def reference_obstacle(estimates: Estimates) -> str | None:
    """Return why the window of `estimates` cannot be what a service is held to, or None when it can.

    Answers to the least confident predictions alone say nothing of the others, however many they are.
    """
    if estimates.labelled == 0:
        return "it has no settled labels"
    if estimates.unanswered_overall > MOST_UNANSWERED:
        share = 100 * estimates.unanswered_overall
        return f"{share:.0f} % of its predictions are in classes and confidence bins where nobody answered"
    return None


def reference_from(estimates: Estimates, window: str) -> ReferenceLevel:
    """Return the reference level that `estimates` of the complete window named `window` set.

    A class with more than MOST_UNANSWERED of its predictions where nobody answered is left without one.
    """
    blind = estimates.unanswered > MOST_UNANSWERED
    return ReferenceLevel(
        classes=estimates.classes,
        window=window,
        precision=_level(estimates.precision).without(blind),
        recall=_level(estimates.recall).without(blind),
        joint=estimates.joint,
        mix=estimates.mix,
        mix_spread=estimates.mix_spread,
        mix_effective=estimates.mix_effective,
        labels=estimates.labelled,
    )


def extended(reference: ReferenceLevel, estimates: Estimates) -> tuple[ReferenceLevel, tuple[str, ...]]:
    """Return `reference` under the class list of `estimates`, and the classes that got their level from `estimates`.

    What has a level keeps it. A class without one, such as a class new to the model, is held from now on to the first
    window that measured it. Under a new class list the mix is that of this window, too: another list has no comparable
    one. The classes are empty where there is nothing to add, or `estimates` may not be a reference.
    """
    known = reference.for_classes(estimates.classes)
    if reference_obstacle(estimates) is not None:
        return known, ()
    wider = _completed(known, reference_from(estimates, known.window))
    added = np.isnan(known.precision.value) & ~np.isnan(wider.precision.value)
    names = tuple(estimates.classes[k] for k in np.flatnonzero(added))
    return (wider, names) if names else (known, ())


def bettered(reference: ReferenceLevel, estimates: Estimates, window: str) -> ReferenceLevel:
    """Return the level that the better window named `window` sets; who was not measured in it keeps the one before."""
    return _completed(reference_from(estimates, window), reference.for_classes(estimates.classes))


def next_level(
    level: ReferenceLevel, estimates: Estimates, window: str, *, suspected: bool, rules: Monitor
) -> tuple[Literal["kept", "replaced", "extended"], ReferenceLevel, tuple[str, ...]]:
    """Return what the final judgement of `window` makes of the reference `level`, and the classes new to it.

    A significantly better window replaces it, unless some class is `suspected`. Else it may give new classes a level.
    """
    usable = reference_obstacle(estimates) is None
    if usable and not suspected and significantly_better(estimates, level, rules):
        return "replaced", bettered(level, estimates, window), ()
    wider, added = extended(level, estimates)
    return ("extended", wider, added) if added else ("kept", level, ())


def significantly_better(estimates: Measured, reference: Held, rules: Monitor) -> bool:
    """Return whether `estimates` may replace `reference`: some class shown better, and none suspected worse.

    Better: the lower bound of the difference in precision is above 0 at `alpha_precision` shared over the classes.
    Worse: the upper bound is below 0 at `alpha_suspect`. The bounds combine as in the trigger.
    """
    known = reference.for_classes(estimates.classes).precision
    now = estimates.precision
    alpha = rules.alpha_precision / len(estimates.classes)
    difference = now.value - known.value
    gain = difference - np.hypot(now.value - now.lower(alpha), known.upper(alpha) - known.value)
    suspect = rules.alpha_suspect
    loss = difference + np.hypot(now.upper(suspect) - now.value, known.value - known.lower(suspect))
    return bool((gain > 0).any() and not (loss < 0).any())


def _level(rates: Rates) -> Level:
    return Level(rates.value, rates.smoothed, rates.process_effective)


def _level_as_json(level: Level) -> dict[str, list[float | None]]:
    return {
        "value": _numbers(level.value),
        "smoothed": _numbers(level.smoothed),
        "effective": _numbers(level.effective),
    }


def _level_from_json(content: Mapping[str, Any], classes: int) -> Level:
    return Level(*(_array(content[key], classes) for key in ("value", "smoothed", "effective")))


def _numbers(values: FloatArray) -> list[float | None]:
    return [None if math.isnan(value) else float(value) for value in values]


def _unseen_as_inf(spread: FloatArray) -> FloatArray:
    return np.where(np.isnan(spread), np.inf, spread)


def _array(values: list[float | None], classes: int) -> FloatArray:
    if len(values) != classes:
        raise ValueError(f"{len(values)} numbers for {classes} classes")
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)
