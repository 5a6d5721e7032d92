"""The true accuracy of predictions, which only a simulation knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from components.errors import DataError


@dataclass(frozen=True, slots=True)
class TrueAccuracy:
    """One class: how often it was predicted, how often it was true, and the two shares that were right (or None)."""

    name: str
    predicted: int
    actual: int
    precision: float | None
    recall: float | None

    def as_json(self) -> dict[str, Any]:
        """Return the shape `demo --json` prints."""
        return {
            "name": self.name,
            "predicted": self.predicted,
            "actual": self.actual,
            "precision": None if self.precision is None else round(self.precision, 5),
            "recall": None if self.recall is None else round(self.recall, 5),
        }


def true_accuracy(predicted: Sequence[str], truth: Sequence[str], classes: Sequence[str]) -> list[TrueAccuracy]:
    """Return every class of `classes`, with its true precision and recall over (N,) predictions and (N,) truths.

    A truth outside `classes` makes its prediction wrong. Raises DataError if the lengths differ.
    """
    if len(predicted) != len(truth):
        raise DataError(f"{len(predicted)} predictions and {len(truth)} truths; they must be of the same images")
    times_predicted, times_true = Counter(predicted), Counter(truth)
    right = Counter(guess for guess, true in zip(predicted, truth, strict=True) if guess == true)
    return [
        TrueAccuracy(
            name=name,
            predicted=times_predicted[name],
            actual=times_true[name],
            precision=right[name] / times_predicted[name] if times_predicted[name] else None,
            recall=right[name] / times_true[name] if times_true[name] else None,
        )
        for name in classes
    ]


def share_right(predicted: Sequence[str], truth: Sequence[str]) -> float | None:
    """Return the share of predictions that are right; None of none."""
    if not predicted:
        return None
    return sum(guess == true for guess, true in zip(predicted, truth, strict=True)) / len(predicted)
