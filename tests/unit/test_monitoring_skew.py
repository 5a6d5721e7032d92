"""Production against offline accuracy: gaps that are shown and gaps that are not, and what a replay makes of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.errors import DataError
from components.evaluation.metrics.one_class import Answers, classification_report
from components.monitoring.comparison.skew import (
    Gap,
    OfflineRecall,
    Replayed,
    SkewState,
    find_gap,
    judge_replay,
    without_replay,
)
from components.monitoring.estimation.accuracy import estimate
from components.monitoring.sampling.one_class import allocate
from components.params import Monitor
from components.records import StratumCounts
from components.simulation.counted_world import CountedWorld, Drop, MixChange, SimulatedWindow, default_counts

RULES = Monitor()
WORLD = CountedWorld(default_counts())
HEALTHY = WORLD.truth((), ())
K = len(WORLD.classes)
SHOWN = Gap(True, True, 0.95, 0.80, (("class 1", 0.95, 0.70),), "")


def offline(seed: int, images: int = 1000, lift: float = 0.0) -> OfflineRecall:
    rng = np.random.default_rng([seed, 1])
    recall = np.clip(HEALTHY.rates()["recall"] + lift, 0, 1)
    of_class = [images // K] * K
    return OfflineRecall(
        "test", WORLD.classes, tuple(of_class), tuple(int(rng.binomial(images // K, r)) for r in recall)
    )


def month(seed: int, labels: int = 500, drops=(), changes=()):
    truth = WORLD.truth(drops, changes)
    window = SimulatedWindow(WORLD, truth.strata, np.random.default_rng([seed, 2]))
    return estimate(window.answered(truth, allocate(window.counts(), labels), "first"))


def test_a_model_as_good_in_production_as_offline_shows_no_gap():
    found = [find_gap(month(seed), offline(seed), RULES) for seed in range(300)]
    assert sum(bool(gap) for gap in found) <= 3
    assert all(gap.measured for gap in found)


def test_a_small_gap_by_another_label_process_is_tolerated():
    found = [find_gap(month(seed), offline(seed, lift=0.02), RULES) for seed in range(200)]
    assert sum(bool(gap) for gap in found) <= 4


def test_a_change_of_the_mix_alone_is_no_gap():
    changes = (MixChange(1, 6, 4.0), MixChange(1, 0, 0.25))
    found = [find_gap(month(seed, changes=changes), offline(seed), RULES) for seed in range(100)]
    assert sum(bool(gap) for gap in found) <= 2


def test_every_class_a_little_worse_is_shown_overall_and_one_class_by_its_name():
    everywhere = tuple(Drop(1, k, 0.10, low_confidence=False) for k in range(K))
    found = [find_gap(month(seed, drops=everywhere), offline(seed), RULES) for seed in range(30)]
    assert sum(gap.shown for gap in found) >= 27
    # What is called class 1 and is none takes images from the others.
    one = find_gap(month(3, 2000, drops=(Drop(1, 9, 0.9, low_confidence=False),)), offline(3, 4000, lift=0.04), RULES)
    assert one.classes
    assert one.describe().count("offline") == len(one.classes) + one.shown


def test_too_few_labels_or_no_common_class_decide_nothing():
    few = find_gap(month(1, 45), offline(1), RULES)
    assert (bool(few), few.measured, without_replay(few).state) == (False, False, SkewState.UNKNOWN)
    other = OfflineRecall("test", ("x", "y"), (10, 10), (9, 9))
    assert without_replay(find_gap(month(1), other, RULES)).state is SkewState.UNKNOWN


def test_recalls_are_those_of_the_evaluation():
    labels = np.array([0] * 7 + [1] * 3)
    probabilities = np.eye(3)[[0, 0, 0, 0, 0, 1, 2, 1, 1, 0]]
    report = classification_report(Answers.of(probabilities, labels), ("a", "b", "c"), bootstrap=100)
    found = OfflineRecall.of_report({"calibration": {"measured_on": "golden"}, "parts": {"golden": report}})
    assert (found.images, found.found) == ((7, 3, 0), (5, 2, 0))
    assert OfflineRecall.from_json(found.as_json()) == found
    np.testing.assert_allclose(found.level(("c", "b", "z")).value, [np.nan, 2 / 3, np.nan])
    with pytest.raises(DataError, match="no offline recalls"):
        OfflineRecall.from_json({"part": "x"})


def answers(seed: int = 0, images: int = 60, classes: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(classes, 0.3), images)


def replayed(logged: np.ndarray, again: np.ndarray) -> Replayed:
    return Replayed(tuple(f"image{n}" for n in range(len(logged))), logged.astype(np.float16).astype(float), again)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.floats(0, 9e-5))
def test_rounding_and_the_exports_tolerance_are_no_skew(seed: int, noise: float):
    truth = answers(seed)
    again = np.clip(truth + np.random.default_rng(seed).uniform(-noise, noise, truth.shape), 0, 1)
    verdict = judge_replay(SHOWN, replayed(truth, again), parity_tolerance=1e-4)
    assert (verdict.state, verdict.differing) == (SkewState.DRIFT, 0)


def test_other_answers_are_skew_and_the_worst_image_is_named():
    truth = answers()
    again = truth.copy()
    again[7] = np.roll(truth[7], 1)
    verdict = judge_replay(SHOWN, replayed(truth, again), parity_tolerance=1e-4)
    assert (verdict.state, verdict.differing, verdict.changed) == (SkewState.SKEW, 1, 1)
    assert (verdict.worst, verdict.largest) == ("image7", pytest.approx(np.abs(again[7] - truth[7]).max(), abs=1e-3))
    assert "1 of 60 stored images" in verdict.reason
    assert "image7" in verdict.reason


def test_a_difference_too_small_to_change_an_answer_explains_no_gap():
    truth = answers(4)
    verdict = judge_replay(SHOWN, replayed(truth, truth + 2e-3), parity_tolerance=1e-4)
    assert (verdict.state, verdict.differing) == (SkewState.DRIFT, 60)
    assert "too little to explain it" in verdict.reason


def test_an_answer_that_is_no_number_is_skew():
    truth = answers()
    again = truth.copy()
    again[3] = np.nan
    assert judge_replay(SHOWN, replayed(truth, again), parity_tolerance=1e-4).state is SkewState.SKEW


def test_a_gap_that_cannot_be_tested_says_why():
    verdict = judge_replay(SHOWN, replayed(answers(images=19), answers(images=19)), parity_tolerance=1e-4)
    assert verdict.state is SkewState.UNTESTED
    assert "only 19 of the model's stored images" in verdict.reason
    assert "recall of class 1 70.0 %, 95.0 % offline" in verdict.reason
    with pytest.raises(DataError, match="nothing to compare"):
        judge_replay(SHOWN, replayed(answers(), answers(classes=4)), parity_tolerance=1e-4)
    nothing_drawn = StratumCounts(WORLD.classes, *(np.zeros((K, 4), int),) * 2, np.zeros((K, 4, K + 1), int),
                                  np.zeros((K, 4), int), np.full((K, 4), np.nan))  # fmt: skip
    assert without_replay(find_gap(estimate(nothing_drawn), offline(1), RULES)).state is SkewState.UNKNOWN
