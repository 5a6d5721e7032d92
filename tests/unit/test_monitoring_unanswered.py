"""Where nobody answered, nothing is claimed: no accuracy, no `ok`, no reference, and each time a reason in words.

A small world: five classes, four confidence bins, accuracy rising with confidence, half of all predictions in the most
confident bin.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from components.errors import DataError
from components.monitoring.estimation.accuracy import check_counts, estimate
from components.monitoring.judgement.policy import (
    Judgement,
    ReferenceLevel,
    bettered,
    extended,
    judge,
    reference_from,
    reference_obstacle,
)
from components.monitoring.sampling.one_class import allocate
from components.params import Monitor
from components.records import ClassState, StratumCounts

IntArray = NDArray[np.int64]
RULES, NAMES, K, B = Monitor(), ("ant", "bee", "cow", "dog", "elk"), 5, 4
ACCURACY = np.array([0.35, 0.60, 0.85, 0.985])
CONFIDENCE = np.array([0.45, 0.72, 0.92, 0.99])
POPULATION = np.array(
    [
        [600, 900, 1500, 3000],
        [600, 800, 1000, 1600],
        [100, 200, 400, 1300],
        [800, 800, 800, 1600],
        [400, 400, 1200, 2000],
    ]
)
NOBODY = np.zeros((K, B), np.int64)


def counts_of(right: IntArray, labelled: IntArray, drawn: IntArray) -> StratumCounts:
    answers = np.zeros((K, B, K + 1), np.int64)
    for k in range(K):
        answers[k, :, k], answers[k, :, (k + 1) % K] = right[k], labelled[k] - right[k]
    return StratumCounts(NAMES, POPULATION, labelled, answers, drawn, np.tile(CONFIDENCE, (K, 1)))


def month(
    seed: int,
    answered: Callable[[IntArray], IntArray] = lambda drawn: drawn,
    accuracy: NDArray[np.float64] = ACCURACY,
    budget: int = 500,
) -> tuple[StratumCounts, float]:
    """A month's counts and its true accuracy; `answered` says how many of the tasks of a stratum were."""
    rng = np.random.default_rng(seed)
    drawn = allocate(counts_of(NOBODY, NOBODY, NOBODY), budget)
    right = rng.binomial(POPULATION, np.broadcast_to(accuracy, (K, B)))
    labelled = answered(drawn)
    found = rng.hypergeometric(right, POPULATION - right, labelled)
    return counts_of(found, labelled, drawn), float(right.sum() / POPULATION.sum())


def least_confident(bins: int) -> Callable[[IntArray], IntArray]:
    return lambda drawn: np.where(np.arange(B) < bins, drawn, 0)


def but_sure_bees(drawn: IntArray) -> IntArray:
    return np.where((np.arange(K)[:, None] == 1) & (np.arange(B) == 3), 0, drawn)


@pytest.fixture
def reference() -> ReferenceLevel:
    return reference_from(estimate(month(1, budget=2500)[0]), "2026-01")


def judged(counts: StratumCounts, reference: ReferenceLevel) -> Judgement:
    return judge(estimate(counts), counts, reference, RULES, "topped-up")


@pytest.mark.parametrize("bins", [1, 2, 3])
def test_the_least_confident_answers_alone_give_no_overall_accuracy(bins: int) -> None:
    estimates = estimate(month(bins, least_confident(bins))[0])
    assert estimates.accuracy is None
    assert estimates.calibration_error is None
    assert estimates.unanswered_overall > 0.4


def test_a_few_unanswered_strata_leave_the_overall_accuracy_honest() -> None:
    held = []
    for seed in range(100):
        counts, truth = month(seed, but_sure_bees)
        accuracy = estimate(counts).accuracy
        assert accuracy is not None
        held.append(accuracy.low <= truth <= accuracy.high)
    assert np.mean(held) >= 0.93


def test_a_class_nobody_answered_about_where_it_is_sure_is_not_ok(reference: ReferenceLevel) -> None:
    fallen = np.tile(ACCURACY, (K, 1))
    fallen[1, 3] = 0.5
    for seed in range(50):
        bee = judged(month(seed, but_sure_bees, fallen)[0], reference).classes[1]
        assert bee.state in (ClassState.INSUFFICIENT, ClassState.ALARM)
        assert bee.state is ClassState.ALARM or "nobody answered" in bee.reasons[-1]


@pytest.mark.parametrize("bins", [1, 2, 3])
def test_the_least_confident_answers_alone_make_no_reference(bins: int) -> None:
    estimates = estimate(month(5, least_confident(bins), budget=2500)[0])
    assert "nobody answered" in str(reference_obstacle(estimates))
    blind = reference_from(estimates, "2026-01")
    assert np.isnan(blind.precision.value).all()
    assert {c.state for c in judged(month(6)[0], blind).classes} == {ClassState.NO_REFERENCE}


def test_a_complete_window_may_be_the_reference(reference: ReferenceLevel) -> None:
    assert reference_obstacle(estimate(month(1, budget=2500)[0])) is None
    assert np.isfinite(reference.precision.value).all()
    assert "no settled labels" in str(reference_obstacle(estimate(month(1, lambda drawn: 0 * drawn)[0])))


def test_a_class_without_a_level_gets_it_from_the_first_window_that_measures_it(reference: ReferenceLevel) -> None:
    names = (*NAMES[:4], "yak")
    counts = replace(month(8)[0], classes=names)
    found = judged(counts, reference).classes[4]
    assert found.state is ClassState.NO_REFERENCE
    assert found.reasons == ("no reference level yet: the first window that measures this class sets it",)

    wider, added = extended(reference, estimate(counts))
    assert added == ("yak",)
    assert wider.classes == names
    np.testing.assert_array_equal(wider.precision.value[:4], reference.precision.value[:4])
    assert np.isfinite(wider.mix).all()
    assert judged(counts, wider).classes[4].state is ClassState.OK
    again, more = extended(wider, estimate(replace(month(9)[0], classes=names)))
    assert more == ()
    np.testing.assert_array_equal(again.precision.value, wider.precision.value)


def test_nothing_is_added_from_a_window_that_could_be_no_reference(reference: ReferenceLevel) -> None:
    blind = estimate(replace(month(8, least_confident(2))[0], classes=(*NAMES[:4], "yak")))
    assert extended(reference, blind)[1] == ()


def test_a_better_window_keeps_the_level_of_what_it_did_not_measure(reference: ReferenceLevel) -> None:
    better = bettered(reference, estimate(month(9, but_sure_bees)[0]), "2026-05")
    assert better.window == "2026-05"
    assert better.precision.value[1] == reference.precision.value[1]
    assert better.precision.value[0] != reference.precision.value[0]


def test_words_about_a_class_no_longer_predicted_hold_no_nan(reference: ReferenceLevel) -> None:
    counts, _ = month(3)
    gone = np.arange(K) == 2
    empty = replace(
        counts,
        population=np.where(gone[:, None], 0, counts.population),
        labelled=np.where(gone[:, None], 0, counts.labelled),
        drawn=np.where(gone[:, None], 0, counts.drawn),
        answers=np.where(gone[:, None, None], 0, counts.answers),
        confidence=np.where(gone[:, None], np.nan, counts.confidence),
    )
    cow = judged(empty, reference).classes[2]
    assert cow.reasons[-1] == "never predicted in this window: its precision cannot be judged"
    assert not any("nan" in reason for reason in cow.reasons)


def test_where_no_class_could_be_judged_the_reason_says_so(reference: ReferenceLevel) -> None:
    strangers = replace(month(8)[0], classes=tuple("vwxyz"))
    assert judged(strangers, reference).decision.reason == "no class could be judged: 5 no-reference"
    one = replace(month(8)[0], classes=(*NAMES[:4], "yak"))
    assert judged(one, reference).decision.reason == (
        "no class is shown to have fallen, 1 of 5 could not be judged: 1 no-reference"
    )
    assert judged(month(8)[0], reference).decision.reason == "no class is shown to have fallen"


def test_more_labels_than_tasks_are_refused() -> None:
    with pytest.raises(DataError, match="'ant', confidence bin 0 has more labels than tasks"):
        check_counts(replace(month(6)[0], drawn=NOBODY))


def test_a_confidence_that_is_no_number_leaves_the_calibration_error_unknown() -> None:
    confidence = np.tile(CONFIDENCE, (K, 1))
    confidence[2, 1] = np.nan
    estimates = estimate(replace(month(7)[0], confidence=confidence))
    assert estimates.calibration_error is None
    assert estimates.accuracy is not None
