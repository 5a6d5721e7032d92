"""The gate between candidate and champion: each check, and how often it decides right in the long run."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from components.errors import DataError
from components.evaluation.gates.checks import new_class_check
from components.evaluation.gates.one_class import CandidateResults, judge_candidate
from components.evaluation.metrics.paired import better_p_value, class_difference, mid_p_value, overall_difference
from components.params import Gate

NAMES = tuple("abcdefghij")
K, PER_CLASS = 10, 150
LABELS = np.repeat(np.arange(K), PER_CLASS)
RULES = Gate()


def answers(rng, accuracy, labels=LABELS):
    """Answers that are right with the accuracy of their class; a wrong one is the next class."""
    return np.where(rng.random(len(labels)) < np.broadcast_to(accuracy, K)[labels], labels, (labels + 1) % K)


def like(rng, base, labels=LABELS, changed=0.35):
    """Another model as good as `base` in every class: each error is mended with this chance, as many are newly made."""
    other = base.copy()
    for k in range(K):
        wrong, right = np.flatnonzero((labels == k) & (base != k)), np.flatnonzero((labels == k) & (base == k))
        other[wrong[rng.random(len(wrong)) < changed]] = k
        other[right[rng.random(len(right)) < changed * len(wrong) / max(len(right), 1)]] = (k + 1) % K
    return other


def results(predicted, labels=LABELS, classes=NAMES, ece=0.03, parity_ok=True):
    return CandidateResults(classes, labels, predicted, ece, parity_ok)


def judged(candidate, champion, alarmed=None, expected=True):
    return judge_candidate(candidate, champion, alarmed=alarmed or {}, rules=RULES, champion_expected=expected)


def failed(verdict):
    return {check.name for check in verdict.checks if not check.passed}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def champion(rng):
    return results(answers(rng, 0.92))


def test_an_equal_model_passes_with_every_number_in_the_verdict(rng, champion):
    verdict = judged(results(like(rng, champion.predicted)), champion)
    assert verdict.passed
    assert {check.name for check in verdict.checks} == {"export parity", "calibration", "overall", "every class"}
    assert verdict.as_json()["checks"][2]["numbers"]["images"] == 1500


def test_a_missing_baseline_refuses(rng, champion):
    verdict = judged(champion, None, expected=True)
    assert not verdict.passed
    assert failed(verdict) == {"baseline"}


def test_a_model_that_is_worse_overall_is_refused(rng, champion):
    assert "overall" in failed(judged(results(answers(rng, 0.87)), champion))


def test_a_model_that_lost_one_class_is_refused_and_the_class_is_named(rng, champion):
    accuracy = np.full(K, 0.96)
    accuracy[3] = 0.65
    verdict = judged(results(answers(rng, accuracy)), champion)
    assert failed(verdict) == {"every class"}
    assert "d recall" in verdict.reason


def test_a_class_that_swallows_others_is_refused_by_its_precision(rng):
    labels = np.repeat(np.arange(K), 400)
    champion = results(answers(rng, 0.98, labels), labels)
    swallowed = champion.predicted.copy()
    for k in (4, 5, 6, 7, 8):  # a little of five classes, much for the one that takes it
        swallowed[rng.choice(np.flatnonzero(labels == k), 20, replace=False)] = 0
    better = {3: 1.0}
    swallowed[labels == 3] = np.where(rng.random(400) < better[3], 3, 0)
    assert "a precision" in judged(results(swallowed, labels), champion).reason


def test_an_uncalibrated_model_is_refused(rng, champion):
    assert failed(judged(results(champion.predicted, ece=0.11), champion)) == {"calibration"}
    assert failed(judged(results(champion.predicted, ece=float("nan")), champion)) == {"calibration"}


def test_an_export_that_disagrees_is_refused(champion):
    assert failed(judged(results(champion.predicted, parity_ok=False), champion)) == {"export parity"}


def test_no_labelled_image_refuses(champion):
    nothing = np.array([], dtype=np.int64)
    assert "images" in failed(judged(results(nothing, nothing), results(nothing, nothing)))


def test_an_alarmed_class_must_be_better_not_just_equal(rng, champion):
    verdict = judged(results(champion.predicted), champion, {"c": ("recall",)})
    assert failed(verdict) == {"alarmed class c"}


def test_a_repaired_class_passes_on_few_images(rng):
    broken = answers(rng, 0.95)
    lost = rng.choice(np.flatnonzero(LABELS == 2), 12, replace=False)
    broken[lost] = 7
    repaired = np.where((LABELS == 2) & (broken == 7), 2, broken)
    verdict = judged(results(repaired), results(broken), {"c": ("recall",), "h": ("precision",)})
    assert verdict.passed
    assert {"alarmed class c", "alarmed class h"} <= {check.name for check in verdict.checks}


def test_a_class_alarmed_by_two_rules_needs_to_be_better_in_one(rng):
    broken = answers(rng, 0.95)
    broken[rng.choice(np.flatnonzero(LABELS == 2), 12, replace=False)] = 7
    repaired = np.where((LABELS == 2) & (broken == 7), 2, broken)
    assert judged(results(repaired), results(broken), {"c": ("recall", "precision")}).passed


def test_an_alarmed_class_the_candidate_lacks_refuses(rng):
    labels = LABELS % 9
    champion = CandidateResults(NAMES, labels, labels.copy())
    candidate = results(labels.copy(), labels, NAMES[:9])
    assert "alarmed class j" in failed(judged(candidate, champion, {"j": ("recall",)}))


@pytest.mark.parametrize(("accuracy", "passes"), [(0.9, True), (0.62, True), (0.55, False)])
def test_the_first_model_is_judged_by_the_floor(rng, accuracy, passes):
    assert judged(results(answers(rng, accuracy)), None, expected=False).passed is passes


def test_the_first_model_must_beat_always_answering_the_commonest_class(rng):
    labels = np.where(rng.random(1500) < 0.9, 0, LABELS)
    always = results(np.zeros(1500, dtype=np.int64), labels)
    assert failed(judged(always, None, expected=False)) == {"first model"}
    assert judged(results(labels, labels), None, expected=False).passed


def test_a_class_the_champion_does_not_know_is_judged_by_the_floor_and_the_others_stay_paired(rng):
    old = answers(rng, 0.93)
    old = np.where(LABELS == 9, 0, np.where(old == 9, 0, old))  # the champion has never heard of j
    champion = CandidateResults(NAMES[:9], LABELS, old)
    good = results(answers(rng, 0.93))
    verdict = judged(good, champion)
    assert verdict.passed
    overall = next(check for check in verdict.checks if check.name == "overall")
    assert overall.numbers["images"] == 9 * PER_CLASS
    poor = results(answers(rng, np.append(np.full(9, 0.93), 0.3)))
    assert "new class j" in failed(judged(poor, champion))
    unseen = LABELS < 9
    without = judged(
        results(good.predicted[unseen], LABELS[unseen]), CandidateResults(NAMES[:9], LABELS[unseen], old[unseen])
    )
    assert "new class j" in failed(without)


def test_a_new_class_must_be_more_precise_than_answering_it_always():
    there = np.arange(100) < 80
    always = new_class_check("k", there, np.ones(100, bool), RULES)
    assert (always.passed, always.numbers["recall"], always.numbers["precision"]) == (False, 1.0, 0.8)
    assert new_class_check("k", there, np.arange(100) < 85, RULES).passed


def test_a_champion_of_an_older_list_is_compared_under_the_names_of_today_and_the_verdict_says_so(rng):
    known = tuple(name for name in NAMES if name != "c")  # what 'c' is now, the champion does not know
    champion = CandidateResults(known, LABELS, answers(rng, 0.92), note="'x' counts as 'b'; it does not know 'c'")
    verdict = judged(results(like(rng, champion.predicted)), champion)
    (told,) = [check for check in verdict.checks if check.name == "class list"]
    assert told.passed
    assert told.detail == "the champion answers an older one: 'x' counts as 'b'; it does not know 'c'"
    assert [check.name for check in verdict.checks if check.name.startswith("new class")] == ["new class c"]


def test_many_new_classes_are_one_check_that_names_the_worst(rng):
    labels = np.arange(400) % 40
    names = tuple(f"k{k}" for k in range(40))
    predicted = np.where(labels >= 10, labels, 39)  # the first ten are never answered
    old = CandidateResults(("k38", "k39"), labels, labels.copy())
    verdict = judged(CandidateResults(names, labels, predicted, 0.03, True), old)
    (new,) = [check for check in verdict.checks if check.name.startswith("new")]
    assert (new.name, new.passed) == ("new classes", False)
    assert new.detail.startswith("10 of 38 do not reach the floor; k0: recall 0.0 %")
    assert new.numbers["new class k3"]["recall"] == 0.0


def test_results_on_different_images_are_an_error(rng, champion):
    with pytest.raises(DataError, match="not judged on the same images"):
        judged(results(champion.predicted, LABELS[::-1].copy()), champion)
    with pytest.raises(DataError, match="must be \\(N,\\)"):
        judged(results(champion.predicted[:-1]), champion)
    with pytest.raises(DataError, match="outside the candidate's 10 classes"):
        judged(results(champion.predicted + 1), champion)


def test_the_mid_p_value_is_the_binomials():
    for gained, lost in [(0, 0), (3, 0), (7, 2), (2, 7), (40, 31)]:
        coin = stats.binom(gained + lost, 0.5)
        assert mid_p_value(gained, lost) == pytest.approx(coin.sf(gained) + coin.pmf(gained) / 2)


def test_the_bounds_of_a_paired_difference_cover_it():
    rng, misses = np.random.default_rng(1), 0
    labels = np.zeros(400, dtype=np.int64)
    for _ in range(2000):
        cell = rng.choice(4, 400, p=[0.86, 0.05, 0.03, 0.06])  # both right, only new, only old, neither
        new, old = np.where(cell <= 1, 0, 1), np.where((cell == 0) | (cell == 2), 0, 1)
        misses += overall_difference(labels, new, old).lower(0.05) > 0.02
    assert 0.03 < misses / 2000 < 0.07


def test_the_precision_difference_covers_it():
    rng, misses = np.random.default_rng(2), 0
    for _ in range(1000):
        champion = answers(rng, 0.90)
        candidate = like(rng, champion)
        difference = class_difference(LABELS, candidate, champion, 4, "precision")
        misses += difference.lower(0.05) > 0  # both have the same precision in the long run
    assert 0.005 < misses / 1000 < 0.07


def test_a_precision_nobody_can_compare_is_no_improvement():
    labels = np.array([0, 0, 1, 1])
    never, always = np.array([1, 1, 1, 1]), np.array([0, 0, 1, 1])
    assert class_difference(labels, always, never, 0, "precision") is None
    assert better_p_value(labels, always, never, 0, "precision") == 1


def share_passed(make, repeats=150, alarmed=None):
    rng, passed = np.random.default_rng(3), 0
    for _ in range(repeats):
        candidate, champion = make(rng)
        passed += judged(results(candidate), results(champion), alarmed).passed
    return passed / repeats


def test_in_the_long_run_equal_and_repaired_models_pass():
    def equal(rng):
        champion = answers(rng, 0.92)
        return like(rng, champion), champion

    def repaired(rng):
        """A tenth of class c is of a new kind that the champion takes for h; the candidate knows four in five of it."""
        champion = answers(rng, 0.92)
        new = np.flatnonzero(LABELS == 2)[:15]
        candidate = like(rng, champion)
        champion[new], candidate[new] = 7, np.where(rng.random(15) < 0.8, 2, 7)
        return candidate, champion

    assert share_passed(equal) > 0.9
    assert share_passed(repaired, alarmed={"c": ("recall",), "h": ("precision",)}) > 0.9


def test_in_the_long_run_worse_models_do_not_pass():
    def four_points_worse(rng):
        champion = answers(rng, 0.92)
        return answers(rng, 0.88), champion

    def one_class_twenty_points_worse(rng):
        champion = answers(rng, 0.92)
        candidate = like(rng, champion)
        lost = rng.choice(np.flatnonzero((LABELS == 6) & (candidate == 6)), 30, replace=False)
        candidate[lost] = 0
        return candidate, champion

    def no_better_where_it_hurt(rng):
        champion = answers(rng, np.where(np.arange(K) == 2, 0.6, 0.92))
        return like(rng, champion), champion

    assert share_passed(four_points_worse) < 0.02
    assert share_passed(one_class_twenty_points_worse) < 0.05
    assert share_passed(no_better_where_it_hurt, alarmed={"c": ("recall",)}) < 0.25


def test_a_fall_within_the_margin_that_is_not_proven_to_be_is_refused(champion):
    candidate = champion.predicted.copy()
    candidate[np.flatnonzero(candidate == LABELS)[::60]] += 1  # 23 of 1,500: 1.5 points, spread over the classes
    candidate %= K
    verdict = judged(results(candidate), champion)
    assert failed(verdict) == {"overall"}
    overall = next(check for check in verdict.checks if check.name == "overall")
    assert -RULES.margin < overall.numbers["difference"] < 0
