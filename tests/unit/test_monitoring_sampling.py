"""How many predictions people are asked about, and which."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from components.errors import DataError
from components.monitoring.sampling.one_class import (
    allocate,
    budget,
    draw,
    draw_shares,
    spread_recall_top_up,
    spread_top_up,
)
from components.params import Labelling
from components.records import StratumCounts


def counts_of(population, confidence=0.9, drawn=None, answers=None):
    population = np.asarray(population, dtype=np.int64)
    classes, bins = population.shape
    answers = np.zeros((classes, bins, classes + 1), dtype=np.int64) if answers is None else answers
    drawn = answers.sum(axis=2) if drawn is None else np.asarray(drawn, dtype=np.int64)
    spread = np.where(population > 0, confidence, np.nan)
    names = tuple(f"c{k}" for k in range(classes))
    return StratumCounts(names, population, answers.sum(axis=2), answers, drawn, spread)


def test_budget_is_the_share_and_five_times_that_for_the_reference():
    assert budget(5000, Labelling(), reference=False) == 250
    assert budget(5000, Labelling(), reference=True) == 1250


def test_budget_never_exceeds_the_cap_or_the_predictions():
    assert budget(10_000_000, Labelling(), reference=True) == 20_000
    assert budget(3, Labelling(share=0.9), reference=True) == 3
    assert budget(1, Labelling(), reference=False) == 1
    assert budget(0, Labelling(), reference=True) == 0


def test_allocation_follows_the_formula_where_no_bound_binds():
    population = np.array([[100, 200, 300, 400], [50, 150, 300, 1500]])
    confidence = np.array([[0.5, 0.75, 0.9, 0.99], [0.45, 0.7, 0.92, 0.995]])
    counts = counts_of(population, confidence)
    n = 300
    a = population / population.sum(axis=1, keepdims=True)
    s = np.maximum(np.sqrt(confidence * (1 - confidence)), 0.2)
    q = a / a.sum() / 2 + a * s / (a * s).sum() / 2
    expected = np.floor(n * q).astype(int)
    left = n - expected.sum()
    for position in np.argsort(-q, axis=None, kind="stable")[:left]:
        expected.reshape(-1)[position] += 1
    np.testing.assert_array_equal(allocate(counts, n), expected)


def test_every_occupied_stratum_gets_two_labels_or_all_it_has():
    counts = counts_of([[1, 0, 3, 10_000], [2, 5, 0, 9_000]], confidence=0.95)
    sizes = allocate(counts, 100)
    assert sizes.sum() == 100
    assert sizes[0, 0] == 1
    assert sizes[0, 1] == 0
    assert sizes[1, 2] == 0
    assert (sizes[counts.population >= 2] >= 2).all()


def test_minima_win_over_a_budget_that_is_too_small_and_the_population_over_one_too_large():
    counts = counts_of([[5, 5, 1, 0], [9, 9, 9, 9]])
    assert allocate(counts, 3).sum() == 13
    assert (allocate(counts, 10_000) == counts.population).all()


def test_half_of_the_draw_gives_classes_the_same_number_whatever_their_size():
    counts = counts_of([[0, 0, 0, 100_000], [0, 0, 0, 1_000]])
    sizes = allocate(counts, 200)
    assert abs(int(sizes[0].sum()) - int(sizes[1].sum())) <= 1


def test_an_empty_window_draws_nothing():
    assert allocate(counts_of([[0, 0], [0, 0]]), 50).sum() == 0


def test_a_stratum_without_a_mean_confidence_is_named():
    counts = counts_of([[10, 10], [10, 10]], confidence=np.array([[0.5, 0.9], [np.nan, 0.9]]))
    with pytest.raises(DataError, match="class 1, confidence bin 0 holds 10 predictions"):
        allocate(counts, 10)


def test_shares_sum_to_one_and_lean_toward_low_confidence():
    population = np.full((2, 2), 500)
    q = draw_shares(population, np.array([[0.6, 0.99], [0.6, 0.99]]))
    assert q.sum() == pytest.approx(1)
    assert (q[:, 0] > q[:, 1]).all()


def test_the_draw_takes_the_smallest_u_of_each_stratum_and_a_larger_draw_contains_it():
    rng = np.random.default_rng(0)
    stratum = rng.integers(0, 6, 500)
    u = rng.random(500)
    small, large = np.array([3, 0, 5, 1, 2, 4]), np.array([6, 1, 5, 9, 2, 40])
    first, second = draw(stratum, u, small), draw(stratum, u, large)
    for h in range(6):
        inside = np.flatnonzero(stratum == h)
        wanted = set(inside[np.argsort(u[inside])[: small[h]]])
        assert {i for i in first if stratum[i] == h} == wanted
    assert set(first) <= set(second)


def test_inclusion_probabilities_of_a_stratum_add_up_to_its_population():
    counts = counts_of([[17, 311, 1000, 4021], [3, 2, 0, 907]])
    sizes = allocate(counts, 250)
    for N_h, n_h in zip(counts.population.flat, sizes.flat, strict=True):
        if n_h:
            assert sum(1 / Fraction(int(n_h), int(N_h)) for _ in range(n_h)) == N_h


def test_a_precision_top_up_is_spread_like_the_first_draw():
    counts = counts_of([[100, 200, 700], [10, 10, 10]], drawn=[[10, 20, 70], [1, 1, 1]])
    assert spread_top_up(counts, 0, 200).tolist() == [20, 40, 140]


def test_a_top_up_never_asks_for_more_than_is_left():
    counts = counts_of([[12, 30, 100], [10, 10, 10]], drawn=[[12, 20, 10], [1, 1, 1]])
    assert spread_top_up(counts, 0, 200).tolist() == [0, 10, 90]
    full = counts_of([[5, 5], [5, 5]], drawn=[[5, 5], [5, 5]])
    assert spread_top_up(full, 0, 200).sum() == 0
    assert spread_recall_top_up(full, 0, 200).sum() == 0


def test_a_recall_top_up_looks_where_the_missed_images_are_predicted():
    answers = np.zeros((3, 2, 4), dtype=np.int64)
    answers[0, 1, 0] = 2  # class 0, hardly predicted
    answers[1, :, 1] = 10  # class 1, half of it really class 0
    answers[1, :, 0] = 10
    answers[2, :, 2] = 20  # class 2, never class 0
    counts = counts_of([[0, 2], [500, 500], [500, 500]], answers=answers)
    plan = spread_recall_top_up(counts, 0, 200)
    assert plan.sum() == 200
    assert plan[1].sum() > 0.8 * 200
    assert math.isclose(plan[1, 0], plan[1, 1], abs_tol=10)
