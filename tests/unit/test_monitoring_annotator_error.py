"""How often annotators are wrong, from two answers to one image, and estimates freed from that."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from components.errors import DataError
from components.monitoring.estimation.accuracy import estimate
from components.monitoring.estimation.annotator_error import (
    LEAST_PAIRS,
    MOST_ERROR,
    AnnotatorError,
    annotator_error,
    corrected,
    describe,
)
from components.records import CONFIDENCE_BINS, StratumCounts

CLASSES = ("cat", "dog", "owl", "yak")
K = len(CLASSES)
BIN_ACCURACY = np.array([0.6, 0.8, 0.93, 0.99])
BIN_SHARE = np.array([0.05, 0.10, 0.25, 0.60])


def known(rate: float) -> AnnotatorError:
    return AnnotatorError(rate, rate, rate, 10**6, 0)


def noisy(shares: np.ndarray, error: float) -> np.ndarray:
    """Return the shares of answers (…, K) that annotators with `error` give where the shares of truths are `shares`."""
    return shares * (1 - error) + (1 - shares) * error / (K - 1)


def true_shares() -> np.ndarray:
    """Return (K, B, K), the truths behind each stratum; errors lean to the next class, so that recalls differ."""
    shares = np.zeros((K, CONFIDENCE_BINS, K))
    for k in range(K):
        for b, right in enumerate(BIN_ACCURACY):
            wrong = (1 - right) * np.array([0.0, 0.6, 0.3, 0.1])
            shares[k, b] = np.roll(wrong, k)
            shares[k, b, k] = right - 0.05 * k
            shares[k, b, (k + 1) % K] += 0.05 * k
    return shares


def counts_of(population: np.ndarray, answers: np.ndarray) -> StratumCounts:
    with_other = np.concatenate([answers, np.zeros((*answers.shape[:2], 1), dtype=np.int64)], axis=2)
    labelled = with_other.sum(axis=2)
    confidence = np.tile([0.5, 0.7, 0.9, 0.99], (K, 1))
    return StratumCounts(CLASSES, population, labelled, with_other, labelled, confidence)


def rates_of(population: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Return true precision (K,), recall (K,) and accuracy of a window."""
    joint = np.einsum("kb,kbj->kj", population, shares)
    return joint.diagonal() / joint.sum(axis=1), joint.diagonal() / joint.sum(axis=0), joint.trace() / joint.sum()


@pytest.mark.parametrize("error", [0.0, 0.03, 0.15])
def test_what_annotators_get_wrong_is_taken_out_again(error: float) -> None:
    population = np.round(np.outer([40, 20, 10, 30], BIN_SHARE) * 2_000_000).astype(np.int64)
    asked = population // 2
    answers = np.round(noisy(true_shares(), error) * asked[..., None]).astype(np.int64)
    estimates = estimate(counts_of(population, answers))
    precision, recall, accuracy = rates_of(population, true_shares())
    shown = corrected(estimates, known(error))
    assert [one.value for one in shown.precision] == pytest.approx(precision, abs=2e-6)
    assert [one.value for one in shown.recall] == pytest.approx(recall, abs=2e-6)
    assert shown.accuracy.value == pytest.approx(accuracy, abs=2e-6)
    if error:
        assert (estimates.precision.value < precision - error / 2).all()  # and uncorrected they were that far off


def test_without_errors_nothing_changes() -> None:
    population = np.round(np.outer([40, 20, 10, 30], BIN_SHARE) * 200).astype(np.int64)
    answers = np.round(true_shares() * (population // 4)[..., None]).astype(np.int64)
    estimates = estimate(counts_of(population, answers))
    shown = corrected(estimates, known(0.0))
    for rates, intervals in ((estimates.precision, shown.precision), (estimates.recall, shown.recall)):
        for k, one in enumerate(intervals):
            assert (one.value, one.low, one.high) == pytest.approx((rates.value[k], rates.low[k], rates.high[k]))
    assert shown.accuracy.as_json() == pytest.approx(estimates.accuracy.as_json())


def test_intervals_hold_the_truth_although_answers_are_wrong_and_the_error_is_only_estimated() -> None:
    rng, error, months = np.random.default_rng(5), 0.03, 250
    population = np.round(np.outer([40, 20, 10, 30], BIN_SHARE) * 100).astype(np.int64)
    asked = np.minimum(population, np.maximum(population // 12, 6))
    hits = {"corrected": np.zeros((months, 2, K)), "as answered": np.zeros((months, 2, K))}
    errors, overall = [], []
    for month in range(months):
        truths = np.array([[rng.multinomial(n, p) for n, p in zip(*row, strict=True)] for row in zip(
            population, true_shares(), strict=True)])  # fmt: skip
        sampled = np.array([[rng.multivariate_hypergeometric(truths[k, b], asked[k, b]) for b in range(CONFIDENCE_BINS)]
            for k in range(K)])  # fmt: skip
        answered = np.zeros_like(sampled)
        for true in range(K):
            chances = noisy(np.eye(K)[true], error)
            for k, b in np.ndindex(K, CONFIDENCE_BINS):
                answered[k, b] += rng.multinomial(sampled[k, b, true], chances)
        estimates = estimate(counts_of(population, answered))
        differing = rng.binomial(150, 2 * error - error**2 * K / (K - 1))
        found = annotator_error(150, int(differing), K)
        shown = corrected(estimates, found)
        precision, recall, accuracy = rates_of(population, truths / population[..., None])
        for m, (truth, rates, intervals) in enumerate(
            ((precision, estimates.precision, shown.precision), (recall, estimates.recall, shown.recall))
        ):
            hits["corrected"][month, m] = [i.low <= t <= i.high for i, t in zip(intervals, truth, strict=True)]
            hits["as answered"][month, m] = (rates.low <= truth) & (truth <= rates.high)
        errors.append([i.value - t for i, t in zip(shown.precision, precision, strict=True)])
        overall.append(shown.accuracy.low <= accuracy <= shown.accuracy.high)
    assert abs(np.mean(errors)) < 0.005
    assert hits["corrected"].mean() > 0.93
    assert np.mean(overall) > 0.93
    assert hits["as answered"].mean() < hits["corrected"].mean() - 0.03


@pytest.mark.parametrize(("error", "classes"), [(0.03, 10), (0.1, 3), (0.2, 2), (0.0, 1000)])
def test_the_error_rate_is_found_from_how_often_two_people_differ(error: float, classes: int) -> None:
    pairs = 1_000_000
    agree = (1 - error) ** 2 + error**2 / (classes - 1)
    found = annotator_error(pairs, round(pairs * (1 - agree)), classes)
    assert found.rate == pytest.approx(error, abs=1e-5)
    assert found.low <= found.rate <= found.high


def test_its_interval_is_clopper_and_pearsons_of_the_differing_share() -> None:
    found = annotator_error(200, 12, 10)
    for bound, share in zip((found.low, found.high), proportion_confint(12, 200, method="beta"), strict=True):
        assert 2 * bound - bound**2 * 10 / 9 == pytest.approx(share, rel=1e-9)


@pytest.mark.parametrize(
    ("pairs", "differing", "classes", "said"),
    [
        (LEAST_PAIRS - 1, 1, 10, f"two people answered {LEAST_PAIRS - 1} images, and it takes {LEAST_PAIRS}"),
        (0, 0, 10, "two people answered 0 images"),
        (100, 45, 10, "two people disagree so often, on 100 images"),
    ],
)
def test_where_the_error_cannot_be_told_nothing_is_corrected_and_the_words_say_why(
    pairs: int, differing: int, classes: int, said: str
) -> None:
    assert annotator_error(pairs, differing, classes) is None
    assert said in describe(pairs, None)


def test_one_class_and_impossible_counts() -> None:
    assert annotator_error(1000, 0, 1) is None
    with pytest.raises(DataError, match="31 of 30 images"):
        annotator_error(30, 31, 10)


def test_a_known_error_is_told_with_its_interval() -> None:
    error = annotator_error(200, 12, 10)
    assert describe(200, error) == (
        f"{100 * error.rate:.1f} % of answers are taken to be wrong ({100 * error.low:.1f}-{100 * error.high:.1f}, "
        "from 200 images that two people answered); estimates are corrected for that"
    )


def test_a_class_without_labels_stays_unmeasured_and_one_never_found_stays_at_nothing() -> None:
    population = np.array([[100] * 4, [100] * 4, [100] * 4, [0] * 4])
    answers = np.zeros((K, CONFIDENCE_BINS, K), dtype=np.int64)
    answers[0, :, 0] = 20
    answers[1, :, 1] = 20
    answers[2, :, 1] = 20  # every owl that is predicted is a dog
    shown = corrected(estimate(counts_of(population, answers)), known(0.05))
    assert shown.precision[3] is None
    assert shown.recall[2] is None
    assert shown.precision[2].value == 0
    assert shown.precision[0].value == 1


shares = st.floats(0, 1)


@given(
    rates=st.lists(shares, min_size=K * CONFIDENCE_BINS, max_size=K * CONFIDENCE_BINS),
    sizes=st.lists(st.integers(0, 30), min_size=K * CONFIDENCE_BINS, max_size=K * CONFIDENCE_BINS),
    error=st.floats(0, MOST_ERROR),
    spread=st.floats(0, 0.05),
)
def test_whatever_was_answered_an_interval_holds_its_value_and_lies_between_0_and_1(
    rates: list[float], sizes: list[int], error: float, spread: float
) -> None:
    asked = np.array(sizes).reshape(K, CONFIDENCE_BINS)
    right = np.round(np.array(rates).reshape(asked.shape) * asked).astype(np.int64)
    answers = np.zeros((K, CONFIDENCE_BINS, K), dtype=np.int64)
    for k in range(K):
        answers[k, :, k] = right[k]
        answers[k, :, (k + 1) % K] += asked[k] - right[k]
    estimates = estimate(counts_of(asked * 3, answers))
    shown = corrected(estimates, AnnotatorError(error, max(0, error - spread), error + spread, 100, 1))
    for rate, intervals in ((estimates.precision, shown.precision), (estimates.recall, shown.recall)):
        assert [one is None for one in intervals] == [bool(np.isnan(v)) for v in rate.value]
    for one in (*shown.precision, *shown.recall, shown.accuracy):
        assert one is None or 0 <= one.low <= one.value <= one.high <= 1
