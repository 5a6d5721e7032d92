"""The figures that sampling, estimators, trigger and drift tests promise, on few simulated months of known truth.

Limits are those promised over thousands of months, widened by about three standard errors of the months tried here;
tests/benchmarks/bench_monitoring.py measures them on as many months as one likes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import count, islice
from typing import Any

import monitoring_worlds
import numpy as np
import pytest
from monitoring_worlds import (
    CLASSES,
    RULES,
    ManyClasses,
    MonthOfLabels,
    MonthOfStrata,
    Strata,
    both_rules,
    judged,
    month,
    other_worlds,
    precision_only,
    shifted,
    silently_dropped,
    ten_classes,
)

from components.monitoring.drift.findings import minimum_effect_test
from components.monitoring.estimation.accuracy import estimate
from components.monitoring.judgement.policy import ReferenceLevel, reference_from
from components.params import Monitor
from components.records import CONFIDENCE_BINS

BUDGETS = (200, 500, 1000)
REFERENCE_FACTOR = 5
KINDS: dict[str, tuple[float, str] | None] = {"quiet": None, "silent": (10, "silent"), "unsure": (10, "lowconf")}
MONTHS, DRAWS = 30, 6  # of each kind, and of each month: the truth of a month is the same in each of its draws


# --- estimators ------------------------------------------------------------------------------------------------------


@cache
def drawn(kind: str) -> dict[str, np.ndarray]:
    """Return what every draw of every month of a kind said, with the truth beside.

    precision, recall: (budgets, 3, draws, K) value and 95 % bounds; true precision, true recall: (draws, K).
    """
    rng = np.random.default_rng([7, sorted(KINDS).index(kind)])
    said: dict[str, list[np.ndarray]] = {"precision": [], "recall": []}
    truths: dict[str, list[np.ndarray]] = {"precision": [], "recall": []}
    for number in range(MONTHS):
        drop = KINDS[kind]
        raw = month(rng, None if drop is None else (number % CLASSES, *drop))
        for _ in range(DRAWS):
            one = MonthOfLabels(raw, CLASSES, rng)
            confusion = one.confusion()
            found = [estimate(one.counts(one.sizes(budget))) for budget in BUDGETS]
            for name, axis in (("precision", 1), ("recall", 0)):
                rates = [getattr(e, name) for e in found]
                said[name].append(np.array([(r.value, r.low, r.high) for r in rates]))
                truths[name].append(confusion.diagonal() / confusion.sum(axis=axis))
    table = {name: np.moveaxis(np.array(values), 0, 2) for name, values in said.items()}
    return table | {f"true {name}": np.array(values) for name, values in truths.items()}


def points(kind: str, metric: str) -> np.ndarray:
    """Return the errors (budgets, draws, K) in points; NaN where a class had no label."""
    return 100 * (drawn(kind)[metric][:, 0] - drawn(kind)[f"true {metric}"])


@pytest.mark.parametrize("metric", ["precision", "recall"])
@pytest.mark.parametrize("kind", KINDS)
def test_estimates_lean_to_neither_side(kind: str, metric: str) -> None:
    bias = np.nanmean(points(kind, metric), axis=(1, 2))
    slack = (0.5, 0.2, 0.1) if metric == "recall" else (0.3, 0.2, 0.1)  # 0.1 is a standard error at 200 labels
    assert np.all(np.abs(bias) <= 0.5 + np.array(slack)), bias


def test_precision_is_known_as_well_as_promised_and_better_than_from_a_uniform_sample() -> None:
    error = np.sqrt(np.nanmean(points("quiet", "precision") ** 2, axis=(1, 2)))
    assert np.all(error <= np.array([5.4, 3.5, 2.4])), error
    rng = np.random.default_rng(11)
    uniform = []
    for _ in range(MONTHS):
        raw = month(rng)
        right = raw["truth"] == raw["predicted"]
        truth = np.bincount(raw["predicted"], right) / np.bincount(raw["predicted"])
        for _ in range(DRAWS):
            at = rng.choice(len(right), 500, replace=False)
            labels = np.bincount(raw["predicted"][at], minlength=CLASSES)
            assert labels.min() > 0
            uniform.append(100 * (np.bincount(raw["predicted"][at], right[at], CLASSES) / labels - truth))
    assert error[1] <= 0.85 * np.sqrt(np.mean(np.square(uniform)))


@pytest.mark.parametrize("metric", ["precision", "recall"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_intervals_cover_the_truth_as_often_as_they_say(kind: str, metric: str) -> None:
    _, low, high = np.moveaxis(drawn(kind)[metric], 1, 0)
    truth = drawn(kind)[f"true {metric}"]
    covered = (low <= truth) & (truth <= high)  # (budgets, draws, K)
    everywhere = covered.mean(axis=(1, 2))
    assert np.all(everywhere >= 0.93 - 0.01), everywhere  # 2,000 intervals: a standard error of 0.5 points
    assert np.all(everywhere <= np.array([0.99, 0.98, 0.98]) + 0.01), everywhere
    dropped = np.repeat(np.arange(MONTHS) % CLASSES, DRAWS)
    there = covered[:, np.arange(len(dropped)), dropped].mean(axis=1)
    assert np.all(there >= 0.93 - 0.05), there  # 200 intervals: a standard error of 1.6 points


def test_half_a_sample_of_the_least_confident_misleads_who_does_not_weight_it() -> None:
    rng, off = np.random.default_rng(13), []
    for _ in range(20):
        raw = month(rng)
        right = raw["truth"] == raw["predicted"]
        least = np.argsort(raw["confidence"])[:250]
        sample = np.append(least, rng.choice(len(right), 250, replace=False))
        off.append(right[sample].mean() - right.mean())
    assert np.mean(off) <= -0.15


# --- trigger ---------------------------------------------------------------------------------------------------------


def months_of(service: Strata, rng: np.random.Generator) -> Iterator[MonthOfStrata]:
    while True:
        yield MonthOfStrata(*service.month(rng), service.confidence, rng)


def reference_of(one: MonthOfLabels | MonthOfStrata, budget: int) -> ReferenceLevel:
    return reference_from(estimate(one.counts(one.sizes(REFERENCE_FACTOR * budget))), "first")


@pytest.mark.parametrize(("budget", "limit"), [(200, 0.0135), (500, 0.0135), (1000, 0.0135), (18_000, 0.03)])
def test_the_trigger_s_bounds_miss_the_level_of_the_service_no_more_often_than_they_say(
    budget: int, limit: float
) -> None:
    """The last budget labels nine tenths of the month, and even that is a sample of what the service does."""
    service = ten_classes()
    level = (service.shares * service.accuracy).sum(axis=1) / service.shares.sum(axis=1)
    months = months_of(service, np.random.default_rng([15, budget]))
    found = [estimate(one.counts(one.sizes(budget))).precision for one in islice(months, 300)]
    # 3,000 bounds on either side, a standard error of 0.2 points. The bounds take the mix of the strata as it came,
    # which where nothing else is left to chance makes 1 % into 2.
    assert np.mean([precision.upper(0.01) < level for precision in found]) <= limit
    assert np.mean([precision.lower(0.01) > level for precision in found]) <= limit


@pytest.mark.parametrize("budget", BUDGETS)
def test_quiet_months_cost_no_more_alarms_and_labels_than_promised(budget: int) -> None:
    months = months_of(ten_classes(), np.random.default_rng([17, budget]))
    found = np.zeros((50, 12, 2))  # years, months: alarmed classes and further labels
    for year in found:
        reference = reference_of(next(months), budget)
        for number in range(12):
            alarmed, extra = judged(next(months), budget, reference, precision_only)
            year[number] = len(alarmed), extra
    alarms = found[..., 0] > 0
    assert alarms.mean() <= 0.015 + 0.015  # 600 months: three standard errors
    assert alarms.any(axis=1).mean() <= 0.12 + 0.14  # 50 years
    assert found[..., 1].mean() <= 200


def test_with_the_recall_rule_added_quiet_months_cost_little_more() -> None:
    rng = np.random.default_rng(19)
    months = (MonthOfLabels(month(rng), CLASSES, rng) for _ in count())
    found = []
    for _ in range(10):
        reference = reference_of(next(months), 500)
        found += [judged(next(months), 500, reference, both_rules) for _ in range(12)]
    assert np.mean([bool(alarmed) for alarmed, _ in found]) <= 0.025 + 0.04  # 120 months
    assert np.mean([extra for _, extra in found]) <= 300


def test_a_small_service_with_nearly_every_prediction_labelled_is_not_alarmed_by_chance() -> None:
    service = replace(ten_classes(), predictions=1_000)
    months = months_of(service, np.random.default_rng(21))
    found = []
    for _ in range(10):
        reference = reference_of(next(months), 900 // REFERENCE_FACTOR)
        found += [judged(next(months), 900, reference, precision_only)[0] for _ in range(12)]
    assert np.mean([bool(alarmed) for alarmed in found]) <= 0.015 + 0.035  # 120 months


# Shares found in month 1 and by month 3 at 200, 500 and 1000 labels a month; 4 points less are still accepted.
FOUND = {
    (10, "silent"): {200: (0.18, 0.38), 500: (0.61, 0.89), 1000: (0.87, 1.00)},
    (20, "silent"): {200: (0.82, 0.98), 500: (1.00, 1.00), 1000: (1.00, 1.00)},
    (10, "lowconf"): {500: (0.77, 0.94)},
}
ACCEPTED = 0.04


def months_after_a_silent_drop(budget: int, points: float, trials: int, rules: Monitor = RULES) -> np.ndarray:
    """Return (trials, 3), whether each of three months alarmed for the class that dropped before them."""
    service, rng = ten_classes(), np.random.default_rng([23, budget, int(points)])
    found = np.zeros((trials, 3), dtype=bool)
    for trial in range(trials):
        dropped = trial % CLASSES
        reference = reference_of(next(months_of(service, rng)), budget)
        for number in range(3):
            population, right = service.month(rng)
            right = silently_dropped(population, right, (dropped, points), rng)
            one = MonthOfStrata(population, right, service.confidence, rng)
            found[trial, number] = dropped in judged(one, budget, reference, precision_only, rules)[0]
    return found


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize(("points", "trials"), [(10, 120), (20, 40)])
def test_a_silent_drop_is_found_as_soon_as_promised(budget: int, points: int, trials: int) -> None:
    found = months_after_a_silent_drop(budget, points, trials)
    a_month, by_month_3 = FOUND[points, "silent"][budget]
    assert found.mean() >= a_month - ACCEPTED - 0.08  # the months of a trial share its reference
    assert found.any(axis=1).mean() >= by_month_3 - ACCEPTED - 0.10


def test_a_drop_among_unsure_predictions_is_found_no_later() -> None:
    rng, found = np.random.default_rng(29), []
    for trial in range(40):
        dropped = trial % CLASSES
        reference = reference_of(MonthOfLabels(month(rng), CLASSES, rng), 500)
        three = [MonthOfLabels(month(rng, (dropped, 10, "lowconf")), CLASSES, rng) for _ in range(3)]
        found.append([dropped in judged(one, 500, reference, precision_only)[0] for one in three])
    a_month, by_month_3 = FOUND[10, "lowconf"][500]
    assert np.mean(found) >= a_month - ACCEPTED - 0.12
    assert np.any(found, axis=1).mean() >= by_month_3 - ACCEPTED - 0.10


def test_a_drop_within_the_tolerance_raises_no_alarm_however_many_labels_show_it() -> None:
    assert months_after_a_silent_drop(10_000, 3, 20).mean() <= 0.10


@pytest.mark.parametrize(("classes", "predictions", "months"), [(100, 200_000, 15), (1_000, 1_000_000, 6)])
def test_many_classes_raise_few_false_alarms(classes: int, predictions: int, months: int) -> None:
    rng = np.random.default_rng([31, classes])
    budget, false = predictions // 20, 0
    for _ in range(months):
        service = months_of(ManyClasses(rng, classes, predictions).strata, rng)
        reference = reference_of(next(service), budget)
        alarmed, extra = judged(next(service), budget, reference, precision_only)
        false += len(alarmed)
        assert extra <= 0.10 * budget
    assert false / months <= 0.25 + 0.4


# --- drift -----------------------------------------------------------------------------------------------------------


def flagged(classes: int, rows: int, points: float, pairs: int) -> float:
    """Return the share of `pairs` of windows that the drift test tells apart, the second moved by so many points."""
    rng = np.random.default_rng([37, classes, rows, int(10 * points)])
    base = np.full(classes, 0.1) if classes <= 10 else 1 / (np.arange(classes) + classes / 4)
    base = base / base.sum()
    moved = shifted(base, points)
    tests = [
        minimum_effect_test(rng.multinomial(rows, base), rng.multinomial(rows, moved), RULES.drift_v)
        for _ in range(pairs)
    ]
    return float(np.mean([t.p_value is not None and t.p_value < RULES.drift_alpha for t in tests]))


@pytest.mark.parametrize("points", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("rows", [10_000, 100_000, 1_000_000])
@pytest.mark.parametrize("classes", [10, 1000])
def test_a_shift_too_small_to_matter_is_not_drift_however_many_rows_show_it(
    classes: int, rows: int, points: float
) -> None:
    assert flagged(classes, rows, points, 150) <= 0.01 + 0.01


@pytest.mark.parametrize(
    ("classes", "rows", "points"),
    [(10, 10_000, 5), (10, 100_000, 5), (10, 1_000_000, 5), (1000, 100_000, 10), (1000, 1_000_000, 10)],
)
def test_a_shift_that_matters_is_drift(classes: int, rows: int, points: float) -> None:
    assert flagged(classes, rows, points, 150) >= 0.99 - 0.02


# --- the worlds ------------------------------------------------------------------------------------------------------


def traits(worlds: Any, seed: int) -> dict[str, np.ndarray]:
    """Return what months of a world look like: per trait the values of every month, (months, any)."""
    rng = np.random.default_rng(seed)
    size = CLASSES * CONFIDENCE_BINS
    seen: dict[str, list[np.ndarray]] = {}
    for number in range(60):
        kind = ("quiet", "silent", "lowconf")[number % 3]
        raw = worlds.month(rng, None if kind == "quiet" else (3, 10.0, kind))
        right = raw["truth"] == raw["predicted"]
        strata = np.bincount(raw["stratum"], minlength=size)
        of_class = raw["predicted"] == 3
        accuracy = [right[of_class & (raw["stratum"] % CONFIDENCE_BINS == b)].mean() for b in range(CONFIDENCE_BINS)]
        confidently_wrong = ~right & (raw["confidence"] >= 0.97)
        for name, value in (
            (f"{kind}: accuracy", [right.mean(), right[of_class].mean(), *accuracy]),
            ("confidence", [raw["confidence"].mean(), np.median(raw["confidence"])]),
            (f"{kind}: wrong though sure", [confidently_wrong.mean()]),
            ("strata", strata / strata.sum()),
            ("truths", np.bincount(raw["truth"][right], minlength=CLASSES) / right.sum()),
        ):
            seen.setdefault(name, []).append(np.array(value))
    many = worlds.ManyClasses(np.random.default_rng(seed), 200, 200_000)
    for _ in range(20):
        population, right = (a.reshape(200, CONFIDENCE_BINS).sum(axis=0) for a in many.month(rng))
        seen.setdefault("many: accuracy", []).append(right / population)
    return {name: np.array(values) for name, values in seen.items()}


@pytest.mark.skipif(other_worlds() is None, reason="no monitoring_world.py; PERENNIAL_BENCH_WORLD names its folder")
def test_the_worlds_are_those_of_another_hand() -> None:
    ours, theirs = traits(monitoring_worlds, 41), traits(other_worlds(), 43)
    for name, values in ours.items():
        other = theirs[name]
        error = np.sqrt(values.var(axis=0) / len(values) + other.var(axis=0) / len(other))
        apart = np.abs(values.mean(axis=0) - other.mean(axis=0))
        # The many classes' own accuracies are drawn once a service, with a spread of a point over 200 classes.
        assert np.all(apart <= 4 * error + (0.003 if name == "many: accuracy" else 0)), name
    assert np.mean(ours["quiet: accuracy"][:, 0]) == pytest.approx(0.932, abs=0.001)
    assert np.mean(ours["confidence"][:, 0]) == pytest.approx(0.957, abs=0.001)
