"""The domain classifier: its p-value under the null, what it sees, and what it says where nothing can be decided."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from components.monitoring.drift import embeddings as module
from components.monitoring.drift.embeddings import common_points, domain_test, moved_groups, nearest_reference


def samples(seed, rows=(150, 110), dimensions=12, shift=0.0, moved=1.0):
    rng = np.random.default_rng(seed)
    reference, window = (rng.normal(size=(n, dimensions)).astype(np.float32) for n in rows)
    window[: round(moved * len(window)), 0] += shift
    return reference, window


def compare(*sides, seed=0):
    return domain_test(common_points(*sides), seed=seed)


def test_p_value_is_uniform_when_nothing_changed():
    # Unequal sides and a skewed distribution, where a short cut of the permutation would show.
    found = [compare(*(np.exp(side) for side in samples(seed, (80, 60), 6)), seed=seed).p_value for seed in range(150)]
    assert stats.kstest(found, "uniform").pvalue > 0.01
    # Permuting the labels of ordinary out-of-fold scores puts 0.24 of the months into the two tails, instead of 0.10.
    assert 0.04 < np.mean(np.abs(np.array(found) - 0.5) > 0.45) < 0.17


def test_a_quiet_window_is_not_changed_and_shows_no_groups():
    for seed in range(5):
        points = common_points(*samples(seed, rows=(800, 800)))
        found = domain_test(points)
        assert not found.changed
        assert abs(found.auc - 0.5) < 0.05
        assert moved_groups(points, found) == []


def test_a_shift_is_found_with_its_size_and_the_auc_of_the_scores():
    points = common_points(*samples(1, rows=(900, 700), shift=1.5))
    found = domain_test(points)
    assert found.changed
    assert found.p_value == 1 / 1000
    sides = np.repeat([0, 1], [900, 700])
    overall = roc_auc_score(sides, np.concatenate([found.reference_scores, found.window_scores]))
    assert found.auc == pytest.approx(overall, abs=0.01)
    # Two normals 1.5 apart: AUC Φ(1.5/√2), total variation 2 Φ(0.75) − 1.
    assert found.auc == pytest.approx(stats.norm.cdf(1.5 / np.sqrt(2)), abs=0.03)
    assert found.moved == pytest.approx(2 * stats.norm.cdf(0.75) - 1, abs=0.05)


def test_the_rows_that_moved_are_those_shown_in_groups_that_lie_apart():
    reference, window = samples(3, rows=(600, 600))
    window[:60, 0] += 9
    window[60:120, 1] += 9
    points = common_points(reference, window)
    groups = moved_groups(points, domain_test(points))
    shown = [set(group.members.tolist()) for group in groups]
    assert len(shown) == 2
    for planted in (set(range(60)), set(range(60, 120))):
        assert any(len(group & planted) > 0.9 * len(group) for group in shown)
    assert sum(len(group) for group in shown) == len(set().union(*shown)) > 80


def test_the_nearest_reference_row_is_the_nearest():
    reference, window = samples(4)
    window[7] = reference[31] + 1e-4
    assert nearest_reference(common_points(reference, window), np.array([7])).tolist() == [31]


def test_the_same_rows_on_both_sides_are_no_change():
    reference, _ = samples(5, rows=(400, 400))
    found = compare(reference, reference.copy())
    assert not found.changed
    assert found.auc <= 0.5


def test_more_rows_than_the_limit_are_left_out(monkeypatch):
    monkeypatch.setattr(module, "MOST_ROWS", 100)
    points = common_points(*samples(6))
    assert len(points.reference) == len(points.window) == 100


def test_the_same_samples_give_the_same_answer():
    assert compare(*samples(7), seed=3).p_value == compare(*samples(7), seed=3).p_value
    assert not np.array_equal(compare(*samples(7), seed=3).window_scores, compare(*samples(7), seed=4).window_scores)


BROKEN = samples(8)[1].copy()
BROKEN[4, 2] = np.nan
BROKEN[9, 0] = np.inf


@pytest.mark.parametrize(
    ("sides", "state"),
    [
        (samples(0, rows=(49, 100)), "undecided: 49 images on one side, fewer than 50"),
        (samples(0, rows=(100, 0)), "undecided: 0 images on one side, fewer than 50"),
        ((samples(0)[0], BROKEN), "undecided: 2 embeddings hold numbers that are not finite"),
        ((np.full((90, 5), 3.7), np.full((80, 5), 3.7)), "undecided: constant, all embeddings are the same"),
        ((np.zeros((90, 5)), np.zeros((80, 5))), "undecided: constant, all embeddings are the same"),
        ((np.ones((90, 5)), np.ones((80, 6))), "cannot be compared"),
        ((np.ones((90, 0)), np.ones((80, 0))), "cannot be compared"),
    ],
)
def test_what_cannot_be_decided_is_a_state_in_words(sides, state):
    points = common_points(*sides)
    found = domain_test(points)
    assert state in found.state
    assert (found.auc, found.p_value, found.moved) == (None, None, None)
    assert not found.changed
    assert moved_groups(points, found) == []


def test_sides_that_are_each_constant_but_differ_are_told_apart():
    found = compare(np.zeros((90, 3)), np.ones((80, 3)))
    assert found.changed
    assert found.auc == 1.0


def test_wide_embeddings_are_narrowed_to_nearly_the_same_distances_batch_by_batch_alike() -> None:
    rng = np.random.default_rng(1)
    wide = rng.standard_normal((60, 3000)).astype(np.float32) @ np.diag(rng.exponential(1, 3000)).astype(np.float32)
    narrow = module.narrowed(wide)
    assert narrow.shape == (60, 512)
    np.testing.assert_allclose(
        np.concatenate([module.narrowed(wide[:20]), module.narrowed(wide[20:])]), narrow, 1e-4, 1e-5
    )
    near = [np.linalg.norm(rows[:, None] - rows[None], axis=2)[np.triu_indices(60, 1)] for rows in (wide, narrow)]
    assert np.abs(near[1] / near[0] - 1).max() < 0.15
    assert module.narrowed(wide[:, :512]).shape == (60, 512)
    np.testing.assert_array_equal(module.narrowed(wide[:, :100]), wide[:, :100])
