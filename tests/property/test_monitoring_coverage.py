"""Do intervals hold the truth as often as they promise? A simulated world's months, drawn and answered as real ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from components.monitoring.comparison.change import change_since
from components.monitoring.estimation.accuracy import Estimates, estimate
from components.monitoring.estimation.annotator_error import annotator_error, corrected
from components.monitoring.estimation.error_rates import corrected_error_rates, error_rates
from components.monitoring.estimation.pooling import pool
from components.monitoring.sampling.one_class import allocate
from components.params import Monitor
from components.records import CONFIDENCE_BINS, Interval, StratumCounts

K = 10
CLASSES = tuple(f"class {k}" for k in range(K))
PREDICTIONS, LABELS, MONTHS = 20_000, 500, 300
BIN_SHARE = np.array([0.05, 0.12, 0.23, 0.60])
BIN_ACCURACY = np.array([0.50, 0.72, 0.90, 0.985])
CLASS_SHARE = np.array([18, 15, 13, 12, 11, 10, 9, 7, 4, 1]) / 100
WORSE = np.array([0, 0, 0.02, 0.05, 0, 0, 0.1, 0, 0.05, 0.15])  # of a class's accuracy, in every bin
ERROR = 0.03


@dataclass(frozen=True)
class Month:
    """One month: truths (K, B, K) of all predictions, and the counts of what was drawn and answered."""

    truths: np.ndarray
    counts: StratumCounts

    @property
    def joint(self) -> np.ndarray:
        return self.truths.sum(axis=1)

    def false_positive(self) -> np.ndarray:
        of_truth, right = self.joint.sum(axis=0), self.joint.diagonal()
        return (self.joint.sum(axis=1) - right) / (self.joint.sum() - of_truth)

    def false_negative(self) -> np.ndarray:
        return 1 - self.joint.diagonal() / self.joint.sum(axis=0)


def simulated(rng: np.random.Generator, error: float = 0.0, drop: tuple[int, float] | None = None) -> Month:
    """Return a month; error: of the annotators; drop: a class and how much of its accuracy it loses, in every bin."""
    strata = rng.multinomial(PREDICTIONS, np.outer(CLASS_SHARE, BIN_SHARE).ravel()).reshape(K, CONFIDENCE_BINS)
    truths = np.zeros((K, CONFIDENCE_BINS, K), np.int64)
    for k, b in np.ndindex(K, CONFIDENCE_BINS):
        chances = np.full(K, 0.2 / (K - 2))
        chances[(k + 1) % K] = 0.8
        lost = drop[1] if drop and drop[0] == k else 0.0
        chances *= 1 - (BIN_ACCURACY[b] - WORSE[k] - lost)
        chances[k] = 0
        chances[k] = 1 - chances.sum()
        truths[k, b] = rng.multinomial(strata[k, b], chances)
    confidence = np.tile([0.5, 0.74, 0.92, 0.985], (K, 1))
    nothing = np.zeros_like(strata)
    answers = np.zeros((K, CONFIDENCE_BINS, K + 1), np.int64)
    sizes = allocate(StratumCounts(CLASSES, strata, nothing, answers, nothing, confidence), LABELS)
    said = np.full((K, K), error / (K - 1)) + (1 - error - error / (K - 1)) * np.eye(K)
    for k, b in np.ndindex(K, CONFIDENCE_BINS):
        sampled = rng.multivariate_hypergeometric(truths[k, b], sizes[k, b])
        answers[k, b, :K] = sum(rng.multinomial(sampled[true], said[true]) for true in range(K))
    return Month(truths, StratumCounts(CLASSES, strata, sizes, answers, sizes, confidence))


def held(intervals: tuple[Interval | None, ...], truth: np.ndarray) -> list[float]:
    """Return, per class, whether its interval holds the truth; NaN where there is none."""
    return [np.nan if i is None else float(i.low <= t <= i.high) for i, t in zip(intervals, truth, strict=True)]


def intervals_of(estimates: Estimates, rate: str) -> tuple[Interval | None, ...]:
    return tuple(getattr(estimates, rate).interval(k) for k in range(K))


@pytest.mark.parametrize("error", [0.0, ERROR], ids=["answers are right", "answers are wrong and corrected for"])
def test_intervals_of_both_error_rates_hold_the_truth_as_often_as_they_promise(error: float) -> None:
    rng = np.random.default_rng(11)
    hits: dict[str, list[list[float]]] = {"false positive": [], "false negative": []}
    off = []
    for _ in range(MONTHS):
        month = simulated(rng, error)
        estimates = estimate(month.counts)
        rates = error_rates(month.counts, estimates)
        if error:
            found = annotator_error(200, int(rng.binomial(200, 2 * error - error**2 * K / (K - 1))), K)
            assert found is not None
            rates = corrected_error_rates(month.counts, found, corrected(estimates, found))
        hits["false positive"].append(held(rates.false_positive, month.false_positive()))
        hits["false negative"].append(held(rates.false_negative, month.false_negative()))
        off.append([one.value - truth for one, truth in zip(rates.false_positive, month.false_positive(), strict=True)])
    assert np.abs(np.mean(off, axis=0)).max() < 0.001
    for rate, of_months in hits.items():
        by_class = np.nanmean(of_months, axis=0)
        assert 0.93 <= by_class.mean() <= 0.98, rate
        assert by_class.min() >= 0.90, rate


def test_intervals_over_three_windows_hold_the_truth_of_the_three() -> None:
    rng = np.random.default_rng(12)
    hits: dict[str, list[list[float]]] = {"precision": [], "recall": []}
    narrower = []
    for _ in range(MONTHS // 2):
        months = [simulated(rng) for _ in range(3)]
        estimates = estimate(pool([month.counts for month in months]))
        joint = np.sum([month.joint for month in months], axis=0)
        for rate, axis in (("precision", 1), ("recall", 0)):
            hits[rate].append(held(intervals_of(estimates, rate), joint.diagonal() / joint.sum(axis=axis)))
        alone = estimate(months[-1].counts).precision
        narrower.append((estimates.precision.high - estimates.precision.low) / (alone.high - alone.low))
    for rate, of_months in hits.items():
        by_class = np.nanmean(of_months, axis=0)
        assert 0.93 <= by_class.mean() <= 0.98, rate
        assert by_class.min() >= 0.90, rate
    assert 0.5 < np.median(narrower) < 0.65  # 1/sqrt(3) = 0.58


def test_differences_of_two_windows_hold_the_truth_and_quiet_months_show_no_fall() -> None:
    rng = np.random.default_rng(13)
    hits: dict[str, list[list[float]]] = {"precision": [], "recall": []}
    falls, found = 0, 0
    for number in range(MONTHS):
        before, now = simulated(rng), simulated(rng)
        change = change_since(estimate(before.counts), "before", estimate(now.counts), Monitor())
        for rate, axis in (("precision", 1), ("recall", 0)):
            truth = [m.joint.diagonal() / m.joint.sum(axis=axis) for m in (before, now)]
            differences = tuple(None if d is None else Interval(d.value, d.low, d.high) for d in getattr(change, rate))
            hits[rate].append(held(differences, truth[1] - truth[0]))
        falls += bool(change.fallen)
        if number < MONTHS // 3:
            fallen = simulated(rng, drop=(number % (K - 2), 0.3))
            later = change_since(estimate(before.counts), "before", estimate(fallen.counts), Monitor())
            found += CLASSES[number % (K - 2)] in later.fallen
    for rate, of_months in hits.items():
        by_class = np.nanmean(of_months, axis=0)
        assert 0.93 <= by_class.mean() <= 0.985, rate
        assert by_class.min() >= 0.90, rate
    assert falls <= 0.02 * MONTHS
    assert found >= 0.5 * (MONTHS // 3)
