"""The level of accuracy a service is held to: its first complete production window, measured by the same people.

It belongs to the service, not to one model: a promotion keeps it. A test set would misfire as reference, being labels
of another process on another mix.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.errors import DataError
from components.monitoring.accuracy import Estimates
from components.monitoring.rates import Rates, lower_bound, upper_bound
from components.params import Monitor

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
                f"stored reference level is malformed ({error}); reset the reference to write it anew"
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


def reference_from(estimates: Estimates, window: str) -> ReferenceLevel:
    """Return the reference level that `estimates` of the complete window named `window` set."""
    return ReferenceLevel(
        classes=estimates.classes,
        window=window,
        precision=_level(estimates.precision),
        recall=_level(estimates.recall),
        joint=estimates.joint,
        mix=estimates.mix,
        mix_spread=estimates.mix_spread,
        mix_effective=estimates.mix_effective,
        labels=estimates.labelled,
    )


def significantly_better(estimates: Estimates, reference: ReferenceLevel, rules: Monitor) -> bool:
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
