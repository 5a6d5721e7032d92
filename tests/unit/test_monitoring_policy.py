"""The trigger: what a window's labels decide, in hand-made counts and in a small simulated service."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from components.monitoring.estimation.accuracy import estimate
from components.monitoring.judgement.policy import ReferenceLevel, judge, reference_from, significantly_better
from components.monitoring.judgement.trigger import breach, plan_top_up
from components.monitoring.sampling.one_class import allocate, draw
from components.params import Monitor
from components.records import CONFIDENCE_EDGES, ClassState, StratumCounts

NAMES = ("Bag", "Boot", "Coat", "Dress", "Pullover", "Sandal", "Shirt", "Sneaker", "T-shirt", "Trouser")
K, B = len(NAMES), len(CONFIDENCE_EDGES) + 1
BAG, SHIRT, SNEAKER, TROUSER = (NAMES.index(name) for name in ("Bag", "Shirt", "Sneaker", "Trouser"))
# How often each class is recognised, and as what it is mistaken otherwise.
RECOGNISED = np.array([0.98, 0.96, 0.88, 0.92, 0.88, 0.97, 0.80, 0.96, 0.88, 0.98])
MISTAKEN = ((6, 3), (7,), (4, 6), (2, 6), (2, 6), (7, 1), (8, 2, 4), (1, 5), (6, 3), (3,))
RULES = Monitor()


def confusion():
    table = np.diag(RECOGNISED)
    for k, others in enumerate(MISTAKEN):
        table[k, list(others)] += (1 - RECOGNISED[k]) / len(others)
    return table


class Service:
    """5,000 predictions a month; people answer 90 % of the tasks, 3 % of the answers are wrong."""

    def __init__(self, seed, predictions=5000):
        self.rng = np.random.default_rng(seed)
        self.predictions = predictions

    def month(self, prior=None, lost=None):
        """Start a month. prior: (K,) class shares. lost: (class, as what) that is now predicted as something else."""
        rng, n = self.rng, self.predictions
        truth = rng.choice(K, n, p=np.full(K, 0.1) if prior is None else prior)
        predicted = (rng.random((n, 1)) > confusion()[truth].cumsum(axis=1)).sum(axis=1).clip(0, K - 1)
        right = predicted == truth
        confidence = np.where(right, 1 - rng.beta(1, 14, n), 1 - rng.beta(2, 4.5, n)).clip(0.15, 0.9999)
        if lost is not None:
            gone = truth == lost[0]
            predicted[gone] = lost[1]
            confidence[gone] = 1 - rng.beta(1.5, 6, gone.sum())
        self.stratum = predicted * B + np.searchsorted(CONFIDENCE_EDGES, confidence, side="right")
        self.answer = np.where(rng.random(n) < 0.03, (truth + rng.integers(1, K, n)) % K, truth)
        self.answered, self.u = rng.random(n) < 0.9, rng.random(n)
        self.population = np.bincount(self.stratum, minlength=K * B).reshape(K, B)
        total = np.bincount(self.stratum, confidence, K * B).reshape(K, B)
        self.confidence = np.where(self.population > 0, total / np.maximum(self.population, 1), np.nan)
        return self

    def counts(self, sizes):
        at = draw(self.stratum, self.u, sizes)
        at = at[self.answered[at]]
        answers = np.zeros((K * B, K + 1), dtype=np.int64)
        np.add.at(answers, (self.stratum[at], self.answer[at]), 1)
        cube = answers.reshape(K, B, K + 1)
        return StratumCounts(NAMES, self.population, cube.sum(axis=2), cube, sizes, self.confidence)

    def sizes(self, budget):
        return allocate(self.counts(np.zeros((K, B), dtype=np.int64)), budget)

    def reference(self):
        return reference_from(estimate(self.counts(self.sizes(1250))), "2026-01")

    def judged(self, reference, rules=RULES):
        sizes = self.sizes(250)
        counts = self.counts(sizes)
        judgement = judge(estimate(counts), counts, reference, rules, "first")
        if not judgement.final:
            counts = self.counts(sizes + judgement.top_up)
            judgement = judge(estimate(counts), counts, reference, rules, "topped-up")
        return judgement


def share(name, factor):
    prior = np.ones(K)
    prior[NAMES.index(name)] *= factor
    return prior / prior.sum()


def two_class_counts(precision_percent, labels=200, predictions=5000, classes=("a", "b"), drawn=None):
    """Counts of two classes with one bin each; class b is always right."""
    right = round(precision_percent * labels / 100)
    answers = np.array([[[right, 0, labels - right]], [[0, labels, 0]]])
    population = np.full((2, 1), predictions)
    drawn = answers.sum(axis=2) if drawn is None else drawn
    return StratumCounts(classes, population, answers.sum(axis=2), answers, drawn, np.full((2, 1), 0.95))


def judge_counts(counts, reference, stage="topped-up", rules=RULES):
    return judge(estimate(counts), counts, reference, rules, stage)


@pytest.fixture
def reference():
    return reference_from(estimate(two_class_counts(95, labels=1000)), "2026-01")


def test_a_lost_class_is_named_by_its_recall_and_the_one_it_is_taken_for_by_its_precision():
    named = Counter()
    for seed in range(20):
        service = Service(seed)
        reference = service.month().reference()
        assert not service.month().judged(reference).alarms or seed in (7,)
        judgement = service.month(lost=(SNEAKER, BAG)).judged(reference)
        assert judgement.decision.action == "retrain"
        assert "recall" in judgement.alarmed["Sneaker"]
        assert judgement.alarmed["Bag"] == ("precision",)
        assert judgement.classes[SNEAKER].state is ClassState.ALARM
        named.update(judgement.decision.classes)
    assert named["Sneaker"] == named["Bag"] == 20
    assert sum(named.values()) <= 41


def test_a_class_never_predicted_any_more_raises_its_recall_alarm():
    service = Service(3)
    reference = service.month().reference()
    service.month(lost=(SNEAKER, BAG))
    service.stratum[service.stratum // B == SNEAKER] = BAG * B
    service.population = np.bincount(service.stratum, minlength=K * B).reshape(K, B)
    service.confidence = np.where(service.population > 0, 0.9, np.nan)
    judgement = service.judged(reference)
    assert judgement.alarmed["Sneaker"] == ("recall",)
    assert judgement.classes[SNEAKER].precision is None


def test_quiet_months_of_a_small_service_hardly_ever_alarm():
    alarms = 0
    for seed in range(20):
        service = Service(100 + seed)
        reference = service.month().reference()
        alarms += sum(bool(service.month().judged(reference).alarms) for _ in range(6))
    assert alarms <= 4  # of 120; the demanded rate is below 2.5 %


@pytest.mark.parametrize("name", ["Trouser", "Shirt"])
def test_a_class_three_times_as_common_is_named_as_a_change_of_mix_not_of_accuracy(name):
    alarms = 0
    for seed in range(10):
        service = Service(200 + seed)
        reference = service.month().reference()
        judgement = service.month(prior=share(name, 3)).judged(reference)
        assert judgement.mix_change is not None
        assert judgement.mix_change.moved[0][0] == name
        assert "class mix changed" in judgement.decision.reason
        alarms += bool(judgement.alarms)
    assert alarms <= 1


def test_a_class_that_stops_coming_is_not_taken_for_one_that_is_missed():
    for seed in range(10):
        service = Service(300 + seed)
        reference = service.month().reference()
        judgement = service.month(prior=share("Sneaker", 0.02)).judged(reference)
        assert "recall" not in judgement.alarmed.get("Sneaker", ())


def test_a_lost_class_is_not_taken_for_a_change_of_mix():
    service = Service(5)
    reference = service.month().reference()
    assert service.month(lost=(SNEAKER, BAG)).judged(reference).mix_change is None


def test_without_a_reference_nothing_is_decided_and_the_reason_says_so():
    judgement = judge_counts(two_class_counts(20), None)
    assert judgement.decision.action == "none"
    assert "no reference level yet" in judgement.decision.reason
    assert {c.state for c in judgement.classes} == {ClassState.NO_REFERENCE}
    assert judgement.classes[0].precision.value == pytest.approx(0.2)


def test_without_labels_accuracy_is_not_measurable(reference):
    judgement = judge_counts(two_class_counts(95, labels=0), reference)
    assert {c.state for c in judgement.classes} == {ClassState.NOT_MEASURABLE}
    assert judgement.decision.action == "none"
    assert "not measurable" in judgement.decision.reason
    assert judgement.final


def test_the_first_judgement_asks_for_labels_and_never_for_a_retraining(reference):
    judgement = judge_counts(two_class_counts(60), reference, "first")
    assert judgement.decision.action == "ask-labels"
    assert judgement.decision.classes == ("a",)
    assert judgement.top_up[0].sum() == 200
    assert not judgement.alarms
    assert not judgement.final


def test_the_same_numbers_topped_up_ask_for_a_retraining(reference):
    judgement = judge_counts(two_class_counts(60), reference)
    assert judgement.decision.action == "retrain"
    assert judgement.alarmed == {"a": ("precision",)}
    assert judgement.final
    assert not judgement.top_up.any()
    assert "precision 60.0 %" in judgement.classes[0].reasons[0]
    assert judgement.classes[1].state is ClassState.OK


def test_a_suspect_with_nothing_left_to_draw_is_judged_for_good_at_once(reference):
    judgement = judge_counts(two_class_counts(60, labels=200, predictions=200), reference, "first")
    assert judgement.final
    assert judgement.decision.action == "retrain"


def test_a_fall_within_the_tolerance_is_no_alarm_however_many_labels():
    reference = reference_from(estimate(two_class_counts(97, labels=100_000, predictions=10**7)), "2026-01")
    counts = two_class_counts(93, labels=100_000, predictions=10**7)
    assert judge_counts(counts, reference).classes[0].state is ClassState.OK


def test_a_fall_below_the_floor_from_above_it_is_an_alarm_even_within_the_tolerance():
    reference = reference_from(estimate(two_class_counts(92, labels=100_000, predictions=10**7)), "2026-01")
    counts = two_class_counts(88, labels=100_000, predictions=10**7)
    assert judge_counts(counts, reference).alarmed == {"a": ("precision",)}


def test_a_class_always_below_the_floor_is_no_alarm():
    reference = reference_from(estimate(two_class_counts(80, labels=5000, predictions=10**6)), "2026-01")
    counts = two_class_counts(79, labels=5000, predictions=10**6)
    assert judge_counts(counts, reference).classes[0].state is ClassState.OK


def test_too_few_labels_block_the_alarm_but_not_the_suspicion(reference):
    judgement = judge_counts(two_class_counts(0, labels=10), reference)
    assert judgement.classes[0].state is ClassState.INSUFFICIENT
    assert judgement.decision.action == "none"
    assert judge_counts(two_class_counts(0, labels=10), reference, "first").decision.action == "ask-labels"


def test_a_class_labelled_whole_alarms_with_fewer_than_fifteen(reference):
    judgement = judge_counts(two_class_counts(0, labels=12, predictions=12), reference)
    assert judgement.alarmed["a"] == ("precision",)


def test_a_suspect_that_the_merged_labels_do_not_confirm_stays_a_suspect(reference):
    judgement = judge_counts(two_class_counts(88, labels=100), reference)
    assert judgement.classes[0].state is ClassState.SUSPECT
    assert judgement.decision.action == "none"
    assert "suspected but not shown" in judgement.decision.reason


def test_classes_are_compared_by_name_not_by_position(reference):
    counts = two_class_counts(60, classes=("new", "a"))
    judgement = judge_counts(counts, reference)
    assert judgement.classes[0].state is ClassState.NO_REFERENCE
    assert judgement.classes[1].state is ClassState.OK
    assert not judgement.alarms


def test_a_reordered_class_list_keeps_its_levels_and_its_mix(reference):
    turned = reference.for_classes(("b", "a"))
    assert turned.precision.value.tolist() == reference.precision.value[::-1].tolist()
    assert turned.joint[1, 1] == reference.joint[0, 0]
    assert turned.joint[1, 2] == reference.joint[0, 2]
    assert turned.mix.tolist() == reference.mix[::-1].tolist()


def test_a_reference_survives_being_stored():
    reference = Service(0).month().reference()
    stored = ReferenceLevel.from_json(reference.as_json())
    assert stored.classes == reference.classes
    np.testing.assert_array_equal(stored.joint, reference.joint)
    np.testing.assert_array_equal(stored.precision.effective, reference.precision.effective)
    np.testing.assert_array_equal(stored.recall.value, reference.recall.value)
    np.testing.assert_array_equal(stored.mix_spread, reference.mix_spread)


def test_a_malformed_stored_reference_says_what_to_do(reference):
    content = reference.as_json()
    del content["mix"]
    with pytest.raises(Exception, match="perennial reference reset"):
        ReferenceLevel.from_json(content)


def test_only_the_three_worst_suspects_are_topped_up():
    service = Service(1)
    reference = service.month().reference()
    for lost in ((SNEAKER, BAG), (TROUSER, SHIRT)):
        service.month(lost=lost)
    sizes = service.sizes(250)
    counts = service.counts(sizes)
    estimates = estimate(counts)
    doubled = replace(reference.precision, value=np.full(K, 0.999))
    judgement = judge(estimates, counts, replace(reference, precision=doubled), RULES, "first")
    assert len({s.class_index for s in judgement.suspects}) > 3
    assert 400 < judgement.top_up.sum() <= 600
    assert [s.z for s in judgement.suspects] == sorted(s.z for s in judgement.suspects)


def test_with_many_classes_the_top_up_may_take_a_tenth_of_the_draw():
    counts = two_class_counts(60, labels=6000, predictions=100_000)
    reference = reference_from(estimate(two_class_counts(95, labels=1000)), "2026-01")
    judgement = judge_counts(counts, reference, "first", RULES.model_copy(update={"topup_classes": 1}))
    suspects = [replace(judgement.suspects[0], class_index=k) for k in (0, 1)]
    rules = RULES.model_copy(update={"topup_classes": 1})
    assert plan_top_up(counts, suspects, rules).sum() == 400
    assert plan_top_up(two_class_counts(60, labels=600), suspects, rules).sum() == 200


def test_no_top_up_is_asked_where_it_is_switched_off(reference):
    rules = RULES.model_copy(update={"topup_labels": 0})
    assert judge_counts(two_class_counts(60), reference, "first", rules).final


def test_a_breach_needs_both_the_point_and_the_bound(reference):
    now = estimate(two_class_counts(90, labels=20)).precision
    assert not breach(now, reference.precision, RULES, 0.001)[0]
    sure = estimate(two_class_counts(60, labels=500)).precision
    assert breach(sure, reference.precision, RULES, 0.001)[0]


def test_the_evidence_holds_the_numbers_of_the_decision(reference):
    decision = judge_counts(two_class_counts(60), reference).decision
    assert decision.evidence["alarms"][0][:2] == ["a", "precision"]
    assert decision.evidence["reference_window"] == "2026-01"
    assert decision.evidence["rules"]["tolerance"] == RULES.tolerance


def test_a_clearly_better_level_may_replace_the_reference_and_noise_may_not():
    low = reference_from(estimate(two_class_counts(85, labels=1000)), "2026-01")
    assert significantly_better(estimate(two_class_counts(97, labels=1000)), low, RULES)
    assert not significantly_better(estimate(two_class_counts(86, labels=1000)), low, RULES)


def rare_class_counts(mistaken, labels):
    """Class a is predicted 8 times, all right and labelled; of `labels` answers among 5,000 b, `mistaken` say a."""
    answers = np.array([[[8, 0, 0]], [[mistaken, labels - mistaken, 0]]])
    seen = answers.sum(axis=2)
    return StratumCounts(("a", "b"), np.array([[8], [5000]]), seen, answers, seen, np.full((2, 1), 0.95))


def test_a_recall_told_by_two_answers_is_no_alarm():
    reference = reference_from(estimate(rare_class_counts(3, 4999)), "2026-01")
    few = rare_class_counts(2, 200)
    assert estimate(few).recall.process_effective[0] > RULES.min_effective_labels
    assert judge_counts(few, reference, "first").decision.classes == ("a",)
    assert not judge_counts(few, reference).alarms
    assert judge_counts(rare_class_counts(30, 3000), reference).alarmed == {"a": ("recall",)}
