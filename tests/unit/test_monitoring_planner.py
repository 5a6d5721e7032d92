from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from components.errors import DataError
from components.monitoring.estimation.accuracy import recall_shares, truth_shares
from components.monitoring.sampling.planner import Plan, answer_shares, dropped, plan
from components.operations.monitoring.planning import _advice, draw_curve
from components.params import Labelling, Monitor
from components.records import StratumCounts

CLASSES = ("cat", "dog", "owl")


def counts(labelled: int = 40, *, population: int = 2000, right: float = 0.95) -> StratumCounts:
    shape = (3, 4)
    people = np.full(shape, population, np.int64)
    answers = np.zeros((3, 4, 4), np.int64)
    wrong = round(labelled * (1 - right))
    for k in range(3):
        answers[k, :, k] = labelled - wrong
        answers[k, :, (k + 1) % 3] = wrong
    n = np.full(shape, labelled, np.int64)
    return StratumCounts(CLASSES, people, n, answers, n, np.full(shape, right))


def planned(**changes: object) -> Plan:
    asked = {"drop": 0.15, "power": 0.8, "trials": 90, "seed": 1, **changes}
    return plan(asked.pop("counts", counts()), Monitor(), Labelling(), **asked)


def test_shares_are_distributions_near_the_answers():
    shares = answer_shares(counts())
    np.testing.assert_allclose(shares.sum(axis=2), 1)
    assert shares[0, 0, 0] == pytest.approx(0.95, abs=0.01)
    assert shares[0, 0, 1] > 10 * shares[0, 0, 2]


def test_shares_are_those_the_recall_estimate_takes():
    some = counts()
    whole = truth_shares(some)
    for k in range(3):
        np.testing.assert_array_equal(whole[:, :, k], recall_shares(some, k))


def test_without_labels_confidence_stands_for_accuracy():
    shares = answer_shares(counts(0))
    np.testing.assert_allclose(shares.sum(axis=2), 1)
    assert shares[2, 1].tolist() == pytest.approx([0.025, 0.025, 0.95, 0])


def test_a_drop_takes_from_one_class_alone_and_gives_to_its_errors():
    before = answer_shares(counts())
    after = dropped(before, 1, 0.1)
    np.testing.assert_allclose(after[1, :, 1], before[1, :, 1] - 0.1)
    np.testing.assert_allclose(after.sum(axis=2), 1)
    np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])
    sure = np.zeros((2, 1, 3))
    sure[[0, 1], 0, [0, 1]] = 1
    assert dropped(sure, 0, 0.3)[0, 0].tolist() == pytest.approx([0.7, 0.3, 0])
    assert dropped(sure, 0, 2.0)[0, 0].tolist() == pytest.approx([0, 1, 0])


def test_more_labels_find_more_and_the_first_that_suffice_are_chosen():
    result = planned()
    labels = [budget.labels for budget in result.curve]
    assert labels == sorted(labels)
    assert result.curve[0].found < 0.8 <= result.chosen.found
    assert result.chosen is result.curve[-1]
    assert result.chosen.labels == result.chosen.by_class.sum()
    assert result.chosen.months_to_alarm == pytest.approx(1 / result.chosen.found)
    assert result.chosen.labels < 1.25 * result.curve[-2].labels
    assert all(budget.false_alarms <= 0.05 for budget in result.curve)
    assert np.isfinite(result.chosen.found_by_class).all()


def test_a_budget_of_weeks_is_told_in_weeks_and_its_false_alarms_by_the_year():
    month, week = planned(trials=30), planned(trials=30, length="week")
    assert week.chosen.found == month.chosen.found
    assert week.chosen.windows_to_alarm == month.chosen.windows_to_alarm == month.chosen.months_to_alarm
    assert week.chosen.months_to_alarm == pytest.approx(week.chosen.windows_to_alarm * 12 / 52.18, rel=1e-3)
    assert replace(week.chosen, false_alarms=0.01).false_alarms_a_year == pytest.approx(0.5218, rel=1e-3)
    assert replace(month.chosen, false_alarms=0.01).false_alarms_a_year == pytest.approx(0.12)
    assert "% of weeks with" in _advice(week, 0.05, 24_000)


def test_a_smaller_drop_and_a_larger_power_cost_more():
    base = planned().chosen.labels
    assert planned(drop=0.10).chosen.labels > 1.3 * base
    assert planned(power=0.97).chosen.labels > base


def test_a_plan_is_the_same_twice():
    assert [b.found for b in planned(trials=30).curve] == [b.found for b in planned(trials=30).curve]


def test_a_drop_within_the_tolerance_is_never_found_and_the_advice_says_why():
    result = planned(drop=0.03, trials=30)
    assert result.chosen is None
    assert result.curve[-1].labels == Labelling().max_labels
    assert "lets a class fall by monitor.tolerance, 5 points" in _advice(result, 0.05, 24_000)


def test_all_that_can_be_drawn_may_not_be_enough():
    result = planned(counts=counts(population=10, labelled=10), trials=30)
    assert result.chosen is None
    assert result.curve[-1].labels == 120
    assert "at most, with 120 labels" in _advice(result, 0.05, 120)


def test_a_class_nobody_predicts_and_an_empty_month():
    some = counts()
    for values in (some.population, some.labelled, some.answers, some.drawn):
        values[2] = 0
    some.confidence[2] = np.nan
    some.answers[1, :, [0, 2]] = some.answers[1, :, [2, 0]]  # no owl among the dogs either
    result = planned(counts=some, drop=0.3, trials=60)
    assert result.chosen.by_class[2] == 0
    assert np.isnan(result.chosen.found_by_class[2])
    nothing = np.zeros((3, 4), np.int64)
    empty = replace(some, population=nothing, labelled=nothing, drawn=nothing, answers=np.zeros((3, 4, 4), np.int64))
    with pytest.raises(DataError, match="nothing to plan"):
        planned(counts=empty)


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_the_curve_is_drawn(tmp_path: Path, suffix: str):
    draw_curve(planned(trials=30), tmp_path / f"plan.{suffix}")
    assert (tmp_path / f"plan.{suffix}").stat().st_size > 5_000
