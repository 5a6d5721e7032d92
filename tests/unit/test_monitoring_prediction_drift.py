"""Mix or model: what is said of months whose truth is known, in a world of ten classes."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest

from components.errors import DataError
from components.monitoring.comparison.confusion import comparable_cells
from components.monitoring.drift import predictions as prediction_drift
from components.monitoring.drift.predictions import DriftCause, explain_prediction_drift
from components.monitoring.sampling.one_class import allocate
from components.params import Monitor
from components.records import CONFIDENCE_BINS, CONFIDENCE_EDGES, StratumCounts

RULES = Monitor()
K, B = 10, CONFIDENCE_BINS
PREDICTIONS, LABELS = 20_000, 2_500
SEPARATION = 3.3  # of a class's own score from the others: an accuracy of .92 with the errors no feature shows
HARD = 0.02  # share of images that look like another class
NAMES = ("Top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Boot")
EVEN = np.full(K, 1 / K)
SEED = 20261


def looks(centre, rng, images=40_000):
    """How images whose mean score is `centre` (K,) are predicted: the shares (K * B,) of class and confidence bin."""
    logit = SEPARATION * (rng.standard_normal((images, K)) + centre)
    probabilities = np.exp(logit - logit.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    bins = np.digitize(probabilities.max(axis=1), CONFIDENCE_EDGES)
    return np.bincount(probabilities.argmax(axis=1) * B + bins, minlength=K * B) / images


@dataclass(frozen=True)
class World:
    """shown: (K * B, K) how each class is predicted."""

    shown: np.ndarray

    def month(self, rng, mix=EVEN, shown=None, size=PREDICTIONS):
        cells = (self.shown if shown is None else shown) @ mix
        return rng.multinomial(size, cells / cells.sum()).reshape(K, B)

    def reference(self, rng, labels=LABELS, size=PREDICTIONS, mix=EVEN):
        population = self.month(rng, mix, size=size)
        nothing = np.zeros((K, B), np.int64)
        confidence = np.where(population > 0, [0.5, 0.74, 0.92, 0.99], np.nan)
        counts = StratumCounts(NAMES, population, nothing, np.zeros((K, B, K + 1), np.int64), nothing, confidence)
        drawn = allocate(counts, labels) if labels else nothing
        truth = self.shown * mix
        truth = (truth + 1e-12) / (truth + 1e-12).sum(axis=1, keepdims=True)
        answers = np.zeros((K * B, K + 1), np.int64)
        answers[:, :K] = rng.multinomial(drawn.ravel(), truth)
        return StratumCounts(NAMES, population, drawn, answers.reshape(K, B, K + 1), drawn, confidence)

    def restyled(self, class_index, style, share=0.6):
        """How classes are predicted when `share` of the images of one are predicted like `style` (K * B,)."""
        shown = self.shown.copy()
        shown[:, class_index] = (1 - share) * shown[:, class_index] + share * style
        return shown


@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(SEED)
    clear = np.column_stack([looks(SEPARATION * np.eye(K)[k], rng) for k in range(K)])
    return World((1 - HARD) * clear + HARD * (clear.sum(axis=1, keepdims=True) - clear) / (K - 1))


def grown(class_index, share, mix=EVEN):
    """`mix` after one class came more or less often, to have `share` of all."""
    result = mix * (1 - share) / (1 - mix[class_index])
    result[class_index] = share
    return result


def explained(world, months=60, seed=1, labels=LABELS, size=PREDICTIONS, **changes):
    rng = np.random.default_rng([SEED, seed])
    pairs = ((world.reference(rng, labels, size), world.month(rng, size=size, **changes)) for _ in range(months))
    return [explain_prediction_drift(reference, month, RULES) for reference, month in pairs]


def states(explanations):
    return Counter(str(explanation.state) for explanation in explanations)


def test_the_world_is_as_described(world):
    accuracy = sum(world.shown[k * B + b, k] for k in range(K) for b in range(B)) / K
    assert accuracy == pytest.approx(0.92, abs=0.01)
    sure = sum(world.shown[k * B + 3, k] for k in range(K)) / world.shown.reshape(K, B, K)[:, 3].sum()
    unsure = sum(world.shown[k * B, k] for k in range(K)) / world.shown.reshape(K, B, K)[:, 0].sum()
    assert sure > 0.95
    assert unsure < 0.6


def test_quiet_months_show_nothing(world):
    found = explained(world, months=150)
    assert states(found) == {"none": 150}
    assert found[0].reason == "no change of the predictions above V 0.05 is shown"
    assert found[0].mix is None
    assert found[0].explained is None


def test_a_tripled_class_is_named_and_its_share_is_found(world):
    found = explained(world, mix=grown(1, 0.3))
    assert states(found)["mix"] >= 57
    assert states(found)["not-mix"] == 0
    for explanation in found:
        assert explanation.mix.mix[1] == pytest.approx(0.3, abs=0.02)
        assert explanation.explained > 0.95
    named = next(explanation for explanation in found if explanation.state is DriftCause.MIX)
    assert named.reason.startswith("the class mix changed: Trouser 1")
    assert named.reason.endswith("the predictions are what the same model shows under that mix")


@pytest.mark.parametrize("mix", [grown(4, 0.2), grown(4, 0.02), grown(2, 0.3, grown(7, 0.25))])
def test_a_class_that_doubles_or_goes_and_two_that_grow_are_changes_of_mix(world, mix):
    found = states(explained(world, months=40, seed=2, mix=mix))
    assert found["mix"] >= 36
    assert found["not-mix"] == 0


def test_any_change_of_mix_alone_is_seldom_taken_for_something_else(world):
    rng = np.random.default_rng(SEED)
    found = Counter()
    for _ in range(150):
        mix = rng.dirichlet(np.full(K, rng.uniform(1, 20)))
        size = int(rng.choice([2_000, 5_000, 20_000, 1_000_000]))
        reference = world.reference(rng, labels=int(rng.choice([500, 1000, 2500])), size=min(size, 20_000))
        found[explain_prediction_drift(reference, world.month(rng, mix, size=size), RULES).state] += 1
    assert found[DriftCause.NOT_MIX] <= 4
    assert found[DriftCause.MIX] > 60


def test_a_class_that_looks_between_two_is_no_mix(world):
    style = looks(SEPARATION * (0.6 * np.eye(K)[8] + 0.4 * np.eye(K)[7]), np.random.default_rng(3))
    found = explained(world, seed=3, shown=world.restyled(7, style))
    assert states(found)["not-mix"] >= 57
    assert states(found)["mix"] == 0
    told = found[0].reason
    assert told.startswith("no mix of the known classes gives these predictions: a class looks different or is new")
    assert told.endswith(("predicted Bag", "predicted Sneaker"))


@pytest.mark.parametrize("share", [0.4, 0.6, 1.0])
def test_a_class_taken_for_another_is_never_called_a_change_of_mix(world, share):
    as_sure_as_bags = world.shown[:, 8]
    found = explained(world, seed=4, shown=world.restyled(7, as_sure_as_bags, share))
    assert states(found)["mix"] == 0
    left_open = [e.reason for e in found if "look alike" in e.reason]
    assert len(left_open) > 50
    assert all(reason.startswith("Sneaker 10") or reason.startswith("Sneaker 9") for reason in left_open)
    assert all("Sneaker taken for Bag" in reason for reason in left_open)


def test_a_class_taken_for_another_keeping_its_own_confidence_is_never_called_a_change_of_mix(world):
    own_confidence = np.zeros((K, B))
    own_confidence[8] = world.shown[:, 7].reshape(K, B)[7] / world.shown[:, 7].reshape(K, B)[7].sum()
    found = states(explained(world, seed=5, shown=world.restyled(7, own_confidence.ravel())))
    assert found["mix"] == 0
    assert found["none"] == 0


def test_a_growing_class_does_not_hide_one_that_is_taken_for_another(world):
    found = states(explained(world, seed=6, mix=grown(1, 0.3), shown=world.restyled(7, world.shown[:, 8])))
    assert found["mix"] == 0


def test_blurred_images_are_no_mix(world):
    rng = np.random.default_rng(7)
    blurred = np.column_stack([looks(0.85 * SEPARATION * np.eye(K)[k], rng) for k in range(K)])
    assert states(explained(world, months=30, seed=7, shown=blurred)) == {"not-mix": 30}


def test_a_change_of_mix_beside_slightly_blurred_images_is_left_open(world):
    rng = np.random.default_rng(18)
    blurred = np.column_stack([looks(0.97 * SEPARATION * np.eye(K)[k], rng) for k in range(K)])
    others = (blurred.sum(axis=1, keepdims=True) - blurred) / (K - 1)
    found = explained(world, seed=18, mix=grown(1, 0.3), shown=(1 - HARD) * blurred + HARD * others)
    assert states(found)["mix"] < 20
    assert sum("neither small nor large" in explanation.reason for explanation in found) > 30


def test_small_windows_do_not_make_a_misfit_of_rare_cells(world):
    found = states(explained(world, months=150, seed=19, labels=1000, size=1000, mix=grown(1, 0.3)))
    assert found["not-mix"] <= 7


def test_a_class_never_predicted_before_is_no_mix(world):
    without = grown(9, 0.0)
    reference = world.reference(np.random.default_rng(8), mix=without)
    population, empty = reference.population.copy(), reference.answers.copy()
    population[9], empty[9] = 0, 0
    seen = reference.labelled * (np.arange(K) != 9)[:, None]
    reference = StratumCounts(NAMES, population, seen, empty, seen, reference.confidence)
    explanation = explain_prediction_drift(reference, world.month(np.random.default_rng(9)), RULES)
    assert explanation.state is DriftCause.NOT_MIX
    assert explanation.reason.endswith("predicted Boot")


def test_more_predictions_do_not_turn_the_labels_errors_into_a_misfit(world):
    found = states(explained(world, months=20, seed=10, mix=grown(1, 0.3), size=1_000_000))
    assert found["not-mix"] == 0
    assert found["mix"] >= 17


def test_two_classes_cannot_tell_a_mix_from_a_confusion():
    shown = np.array([[0.06, 0.04], [0.85, 0.05], [0.04, 0.06], [0.05, 0.85]])
    rng = np.random.default_rng(11)
    population = rng.multinomial(10_000, shown @ [0.5, 0.5]).reshape(2, 2)
    truth = shown / shown.sum(axis=1, keepdims=True)
    answers = np.zeros((4, 3), np.int64)
    answers[:, :2] = rng.multinomial(300, truth)
    labelled = np.full((2, 2), 300)
    reference = StratumCounts(("a", "b"), population, labelled, answers.reshape(2, 2, 3), labelled, np.ones((2, 2)))
    explanation = explain_prediction_drift(reference, rng.multinomial(10_000, shown @ [0.8, 0.2]).reshape(2, 2), RULES)
    assert explanation.state is DriftCause.UNDECIDED
    assert "fewer b, or b taken for a, look alike here" in explanation.reason


def test_with_few_labels_a_small_change_is_not_explained(world):
    found = explained(world, months=20, seed=12, labels=80, size=1500, mix=grown(1, 0.22))
    assert states(found)["mix"] <= 2
    assert any("cannot be excluded" in explanation.reason for explanation in found)


def test_what_cannot_be_decided_says_why(world):
    rng = np.random.default_rng(13)
    month = world.month(rng, grown(1, 0.3))
    few = explain_prediction_drift(world.reference(rng), month // 2000, RULES)
    assert few.state is DriftCause.UNDECIDED
    assert "fewer than 50" in few.reason
    unlabelled = explain_prediction_drift(world.reference(rng, labels=0), month, RULES)
    assert unlabelled.state is DriftCause.UNDECIDED
    assert "no labels" in unlabelled.reason
    answers = np.zeros((2, 1, 3), np.int64)
    answers[0, 0, 0] = answers[1, 0, 1] = 50
    half, labelled = np.full((2, 1), 500), np.full((2, 1), 50)
    coarse = StratumCounts(("a", "b"), half, labelled, answers, labelled, np.ones((2, 1)))
    nothing_left = explain_prediction_drift(coarse, [[900], [100]], RULES)
    assert nothing_left.state is DriftCause.UNDECIDED
    assert "2 cells occur often enough, too few for 2 classes" in nothing_left.reason


def test_a_fit_that_does_not_end_decides_nothing(world, monkeypatch):
    monkeypatch.setattr(prediction_drift, "shift_factors", lambda *_: (np.ones(K), 5000, False))
    rng = np.random.default_rng(14)
    explanation = explain_prediction_drift(world.reference(rng), world.month(rng, grown(1, 0.3)), RULES)
    assert explanation.state is DriftCause.UNDECIDED
    assert explanation.reason == "no mix was found within 5000 iterations"


def test_counts_of_another_class_list_are_an_error(world):
    reference = world.reference(np.random.default_rng(15))
    with pytest.raises(DataError, match=r"shape \(10, 3\), the reference's \(10, 4\)"):
        explain_prediction_drift(reference, np.ones((K, 3)), RULES)
    broken = StratumCounts(NAMES, reference.population, reference.labelled + 1, *_rest(reference))
    with pytest.raises(DataError, match="do not add up"):
        explain_prediction_drift(broken, np.ones((K, B)), RULES)


def _rest(counts):
    return counts.answers, counts.drawn, counts.confidence


def test_rare_cells_are_merged_and_nothing_is_lost(world):
    rng = np.random.default_rng(16)
    reference, month = world.reference(rng, labels=300, size=1000), world.month(rng, size=800)
    cells = comparable_cells(reference, month.astype(float))
    assert len(cells.counts) < K * B
    assert cells.predicted[-1] == -1
    assert cells.counts.sum() == 800
    assert cells.confusion.share.sum() == pytest.approx(1)
    np.testing.assert_allclose(cells.confusion.truth.sum(axis=1), 1)
    assert (800 * cells.confusion.share[:-1] + cells.counts[:-1] >= 5).all()


def test_the_merged_cell_grows_until_it_is_expected_often_enough():
    population, month = np.array([[1, 40], [400, 559]]), np.array([[1.0, 40.0], [400.0, 559.0]])
    seen = np.minimum(population, 20)
    answers = np.zeros((2, 2, 3), np.int64)
    answers[0, :, 0], answers[1, :, 1] = seen[0], seen[1]
    cells = comparable_cells(StratumCounts(("a", "b"), population, seen, answers, seen, np.ones((2, 2))), month)
    assert cells.predicted.tolist() == [1, 1, -1]
    assert cells.counts.tolist() == [400, 559, 41]


def test_an_explanation_is_json(world):
    rng = np.random.default_rng(17)
    told = explain_prediction_drift(world.reference(rng), world.month(rng, grown(1, 0.3)), RULES).as_json()
    assert told == json.loads(json.dumps(told))
    assert told["state"] == "mix"
    assert sum(told["mix"]) == pytest.approx(1)
    quiet = explain_prediction_drift(world.reference(rng), world.month(rng), RULES).as_json()
    assert (quiet["state"], quiet["mix"], quiet["explained"]) == ("none", None, None)
