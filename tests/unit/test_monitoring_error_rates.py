from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from components.monitoring.estimation.accuracy import estimate
from components.monitoring.estimation.annotator_error import AnnotatorError, corrected
from components.monitoring.estimation.error_rates import corrected_error_rates, error_rates
from components.records import StratumCounts

CLASSES = ("cat", "dog", "owl")


def counts(answers: list[list[int]], *, times: int = 50) -> StratumCounts:
    """One confidence bin; answers: (K, K + 1), and `times` as many predictions as labels in every stratum."""
    table = np.array(answers, np.int64)[:, None, :]
    labelled = table.sum(axis=2)
    return StratumCounts(CLASSES, times * labelled, labelled, table, labelled, np.full((3, 1), 0.9))


def test_a_false_positive_is_among_what_is_not_of_the_class_and_other_is_of_none() -> None:
    some = counts([[90, 6, 0, 4], [5, 60, 5, 0], [0, 0, 30, 0]])
    rates = error_rates(some, estimate(some))
    assert [one.value for one in rates.false_positive] == pytest.approx([10 / 105, 10 / 134, 0])
    assert [one.value for one in rates.false_negative] == pytest.approx([5 / 95, 6 / 66, 5 / 35])


def test_an_interval_is_near_wilsons_of_a_sample_of_what_is_not_of_the_class() -> None:
    """Where a class is rare and others are never it, wrong labels among many negatives are a plain binomial share."""
    some = counts([[150, 50, 0, 0], [0, 2000, 0, 0], [0, 0, 2000, 0]], times=1000)
    one = error_rates(some, estimate(some)).false_positive[0]
    of_predicted = np.array(proportion_confint(50, 200, method="wilson"))
    assert (one.low, one.high) == pytest.approx(of_predicted * 200 / 4050, rel=0.03)


def test_a_class_that_is_never_predicted_is_never_wrongly_predicted_and_one_without_labels_says_nothing() -> None:
    some = counts([[90, 0, 10, 0], [0, 0, 0, 0], [0, 0, 40, 0]])
    some.population[1] = 0
    rates = error_rates(some, estimate(some))
    assert (rates.false_positive[1].value, rates.false_positive[1].high) == (0, 0)
    some.population[1] = 700
    assert error_rates(some, estimate(some)).false_positive[1] is None
    nothing = counts([[0] * 4] * 3)
    nothing.population[:] = 100
    rates = error_rates(nothing, estimate(nothing))
    assert rates.false_positive == rates.false_negative == (None,) * 3


def test_where_everything_is_of_the_class_there_is_nothing_to_be_wrong_about() -> None:
    some = counts([[50, 0, 0, 0], [10, 0, 0, 0], [0, 0, 0, 0]])
    assert error_rates(some, estimate(some)).false_positive[0] is None


@pytest.mark.parametrize("error", [0.02, 0.1])
def test_what_annotators_get_wrong_is_taken_out_of_both_rates(error: float) -> None:
    truth = np.array([[9000, 600, 400], [500, 7000, 300], [100, 200, 4000]]) * 1000
    said = error / 2 + (1 - error - error / 2) * np.eye(3)
    answered = np.round(truth @ said).astype(np.int64)
    some = counts(np.column_stack([answered, np.zeros(3, np.int64)]).tolist(), times=2)
    known = AnnotatorError(error, error, error, 10**6, 0)
    rates = corrected_error_rates(some, known, corrected(estimate(some), known))
    wrong = truth.sum(axis=1) - truth.diagonal()
    assert [one.value for one in rates.false_positive] == pytest.approx(
        wrong / (truth.sum() - truth.sum(axis=0)), rel=1e-3
    )
    assert [one.value for one in rates.false_negative] == pytest.approx(
        1 - truth.diagonal() / truth.sum(axis=0), rel=1e-3
    )
    uncertain = AnnotatorError(error, error / 2, 1.5 * error, 100, 0)
    wider = corrected_error_rates(some, uncertain, corrected(estimate(some), uncertain))
    for one, other in zip(rates.false_positive, wider.false_positive, strict=True):
        assert other.low < one.low < one.high < other.high
