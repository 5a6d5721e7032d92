"""Negative controls: what has to fail if the sample or its weights are wrong, fails; what is right beside it, does not.

A small world: five classes, four confidence bins, accuracy rising with confidence. Nothing falls unless a test says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import numpy as np
import pytest
from numpy.typing import NDArray

from components.monitoring.estimation.accuracy import Estimates, estimate
from components.monitoring.judgement.policy import ReferenceLevel, judge, reference_from
from components.monitoring.sampling.one_class import allocate, draw
from components.params import Monitor
from components.records import CONFIDENCE_EDGES, ClassState, LabelTask, StratumCounts

RULES = Monitor()
NAMES = ("ant", "bee", "cow", "dog", "elk")
K, B = len(NAMES), 4
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
NOTHING = np.zeros((K, B), dtype=np.int64)

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
Weights = Callable[[np.random.Generator], IntArray]


def counts_of(right: IntArray, labelled: IntArray, drawn: IntArray, population: IntArray = POPULATION) -> StratumCounts:
    """Counts in which every wrong answer names the next class."""
    answers = np.zeros((K, B, K + 1), dtype=np.int64)
    for k in range(K):
        answers[k, :, k] = right[k]
        answers[k, :, (k + 1) % K] = labelled[k] - right[k]
    return StratumCounts(NAMES, population, labelled, answers, drawn, np.tile(CONFIDENCE, (K, 1)))


def sizes_for(budget: int) -> IntArray:
    return allocate(counts_of(NOTHING, NOTHING, NOTHING), budget)


class Month:
    """One month of the world: which predictions are right, and what a sample of them says."""

    def __init__(self, rng: np.random.Generator, accuracy: FloatArray = ACCURACY) -> None:
        self._rng = rng
        self.right = rng.binomial(POPULATION, np.broadcast_to(accuracy, (K, B)))
        self.precision = self.right.sum(axis=1) / POPULATION.sum(axis=1)
        self.accuracy = self.right.sum() / POPULATION.sum()

    def answered(self, labelled: IntArray, drawn: IntArray | None = None) -> StratumCounts:
        found = self._rng.hypergeometric(self.right, POPULATION - self.right, labelled)
        return counts_of(found, labelled, labelled if drawn is None else drawn)


def reweighted(counts: StratumCounts, population: IntArray) -> StratumCounts:
    return StratumCounts(counts.classes, population, counts.labelled, counts.answers, counts.drawn, counts.confidence)


def covered(estimates: Estimates, month: Month) -> NDArray[np.bool_]:
    """Whether the truth lies in the interval: of each class's precision, and last of the accuracy over all."""
    rates, whole = estimates.precision, estimates.accuracy
    assert whole is not None
    inside = (rates.low <= month.precision) & (month.precision <= rates.high)
    return np.append(inside, whole.low <= month.accuracy <= whole.high)


def coverage(weights: Weights, *, months: int = 400) -> FloatArray:
    rng = np.random.default_rng(20_261_101)
    sizes = sizes_for(500)
    found = []
    for _ in range(months):
        month = Month(rng)
        found.append(covered(estimate(reweighted(month.answered(sizes), weights(rng))), month))
    return np.mean(found, axis=0)


def test_with_the_strata_weighted_as_they_are_the_intervals_keep_their_promise() -> None:
    promised = coverage(lambda _: POPULATION)
    assert promised[:K].mean() >= 0.93
    assert promised[K] >= 0.93
    assert promised.min() >= 0.90  # 400 months of one class: 95 % give or take 1.1


@pytest.mark.parametrize(
    "shuffled",
    [
        lambda rng: rng.permutation(POPULATION.reshape(-1)).reshape(K, B),
        lambda rng: rng.permuted(POPULATION, axis=1),
    ],
    ids=["among all strata", "within each class"],
)
def test_with_the_weights_shuffled_the_same_answers_miss_the_truth(shuffled: Weights) -> None:
    broken = coverage(shuffled)
    assert broken[:K].max() <= 0.75
    assert broken[:K].mean() <= 0.50
    assert broken[K] <= 0.30


class Predictions:
    """The world's predictions one by one, each with a confidence inside its bin and a place `u` in the draw."""

    def __init__(self, rng: np.random.Generator) -> None:
        edges = np.array([0.2, *CONFIDENCE_EDGES, 1.0])
        self.stratum = np.repeat(np.arange(K * B), POPULATION.reshape(-1))
        bins = self.stratum % B
        self.confidence = rng.uniform(edges[bins], edges[bins + 1])
        self.right = rng.random(len(bins)) < ACCURACY[bins]
        self.u = rng.random(len(bins))

    def counted(self, at: IntArray) -> StratumCounts:
        labelled = np.bincount(self.stratum[at], minlength=K * B).reshape(K, B)
        right = np.bincount(self.stratum[at[self.right[at]]], minlength=K * B).reshape(K, B)
        return counts_of(right, labelled, labelled)


def test_the_plain_mean_of_a_half_lowest_confidence_sample_is_far_off_and_the_drawn_estimate_is_not() -> None:
    rng = np.random.default_rng(7)
    plain, leaning, estimated = [], [], []
    for _ in range(60):
        world = Predictions(rng)
        truth = world.right.mean()
        lowest = np.argsort(world.confidence)[:250]
        elsewhere = rng.choice(np.setdiff1d(np.arange(len(world.right)), lowest), 250, replace=False)
        plain.append(world.right[np.concatenate([lowest, elsewhere])].mean() - truth)
        drawn = draw(world.stratum, world.u, sizes_for(500))
        leaning.append(world.right[drawn].mean() - truth)
        estimates = estimate(world.counted(drawn))
        assert estimates.accuracy is not None
        estimated.append(estimates.accuracy.value - truth)
    assert np.mean(plain) <= -0.15
    # The draw itself leans, too: without its weights it would mislead, with them it does not.
    assert np.mean(leaning) <= -0.02
    assert abs(np.mean(estimated)) <= 0.005


def dropped(points: float) -> FloatArray:
    """The accuracies of a month in which the class bee has lost so many points in every bin."""
    accuracy = np.tile(ACCURACY, (K, 1))
    accuracy[NAMES.index("bee")] -= points
    return np.maximum(accuracy, 0.05)


@pytest.fixture(scope="module")
def reference() -> ReferenceLevel:
    sizes = sizes_for(2500)
    return reference_from(estimate(Month(np.random.default_rng(1)).answered(sizes)), "2026-01")


UNDECIDED = {ClassState.INSUFFICIENT, ClassState.NOT_MEASURABLE}


@pytest.mark.parametrize("bins", [1, 2, 3])
@pytest.mark.parametrize("points", [0.0, 0.30])
def test_answers_about_the_least_confident_bins_alone_decide_nothing_and_say_so(
    reference: ReferenceLevel, bins: int, points: float
) -> None:
    """The most confident bin holds half of all predictions; without an answer there, nothing is known of any class."""
    rng = np.random.default_rng([bins, int(100 * points)])
    drawn = sizes_for(500)
    for _ in range(20):
        month = Month(rng, dropped(points))
        labelled = drawn.copy()
        labelled[:, bins:] = 0
        counts = month.answered(labelled, drawn)
        estimates = estimate(counts)
        judgement = judge(estimates, counts, reference, RULES, "topped-up")
        assert judgement.decision.action == "none"
        assert judge(estimates, counts, reference, RULES, "first").decision.action in ("none", "ask-labels")
        for found, truth in zip(judgement.classes, month.precision, strict=True):
            assert found.state in UNDECIDED
            assert any("nobody answered" in reason or "has a settled label" in reason for reason in found.reasons)
            if found.precision is not None:
                assert found.precision.low <= truth <= found.precision.high
                assert found.precision.high - found.precision.low > 0.5


def test_answers_from_every_stratum_find_the_same_fall(reference: ReferenceLevel) -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        counts = Month(rng, dropped(0.30)).answered(sizes_for(500))
        judgement = judge(estimate(counts), counts, reference, RULES, "topped-up")
        assert judgement.decision.action == "retrain"
        assert "precision" in judgement.alarmed["bee"]


def test_a_task_has_no_field_for_anything_the_model_said() -> None:
    assert [field.name for field in fields(LabelTask)] == ["task_id", "queue", "image_id", "classes", "window"]
