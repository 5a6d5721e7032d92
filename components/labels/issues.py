"""Which given labels are hard to believe: the only place that calls cleanlab."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.errors import DataError
from components.model.calibration import rows_at_once

MOST_AT_ONCE = 1000
"""Classes, above which the table of all pairs of them, which cleanlab counts in, is not made: 8 MB each time."""

IntArray = NDArray[np.int64]


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
    of_present = np.searchsorted(present, given)
    find = _find if len(present) <= MOST_AT_ONCE else _find_in_pieces
    return LabelIssues(find(of_present, probabilities, present), score, likely)


def _find(given: IntArray, probabilities: NDArray[np.floating], present: IntArray) -> NDArray[np.bool_]:
    from cleanlab.filter import find_label_issues

    # One job: its worker processes would be forked from a process full of torch's threads.
    # By the label's own probability: 59 % of the suspects were planted errors in a trial, 42 % by its default rule.
    kept = _kept(probabilities, present)
    return np.asarray(find_label_issues(given, kept, filter_by="low_self_confidence", n_jobs=1), dtype=bool)


def _find_in_pieces(given: IntArray, probabilities: NDArray[np.floating], present: IntArray) -> NDArray[np.bool_]:
    """Return the same by cleanlab's way for large data, without a table of all pairs of classes, some rows at a time.

    It counts as wrong only rows whose likeliest class passes that class's threshold, so it may find somewhat fewer.
    """
    from cleanlab.experimental.label_issues_batched import LabelInspector

    inspector = LabelInspector(num_class=len(present), verbose=False, n_jobs=1, store_results=False)
    pieces = list(rows_at_once(probabilities))
    for some in pieces:
        inspector.update_confident_thresholds(given[some], _kept(probabilities[some], present))
    scores, right = [], []
    for some in pieces:
        kept = _kept(probabilities[some], present)
        scores.append(inspector.score_label_quality(given[some], kept))
        right.append(kept.argmax(axis=1) == given[some])
    suspect = np.zeros(len(given), bool)
    suspect[np.argsort(np.concatenate(scores), kind="stable")[: inspector.get_num_issues(silent=True)]] = True
    return np.asarray(suspect & ~np.concatenate(right))


def confident_joint(
    given: NDArray[np.integer], probabilities: NDArray[np.floating], present: IntArray
) -> NDArray[np.int64]:
    """Return the estimated number of rows (C, C) that were given the class of the line and are of the column's.

    present: (C,) the classes that were given, ascending. Calibrated to how often each was given; its sum is N.
    """
    from cleanlab.count import compute_confident_joint

    of_present = np.searchsorted(present, given)
    return np.asarray(compute_confident_joint(of_present, _kept(probabilities, present)), dtype=np.int64)


def _kept(probabilities: NDArray[np.floating], present: IntArray) -> NDArray[np.float64]:
    """Return the columns of the classes `present`: cleanlab needs every column to be some row's label.

    What is left is scaled to sum to one again.
    """
    kept = np.maximum(probabilities[:, present].astype(np.float64), 1e-12)
    kept /= kept.sum(axis=1, keepdims=True)
    return kept


def _check(given: NDArray[np.integer], probabilities: NDArray[np.floating]) -> None:
    if len(given) == 0 or probabilities.ndim != 2 or len(probabilities) != len(given):
        raise DataError(f"the audit got {given.shape} labels and {probabilities.shape} probabilities; they must match")
    if given.min() < 0 or given.max() >= probabilities.shape[1]:
        raise DataError(
            f"the audit got labels {given.min()}..{given.max()} for {probabilities.shape[1]} columns of probabilities"
        )
    bad = np.concatenate([_no_distribution(probabilities[some]) for some in rows_at_once(probabilities)])
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise DataError(
            f"the audit got {int(bad.sum())} rows that are no distribution, the first is row {row}: "
            f"{probabilities[row, :5]}; the fold's training diverged, lower train.learning_rate"
        )


def _no_distribution(probabilities: NDArray[np.floating]) -> NDArray[np.bool_]:
    bad = ~np.isfinite(probabilities).all(axis=1) | (probabilities < 0).any(axis=1)
    return np.asarray(bad | (np.abs(probabilities.sum(axis=1) - 1) > 1e-3))


@dataclass(frozen=True, slots=True)
class LabelSetIssues:
    """One verdict a row. doubted: (N, K) bool, labels whose presence or absence is hard to believe.

    score: (N,) 0..1, low is hard to believe.
    """

    doubted: NDArray[np.bool_]
    score: NDArray[np.float64]

    @property
    def suspect(self) -> NDArray[np.bool_]:
        """Return which rows (N,) have a doubted label."""
        return np.asarray(self.doubted.any(axis=1))


def find_set_issues(given: NDArray[np.integer], probabilities: NDArray[np.floating]) -> LabelSetIssues:
    """Return which of the labels confident learning holds for wrong, where images carry any number of them.

    given: (N, K) of 0 and 1. probabilities: (N, K), each label's own, out of fold. Every label is a problem of two
    classes; one that all rows have, or none, is not judged. The score puts the least believable of a row's labels
    first (Thyagarajan et al. 2022: a mean that forgets exponentially, over labels by falling belief).
    Raises DataError if the shapes differ or a number is no probability.
    """
    from cleanlab.multilabel_classification.filter import find_multilabel_issues_per_class
    from cleanlab.multilabel_classification.rank import get_label_quality_scores

    if given.ndim != 2 or given.shape != probabilities.shape or not len(given):
        raise DataError(f"the audit got {given.shape} labels and {probabilities.shape} probabilities; they must match")
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise DataError("the audit got numbers that are no probabilities; the fold's training diverged, lower "
                        "train.learning_rate")  # fmt: skip
    carried = [np.flatnonzero(row).tolist() for row in given]
    kept = np.clip(probabilities.astype(np.float64), 1e-12, 1 - 1e-12)
    doubted = np.zeros(given.shape, bool)
    both = np.flatnonzero((given.min(axis=0) == 0) & (given.max(axis=0) == 1))
    if len(both):
        of_both = [np.flatnonzero(row).tolist() for row in given[:, both]]
        doubted[:, both] = find_multilabel_issues_per_class(
            of_both, kept[:, both], filter_by="low_self_confidence", n_jobs=1
        )  # fmt: skip
    return LabelSetIssues(doubted, np.asarray(get_label_quality_scores(carried, kept), np.float64))
