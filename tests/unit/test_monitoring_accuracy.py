"""Estimators against hand calculations and against full knowledge."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from components.errors import DataError
from components.monitoring.estimation.accuracy import estimate
from components.monitoring.estimation.rates import lower_bound, upper_bound, wilson_interval
from components.records import StratumCounts


def counts_of(population, answers, confidence=0.9, drawn=None):
    population, answers = np.asarray(population, dtype=np.int64), np.asarray(answers, dtype=np.int64)
    labelled = answers.sum(axis=2)
    names = tuple(f"c{k}" for k in range(len(population)))
    drawn = labelled if drawn is None else drawn
    return StratumCounts(names, population, labelled, answers, drawn, np.full(population.shape, confidence))


@pytest.fixture
def small():
    population = [[10, 90], [40, 160]]
    answers = [[[3, 1, 0], [19, 1, 0]], [[2, 6, 2], [0, 20, 0]]]
    return counts_of(population, answers, confidence=np.array([[0.6, 0.95], [0.7, 0.95]]))


def test_precision_and_its_effective_labels_follow_the_formulas(small):
    p_bin = np.array([(3 + 6 + 0.5) / (4 + 10 + 1), (19 + 20 + 0.5) / (20 + 20 + 1)])
    N, n, x = np.array([10.0, 90.0]), np.array([4.0, 20.0]), np.array([3.0, 19.0])
    W, f = N / 100, n / N
    smooth = (x + 2 * p_bin) / (n + 2)
    V = (W**2 * (1 - f) * smooth * (1 - smooth) / (n - 0.5)).sum()
    V0 = (W**2 * smooth * (1 - smooth) / (n - 0.5)).sum()
    P = (W * smooth).sum()
    rates = estimate(small).precision
    assert rates.value[0] == pytest.approx(0.1 * 3 / 4 + 0.9 * 19 / 20)
    assert rates.smoothed[0] == pytest.approx(P)
    assert rates.effective[0] == pytest.approx(P * (1 - P) / V)
    assert rates.process_effective[0] == pytest.approx(P * (1 - P) / V0)
    assert rates.variance()[0] == pytest.approx(V0)
    assert rates.labels.tolist() == [24, 30]


def test_recall_and_its_effective_labels_follow_the_formulas(small):
    p_bin = np.array([9.5 / 15, 39.5 / 41])
    T = 100 * (0.1 * 3 / 4 + 0.9 * 19 / 20)
    F = 40 * 2 / 10 + 160 * 0 / 20
    estimates = estimate(small)
    assert estimates.recall.value[0] == pytest.approx(T / (T + F))
    prior = (1 - p_bin) * 100 / (300 - 200)
    n = np.array([10.0, 20.0])
    missed = (np.array([2.0, 0.0]) + 2 * prior) / (n + 2)
    N = np.array([40.0, 160.0])
    F_smooth = (N * missed).sum()
    V_F = (N**2 * missed * (1 - missed) / (n - 0.5)).sum()
    T_smooth = 100 * estimates.precision.smoothed[0]
    V_T = 100**2 * estimates.precision.variance()[0]
    R = T_smooth / (T_smooth + F_smooth)
    V = (F_smooth**2 * V_T + T_smooth**2 * V_F) / (T_smooth + F_smooth) ** 4
    assert estimates.recall.smoothed[0] == pytest.approx(R)
    assert estimates.recall.process_effective[0] == pytest.approx(R * (1 - R) / V)
    assert estimates.recall.labels.tolist() == [24, 28]


def test_a_census_is_exact():
    answers = [[[6, 1, 0], [80, 5, 5]], [[3, 30, 1], [2, 150, 8]]]
    population = np.asarray(answers).sum(axis=2)
    estimates = estimate(counts_of(population, answers))
    np.testing.assert_allclose(estimates.precision.value, [86 / 97, 180 / 194])
    np.testing.assert_allclose(estimates.recall.value, [86 / 91, 180 / 186])
    assert (estimates.precision.high - estimates.precision.low < 0.002).all()
    assert estimates.complete.all()
    assert estimates.accuracy.value == pytest.approx(266 / 291)
    np.testing.assert_allclose(estimates.mix, [91 / 277, 186 / 277])


def test_the_process_is_less_well_known_than_a_census_of_one_window():
    answers = [[[0, 0, 0], [45, 5, 0]], [[0, 0, 0], [5, 45, 0]]]
    rates = estimate(counts_of([[0, 50], [0, 50]], answers)).precision
    assert rates.effective[0] > 1e6
    assert rates.process_effective[0] < 60


def test_the_intervals_use_the_t_quantile_of_the_labels(small):
    rates = estimate(small).precision
    t = stats.t.ppf(0.975, 24 - 4)
    n, p = rates.effective[0], rates.value[0]
    centre = (p + t**2 / (2 * n)) / (1 + t**2 / n)
    half = t / (1 + t**2 / n) * np.sqrt(p * (1 - p) / n + t**2 / (4 * n**2))
    assert (rates.low[0], rates.high[0]) == pytest.approx((centre - half, centre + half))


def test_wilson_agrees_with_statsmodels_for_many_labels():
    low, high = wilson_interval(np.array([0.9]), np.array([50.0]), np.array([10**9]))
    assert (low[0], high[0]) == pytest.approx(proportion_confint(45, 50, 0.05, "wilson"))


@pytest.mark.parametrize(("right", "labels"), [(0, 10), (1, 10), (45, 50), (10, 10), (199, 200)])
@pytest.mark.parametrize("alpha", [0.1, 0.01, 0.001])
def test_one_sided_bounds_agree_with_statsmodels(right, labels, alpha):
    low, high = proportion_confint(right, labels, 2 * alpha, "beta")
    value, effective = np.array([right / labels]), np.array([float(labels)])
    assert lower_bound(value, effective, alpha)[0] == pytest.approx(low, abs=1e-9)
    assert upper_bound(value, effective, alpha)[0] == pytest.approx(high, abs=1e-9)


def test_bounds_of_the_unmeasured_stay_unmeasured():
    nothing = np.array([np.nan])
    assert np.isnan(lower_bound(nothing, nothing, 0.1)[0])
    assert np.isnan(upper_bound(nothing, nothing, 0.1)[0])


def test_an_unlabelled_stratum_takes_the_accuracy_of_its_bin():
    answers = [[[0, 0, 0], [18, 2, 0]], [[4, 16, 0], [0, 20, 0]]]
    rates = estimate(counts_of([[50, 50], [100, 100]], answers)).precision
    assert rates.value[0] == pytest.approx(0.5 * (16.5 / 21) + 0.5 * 0.9)


def test_a_class_without_predictions_has_no_precision_and_its_recall_is_zero_once_seen():
    answers = np.zeros((3, 1, 4), dtype=np.int64)
    answers[1, 0] = [12, 12, 0, 0]
    answers[2, 0] = [0, 0, 20, 0]
    estimates = estimate(counts_of([[0], [500], [500]], answers))
    assert np.isnan(estimates.precision.value[0])
    assert estimates.precision.interval(0) is None
    assert estimates.recall.value[0] == 0
    assert estimates.recall.process_effective[0] == 12
    assert estimates.recall.upper(0.0005)[0] < 0.55


def test_a_class_nobody_predicted_or_saw_says_nothing():
    answers = np.zeros((2, 1, 3), dtype=np.int64)
    answers[1, 0] = [0, 20, 0]
    estimates = estimate(counts_of([[0], [500]], answers))
    assert estimates.recall.interval(0) is None
    assert estimates.recall.value[1] == pytest.approx(1)


def test_no_labels_at_all_say_nothing():
    estimates = estimate(counts_of([[30, 40], [20, 10]], np.zeros((2, 2, 3), dtype=np.int64)))
    assert np.isnan(estimates.precision.value).all()
    assert np.isnan(estimates.recall.value).all()
    assert estimates.accuracy is None
    assert estimates.calibration_error is None
    assert estimates.labelled == 0


def test_an_answer_outside_the_classes_is_wrong_and_nobodys_recall():
    answers = [[[8, 0, 2]], [[0, 10, 0]]]
    estimates = estimate(counts_of([[10], [10]], answers))
    assert estimates.precision.value[0] == pytest.approx(0.8)
    np.testing.assert_allclose(estimates.recall.value, [1, 1])
    np.testing.assert_allclose(estimates.mix, [8 / 18, 10 / 18])


def test_the_calibration_error_is_weighted_over_classes_not_strata():
    answers = [[[0, 0, 0], [6, 4, 0]], [[0, 0, 0], [0, 10, 0]]]
    confidence = np.array([[np.nan, 0.8], [np.nan, 0.8]])
    population = [[0, 100], [0, 100]]
    # Each class is off by .2, in opposite directions; together the bin is right.
    assert estimate(counts_of(population, answers, confidence)).calibration_error == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labelled": np.array([[5], [10]])}, "do not add up"),
        ({"population": np.array([[9], [10]])}, "more labels than predictions"),
        ({"answers": np.zeros((2, 1, 2), dtype=np.int64)}, "must be \\(2, 1, 3\\)"),
        ({"classes": ("only",)}, "with 1 classes"),
    ],
)
def test_counts_that_contradict_each_other_are_refused(change, words):
    good = counts_of([[10], [10]], [[[8, 0, 2]], [[0, 10, 0]]])
    fields = {name: getattr(good, name) for name in StratumCounts.__slots__}
    with pytest.raises(DataError, match=words):
        estimate(StratumCounts(**{**fields, **change}))


def test_a_single_answer_is_worth_one_label_of_the_mix():
    answers = np.zeros((2, 2, 3), dtype=np.int64)
    answers[0, 1, 0] = 1
    assert estimate(counts_of([[3000, 4000], [2000, 1000]], answers)).mix_effective <= 1.01
