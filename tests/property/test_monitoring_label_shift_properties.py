"""What must hold of a mix, of training weights and of an explanation for any counts whatever."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from components.monitoring.drift.label_shift import confusion_mix, em_mix, reweighting
from components.monitoring.drift.predictions import DriftCause, explain_prediction_drift
from components.params import Monitor
from components.records import StratumCounts

RULES = Monitor()
SETTINGS = settings(max_examples=60, deadline=None)
SEEDS = st.integers(0, 2**32 - 1)


@st.composite
def tables(draw_from):
    """A joint table (I, K + 1) with empty cells and classes among it, and counts of the same cells."""
    rng = np.random.default_rng(draw_from(SEEDS))
    classes = draw_from(st.integers(1, 6))
    cells = classes * draw_from(st.integers(1, 4))
    joint = rng.dirichlet(np.full(cells * (classes + 1), 0.3)).reshape(cells, classes + 1)
    joint *= rng.random((cells, 1)) < 0.9
    joint[0, 0] += 0.1
    counts = rng.multinomial(draw_from(st.sampled_from([3, 300, 10**6])), rng.dirichlet(np.ones(cells)))
    counts[0] += 1
    labels = rng.integers(0, 200, cells) if draw_from(st.booleans()) else np.inf
    rows = draw_from(st.sampled_from([50.0, 1e5, np.inf]))
    return joint / joint.sum(), counts, labels, rows


@st.composite
def probability_rows(draw_from):
    rng = np.random.default_rng(draw_from(SEEDS))
    classes, rows = draw_from(st.integers(2, 6)), draw_from(st.integers(1, 60))
    spread = draw_from(st.sampled_from([0.05, 1.0, 20.0]))
    return rng.dirichlet(np.full(classes, spread), rows) + 1e-9, rng.dirichlet(np.full(classes, 2.0))


def is_a_mix(values):
    return bool((values >= 0).all()) and abs(values.sum() - 1) < 1e-9


@SETTINGS
@given(tables())
def test_a_mix_from_counts_is_a_mix_with_finite_errors(table):
    joint, counts, labels, rows = table
    estimate = confusion_mix(joint, counts, labels=labels, reference_rows=rows)
    assert is_a_mix(estimate.mix)
    assert np.isfinite(estimate.standard_error).all()
    assert (estimate.standard_error >= 0).all()


@SETTINGS
@given(tables())
def test_the_reference_itself_has_the_mix_of_the_reference(table):
    joint, _, labels, rows = table
    old = joint[:, :-1].sum(axis=0)
    estimate = confusion_mix(joint, 1000 * joint.sum(axis=1), labels=labels, reference_rows=rows)
    np.testing.assert_allclose(estimate.mix, old / old.sum(), atol=1e-9)
    assert estimate.iterations == 2


@SETTINGS
@given(tables(), SEEDS)
def test_the_order_of_classes_and_cells_does_not_matter_to_counts(table, seed):
    joint, counts, labels, rows = table
    rng = np.random.default_rng(seed)
    classes, cells = rng.permutation(joint.shape[1] - 1), rng.permutation(len(joint))
    labels = np.broadcast_to(labels, len(joint))
    straight = confusion_mix(joint, counts, labels=labels, reference_rows=rows)
    turned_joint = joint[np.ix_(cells, np.append(classes, joint.shape[1] - 1))]
    turned = confusion_mix(turned_joint, counts[cells], labels=labels[cells], reference_rows=rows)
    np.testing.assert_allclose(straight.mix[classes], turned.mix, atol=1e-5)


@SETTINGS
@given(probability_rows(), SEEDS)
def test_a_mix_from_probabilities_is_a_mix_in_any_order(rows_and_prior, seed):
    probabilities, prior = rows_and_prior
    estimate = em_mix(probabilities, prior)
    assert is_a_mix(estimate.mix)
    rng = np.random.default_rng(seed)
    classes, rows = rng.permutation(len(prior)), rng.permutation(len(probabilities))
    turned = em_mix(probabilities[np.ix_(rows, classes)], prior[classes])
    np.testing.assert_allclose(estimate.mix[classes], turned.mix, atol=1e-5)
    np.testing.assert_allclose(em_mix(7 * probabilities, prior).mix, estimate.mix, atol=1e-9)


@SETTINGS
@given(probability_rows())
def test_probabilities_whose_mean_is_the_prior_keep_it(rows_and_prior):
    probabilities, _ = rows_and_prior
    probabilities = probabilities / probabilities.sum(axis=1, keepdims=True)
    prior = probabilities.mean(axis=0)
    estimate = em_mix(probabilities, prior)
    np.testing.assert_allclose(estimate.mix, prior, atol=1e-9)
    assert estimate.iterations == 1


@SETTINGS
@given(SEEDS, st.integers(1, 8), st.floats(1, 100))
def test_weights_keep_their_bounds_their_mean_and_the_order_of_the_need(seed, classes, bound):
    rng = np.random.default_rng(seed)
    new, old = rng.dirichlet(np.full(classes, 0.3)), rng.dirichlet(np.full(classes, 0.3))
    weights = reweighting(new, old, bound)
    assert abs(weights @ old - 1) < 1e-9
    assert ((weights >= 1 / bound * (1 - 1e-12)) & (weights <= bound * (1 + 1e-12))).all()
    need = np.argsort(new / np.maximum(old, 1e-300))
    assert (np.diff(weights[need][old[need] > 0]) >= -1e-9).all()
    np.testing.assert_allclose(reweighting(old, old, bound), 1, atol=1e-9)


@st.composite
def windows(draw_from):
    """Any reference that agrees with itself, and any window of the same shape."""
    rng = np.random.default_rng(draw_from(SEEDS))
    classes, bins = draw_from(st.integers(2, 6)), draw_from(st.integers(1, 4))
    scale = draw_from(st.sampled_from([3, 60, 5000, 10**7, 10**10]))
    shape = (classes, bins)
    population, window = (rng.integers(0, scale, shape) * (rng.random(shape) < 0.8) for _ in range(2))
    if draw_from(st.booleans()):
        window = population * draw_from(st.integers(1, 3))
    seen = np.minimum(population, rng.integers(0, draw_from(st.sampled_from([1, 4, 50])), shape))
    chances = rng.dirichlet(np.full(classes + 1, 0.3), shape)
    answers = rng.multinomial(seen, chances)
    confidence = np.where(population > 0, rng.random(shape), np.nan)
    names = tuple(f"c{k}" for k in range(classes))
    return StratumCounts(names, population, seen, answers, seen, confidence), window


@SETTINGS
@given(windows())
def test_any_window_is_explained_in_words(pair):
    reference, window = pair
    explanation = explain_prediction_drift(reference, window, RULES)
    assert explanation.reason
    assert (explanation.mix is None) == (explanation.misfit is None)
    if explanation.state in {DriftCause.MIX, DriftCause.NOT_MIX}:
        assert is_a_mix(explanation.mix.mix)
        assert 0 <= explanation.explained <= 1
        assert explanation.misfit.freedom >= 1
    if explanation.change.p_value is not None and explanation.change.p_value >= RULES.drift_alpha:
        assert explanation.state is DriftCause.NONE


@SETTINGS
@given(windows(), st.integers(1, 4))
def test_the_reference_over_again_is_no_change(pair, times):
    reference, _ = pair
    explanation = explain_prediction_drift(reference, reference.population * times, RULES)
    assert explanation.state in {DriftCause.NONE, DriftCause.UNDECIDED}
    assert explanation.misfit is None


@SETTINGS
@given(windows(), SEEDS)
def test_the_order_of_the_classes_does_not_matter_to_the_explanation(pair, seed):
    reference, window = pair
    turn = np.random.default_rng(seed).permutation(len(reference.classes))
    turned = StratumCounts(
        tuple(reference.classes[k] for k in turn),
        reference.population[turn],
        reference.labelled[turn],
        reference.answers[turn][:, :, [*turn, len(turn)]],
        reference.drawn[turn],
        reference.confidence[turn],
    )
    straight = explain_prediction_drift(reference, window, RULES)
    other = explain_prediction_drift(turned, np.asarray(window)[turn], RULES)
    assert straight.change.state == other.change.state
    if straight.mix is not None and other.mix is not None:
        np.testing.assert_allclose(straight.mix.mix[turn], other.mix.mix, atol=1e-3)
