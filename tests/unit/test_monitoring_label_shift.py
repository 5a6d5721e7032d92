"""Label shift: the mix against scipy's optimum and against known mixes, its standard errors, the training weights."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy import optimize

from components.errors import DataError
from components.monitoring.comparison import confusion as confusion_module
from components.monitoring.comparison.confusion import PRIOR_ROWS, Confusion, shift_factors
from components.monitoring.drift import label_shift
from components.monitoring.drift.label_shift import confusion_mix, em_mix, reweighting

PRIOR = np.array([0.5, 0.2, 0.2, 0.1])


def posteriors(mix, prior, rows, rng, separation=2.0):
    """Calibrated probabilities (rows, K), under `prior`, of images that come in `mix`, and their truth."""
    truth = rng.choice(len(mix), rows, p=mix)
    score = rng.standard_normal((rows, len(mix)))
    score[np.arange(rows), truth] += separation
    likelihood = np.exp(separation * score) * prior
    return likelihood / likelihood.sum(axis=1, keepdims=True), truth


def best(loss, classes):
    """The mix (K,) that minimises a convex `loss`, found without its gradient's or EM's help."""

    def softmax(x):
        return np.exp(x - x.max()) / np.exp(x - x.max()).sum()

    found = optimize.minimize(
        lambda x: loss(softmax(np.append(x, 0))), np.zeros(classes - 1), options={"gtol": 1e-9}, method="BFGS"
    )
    polished = optimize.minimize(
        lambda x: loss(softmax(np.append(x, 0))),
        found.x,
        method="Nelder-Mead",
        options={"xatol": 1e-10, "fatol": 1e-15, "maxiter": 10_000, "maxfev": 10_000},
    )
    return softmax(np.append(polished.x, 0))


def test_the_mix_from_probabilities_is_scipys_optimum():
    probabilities, _ = posteriors(np.array([0.2, 0.5, 0.1, 0.2]), PRIOR, 400, np.random.default_rng(1))

    def loss(mix):
        pull = PRIOR_ROWS * PRIOR @ np.log(mix)
        return -(np.log(probabilities @ (mix / PRIOR)).sum() + pull) / 400

    estimate = em_mix(probabilities, PRIOR, tolerance=1e-12)
    assert estimate.converged
    np.testing.assert_allclose(estimate.mix, best(loss, 4), atol=1e-6)


def test_the_mix_from_counts_is_scipys_optimum():
    rng = np.random.default_rng(2)
    shown = rng.dirichlet(np.ones(6), 4).T + 2 * np.eye(6, 4)
    joint = np.column_stack([shown / shown.sum(axis=0) * PRIOR, np.zeros(6)])
    counts = rng.multinomial(3000, joint[:, :4] @ [0.1, 3, 0.5, 2] / (joint[:, :4] @ [0.1, 3, 0.5, 2]).sum())

    def loss(mix):
        return -(counts @ np.log(joint[:, :4] @ (mix / PRIOR)) + PRIOR_ROWS * PRIOR @ np.log(mix)) / 3000

    estimate = confusion_mix(joint, counts, tolerance=1e-12)
    assert estimate.converged
    np.testing.assert_allclose(estimate.mix, best(loss, 4), atol=1e-6)


def test_with_label_errors_the_fit_is_generalised_least_squares(monkeypatch):
    monkeypatch.setattr(confusion_module, "PRIOR_ROWS", 0.0)
    rng = np.random.default_rng(3)
    truth = rng.dirichlet(np.ones(4) / 2, 12) + np.column_stack([np.tile(3 * np.eye(3), (4, 1)), np.zeros(12)])
    truth /= truth.sum(axis=1, keepdims=True)
    known = Confusion(rng.dirichlet(np.full(12, 5)), truth, rng.integers(5, 60, 12).astype(float), 5000.0)
    counts = rng.multinomial(4000, rng.dirichlet(4000 * known.expected(np.array([1.5, 0.7, 0.9])) / 60)).astype(float)
    exact = Confusion(known.share, known.truth, np.full(12, np.inf), np.inf)
    alike, _, _ = shift_factors(exact, counts, 1e-13)
    factors, _, converged = shift_factors(known, counts, 1e-13)
    variance = known.variance(alike, 4000.0) * known.expected(factors) / known.expected(alike)
    spread = np.sqrt(variance)
    target = counts / 4000 - known.share * truth[:, 3]
    solved, *_ = np.linalg.lstsq(known.joint / spread[:, None], target / spread)
    assert converged
    np.testing.assert_allclose(factors, solved, rtol=1e-6)


def test_the_fit_settles_even_where_label_errors_swamp_it():
    truth = np.array([[0.05, 0.0, 0.95], [0.1, 0.3, 0.6], [0.3, 0.1, 0.6], [0.0, 0.1, 0.9]])
    known = Confusion(np.array([0.4, 0.3, 0.2, 0.1]), truth, np.array([2.5, 0.5, 1.5, 2.5]), 16_000.0)
    _, _, converged = shift_factors(known, np.array([0.0, 5500.0, 6700.0, 6500.0]))
    assert converged


def test_a_known_mix_is_found_from_probabilities():
    new = np.array([0.1, 0.3, 0.2, 0.4])
    probabilities, _ = posteriors(new, PRIOR, 50_000, np.random.default_rng(4))
    naive = np.bincount(probabilities.argmax(axis=1), minlength=4) / 50_000
    estimate = em_mix(probabilities.astype(np.float32), PRIOR)
    np.testing.assert_allclose(estimate.mix, new, atol=0.01)
    assert np.abs(naive - new).max() > 0.03
    assert estimate.standard_error is None


def test_a_class_that_is_never_predicted_makes_no_nan():
    prior = np.array([0.5, 0.3, 0.2])
    probabilities = np.tile([1.0, 0.0, 0.0], (100, 1))
    np.testing.assert_allclose(em_mix(probabilities, prior).mix, [100.5 / 101, 0.3 / 101, 0.2 / 101])
    joint = np.array([[0.4, 0.1, 0.05, 0.0], [0.1, 0.3, 0.05, 0.0], [0.0, 0.0, 0.0, 0.0]])
    estimate = confusion_mix(joint, [900, 100, 0], labels=[50, 50, 0], reference_rows=1000)
    assert np.isfinite(estimate.mix).all()
    assert np.isfinite(estimate.standard_error).all()
    assert estimate.standard_error[2] > estimate.standard_error[0]


def test_a_class_without_share_in_the_prior_stays_without():
    probabilities, _ = posteriors(PRIOR, PRIOR, 200, np.random.default_rng(5))
    estimate = em_mix(probabilities, [0.6, 0.2, 0.2, 0.0])
    assert estimate.mix[3] == 0
    assert estimate.mix.sum() == pytest.approx(1)
    joint = np.array([[0.6, 0.1, 0.0, 0.0], [0.1, 0.2, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    estimate = confusion_mix(joint, [500, 400, 100])
    assert estimate.mix[2] == 0
    np.testing.assert_allclose(estimate.mix, confusion_mix(joint, [500, 400, 0]).mix, atol=1e-3)


def test_other_images_come_as_often_as_before():
    shown = np.array([[0.9, 0.1, 0.5], [0.1, 0.9, 0.5]])
    joint = shown * [0.45, 0.45, 0.1]
    counts = 1e6 * (shown @ [0.72, 0.18, 0.1])
    np.testing.assert_allclose(confusion_mix(joint, counts).mix, [0.8, 0.2], atol=1e-4)


def test_memory_stays_within_a_chunk(monkeypatch):
    monkeypatch.setattr(label_shift, "CHUNK_NUMBERS", 2**14)
    rng = np.random.default_rng(6)
    probabilities = rng.random((20_000, 50)).astype(np.float16)
    tracemalloc.start()
    try:
        em_mix(probabilities, np.full(50, 0.02), tolerance=1e-3)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * 8 * 2**14 + 100_000
    assert probabilities.size * 8 > 10 * peak


def test_chunks_do_not_change_the_answer(monkeypatch):
    probabilities, _ = posteriors(PRIOR[::-1], PRIOR, 500, np.random.default_rng(7))
    whole = em_mix(probabilities, PRIOR)
    monkeypatch.setattr(label_shift, "CHUNK_NUMBERS", 30)
    np.testing.assert_allclose(em_mix(probabilities, PRIOR).mix, whole.mix, atol=1e-9)


def test_too_few_iterations_are_told():
    probabilities, _ = posteriors(PRIOR[::-1], PRIOR, 500, np.random.default_rng(8))
    estimate = em_mix(probabilities, PRIOR, most_iterations=2)
    assert (estimate.iterations, estimate.converged) == (2, False)


def test_standard_errors_are_the_spread_over_repeated_windows_and_references():
    rng = np.random.default_rng(9)
    shown = np.array([[0.90, 0.06, 0.02], [0.07, 0.86, 0.10], [0.03, 0.08, 0.88]])
    old, new = np.array([0.5, 0.3, 0.2]), np.array([0.25, 0.35, 0.4])
    truth = shown * old / (shown * old).sum(axis=1, keepdims=True)
    labels, found, claimed = np.array([150, 100, 100]), [], []
    for _ in range(400):
        share = rng.multinomial(400, shown @ old) / 400
        answers = np.array([rng.multinomial(n, t) / n for n, t in zip(labels, truth, strict=True)])
        joint = np.column_stack([share[:, None] * answers, np.zeros(3)])
        counts = rng.multinomial(400, shown @ new)
        estimate = confusion_mix(joint, counts, labels=labels, reference_rows=400)
        found.append(estimate.mix)
        claimed.append(estimate.standard_error)
    found, claimed = np.array(found), np.array(claimed)
    np.testing.assert_allclose(claimed.mean(axis=0), found.std(axis=0), rtol=0.12)
    covered = (np.abs(found - new) < 1.96 * claimed).mean(axis=0)
    assert (covered > 0.92).all()
    exact = confusion_mix(np.column_stack([shown * old, np.zeros(3)]), 400 * (shown @ new))
    assert (exact.standard_error < claimed.mean(axis=0)).all()


def test_standard_errors_count_the_references_own_predictions():
    rng = np.random.default_rng(10)
    shown = np.array([[0.75, 0.2, 0.1], [0.15, 0.65, 0.2], [0.1, 0.15, 0.7]])
    old, new = np.array([0.5, 0.3, 0.2]), np.array([0.25, 0.35, 0.4])
    truth = shown * old / (shown * old).sum(axis=1, keepdims=True)
    found, claimed = [], []
    for _ in range(400):
        share = rng.multinomial(500, shown @ old) / 500
        joint = np.column_stack([share[:, None] * truth, np.zeros(3)])
        estimate = confusion_mix(joint, 1e6 * (shown @ new), reference_rows=500)
        found.append(estimate.mix)
        claimed.append(estimate.standard_error)
    np.testing.assert_allclose(np.mean(claimed, axis=0), np.std(found, axis=0), rtol=0.12)


def test_weights_move_the_training_mix_to_the_new_one():
    new = np.array([0.4, 0.3, 0.2, 0.1])
    weights = reweighting(new, PRIOR, bound=5)
    np.testing.assert_allclose(weights * PRIOR, new, atol=1e-12)


def test_weights_are_bounded_and_still_have_the_mean_one():
    weights = reweighting([0.97, 0.01, 0.02, 0.0], [0.05, 0.45, 0.45, 0.05], bound=5)
    assert weights.max() == pytest.approx(5)
    assert weights.min() >= 0.2
    assert weights @ [0.05, 0.45, 0.45, 0.05] == pytest.approx(1)
    assert reweighting([0.9, 0.1], [0.5, 0.5], bound=1).tolist() == [1, 1]
    assert reweighting([0.5, 0.4, 0.1], [0.5, 0.5, 0.0], bound=3)[2] == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: em_mix(np.ones((3, 2)), [0.5, 0.6]), "prior has shape .2,. and sums to 1.1"),
        (lambda: em_mix(np.ones((3, 2)), [1.5, -0.5]), "one share of at least 0 a class"),
        (lambda: em_mix(np.ones((3, 2)), [0.2, 0.3, 0.5]), r"must be \(N, 3\)"),
        (lambda: em_mix(np.ones((0, 2)), [0.5, 0.5]), "at least one row"),
        (lambda: em_mix(np.array([[0.5, 0.5], [np.nan, 1]]), [0.5, 0.5]), "row 1 of the probabilities"),
        (lambda: em_mix(np.array([[0.5, 0.5], [-1.0, 2.0]]), [0.5, 0.5]), "row 1 of the probabilities"),
        (lambda: em_mix(np.array([[0.0, 1.0]]), [1.0, 0.0]), "mass on a class of the prior"),
        (lambda: confusion_mix([[0.5, 0.0], [0.4, 0.0]], [1, 1]), "sums to 0.9"),
        (lambda: confusion_mix([0.5, 0.5], [1, 1]), r"shape \(2,\)"),
        (lambda: confusion_mix([[1.0, 0.0]], [1, 1]), "do not fit 1 cells"),
        (lambda: confusion_mix([[1.0, 0.0]], [0]), "sum to 0"),
        (lambda: confusion_mix([[1.0, 0.0]], [-1]), "at least 0"),
        (lambda: confusion_mix([[1.0, 0.0], [0.0, 0.0]], [0, 5]), "label more of the reference window"),
        (lambda: confusion_mix([[0.0, 1.0]], [5]), "label more of the reference window"),
        (lambda: reweighting([0.5, 0.5], [0.2, 0.3, 0.5], 5), "same class list"),
        (lambda: reweighting([0.5, 0.5], [0.5, 0.5], 0.9), "bound is 0.9"),
        (lambda: reweighting([0.5, 0.5], [0.5, 0.5], np.inf), "bound is inf"),
    ],
)
def test_what_cannot_be_is_an_error_that_says_so(call, message):
    with pytest.raises(DataError, match=message):
        call()
