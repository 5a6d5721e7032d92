"""Doubted labels where images carry several."""

from __future__ import annotations

import numpy as np
import pytest

from components.errors import DataError
from components.labels.issues import find_set_issues
from components.labels.set_audit import label_rows, set_findings, shown_sets, unjudgeable_labels
from components.labels.suspects import soft_targets
from components.model.out_of_fold.folds import rarest_labels

CLASSES = ("a", "b", "c", "all")


def planted(images: int = 600) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Given labels, probabilities, and which labels were turned round (N, K)."""
    rng = np.random.default_rng(0)
    truth = (rng.random((images, 4)) < (0.5, 0.3, 0.2, 2.0)).astype(np.int64)
    wrong = rng.random(truth.shape) < 0.04
    wrong[:, 3] = False
    probabilities = np.clip(0.08 + 0.84 * truth + rng.normal(0, 0.06, truth.shape), 0.01, 0.99)
    return truth ^ wrong, probabilities.astype(np.float32), wrong


def test_planted_errors_are_found_label_by_label() -> None:
    given, probabilities, wrong = planted()
    issues = find_set_issues(given, probabilities)
    found = issues.doubted & wrong
    assert found.sum() >= 0.5 * wrong.sum()  # confident learning names as many as it is sure of
    assert found.sum() >= 0.9 * issues.doubted.sum()
    assert not issues.doubted[:, 3].any()  # every image has it: nothing to compare with
    assert issues.score[wrong.any(axis=1)].mean() < issues.score[~wrong.any(axis=1)].mean() - 0.3


def test_what_is_no_probability_or_of_another_shape_is_refused() -> None:
    given, probabilities, _ = planted(20)
    with pytest.raises(DataError, match="must match"):
        find_set_issues(given[:5], probabilities)
    probabilities[3, 1] = np.nan
    with pytest.raises(DataError, match="no probabilities"):
        find_set_issues(given, probabilities)


def test_findings_name_the_sets_and_the_least_believed_label() -> None:
    given, probabilities, wrong = planted()
    issues = find_set_issues(given, probabilities)
    ids = [f"{n:064x}" for n in range(len(given))]
    found = list(set_findings(ids, given, issues, probabilities, CLASSES))
    assert [one.image_id for one in found] == [ids[n] for n in np.flatnonzero(issues.suspect)]
    row = int(np.flatnonzero((issues.doubted & wrong)[:, 0])[0])
    one = next(finding for finding in found if finding.image_id == ids[row])
    assert one.given != one.likely and "is believed with" in one.words
    rows = label_rows(given, issues, probabilities, np.array([1]), CLASSES)
    assert [(r["name"], r["judged"]) for r in rows] == [("a", True), ("b", False), ("c", True), ("all", True)]
    assert rows[0]["suspects"] == int(issues.doubted[:, 0].sum())


def test_sets_strata_and_what_no_fold_can_judge() -> None:
    given = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0]])
    assert shown_sets(given, CLASSES) == ["a | b", "a", "none of them", "a | b", "c"]
    assert rarest_labels(given).tolist() == [1, 0, 4, 1, 2]
    assert unjudgeable_labels(["g", "g", "h", "i", "j"], given, 2).tolist() == [2]


def test_soft_targets_of_sets_take_the_models_word_for_doubted_rows_alone() -> None:
    given = np.array([[1, 0], [1, 1]])
    probabilities = np.array([[0.2, 0.9], [0.5, 0.5]], np.float32)
    found = soft_targets(given, probabilities, np.array([True, False]))
    assert found == pytest.approx(np.array([[0.2, 0.9], [1.0, 1.0]]))
