"""What must hold of the sample, the estimates and the tests for any counts whatever."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from components.monitoring.comparison.change import change_since
from components.monitoring.drift.findings import minimum_effect_test
from components.monitoring.estimation.accuracy import MOST_UNANSWERED, estimate
from components.monitoring.estimation.annotator_error import AnnotatorError, corrected
from components.monitoring.estimation.error_rates import corrected_error_rates, error_rates
from components.monitoring.estimation.pooling import pool
from components.monitoring.estimation.rates import lower_bound, upper_bound
from components.monitoring.judgement.policy import ReferenceLevel, judge, reference_from
from components.monitoring.sampling.one_class import allocate, draw, spread_recall_top_up, spread_top_up
from components.params import Monitor
from components.records import StratumCounts

RULES = Monitor()
SETTINGS = settings(max_examples=150, deadline=None)


@st.composite
def windows(draw_from, labelled=True):
    """Any counts that agree with themselves: empty classes, unlabelled strata and censuses among them."""
    classes = draw_from(st.integers(2, 6))
    bins = draw_from(st.integers(1, 4))
    rng = np.random.default_rng(draw_from(st.integers(0, 2**32 - 1)))
    scale = draw_from(st.sampled_from([3, 60, 5000, 10**7]))
    population = rng.integers(0, scale, (classes, bins)) * (rng.random((classes, bins)) < draw_from(st.floats(0.2, 1)))
    wanted = rng.integers(0, draw_from(st.sampled_from([1, 4, 50, 400])) + 1, (classes, bins)) if labelled else 0
    seen = np.minimum(population, wanted)
    answers = np.zeros((classes, bins, classes + 1), dtype=np.int64)
    for k in range(classes):
        chances = rng.dirichlet(np.full(classes + 1, 0.3) + 4 * (np.arange(classes + 1) == k))
        for b in range(bins):
            answers[k, b] = rng.multinomial(seen[k, b], chances)
    confidence = np.where(population > 0, rng.random((classes, bins)), np.nan)
    drawn = np.minimum(population, seen + rng.integers(0, 3, seen.shape))
    return StratumCounts(tuple(f"c{k}" for k in range(classes)), population, seen, answers, drawn, confidence)


def stored(counts):
    level = reference_from(estimate(counts), "2026-01")
    return ReferenceLevel.from_json(level.as_json())


@SETTINGS
@given(windows(labelled=False), st.integers(0, 3000))
def test_an_allocation_spends_the_budget_within_its_bounds(counts, n):
    sizes = allocate(counts, n)
    smallest = np.minimum(counts.population, 2)
    assert (sizes >= smallest).all()
    assert (sizes <= counts.population).all()
    assert sizes.sum() == min(max(n, smallest.sum()), counts.population.sum())


@SETTINGS
@given(windows(labelled=False), st.integers(0, 500), st.integers(0, 500))
def test_a_larger_budget_never_takes_labels_from_the_window(counts, n, more):
    assert allocate(counts, n + more).sum() >= allocate(counts, n).sum()


@SETTINGS
@given(windows(), st.integers(0, 400), st.data())
def test_a_top_up_spends_what_it_may_and_fits_into_what_is_left(counts, extra, data):
    k = data.draw(st.integers(0, len(counts.classes) - 1))
    left = counts.population - counts.drawn
    own = spread_top_up(counts, k, extra)
    assert (own >= 0).all()
    assert (own <= left[k]).all()
    assert own.sum() == min(extra, left[k].sum())
    anywhere = spread_recall_top_up(counts, k, extra)
    assert (anywhere >= 0).all()
    assert (anywhere <= left).all()
    assert anywhere.sum() <= extra


@SETTINGS
@given(st.integers(0, 2**32 - 1), st.integers(1, 8))
def test_draws_are_nested_and_repeatable(seed, strata):
    rng = np.random.default_rng(seed)
    stratum, u = rng.integers(0, strata, 200), rng.random(200)
    population = np.bincount(stratum, minlength=strata)
    small = rng.integers(0, population + 1)
    large = np.minimum(population, small + rng.integers(0, 9, strata))
    first = draw(stratum, u, small)
    assert np.bincount(stratum[first], minlength=strata).tolist() == small.tolist()
    assert first.tolist() == draw(stratum, u, small).tolist()
    assert set(first) <= set(draw(stratum, u, large))


@SETTINGS
@given(windows())
def test_estimates_are_shares_inside_their_intervals(counts):
    estimates = estimate(counts)
    for rates in (estimates.precision, estimates.recall):
        known = np.isfinite(rates.value)
        assert ((rates.value[known] >= 0) & (rates.value[known] <= 1)).all()
        assert (rates.low[known] <= rates.value[known] + 1e-9).all()
        assert (rates.high[known] >= rates.value[known] - 1e-9).all()
        for worth in (rates.effective[known], rates.process_effective[known]):
            assert ((worth >= 1) & (worth <= 1e7)).all()
        assert (np.isnan(rates.low) == ~known).all()
    if estimates.labelled:
        assert abs(estimates.joint.sum() - 1) < 1e-9
    if estimates.labelled and estimates.unanswered_overall <= MOST_UNANSWERED:
        assert 0 <= estimates.accuracy.low <= estimates.accuracy.high <= 1
        assert 0 <= estimates.calibration_error <= 1
    else:
        assert estimates.accuracy is None
        assert estimates.calibration_error is None


@SETTINGS
@given(windows())
def test_pooling_one_window_gives_its_own_estimates(counts):
    alone, pooled = estimate(counts), estimate(pool([counts]))
    for rates, others in ((alone.precision, pooled.precision), (alone.recall, pooled.recall)):
        for field in fields(rates):
            np.testing.assert_array_equal(getattr(rates, field.name), getattr(others, field.name))
    assert alone.accuracy == pooled.accuracy


@SETTINGS
@given(windows(), st.integers(2, 4))
def test_a_window_pooled_with_its_like_has_the_same_rates_and_is_better_known(counts, times):
    alone, pooled = estimate(counts), estimate(pool([counts] * times))
    for rates, others in ((alone.precision, pooled.precision), (alone.recall, pooled.recall)):
        np.testing.assert_allclose(others.value, rates.value, atol=1e-9)
        known = np.isfinite(rates.value)
        assert (others.labels == times * rates.labels).all()
        assert (others.effective[known] >= rates.effective[known] * (1 - 1e-9)).all()


@SETTINGS
@given(windows())
def test_a_window_has_not_changed_since_itself(counts):
    same = change_since(estimate(counts), "itself", estimate(counts), RULES)
    assert same.fallen == {}
    for one in (*same.precision, *same.recall):
        assert one is None or one.low - 1e-9 <= one.value == 0 <= one.high + 1e-9


@SETTINGS
@given(windows())
def test_error_rates_lie_inside_their_intervals_and_say_what_precision_and_recall_say(counts):
    estimates = estimate(counts)
    rates = error_rates(counts, estimates)
    predicted = counts.population.sum(axis=1)
    for k, one in enumerate(rates.false_positive):
        if one is not None and predicted[k]:
            assert 0 <= one.low <= one.value + 1e-9
            assert one.value - 1e-9 <= one.high <= 1
            assert one.value >= predicted[k] * (1 - estimates.precision.value[k]) / predicted.sum() - 1e-9
        elif one is not None:
            assert (one.value, one.low, one.high) == (0, 0, 0)
    for one, recall in zip(rates.false_negative, estimates.recall.value, strict=True):
        assert (one is None) == bool(np.isnan(recall))
        assert one is None or one.value == 1 - recall
    known = AnnotatorError(0.0, 0.0, 0.0, 100, 0)
    freed = corrected_error_rates(counts, known, corrected(estimates, known)).false_positive
    for one, other in zip(rates.false_positive, freed, strict=True):
        assert (one is None) == (other is None)
        assert one is None or max(abs(one.value - other.value), abs(one.high - other.high)) < 1e-9


@SETTINGS
@given(windows(), st.floats(0, 0.25), st.floats(0, 0.05))
def test_corrected_error_rates_are_shares_too(counts, error, spread):
    found = AnnotatorError(error, max(0, error - spread), error + spread, 100, 1)
    rates = corrected_error_rates(counts, found, corrected(estimate(counts), found))
    for one in (*rates.false_positive, *rates.false_negative):
        assert one is None or -1e-9 <= one.low <= one.value + 1e-9 <= one.high + 2e-9 <= 1 + 3e-9


@SETTINGS
@given(windows())
def test_where_everything_is_labelled_error_rates_are_those_of_the_confusion_matrix(counts):
    confidence = np.where(counts.labelled > 0, 0.5, np.nan)
    census = StratumCounts(
        counts.classes, counts.labelled, counts.labelled, counts.answers, counts.labelled, confidence
    )
    table = counts.answers.sum(axis=1)
    right, predicted, true = table.diagonal(), table.sum(axis=1), table.sum(axis=0)[:-1]
    rates = error_rates(census, estimate(census))
    for k, one in enumerate(rates.false_positive):
        negatives = table.sum() - true[k]
        assert (one is None) == (negatives == 0)
        assert one is None or abs(one.value - (predicted[k] - right[k]) / negatives) < 1e-9


@SETTINGS
@given(windows())
def test_precision_is_the_weighted_share_of_right_answers_where_all_strata_are_labelled(counts):
    assume(((counts.labelled > 0) | (counts.population == 0)).all())
    value = estimate(counts).precision.value
    for k in range(len(counts.classes)):
        N, n = counts.population[k], counts.labelled[k]
        if N.sum():
            right = counts.answers[k, :, k]
            assert abs(value[k] - sum(N[n > 0] * right[n > 0] / n[n > 0]) / N.sum()) < 1e-9


@SETTINGS
@given(windows(), st.permutations(range(6)))
def test_the_order_of_the_classes_does_not_matter(counts, order):
    turn = [k for k in order if k < len(counts.classes)]
    turned = StratumCounts(
        tuple(counts.classes[k] for k in turn),
        counts.population[turn],
        counts.labelled[turn],
        counts.answers[turn][:, :, [*turn, len(turn)]],
        counts.drawn[turn],
        counts.confidence[turn],
    )
    straight, other = estimate(counts), estimate(turned)
    for a, b in ((straight.precision, other.precision), (straight.recall, other.recall)):
        np.testing.assert_allclose(a.value[turn], b.value, atol=1e-9)
        np.testing.assert_allclose(a.process_effective[turn], b.process_effective, rtol=1e-6)


@SETTINGS
@given(st.floats(0, 1), st.floats(1, 1e7), st.sampled_from([0.1, 0.01, 0.001]))
def test_bounds_enclose_the_rate_and_widen_with_confidence(value, effective, alpha):
    p, n = np.array([value]), np.array([effective])
    low, high = lower_bound(p, n, alpha)[0], upper_bound(p, n, alpha)[0]
    assert 0 <= low <= value + 1e-6
    assert value - 1e-6 <= high <= 1
    assert lower_bound(p, n, alpha / 10)[0] <= low
    assert upper_bound(p, n, alpha / 10)[0] >= high


@SETTINGS
@given(windows(), windows(), st.sampled_from(["first", "topped-up"]))
def test_a_judgement_never_fails_and_only_alarms_with_enough_labels(before, now, stage):
    reference, estimates = stored(before), estimate(now)
    judgement = judge(estimates, now, reference, RULES, stage)
    assert [c.name for c in judgement.classes] == list(now.classes)
    assert (judgement.top_up <= now.population - now.drawn).all()
    assert judgement.final == (not judgement.top_up.any() or stage == "topped-up")
    if judgement.alarms:
        assert judgement.final
        assert judgement.decision.action == "retrain"
    for alarm in judgement.alarms:
        rates = estimates.precision if alarm.rule == "precision" else estimates.recall
        assert alarm.value < alarm.reference
        assert rates.process_effective[alarm.class_index] >= 15 or estimates.complete[alarm.class_index]


@SETTINGS
@given(windows())
def test_a_window_judged_against_itself_is_quiet(counts):
    judgement = judge(estimate(counts), counts, stored(counts), RULES, "topped-up")
    assert judgement.decision.action == "none"
    assert judgement.mix_change is None


@SETTINGS
@given(
    arrays(np.float64, st.integers(0, 30), elements=st.floats(allow_nan=True, allow_infinity=True)),
    arrays(np.float64, st.integers(0, 30), elements=st.floats(allow_nan=True, allow_infinity=True)),
)
def test_any_two_vectors_have_a_state(before, now):
    test = minimum_effect_test(before, now, 0.05)
    assert test.state == "ok" or test.state.startswith("undecided")
    assert (test.p_value is None) == (test.state != "ok")


@SETTINGS
@given(arrays(np.int64, 8, elements=st.integers(0, 10**7)), arrays(np.int64, 8, elements=st.integers(0, 10**7)))
def test_drift_is_symmetric_in_its_two_sides_and_blind_to_the_order_of_cells(before, now):
    assume(before.sum() >= 50)
    assume(now.sum() >= 50)
    there, back = minimum_effect_test(before, now, 0.05), minimum_effect_test(now, before, 0.05)
    turned = minimum_effect_test(before[::-1], now[::-1], 0.05)
    assert there.state == back.state == turned.state
    if there.p_value is not None:
        assert 0 <= there.p_value <= 1
        assert there.p_value >= there.plain_p_value - 1e-12
        assert abs(there.p_value - back.p_value) < 1e-6
