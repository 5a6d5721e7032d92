from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from components.errors import DataError
from components.monitoring.comparison.change import change_since
from components.monitoring.estimation.accuracy import estimate
from components.monitoring.estimation.pooling import is_answered, pool
from components.params import Monitor
from components.records import StratumCounts

CLASSES = ("cat", "dog")


def window(right: int, labels: int = 100, population: int = 1000) -> StratumCounts:
    """Two confidence bins; of `labels` answers in each, `right` agree that a cat is one, and all that a dog is."""
    answers = np.zeros((2, 2, 3), np.int64)
    answers[0, :, 0], answers[0, :, 1] = right, labels - right
    answers[1, :, 1] = labels
    labelled = answers.sum(axis=2)
    return StratumCounts(CLASSES, np.full((2, 2), population), labelled, answers, labelled, np.full((2, 2), 0.9))


def test_windows_weigh_as_many_predictions_as_they_hold() -> None:
    pooled = estimate(pool([window(90), window(60, population=3000)]))
    assert pooled.predicted.tolist() == [8000, 8000]
    assert pooled.precision.value == pytest.approx([(2000 * 0.9 + 6000 * 0.6) / 8000, 1])
    assert pooled.precision.labels.tolist() == [400, 400]


def test_variances_add_up_window_by_window() -> None:
    one, other = window(90), window(60, population=3000)
    variance = [
        rates.smoothed[0] * (1 - rates.smoothed[0]) / rates.effective[0]
        for rates in (estimate(counts).precision for counts in (one, other, pool([one, other])))
    ]
    assert variance[2] == pytest.approx((0.25**2 * variance[0] + 0.75**2 * variance[1]), rel=1e-9)


def test_a_window_with_a_confidence_bin_nobody_answered_tells_nothing() -> None:
    some = window(90)
    assert is_answered(some)
    answers = some.answers.copy()
    answers[:, 1] = 0
    assert not is_answered(replace(some, answers=answers, labelled=answers.sum(axis=2)))
    population = some.population.copy()
    population[:, 1] = 0
    assert is_answered(replace(some, answers=answers, labelled=answers.sum(axis=2), population=population))
    assert not is_answered(window(0, labels=0))


def test_no_window_and_windows_of_other_classes_are_refused() -> None:
    with pytest.raises(DataError, match="no window to pool"):
        pool([])
    with pytest.raises(DataError, match=r"\('cat', 'dog'\) and of \('cat', 'owl'\) cannot be pooled"):
        pool([window(90), replace(window(90), classes=("cat", "owl"))])


def test_a_fall_is_told_in_words_and_a_rise_is_none() -> None:
    before, now = estimate(window(95)), estimate(window(60))
    fallen = change_since(before, "2026-W45", now, Monitor())
    assert set(fallen.fallen) == {"cat", "dog"}  # what is called a cat and is a dog is missed by the dogs
    assert fallen.fallen["cat"][0].startswith("precision 95.0 % to 60.0 % (-35.0 points, 95 % interval -4")
    told = fallen.as_json()
    assert (told["window"], told["note"]) == ("2026-W45", "information: no alarm and no retraining follows from it")
    assert told["classes"][0]["precision"]["fell"]
    assert told["fell"][0].startswith("cat: precision 95.0 % to 60.0 %")
    risen = change_since(now, "2026-W46", before, Monitor())
    assert risen.fallen == {}
    assert risen.precision[0].value == pytest.approx(0.35)
